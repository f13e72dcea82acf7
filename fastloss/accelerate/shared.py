"""What the formulas of several libraries need: targets as a peer reads them, the dtype of its results."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.inputs import check_inputs
from ..passes.ops import by_term, forced_backend
from ..passes.ranked_ops import HINGE, jaccard_extension, topk_sums
from .core import Served, Unserved, attempt, check_tensors, run_pass, run_voxels

_log = logging.getLogger("fastloss")
Sums = dict[str, Tensor]
HALF = (torch.float16, torch.bfloat16)


def serve(condition: Any, reason: str) -> None:
    """Passes a call on to the peer, with the reason, unless the condition holds."""
    if not condition:
        raise Unserved(reason)


def only_versions(served: Served, package: str, *prefixes: str) -> None:
    """Leaves a peer of a version that the formulas were not compared with to itself: its numbers may be others."""
    found = importlib.metadata.version(package)
    if not found.startswith(prefixes):
        served.clear()
        known = " or ".join(f"{prefix}*" for prefix in prefixes)
        _log.warning("fastloss.accelerate: %s %s keeps its own losses, expected %s", package, found, known)


def check_plain(*tensors: Any) -> None:
    """Passes on what is no strided tensor of torch's own; the rest is checked once the shapes are those of a pass."""
    for tensor in tensors:
        serve(isinstance(tensor, Tensor), "not a tensor")
        serve(torch.compiler.is_compiling() or (tensor.layout is torch.strided and not tensor.is_nested), "not dense")


def sums_of(logits: Tensor, target: Tensor, terms: Sequence[str], activation: str | None, **options: Any) -> Sums:
    """The sums of a pass by the names of their terms, each ``[B, C]`` float64."""
    check_tensors(logits, target)
    found = run_pass(logits, target, terms, activation, **options)
    return {name: found[name] for name in terms}


def losses_of(
    logits: Tensor, target: Tensor, terms: dict[str, Any], activation: str | None, per_class: bool, **options: Any
) -> Tensor:
    """The weighted sum of the terms of each voxel; see :func:`fastloss.voxel_losses`."""
    check_tensors(logits, target)
    return run_voxels(logits, target, terms, activation, per_class=per_class, **options)


def _ranked(logits: Tensor, target: Tensor, mask: Tensor | None, ignore: int | None, errors: str) -> Any:
    check_tensors(logits, target)
    activation = "none" if errors == HINGE else errors
    return attempt(check_inputs, logits, target, mask, None, activation, () if ignore is None else (ignore,), None)


def largest_losses(
    logits: Tensor, labels: Tensor, ignore: int | None, taken: int, ce: Any, terms: tuple[str, ...]
) -> tuple[Sums, Tensor]:
    """The sums of a pass, and the mean of the largest cross-entropies of torch's module ``ce``, so many of those of all
    voxels, of which the ignored have the loss 0."""
    inputs = _ranked(logits, labels, None, ignore, "softmax")
    portion = min(1.0, (taken + 0.5) * logits.shape[1] / logits.numel())
    of_input = (inputs.ignore, inputs.dense, inputs.validate, forced_backend())
    options = (float(ce.label_smoothing), terms, "softmax", *of_input)
    weight = None if ce.weight is None else ce.weight.double()
    tensors = (inputs.logits, inputs.target, inputs.mask)
    sums, mean = attempt(topk_sums, *tensors, (portion, True), weight, options)
    return dict(zip(terms, by_term(sums, terms), strict=True)), mean


