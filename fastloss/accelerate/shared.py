"""What the formulas of several libraries need: targets as a peer reads them, the dtype of its results."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.backends import forced_backend
from ..passes.ops import by_term
from ..passes.ranked_ops import HINGE, jaccard_extension, topk_sums
from ..terms import term_name
from .core import Served, Unserved
from .fused import attempt, check_tensors, checked_inputs, run_pass, run_voxels

_log = logging.getLogger("fastloss")
Sums = dict[str, Tensor]


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


def require(condition: Tensor, reason: str) -> None:
    """Passes a call on unless the condition holds everywhere, which is not to be known while a graph is traced."""
    serve(not torch.compiler.is_compiling(), f"{reason}, within torch.compile")
    serve(bool(condition.all()), reason)


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
    return run_voxels(logits, target, terms, activation, per_class, **options)


def reduced(
    logits: Tensor,
    target: Tensor,
    terms: dict[str, Any],
    activation: str | None,
    reduction: str,
    elements: int,
    per_class: bool = True,
    **options: Any,
) -> Tensor:
    """The weighted sum of the terms, in float64: of all voxels, for a mean divided by so many elements; of each voxel
    where the reduction is neither ``"mean"`` nor ``"sum"``."""
    if reduction not in ("mean", "sum"):
        return losses_of(logits, target, terms, activation, per_class, **options)
    sums = sums_of(logits, target, tuple(terms), activation, **options)
    total = torch.stack([(weight * sums[name]).sum() for name, weight in terms.items()]).sum()
    return total / elements if reduction == "mean" else total


def reduced_binary(
    logits: Tensor, target: Tensor, terms: dict[str, Any], reduction: str, counted: Tensor | None = None
) -> Tensor:
    """The same of logits of any shape, each channel a problem of its own; elements that are not ``counted`` are 0, and
    part of a mean."""
    serve(logits.numel() > 0, "an empty input")
    shape = tuple(logits.shape)
    if not 3 <= logits.ndim <= 5:
        shape = (*shape[:2], -1) if logits.ndim > 1 else (1, 1, -1)
    weight_map = None if counted is None else counted.reshape(shape)
    if counted is not None:
        terms = {f"map*{name}": weight for name, weight in terms.items()}
    tensors = logits.reshape(shape), target.reshape(shape)
    found = reduced(*tensors, terms, "sigmoid", reduction, logits.numel(), weight_map=weight_map)
    return found if reduction in ("mean", "sum") else found.reshape(logits.shape)


def focal_terms(gamma: float, positive: Any = 1.0, negative: Any = 1.0) -> dict[str, Any]:
    """The binary focal loss of a voxel: of what is true, and of what is not."""
    return {term_name("focal_pos", gamma): positive, term_name("focal_neg", gamma): negative}


def largest_losses(
    logits: Tensor, labels: Tensor, ignore: int | None, taken: int, ce: Any, terms: tuple[str, ...]
) -> tuple[Sums, Tensor]:
    """The sums of a pass, and the mean of the largest cross-entropies of torch's module ``ce``, so many of those of all
    voxels, of which the ignored have the loss 0."""
    check_tensors(logits, labels)
    inputs = checked_inputs(logits, labels, "softmax", ignore_index=ignore)
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
    check_tensors(logits, target)
    inputs = checked_inputs(logits, target, None if errors == HINGE else errors, ignore_index=ignore, mask=mask)
    options = (errors, inputs.ignore, inputs.dense, inputs.validate, forced_backend())
    tensors = (inputs.logits, inputs.target, inputs.mask)
    table, sizes = attempt(jaccard_extension, *tensors, per_sample, options)
    return table, sizes > 0


def foreground(target: Tensor, counted: Tensor | None = None) -> Tensor:
    """A target whose counted values are 0 and 1, as integers; of one channel a pass on the CPU looks at them itself."""
    integers = not target.is_floating_point() and target.dtype != torch.bool
    if target.dtype == torch.bool or (integers and target.device.type == "cpu" and counted is None):
        return target
    inside = target.bool() if counted is None else target.bool() & counted
    hard = (target == inside) if counted is None else (target == inside) | ~counted
    require(hard, "target with other values than 0 and 1")
    return inside


# beyond these logits a probability may round to 0 or 1
_SATURATED = {torch.float64: 30.0, torch.float32: 15.0, torch.float16: 7.0, torch.bfloat16: 5.0}


def check_gamma(gamma: Any, logits: Tensor | None = None) -> None:
    """Passes on a modulating factor that is no power of at least 0, and one below 1 where logits give a probability of
    1: there the slope of a peer is infinite, and its gradient NaN."""
    serve(isinstance(gamma, (int, float)) and 0 <= gamma < math.inf, "gamma below 0 or infinite")
    if logits is not None and 0 < gamma < 1 and logits.numel():
        low, high = torch.aminmax(logits.detach())
        saturated = torch.maximum(-low, high) >= _SATURATED[logits.dtype]
        require(~saturated, "gamma below 1 with probabilities of 1")


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
