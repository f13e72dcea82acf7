"""Focal losses, and the unified focal loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai import losses
from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss
from torch import Tensor

from ..core import Unserved
from ..fused import check_tensors, run_voxels
from ..shared import Sums, check_gamma, part, require
from .common import (
    OWN_OPTIONS,
    UNSIGNED,
    Pass,
    Truth,
    check_axes,
    check_single_channel,
    result_dtype,
    served,
    sums_of,
    truth_of,
)


def focal_pass(self: Any, input: Tensor, truth: Truth) -> Pass:
    channels = input.shape[1]
    check_single_channel(self, channels)
    if self.reduction not in ("mean", "sum", "none"):
        raise Unserved("an unknown reduction")
    check_gamma(self.gamma)
    g = float(self.gamma)
    ignoring = truth.mask is not None or truth.ignore_index is not None
    if self.use_softmax:
        if not self.include_background:
            if self.alpha is not None and not isinstance(self.alpha, Tensor):
                raise Unserved("a scalar alpha without the background")
            input, truth = input[:, 1:], _without_background(truth)
        if input.shape[1] == 1:
            raise Unserved("softmax of one channel")
        terms: tuple[str, ...] = (f"focal_pos({g})",)
    else:
        terms = (f"focal_pos({g})", f"focal_neg({g})")
        if not truth.hard and (g or self.alpha is not None):
            if self.reduction == "none" or torch.compiler.is_compiling():
                require((truth.target == 0) | (truth.target == 1), _SOFT)
                truth = truth._replace(hard=True)
            else:
                terms = (*terms, "y", "y2")
    if ignoring and truth.counted is None:
        terms = (*terms, "count")
    return Pass(input, truth, terms, "softmax" if self.use_softmax else "sigmoid")


def _without_background(truth: Truth) -> Truth:
    """For logits without channel 0: labels one less, those of the background ignored, as no term reads their voxels."""
    if not truth.labels:
        return truth._replace(target=truth.target[:, 1:])
    labels, mask = truth.target, truth.mask
    labels = labels.long() if labels.dtype.itemsize > 2 else labels.int()
    if truth.ignore_index is not None:
        mask = labels != truth.ignore_index
    counted = None if mask is None else mask.flatten(1).sum(1, keepdim=True)
    return truth._replace(target=labels - 1, ignore_index=-1, mask=mask, counted=counted)


_SOFT = "a soft target with sigmoid"


def focal_factors(self: Any, like: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """What the losses of a voxel's class and of its other classes are multiplied by, ``[classes]`` or a number."""
    positive = negative = like.new_ones((), dtype=torch.float64)
    alpha = self.alpha
    if isinstance(alpha, Tensor) and alpha.ndim:
        if alpha.shape != (classes,):
            raise Unserved("alpha of another length")
        positive = alpha.to(positive)
    elif alpha is not None:
        alpha = float(alpha)
        positive, negative = positive * alpha, negative * (1 - alpha)
        if self.use_softmax:
            positive = torch.cat([negative.reshape(1), positive.expand(classes - 1)])
    weight = self.class_weight
    if weight is not None:
        weight = torch.as_tensor(weight)
        if weight.ndim and (classes == 1 or weight.shape != (classes,)):
            raise Unserved("a weight of another shape")
        if not torch.compiler.is_compiling():
            require(weight >= 0, "negative weights")
        positive, negative = positive * weight.to(positive), negative * weight.to(positive)
    return positive, negative


def focal_value(self: Any, sums: Sums, p: Pass) -> Tensor:
    """A voxel's loss is linear in a soft target under softmax, but no sum of terms under sigmoid."""
    columns = slice(None) if self.include_background or self.use_softmax else slice(1, None)
    if "y2" in p.terms:
        require(sums["y"] == sums["y2"], _SOFT)
    table = sums[p.terms[0]][:, columns]
    positive, negative = focal_factors(self, table, table.shape[1])
    table = table * positive
    if not self.use_softmax:
        table = table + sums[p.terms[1]][:, columns] * negative
    counted = sums["count"][:, :1] if "count" in p.terms else p.truth.counted
    if counted is not None:  # a mean over the voxels that count, of a sum over the channels
        counted = (counted.sum() if self.reduction == "mean" else counted).clamp(min=torch.finfo(torch.float32).eps)
        return (table / counted).sum().float()
    value = table.mean() if self.reduction == "mean" else table.sum()
    return (value / p.logits[0, 0].numel()).float()


