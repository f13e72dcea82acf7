"""Losses of overlap: Dice, masked and generalised Dice, Tversky, the correlation coefficient."""

from __future__ import annotations

from typing import Any

import torch
from monai import losses
from torch import Tensor

from ..core import Unserved
from ..fused import check_tensors
from ..shared import Sums, part, require, serve
from .common import (
    OWN_OPTIONS,
    UNSIGNED,
    Pass,
    Truth,
    activated,
    are_probabilities,
    check_quotients,
    check_single_channel,
    overlap_terms,
    reduced,
    region_sums,
    served,
    sums_of,
    truth_of,
)


def dice_pass(self: Any, input: Tensor, truth: Truth, before: str = "") -> Pass:
    check_single_channel(self, input.shape[1])
    if not self.squared_pred:
        return activated(self, input, truth, overlap_terms(self, truth, before), before)
    if not truth.dtype.is_floating_point:
        raise Unserved(f"squared_pred with a dense target of {truth.dtype}")
    return activated(self, input, truth, ("py", "p2", "y2"), before)


def dice_value(self: Any, sums: Sums, p: Pass, dropped: bool = False) -> Tensor:
    """``dropped``: whether the sums are without the background's already."""
    both, predicted, true = region_sums(self, sums, p.terms[:3], dropped)
    share = 1 if self.jaccard else 0.5
    denominator = 2 * (both + share * (predicted - both) + share * (true - both)) + self.smooth_dr
    table = 1 - (2 * both + self.smooth_nr) / denominator
    check_quotients(self, table, p.truth)
    weight = self.class_weight
    if weight is not None and table.shape[-1] != 1:
        if weight.ndim != 1 or weight.shape[0] != table.shape[-1]:  # MONAI makes a vector of a number at the first call
            raise Unserved("a weight of another shape")
        if not torch.compiler.is_compiling():
            require(weight >= 0, "negative weights")
        table = table * weight.to(table)
    return reduced(self, table, p)


@served(losses.DiceLoss)
def dice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = dice_pass(self, input, truth_of(input, target, self.to_onehot_y, self.ignore_index))
    (sums,) = sums_of(p)
    return dice_value(self, sums, p)


@served(losses.MaskedDiceLoss)
def masked_dice_loss(self: Any, input: Tensor, target: Tensor, mask: Any = None) -> Tensor:
    """A voxel outside the mask has no prediction, and the label 0, which of labels is the background's."""
    if not isinstance(mask, Tensor):
        raise Unserved("no mask")
    check_tensors(input, target)
    check_tensors(input, mask)
    masking = part(self.spatial_weighted, losses.MaskedLoss)
    own = getattr(masking.loss, "__self__", masking) is self
    if not own or self.sigmoid or self.softmax or self.other_act is not None:
        raise Unserved(OWN_OPTIONS)
    if self.ignore_index is not None:
        raise Unserved("ignore_index")
    if mask.shape[1:] != (1, *input.shape[2:]) or mask.shape[0] not in (1, input.shape[0]):
        raise Unserved("a mask of another shape")
    require((mask == 0) | (mask == 1), "a mask with shares")
    truth = truth_of(input, target, self.to_onehot_y)
    dtype = torch.promote_types(truth.dtype, mask.dtype)
    truth = truth._replace(mask=(mask != 0).expand(input.shape[0], *mask.shape[1:]), dtype=dtype)
    p = dice_pass(self, input, truth, before="pre_")
    if truth.labels:
        p = p._replace(terms=(*p.terms, "count"))
    (sums,) = sums_of(p)
    if truth.labels:
        masked = input[0, 0].numel() - sums["count"][:, :1]
        for name in {p.terms[2], "d"} & sums.keys():  # of y, and of |p - y|
            sums = {**sums, name: torch.cat([sums[name][:, :1] + masked, sums[name][:, 1:]], 1)}
    return dice_value(self, sums, p)


# Generalised Dice


def generalized_dice_pass(self: Any, input: Tensor, truth: Truth) -> Pass:
    check_single_channel(self, input.shape[1])
    return activated(self, input, truth, overlap_terms(self, truth))


def generalized_dice_value(self: Any, sums: Sums, p: Pass) -> Tensor:
    both, predicted, true = region_sums(self, sums, p.terms)
    classes = 0 if self.batch else 1
    weight = self.w_func(true.float())
    absent = torch.isinf(weight)
    weight = torch.where(absent, 0.0, weight)
    weight = weight + absent * (weight.max() if self.batch else weight.amax(1, keepdim=True))
    numerator = 2 * (both * weight).sum(classes, keepdim=True) + self.smooth_nr
    denominator = ((predicted + true) * weight).sum(classes, keepdim=True) + self.smooth_dr
    truth = p.truth._replace(dtype=torch.promote_types(p.truth.dtype, torch.float32))  # that of the weights
    return reduced(self, 1 - numerator / denominator, p._replace(truth=truth))


@served(losses.GeneralizedDiceLoss)
def generalized_dice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = generalized_dice_pass(self, input, truth_of(input, target, self.to_onehot_y))
    (sums,) = sums_of(p)
    return generalized_dice_value(self, sums, p)


# Tversky and the correlation coefficient


@served(losses.TverskyLoss)
def tversky_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_single_channel(self, input.shape[1])
    truth = truth_of(input, target, self.to_onehot_y, self.ignore_index)
    if truth.dtype == torch.bool:
        raise Unserved("a dense target of bool")  # 1 - target is an error
    if truth.dtype in UNSIGNED:
        require(target <= 1, f"a dense target of {target.dtype} above 1")  # whose 1 - target wraps around
    p = activated(self, input, truth, overlap_terms(self, truth))
    (sums,) = sums_of(p)
    both, predicted, true = region_sums(self, sums, p.terms)
    false = self.alpha * (predicted - both) + self.beta * (true - both)
    table = 1 - (both + self.smooth_nr) / (both + false + self.smooth_dr)
    check_quotients(self, table, truth)
    return reduced(self, table, p, broadcast=False)


@served(getattr(losses, "MCCLoss", None))
def mcc_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_single_channel(self, input.shape[1])
    truth = truth_of(input, target, self.to_onehot_y)
    if truth.dtype == torch.bool:
        raise Unserved("a dense target of bool")
    if not truth.dtype.is_floating_point:
        truth = truth._replace(dtype=torch.get_default_dtype())  # that of 1.0 - target
    p = activated(self, input, truth, ("y*p", "r*q", "r*p", "y*q"))
    serve(are_probabilities(p), "values that are no probabilities")  # roots of differences near 0 lose all digits
    (sums,) = sums_of(p)
    tp, tn, fp, fn = region_sums(self, sums, p.terms)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    score = 1 - (tp * tn - fp * fn + self.smooth_nr) / (product + self.smooth_dr).sqrt()
    return reduced(self, torch.where((fp == 0) & (fn == 0), 0.0, score), p, broadcast=False)