def lovasz_table(
    logits: Tensor,
    target: Tensor,
    per_sample: bool,
    *,
    errors: str = "softmax",
    mask: Tensor | None = None,
    ignore: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss, ``[B or 1, C]``, and which classes have a voxel."""
    inputs = _ranked(logits, target, mask, ignore, errors)
    options = (errors, inputs.ignore, inputs.dense, inputs.validate, forced_backend())
    tensors = (inputs.logits, inputs.target, inputs.mask)
    table, sizes = attempt(jaccard_extension, *tensors, per_sample, options)
    return table, sizes > 0


def foreground(target: Tensor, counted: Tensor | None = None) -> Tensor:
    """A target whose counted values are 0 and 1, as integers; of one channel a pass on the CPU looks at them itself."""
    integers = not target.is_floating_point() and target.dtype != torch.bool
    if target.dtype == torch.bool or (integers and target.device.type == "cpu" and counted is None):
        return target
    serve(not torch.compiler.is_compiling(), "target whose values are not known when it is compiled")
    inside = target.bool() if counted is None else target.bool() & counted
    hard = (target == inside) if counted is None else (target == inside) | ~counted
    serve(bool(hard.all()), "target with other values than 0 and 1")
    return inside


# beyond these logits a probability may round to 0 or 1
_SATURATED = {torch.float64: 30.0, torch.float32: 15.0, torch.float16: 7.0, torch.bfloat16: 5.0}


def check_gamma(gamma: Any, logits: Tensor) -> None:
    """Passes on a modulating factor that is no power of at least 0, and one below 1 where a probability is 1: there the
    peer's slope is infinite, and its gradient NaN."""
    serve(isinstance(gamma, (int, float)) and 0 <= gamma < math.inf, "gamma below 0 or infinite")
    if 0 < gamma < 1 and logits.numel():
        serve(not torch.compiler.is_compiling(), "gamma below 1 with logits that are not known when it is compiled")
        low, high = torch.aminmax(logits.detach())
        serve(max(-float(low), float(high)) < _SATURATED[logits.dtype], "gamma below 1 with probabilities of 1")


def loss_dtype(logits: Tensor) -> torch.dtype:
    """The dtype that the peers' operators give: the logits', but float32 where autocast runs them in it."""
    device = logits.device.type
    if logits.dtype in HALF and torch.is_autocast_enabled(device):
        serve(device != "cpu", "half precision under autocast on the CPU")
        return torch.float32
    return logits.dtype


def check_half_sums(logits: Tensor, dtype: torch.dtype) -> None:
    """Passes on what a peer sums in float16, where its sums may overflow."""
    overflows = dtype == torch.float16 and logits.numel() > torch.finfo(dtype).max
    serve(not overflows, "sums that overflow in float16")


def implements(module: nn.Module, cls: type, method: str = "forward") -> bool:
    """Whether a class gives the method, no subclass or instance its own."""
    owner = next((base for base in type(module).__mro__ if method in vars(base)), None)
    return owner is cls and method not in vars(module)


def part(module: nn.Module, *classes: type[nn.Module]) -> Any:
    """A part of a peer's loss, out of torch.compile's wrapper, that runs what one of some classes does and no hook."""
    module = getattr(module, "_orig_mod", module)
    serve(any(implements(module, cls) for cls in classes), f"{type(module).__name__} as a part")
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    serve(not any(getattr(module, name, None) for name in hooks), "hooks of a part")
    return module


def ignored(ignore: Any, target: Tensor) -> int | None:
    """The label that a comparison of the target with ``ignore`` finds: integers wrap around in it, as in torch."""
    if ignore is None:
        return None
    serve(isinstance(ignore, int) and not isinstance(ignore, bool), "an ignored label that is no integer")
    if target.dtype == torch.bool or target.is_floating_point():
        return int(ignore)
    limits = torch.iinfo(target.dtype)
    return (int(ignore) - limits.min) % (limits.max - limits.min + 1) + limits.min


def per_channel(weight: Tensor | None, logits: Tensor, name: str) -> Tensor | None:
    """A weight that broadcasts against the logits ``[B, C, *S]`` as one number, or one for each channel, in float64."""
    if weight is None:
        return None
    one, channels = weight.numel() == 1 and weight.ndim <= logits.ndim, False
    if logits.ndim > 1:
        wide, space = logits.shape[1], (1,) * (logits.ndim - 2)
        channels = tuple(weight.shape) in ((wide, *space), (1, wide, *space))
    serve(weight.device == logits.device or weight.ndim == 0, f"{name} on another device")
    serve(one or channels, f"{name} that is no number for each channel")
    return weight.reshape(-1).double()


def dense_numbers(target: Tensor) -> Tensor:
    """A dense target whose integers are numbers, as in the peers, not whether they are 0."""
    return target if target.dtype == torch.bool or target.is_floating_point() else target.float()
