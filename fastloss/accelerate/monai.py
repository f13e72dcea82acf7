"""MONAI's losses as formulas on the sums of fused passes; their options are read from the objects at each call.

Every class has a pass, what is summed, and a value, the formula on its sums, so that compounds share passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import monai.losses
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from .core import Served, Unserved, check_tensors, dtype_of, run_pass

served = Served(MetaTensor)


class Truth(NamedTuple):
    """A target as the passes take it."""

    target: Tensor  # labels [B, 1, *S] of integers or bool, or dense [B, C, *S]
    labels: bool
    hard: bool  # whether it is known to be 0 or 1 everywhere
    dtype: torch.dtype  # that MONAI computes with: float32 for labels, which become one-hot
    mask: Tensor | None = None  # voxels that count, [B, 1, *S]
    ignore_index: int | None = None


class Pass(NamedTuple):
    logits: Tensor
    truth: Truth
    terms: tuple[str, ...]
    activation: str | None


def sums_of(*passes: Pass) -> list[dict[str, Tensor]]:
    """The sums of each pass, of one where they differ in nothing but the terms."""
    first = passes[0]
    if all(p.logits is first.logits and p.truth is first.truth and p.activation == first.activation for p in passes):
        return [_run(first._replace(terms=tuple(term for p in passes for term in p.terms)))] * len(passes)
    return [_run(p) for p in passes]


def _run(p: Pass) -> dict[str, Tensor]:
    truth = p.truth
    return run_pass(p.logits, truth.target, p.terms, p.activation, ignore_index=truth.ignore_index, mask=truth.mask)


# What the classes have in common


def check_single_channel(self: Any, channels: int) -> None:
    """MONAI warns that it ignores these options of a single channel."""
    if channels == 1:
        for name in ("softmax", "to_onehot_y"):
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
        if target.dtype == torch.bool or target.dtype in _UNSIGNED:
            raise Unserved(f"ignore_index in a one-hot target of {target.dtype}")
        channel = target[:, ignore_index : ignore_index + 1]
        require((channel == 0) | (channel == 1), "ignore_index in a soft target")
        mask, dtype = channel == 0, torch.promote_types(target.dtype, torch.float32)
    else:
        mask, dtype = target.sum(1, keepdim=True) > 0, torch.float32
    return truth._replace(mask=mask, dtype=torch.promote_types(truth.dtype, dtype))


_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def require(condition: Tensor, reason: str) -> None:
    """Raises Unserved unless it holds everywhere; not to be known while a graph is traced."""
    if torch.compiler.is_compiling():
        raise Unserved(f"{reason}, within torch.compile")
    if not bool(condition.all()):
        raise Unserved(reason)


def activated(self: Any, input: Tensor, truth: Truth, terms: tuple[str, ...]) -> Pass:
    """A pass after the activation that the object asks for; the last step, since it calls the user's ``other_act``."""
    if bool(self.sigmoid) + bool(self.softmax) + (self.other_act is not None) > 1:
        raise Unserved("several activations")
    if self.other_act is None:
        return Pass(input, truth, terms, "sigmoid" if self.sigmoid else "softmax" if self.softmax else None)
    shape = input.shape
    input = self.other_act(input)
    if type(input) is not Tensor or input.shape != shape or not input.is_floating_point():
        raise Unserved("other_act with an output of another form")
    return Pass(input, truth, terms, None)


def region_sums(self: Any, sums: dict[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    """Sums ``[B, C]``, or ``[C]`` over the batch, without those of the background if that is dropped."""
    columns = slice(None) if self.include_background else slice(1, None)
    found = [sums[name][:, columns] for name in names]
    return [value.sum(0) for value in found] if self.batch else found


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
    return table.to(_dtype(p))


def _dtype(p: Pass) -> torch.dtype:
    if p.truth.dtype.is_floating_point:
        return dtype_of(p.logits, p.truth.target if not p.truth.labels else p.logits.new_empty(0, dtype=p.truth.dtype))
    return dtype_of(p.logits)


# Dice


def dice_pass(self: Any, input: Tensor, truth: Truth) -> Pass:
    check_single_channel(self, input.shape[1])
    if self.squared_pred or self.soft_label:
        if not truth.dtype.is_floating_point:
            raise Unserved(f"squared_pred or soft_label with a dense target of {truth.dtype}")
        if not self.squared_pred:
            _check_soft(self, truth)
    return activated(self, input, truth, ("py", "p2", "y2") if self.squared_pred else ("py", "p", "y"))


def _check_soft(self: Any, truth: Truth) -> None:
    """For 0 and 1, and probabilities, the soft formulation is the same loss."""
    if not truth.hard or not (self.sigmoid or self.softmax):
        raise Unserved("soft_label")


def dice_value(self: Any, sums: dict[str, Tensor], p: Pass) -> Tensor:
    both, predicted, true = region_sums(self, sums, p.terms)
    share = 1 if self.jaccard else 0.5
    denominator = 2 * (both + share * (predicted - both) + share * (true - both)) + self.smooth_dr
    table = 1 - (2 * both + self.smooth_nr) / denominator
    weight = self.class_weight
    if weight is not None and table.shape[-1] != 1:
        if weight.ndim != 1 or weight.shape[0] != table.shape[-1]:  # MONAI makes a vector of a number at the first call
            raise Unserved("a weight of another shape")
        if not torch.compiler.is_compiling():
            require(weight >= 0, "negative weights")
        table = table * weight.to(table)
    return reduced(self, table, p)


@served(monai.losses.DiceLoss)
def dice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = dice_pass(self, input, truth_of(input, target, self.to_onehot_y, self.ignore_index))
    (sums,) = sums_of(p)
    return dice_value(self, sums, p)
