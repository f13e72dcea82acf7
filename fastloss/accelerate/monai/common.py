"""What MONAI's losses have in common: targets as the passes take them, activations, reductions. Each loss has a pass,
what is summed, and a value, the formula on its sums, so that compounds share passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from ..core import Served, Unserved
from ..fused import check_tensors, dtype_of, run_pass
from ..shared import Sums, require, serve

served = Served(MetaTensor)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
OWN_OPTIONS = "parts with options of their own"


class Truth(NamedTuple):
    """A target as the passes take it."""

    target: Tensor  # labels [B, 1, *S] of integers or bool, or dense [B, C, *S]
    labels: bool
    hard: bool  # whether it is known to be 0 or 1 everywhere
    dtype: torch.dtype  # that MONAI computes with: float32 for labels, which become one-hot
    mask: Tensor | None = None  # voxels that count, [B, 1, *S]
    ignore_index: int | None = None
    counted: Tensor | None = None  # how many voxels count, [B, 1], where the pass ignores others besides


class Pass(NamedTuple):
    logits: Tensor
    truth: Truth
    terms: tuple[str, ...]
    activation: str | None
    weight_map: Tensor | None = None


def sums_of(*passes: Pass) -> list[Sums]:
    """The sums of each pass, of one where they differ in nothing but the terms."""
    first = passes[0]
    if all(p.logits is first.logits and p.truth is first.truth and p.activation == first.activation for p in passes):
        return [_run(first._replace(terms=tuple(term for p in passes for term in p.terms)))] * len(passes)
    return [_run(p) for p in passes]


def _run(p: Pass) -> Sums:
    mask, ignore = p.truth.mask, p.truth.ignore_index
    return run_pass(
        p.logits, p.truth.target, p.terms, p.activation, ignore_index=ignore, mask=mask, weight_map=p.weight_map
    )


def check_single_channel(self: Any, channels: int) -> None:
    """MONAI warns that it ignores these options of a single channel."""
    if channels == 1:
        for name in ("softmax", "pre_softmax", "to_onehot_y"):
            if getattr(self, name, False):
                raise Unserved(f"{name} of one channel")
        if not getattr(self, "include_background", True):
            raise Unserved("include_background=False of one channel")


def truth_of(input: Tensor, target: Tensor, to_onehot_y: bool, ignore_index: int | None = None) -> Truth:
    """The target of a loss whose ``to_onehot_y`` and ``ignore_index`` these are."""
    check_tensors(input, target)
    if to_onehot_y and input.shape[1] > 1:
        if target.shape != (input.shape[0], 1, *input.shape[2:]):
            raise Unserved("labels of another shape")
        truth = Truth(target.int() if target.is_floating_point() else target, True, True, torch.float32)
    else:
        if target.shape != input.shape:
            raise Unserved("a target of another shape")
        known = target.is_floating_point() or target.dtype == torch.bool
        dense = target if known else target.to(torch.promote_types(input.dtype, torch.float32))
        truth = Truth(dense, False, target.dtype == torch.bool, target.dtype)
    return truth if ignore_index is None else _without(truth, target, ignore_index)


def _without(truth: Truth, target: Tensor, ignore_index: int) -> Truth:
    """The truth without the voxels that MONAI's create_ignore_mask leaves out."""
    if not isinstance(ignore_index, int):
        raise Unserved("ignore_index that is no int")
    channels = target.shape[1]
    if channels == 1:
        integers = not (target.is_floating_point() or target.dtype == torch.bool)
        if integers and not torch.iinfo(target.dtype).min <= ignore_index <= torch.iinfo(target.dtype).max:
            raise Unserved("ignore_index beyond the labels' dtype")
        if truth.labels and integers:
            return truth._replace(ignore_index=ignore_index)
        mask, dtype = target != ignore_index, torch.float32
    elif 0 <= ignore_index < channels:
        if target.dtype == torch.bool:
            raise Unserved("ignore_index in a one-hot target of bool")
        channel = target[:, ignore_index : ignore_index + 1]
        require((channel == 0) | (channel == 1), "ignore_index in a soft target")
        mask, dtype = channel == 0, torch.promote_types(target.dtype, torch.float32)
    else:
        mask, dtype = target.sum(1, keepdim=True) > 0, torch.float32
    return truth._replace(mask=mask, dtype=torch.promote_types(truth.dtype, dtype))


