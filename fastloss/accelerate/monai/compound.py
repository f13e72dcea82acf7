"""Sums of two losses, in one pass where their activations agree; and deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai import losses
from torch import Tensor, nn

from ..core import Unserved
from ..fused import check_tensors, dtype_of
from ..shared import part
from ..torch import Entropy, sigmoid_terms, sigmoid_value, softmax_terms, softmax_value
from .common import OWN_OPTIONS, Pass, Truth, served, sums_of, truth_of
from .distances import cldice_pass, cldice_value
from .focal import focal_pass, focal_value, focal_voxels
from .overlap import dice_pass, dice_value, generalized_dice_pass, generalized_dice_value


def check_channels(input: Tensor, target: Tensor) -> None:
    if input.ndim != target.ndim or target.shape[1] not in (1, input.shape[1]):
        raise Unserved("a target of another shape")


def with_focal(
    overlap: Any,
    focal: Any,
    input: Tensor,
    truth: Truth,
    pass_of: Callable[..., Pass],
    value_of: Callable[..., Tensor],
) -> tuple[Tensor, Tensor]:
    """The values of an overlap loss, by its functions of a pass and its sums, and of the focal loss beside it."""
    second = focal_pass(focal, input, truth)
    first = pass_of(overlap, input, truth)
    if focal.reduction == "none":
        sums, value = sums_of(first)[0], focal_voxels(focal, second)
    else:
        sums, of_focal = sums_of(first, second)
        value = focal_value(focal, of_focal, second)
    return value_of(overlap, sums, first), value


@served(losses.DiceFocalLoss)
def dice_focal_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    check_channels(input, target)
    overlap, focal = part(self.dice, losses.DiceLoss), part(self.focal, losses.FocalLoss)
    ignored = overlap.ignore_index, focal.ignore_index
    if overlap.to_onehot_y or focal.to_onehot_y or ignored != (None, None):
        raise Unserved(OWN_OPTIONS)
    if self.to_onehot_y and input.shape[1] == 1:
        raise Unserved("to_onehot_y of one channel")
    truth = truth_of(input, target, self.to_onehot_y)
    first, second = with_focal(overlap, focal, input, truth, dice_pass, dice_value)
    return self.lambda_dice * first + self.lambda_focal * second


@served(losses.GeneralizedDiceFocalLoss)
def generalized_dice_focal_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    check_channels(input, target)
    overlap, focal = part(self.generalized_dice, losses.GeneralizedDiceLoss), part(self.focal, losses.FocalLoss)
    if bool(overlap.to_onehot_y) is not bool(focal.to_onehot_y) or focal.ignore_index is not None:
        raise Unserved(OWN_OPTIONS)
    truth = truth_of(input, target, focal.to_onehot_y)
    first, second = with_focal(overlap, focal, input, truth, generalized_dice_pass, generalized_dice_value)
    return self.lambda_gdl * first + self.lambda_focal * second


@served(losses.DiceCELoss)
def dice_ce_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy is of all channels, softmax's even under ``sigmoid``; of one channel it is the binary one."""
    check_tensors(input, target)
    check_channels(input, target)
    kind = losses.DiceCELoss
    if type(self).ce is not kind.ce or type(self).bce is not kind.bce:
        raise Unserved("methods of a subclass")
    binary = input.shape[1] == 1
    dice = part(self.dice, losses.DiceLoss)
    if binary:
        ce = part(self.binary_cross_entropy, nn.BCEWithLogitsLoss)
    else:
        ce = part(self.cross_entropy, nn.CrossEntropyLoss)
    if dice.ignore_index is not None or (not binary and ce.ignore_index != -100) or ce.reduction == "none":
        raise Unserved(OWN_OPTIONS)
    truth = truth_of(input, target, dice.to_onehot_y)
    dtype = None
    if not truth.labels and target.is_floating_point() and target.dtype != input.dtype:
        if binary or torch.is_autocast_enabled(input.device.type):
            raise Unserved("a dense target of another dtype")
        dtype = dtype_of(input, target)
    if binary:
        options = Entropy(ce.weight, ce.reduction, pos_weight=ce.pos_weight)
        second = Pass(input, truth, sigmoid_terms(options, input), "sigmoid")
    else:
        options = Entropy(ce.weight, ce.reduction, ce.label_smoothing)
        second = Pass(input, truth, softmax_terms(options, input, truth.labels), "softmax")
    first = dice_pass(dice, input, truth)
    sums = sums_of(first, second)
    if binary:
        entropy = sigmoid_value(options, sums[1], input)
    else:
        entropy = softmax_value(options, sums[1], input, truth.labels, dtype)
    return self.lambda_dice * dice_value(dice, sums[0], first) + self.lambda_ce * entropy


@served(losses.SoftDiceclDiceLoss)
def soft_dice_cldice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    check_channels(input, target)
    dice, cldice = part(self.dice, losses.DiceLoss), part(self.cldice, losses.SoftclDiceLoss)
    names = ("to_onehot_y", "include_background", "sigmoid", "softmax", "other_act", "reduction")
    plain = not (dice.squared_pred or dice.soft_label or dice.to_onehot_y or dice.ignore_index is not None)
    if not plain or any(getattr(dice, name) != getattr(cldice, name) for name in names):
        raise Unserved(OWN_OPTIONS)
    if self.to_onehot_y and input.shape[1] == 1:
        raise Unserved("to_onehot_y of one channel")
    p, sums = cldice_pass(cldice, input, target, self.to_onehot_y)
    value = dice_value(dice, sums, p._replace(terms=("py", "p", "y")), dropped=True)
    return (1 - self.alpha) * value + self.alpha * cldice_value(cldice, sums, p)


@served(losses.DeepSupervisionLoss, "get_loss")
def deep_supervision_level(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """The loss of a level, whose target is a view of the labels where an interpolation would copy each n-th of them."""
    if input.shape[2:] != target.shape[2:]:
        view = _every_nth(target, input.shape[2:]) if self.interp_mode == "nearest-exact" else None
        target = F.interpolate(target, size=input.shape[2:], mode=self.interp_mode) if view is None else view
    return self.loss(input, target)


def _every_nth(target: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The voxels that nearest-exact takes, if the sizes divide; other dtypes may be errors there."""
    sizes = list(zip(target.shape[2:], shape, strict=False))
    if target.dtype not in (torch.float32, torch.float64, torch.uint8) or len(sizes) != len(shape):
        return None
    if any(not small or large % small for large, small in sizes):
        return None
    for axis, (large, small) in enumerate(sizes, 2):
        step = large // small
        target = target[(*[slice(None)] * axis, slice(step // 2, None, step))]
    return target
