"""Losses with distances, Hausdorff's and the boundary loss; and with skeletons, clDice."""

from __future__ import annotations

import functools
from typing import Any

import torch
from monai import losses
from torch import Tensor

from ...losses.spatial.fields import class_masks, fields_of, predicted_masks
from ...passes.backends import forced_backend
from ...passes.stencil_ops import cldice_sums
from ..core import Unserved
from ..fused import attempt, check_tensors, checked_inputs
from ..shared import Sums, implements, require, serve
from .common import (
    UNSIGNED,
    Pass,
    Truth,
    activated,
    are_probabilities,
    check_axes,
    check_single_channel,
    reduced,
    served,
    sums_of,
    truth_of,
)


def _spatial_truth(self: Any, input: Tensor, target: Tensor, to_onehot_y: bool | None = None) -> Truth:
    """The target of a loss that looks at neighbours, in two or three axes."""
    check_tensors(input, target)
    check_axes(input)
    check_single_channel(self, input.shape[1])
    return truth_of(input, target, self.to_onehot_y if to_onehot_y is None else to_onehot_y)


def _class_masks(self: Any, truth: Truth, channels: int) -> Tensor:
    target = truth.target.squeeze(1) if truth.labels else truth.target
    return _dropped(self, class_masks(target, not truth.labels, channels, ()))


def _dropped(self: Any, masks: Tensor) -> Tensor:
    """Without the background's mask, whose distances nothing asks for."""
    if not self.include_background:
        masks[:, 0] = False
    return masks


def _distance_table(self: Any, table: Tensor) -> Tensor:
    table = table if self.include_background else table[:, 1:]
    return table.mean(0, keepdim=True) if self.batch else table


@served(losses.HausdorffDTLoss)
def hausdorff_dt_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """Also LogHausdorffDTLoss, which calls it."""
    truth = _spatial_truth(self, input, target)
    serve(implements(self, losses.HausdorffDTLoss, "distance_field"), "methods of a subclass")
    if not (isinstance(self.alpha, (int, float)) and 0 < self.alpha < float("inf")):
        raise Unserved("alpha that is no number above 0")
    serve(truth.dtype != torch.bool, "a dense target of bool")  # input - target is an error
    p = activated(self, input, truth, ())
    predicted, true = _powers_of_distances(self, p)
    squares = {"map*p2": 1, "map*y*p": -2, "map*y2": 1}  # of p - y
    if are_probabilities(p):  # squares of y and of 1 - y apart, whose difference would cancel
        squares = {"map*miss_pos(2.0)": 1, "map*miss_neg(2.0)": 1} | ({} if truth.hard else {"map*y2": 1, "map*y": -1})
    (sums,) = sums_of(p._replace(terms=tuple(squares), weight_map=predicted.add_(true)))
    error = functools.reduce(torch.add, (sign * sums[name] for name, sign in squares.items()))
    table = _distance_table(self, error / input[0, 0].numel())
    truth = truth._replace(dtype=torch.promote_types(truth.dtype, torch.float32))
    return reduced(self, table, p._replace(truth=truth))


def _powers_of_distances(self: Any, p: Pass) -> list[Tensor]:
    """Those of the predicted and of the true classes, of distances in the dtypes of both, as MONAI stores them."""
    logits = p.logits.detach()
    if logits.dtype in (torch.float16, torch.bfloat16):  # whose rounding decides on which side of 1/2 a voxel is
        activated = logits.softmax(1) if p.activation == "softmax" else logits
        activated = logits.sigmoid() if p.activation == "sigmoid" else activated
        predicted, dtype = activated > 0.5, activated.dtype
    else:
        predicted, dtype = predicted_masks(logits, p.activation or "none"), logits.dtype
    masks = [_dropped(self, predicted), _class_masks(self, p.truth, logits.shape[1])]
    fields = fields_of(masks, None, logits.ndim - 2, "sides", torch.float32)
    return [field.to(x).float().pow(self.alpha) for field, x in zip(fields, (dtype, p.truth.dtype), strict=True)]


@served(getattr(losses, "BoundaryLoss", None))
def boundary_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    serve(implements(self, losses.BoundaryLoss, "compute_distance_map"), "methods of a subclass")
    if self.to_onehot_y and isinstance(target, Tensor) and target.ndim == input.ndim - 1:
        target = target.unsqueeze(1)
    truth = _spatial_truth(self, input, target)._replace(dtype=torch.float32)
    masks = _class_masks(self, truth, input.shape[1])
    (field,) = fields_of([masks], None, input.ndim - 2, "sides", torch.float32, signed=True)
    field.add_(field < 0)  # MONAI counts from 0 inside
    p = activated(self, input, truth, ("map*p",))
    (sums,) = sums_of(p._replace(weight_map=field))
    table = _distance_table(self, sums["map*p"] / input[0, 0].numel())
    return reduced(self, table[0] if self.batch else table, p, broadcast=False)


_COLUMNS = ("py", "p", "precision", "skeleton_p", "sensitivity", "skeleton_y", "y")


def cldice_pass(self: Any, input: Tensor, target: Tensor, to_onehot_y: bool) -> tuple[Pass, Sums]:
    """The pass, and its sums ``[B, C]``, without the background if that is dropped."""
    truth = _spatial_truth(self, input, target, to_onehot_y)
    serve(truth.dtype != torch.bool and truth.dtype not in UNSIGNED, f"a dense target of {truth.dtype}")
    if not (truth.labels or truth.hard):
        require((truth.target >= 0) & (truth.target <= 1), "a dense target beyond 0 and 1")
    if input.dtype not in (torch.float32, torch.float64):
        raise Unserved("skeletons of half precision")  # whose ties decide where a gradient goes
    p = activated(self, input, truth, ())
    serve(are_probabilities(p), "values that are no probabilities")
    if p.activation is None and p.logits.requires_grad and torch.is_grad_enabled():
        require((p.logits > 0) & (p.logits < 1), "gradient of probabilities that are exactly 0 or 1")  # many are equal
    first, activation = 0 if self.include_background else 1, p.activation or "none"
    inputs = checked_inputs(p.logits, truth.target, p.activation)
    options = (activation, (), inputs.dense, inputs.validate, self.iter, first, forced_backend())
    sums = attempt(cldice_sums, inputs.logits, inputs.target, None, options)[:, first:]
    named = dict(zip(_COLUMNS, sums.unbind(-1), strict=True))
    return p, named | {name: named[name].detach() for name in ("skeleton_y", "y")}


def cldice_value(self: Any, sums: Sums, p: Pass) -> Tensor:
    """A value per sample: of the sums over its voxels and channels."""
    total = {name: value.sum(1) for name, value in sums.items()}
    precision = (total["precision"] + self.smooth_nr) / (total["skeleton_p"] + self.smooth_dr)
    sensitivity = (total["sensitivity"] + self.smooth_nr) / (total["skeleton_y"] + self.smooth_dr)
    table = 1 - 2 * precision * sensitivity / (precision + sensitivity + self.smooth)
    return reduced(self, table, p, broadcast=False)


@served(losses.SoftclDiceLoss)
def soft_cldice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p, sums = cldice_pass(self, input, target, self.to_onehot_y)
    return cldice_value(self, sums, p)