def activated(self: Any, input: Tensor, truth: Truth, terms: tuple[str, ...], before: str = "") -> Pass:
    """A pass after the activation that the object asks for; the last step, since it calls the user's ``other_act``."""
    sigmoid, softmax, other = (getattr(self, before + name) for name in ("sigmoid", "softmax", "other_act"))
    if bool(sigmoid) + bool(softmax) + (other is not None) > 1:
        raise Unserved("several activations")
    if input.dtype == torch.float16 and dtype_of(input) == input.dtype and input[:, 0].numel() > 2**15:
        raise Unserved("float16 sums of many voxels")  # which may overflow
    if other is not None:
        shape = input.shape
        input = other(input)
        if type(input) is not Tensor or input.shape != shape or not input.is_floating_point():
            raise Unserved("other_act with an output of another form")
    activation = "sigmoid" if sigmoid else "softmax" if softmax else None
    if activation is None and terms[:1] == ("d",):
        _check_differences(input, truth)
    return Pass(input, truth, terms, activation)


def are_probabilities(p: Pass) -> bool:
    """Whether all values are, after an activation or by a look at them; not to be known while a graph is traced."""
    if p.activation is not None:
        return True
    serve(not torch.compiler.is_compiling(), "values of any size, within torch.compile")
    return bool(((p.logits >= 0) & (p.logits <= 1)).all())


def overlap_terms(self: Any, truth: Truth, before: str = "") -> tuple[str, str, str]:
    """Intersection, prediction and truth; under ``soft_label`` the intersection is half the difference of the other two
    and ``|p - y|``, which is the same for 0 and 1."""
    if not self.soft_label:
        return "py", "p", "y"
    if not truth.dtype.is_floating_point:
        raise Unserved(f"soft_label with a dense target of {truth.dtype}")
    if truth.hard and (getattr(self, before + "sigmoid") or getattr(self, before + "softmax")):
        return "py", "p", "y"
    if not truth.hard:
        require(truth.target >= 0, "soft_label with a negative target")
    return "d", "p", "y"


def _check_differences(input: Tensor, truth: Truth) -> None:
    """MONAI adds up ``|p|``, and where ``p`` or ``p - y`` is 0 its slopes are 0."""
    require(input >= 0, "soft_label with negative values")
    if input.requires_grad and torch.is_grad_enabled():
        apart = (input > 0) & (input != (1 if truth.labels else truth.target))
        require(apart, "gradient of soft_label where values are exactly the target's")


def region_sums(self: Any, sums: Sums, names: Sequence[str], dropped: bool = False) -> list[Tensor]:
    """Sums ``[B, C]``, or ``[C]`` over the batch, without those of the background if that is not dropped yet; the first
    of ``|p - y|`` as the intersection that it stands for."""
    columns = slice(None) if self.include_background or dropped else slice(1, None)
    found = [sums[name][:, columns] for name in names]
    if self.batch:
        found = [value.sum(0) for value in found]
    if names[0] == "d":
        found[0] = (found[1] + found[2] - found[0]) / 2
    return found


def check_quotients(self: Any, table: Tensor, truth: Truth) -> None:
    """Of a quotient by 0 MONAI's gradient is NaN at the ignored voxels as well, which it multiplies by 0."""
    if self.smooth_dr == 0 and (truth.mask is not None or truth.ignore_index is not None):
        require(table.isfinite(), "quotients by 0 beside ignored voxels")


def reduced(self: Any, table: Tensor, p: Pass, broadcast: bool = True) -> Tensor:
    """The reduction of the object, in the dtype of MONAI's result."""
    if self.reduction == "mean":
        table = table.mean()
    elif self.reduction == "sum":
        table = table.sum()
    elif self.reduction != "none":
        raise Unserved("an unknown reduction")
    elif broadcast:
        table = table.reshape(*table.shape[:2], *[1] * (p.logits.ndim - 2))
    return table.to(result_dtype(p))


def result_dtype(p: Pass) -> torch.dtype:
    return dtype_of(p.logits, p.logits.new_empty(0, dtype=p.truth.dtype))


def check_axes(input: Tensor) -> None:
    """What MONAI's distances, skeletons and unified focal loss take."""
    serve(input.ndim in (4, 5), f"{input.ndim - 2} spatial axes")
