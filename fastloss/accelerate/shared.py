"""What the formulas of several libraries need: targets as a peer reads them, the dtype of its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.inputs import check_inputs
from ..passes.ops import by_term, forced_backend
from ..passes.ranked_ops import jaccard_extension, topk_sums
from .core import Unserved, attempt, check_tensors, run_pass

Sums = dict[str, Tensor]
HALF = (torch.float16, torch.bfloat16)


def serve(condition: Any, reason: str) -> None:
    """Passes a call on to the peer, with the reason, unless the condition holds."""
    if not condition:
        raise Unserved(reason)


def check_plain(*tensors: Any) -> None:
    """Passes on what is no strided tensor of torch's own; the rest is checked once the shapes are those of a pass."""
    for tensor in tensors:
        serve(isinstance(tensor, Tensor), "not a tensor")
        serve(torch.compiler.is_compiling() or (tensor.layout is torch.strided and not tensor.is_nested), "not dense")


def sums_of(logits: Tensor, target: Tensor, terms: Sequence[str], activation: str | None, **options: Any) -> Sums:
    """The sums of a pass by the names of their terms, each ``[B, C]`` float64."""
    check_tensors(logits, target)
    return run_pass(logits, target, terms, activation, **options)


def _ranked(logits: Tensor, labels: Tensor, ignore: int | None) -> tuple[Any, tuple[Any, ...]]:
    check_tensors(logits, labels)
    inputs = attempt(check_inputs, logits, labels, None, None, "softmax", () if ignore is None else (ignore,), None)
    return inputs, ("softmax", inputs.ignore, inputs.dense, inputs.validate, forced_backend())


def largest_losses(
    logits: Tensor, labels: Tensor, ignore: int | None, k: float, terms: tuple[str, ...]
) -> tuple[Sums, Tensor]:
    """The sums of a pass, and the mean of the fraction k of the voxels' cross-entropies that is largest."""
    inputs, options = _ranked(logits, labels, ignore)
    sums, mean = attempt(topk_sums, inputs.logits, inputs.target, None, k, terms, options)
    return dict(zip(terms, by_term(sums, terms), strict=True)), mean


def lovasz_table(logits: Tensor, labels: Tensor, ignore: int | None, per_sample: bool) -> tuple[Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss, ``[B or 1, C]``, and which classes have a voxel."""
    inputs, options = _ranked(logits, labels, ignore)
    table, sizes = attempt(jaccard_extension, inputs.logits, inputs.target, None, per_sample, options)
    return table, sizes > 0


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


def check_hard(sums: Sums, target: Tensor) -> None:
    """Passes on a target ``target`` with shares of a voxel. Its sums ``y`` and ``y2`` are those of the same pass."""
    if target.is_floating_point():
        serve(torch.equal(sums["y"], sums["y2"]), "soft target")


def zero_or_one(target: Tensor, counted: Tensor | None) -> Tensor:
    """A target whose counted numbers are 0 to 1, integers as bool; the others become 0. :func:`check_hard` has to see
    whether floats are shares."""
    if target.dtype == torch.bool:
        return target
    serve(not torch.compiler.is_compiling(), "target whose values are not known when it is compiled")
    if counted is not None:
        target = target.where(counted, 0)
    if target.numel():
        low, high = torch.aminmax(target)
        serve(bool(low >= 0) and bool(high <= 1), "target with other values than 0 and 1")
    return target if target.is_floating_point() else target != 0