def focal_voxels(self: Any, p: Pass) -> Tensor:
    """The loss of each voxel and class."""
    first = 0 if self.include_background or self.use_softmax else 1
    factors = focal_factors(self, p.logits, p.logits.shape[1] - first)
    terms = dict(zip(p.terms[: 1 if self.use_softmax else 2], factors, strict=False))
    if first:
        terms = {name: F.pad(factor.expand(p.logits.shape[1] - 1), (1, 0)) for name, factor in terms.items()}
    truth = p.truth
    found = run_voxels(
        p.logits, truth.target, terms, p.activation, per_class=True, ignore_index=truth.ignore_index, mask=truth.mask
    )
    return found[:, first:].float()


@served(losses.FocalLoss, begins_with_target=lambda self: self.alpha is not None and not self.use_softmax)
def focal_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = focal_pass(self, input, truth_of(input, target, self.to_onehot_y, self.ignore_index))
    if self.reduction == "none":
        return focal_voxels(self, p)
    (sums,) = sums_of(p)
    return focal_value(self, sums, p)


@served(losses.AsymmetricUnifiedFocalLoss)
def unified_focal_loss(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Of probabilities of two classes; of one channel ``p`` these are ``1 - p`` and ``p``. An ignored voxel has, in the
    overlap, the smallest probability of both classes and no truth."""
    check_tensors(y_pred, y_true)
    check_axes(y_pred)
    channels, ignore_index = y_pred.shape[1], self.ignore_index
    focal = part(self.asy_focal_loss, AsymmetricFocalLoss)
    overlap = part(self.asy_focal_tversky_loss, AsymmetricFocalTverskyLoss)
    for each in (focal, overlap):
        if each.to_onehot_y or each.ignore_index is not None or each.reduction != "mean":
            raise Unserved(OWN_OPTIONS)
    epsilon = focal.epsilon
    if channels > 2 or self.num_classes != 2 or overlap.epsilon != epsilon:
        raise Unserved("another number of classes, or parts with options of their own")
    if channels == 1 and (self.to_onehot_y or ignore_index is not None):
        raise Unserved("to_onehot_y or ignore_index of one channel")
    if self.reduction not in ("mean", "sum", "none") or focal.gamma < 0:
        raise Unserved("an unknown reduction, or a negative gamma")
    if y_true.dtype == torch.bool or (y_true.dtype in UNSIGNED and not self.to_onehot_y):
        raise Unserved(f"a dense target of {y_true.dtype}")  # 1 - y_true is an error, -y_true wraps around
    if channels == 1:
        if y_true.shape != y_pred.shape:
            raise Unserved("a target of another shape")
        y_pred, y_true = torch.cat([1 - y_pred, y_pred], 1), torch.cat([1 - y_true, y_true], 1)
    truth = truth_of(y_pred, y_true, self.to_onehot_y, ignore_index)
    if not truth.labels and ignore_index is None:
        require(y_true <= 1, "a target above 1")  # which is an error
    terms = (f"focal_pos({float(focal.gamma)})", "ce_pos", "y*p", "y*q", "r*p", "count")
    p = Pass(y_pred.clamp(epsilon, 1.0 - epsilon), truth, terms, None)
    if 0 < focal.gamma < 1 and epsilon < torch.finfo(y_pred.dtype).eps / 4:  # the limit itself rounds to 1
        require(p.logits < 1, "gamma below 1 with probabilities of 1")
    (sums,) = sums_of(p)
    background, foreground, tp, fn, fp, counted = (sums[name] for name in terms)
    voxels = y_pred[0, 0].numel()
    fp = fp + epsilon * (voxels - counted)
    entropy = (1 - focal.delta) * background[:, 0].mean() + focal.delta * foreground[:, 1].mean()
    score = 1 - (tp + epsilon) / (tp + overlap.delta * fn + (1 - overlap.delta) * fp + epsilon)
    overlaps = (score[:, 0].mean() + score[:, 1].pow(1 - overlap.gamma).mean()) / 2
    return (self.weight * entropy / (2 * voxels) + (1 - self.weight) * overlaps).to(result_dtype(p))
