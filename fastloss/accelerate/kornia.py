"""kornia's losses as formulas on sums. Written against version 0.9.0."""

from __future__ import annotations

import functools
from typing import Any

import torch
from kornia import losses
from kornia.losses import HausdorffERLoss, HausdorffERLoss3D
from kornia.losses.hausdorff import _HausdorffERLossBase
from torch import Tensor

from ..losses.spatial.hausdorff import HausdorffErosionLoss
from ..passes.ranked_ops import HINGE
from ..terms import term_name
from .core import Served
from .fused import HALF, attempt, check_tensors, dtype_of
from .shared import (
    check_gamma,
    check_plain,
    dense_numbers,
    focal_terms,
    foreground,
    ignored,
    implements,
    lovasz_table,
    only_versions,
    reduced,
    reduced_binary,
    serve,
    sums_of,
)

served = Served()


def _classes(pred: Tensor, target: Tensor, axes: tuple[int, ...] = (4,)) -> None:
    """Logits of several classes and int64 labels of every voxel."""
    check_tensors(pred, target)
    serve(pred.ndim in axes and target.shape == (pred.shape[0], *pred.shape[2:]), "shapes that are an error")
    serve(target.dtype == torch.int64 and pred.is_floating_point(), "dtypes that are an error")


def _weight(weight: Tensor | None, pred: Tensor, name: str = "weight") -> Tensor | None:
    if weight is None:
        return None
    check_plain(weight)
    serve(weight.shape == pred.shape[1:2] and weight.device == pred.device, f"{name} that is an error")
    serve(weight.is_floating_point(), f"{name} of integers")
    return weight.double()


@served(losses, "dice_loss")
def dice(
    pred: Tensor,
    target: Tensor,
    average: str = "micro",
    eps: float = 1e-8,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """dice_loss."""
    _classes(pred, target)
    serve(average in ("micro", "macro"), "average that is an error")
    factor = _weight(weight, pred)
    dtype = pred.dtype if weight is None else torch.promote_types(pred.dtype, weight.dtype)
    sums = sums_of(pred, target, ("p", "py", "y"), "softmax", ignore_index=ignored(ignore_index, target))
    intersection, cardinality = sums["py"], sums["p"] + sums["y"]
    if average == "micro":
        if factor is not None:
            intersection, cardinality = intersection * factor, cardinality * factor
        intersection, cardinality = intersection.sum(1), cardinality.sum(1)
    empty = cardinality == 0
    loss = 1.0 - (2.0 * intersection / (cardinality + eps).masked_fill(empty, 1.0)).masked_fill(empty, 0.0)
    if average == "macro":
        present = (sums["y"] > 0).to(loss.dtype)
        if factor is not None:
            present = present * factor
        normalizer = present.sum(-1)
        empty = normalizer == 0
        loss = ((loss * present).sum(-1) / normalizer.masked_fill(empty, 1)).masked_fill(empty, 1)
    return loss.mean().to(dtype)


@served(losses, "tversky_loss")
def tversky(
    pred: Tensor, target: Tensor, alpha: float, beta: float, eps: float = 1e-8, ignore_index: int | None = -100
) -> Tensor:
    """tversky_loss."""
    _classes(pred, target)
    sums = sums_of(pred, target, ("py", "r*p", "y*q", "y"), "softmax", ignore_index=ignored(ignore_index, target))
    tp, fp, fn, y = sums.values()
    absent = y == 0
    denominator = tp + alpha * fp + beta * fn + eps
    score = (tp / denominator.masked_fill(absent, 1.0)).masked_fill(absent, 0.0)
    score = score.sum(-1) / (~absent).sum(-1).clamp_min(1)
    return (1.0 - score.mean()).to(pred.dtype)


def _check_focal(alpha: Any, gamma: Any, reduction: str) -> None:
    serve(reduction in ("mean", "sum", "none"), f"reduction {reduction}")
    serve(alpha is None or isinstance(alpha, (int, float)), "alpha that is no number")
    check_gamma(gamma)


@served(losses, "focal_loss")
def focal(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float = 2.0,
    reduction: str = "none",
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """focal_loss."""
    _check_focal(alpha, gamma, reduction)
    _classes(pred, target, (3, 4, 5))
    factor = _weight(weight, pred)
    dtype = dtype_of(pred)
    of_class = pred.new_ones(pred.shape[1], dtype=torch.float64)
    if alpha is not None:
        of_class = torch.cat((of_class[:1] * (1 - alpha), of_class[1:] * alpha))
    if factor is not None:
        of_class, dtype = of_class * factor, torch.promote_types(dtype, weight.dtype)  # type: ignore[union-attr]
    terms, label = {term_name("focal_pos", gamma): of_class}, ignored(ignore_index, target)
    return reduced(pred, target, terms, "softmax", reduction, pred.numel(), ignore_index=label).to(dtype)


@served(losses, "binary_focal_loss_with_logits")
def binary_focal(
    pred: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """binary_focal_loss_with_logits."""
    _check_focal(alpha, gamma, reduction)
    check_plain(pred, target)
    serve(pred.shape == target.shape and pred.ndim >= 2 and pred.numel() > 0, "shapes that are an error")
    serve(target.dtype != torch.bool and pred.is_floating_point(), "bool, of which the peer takes no difference")
    factor, positive_factor = _weight(weight, pred), _weight(pos_weight, pred, "pos_weight")
    dtype = dtype_of(pred)
    dtype = torch.promote_types(dtype, target.dtype if target.is_floating_point() else torch.get_default_dtype())
    for each in (pos_weight, weight):
        dtype = dtype if each is None else torch.promote_types(dtype, each.dtype)
    ignore = ignored(ignore_index, target)
    factors: list[Any] = [1.0, 1.0] if alpha is None else [alpha, 1.0 - alpha]
    if factor is not None:
        factors = [each * factor for each in factors]
    if positive_factor is not None:
        factors[0] = factors[0] * positive_factor
    counted = None if ignore is None else target != ignore
    return reduced_binary(pred, dense_numbers(target), focal_terms(gamma, *factors), reduction, counted).to(dtype)


@served(losses, "lovasz_softmax_loss")
def lovasz_softmax(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """lovasz_softmax_loss: every class of each image, present or not."""
    check_tensors(pred, target)
    serve(pred.ndim == 4 and target.shape == (pred.shape[0], *pred.shape[2:]), "shapes that are an error, or one image")
    serve(pred.dtype not in HALF, "half precision, in which many errors are equal and the peer's order is its own")
    serve(not target.is_floating_point(), "float labels")
    factor = _weight(weight, pred)
    table, _ = lovasz_table(pred, target, True)
    loss, dtype = table.mean(0), pred.dtype
    if factor is not None:
        loss, dtype = loss * factor, torch.promote_types(dtype, weight.dtype)  # type: ignore[union-attr]
    return loss.mean().to(dtype)


@served(losses, "lovasz_hinge_loss")
def lovasz_hinge(pred: Tensor, target: Tensor) -> Tensor:
    """lovasz_hinge_loss."""
    check_tensors(pred, target)
    serve(pred.dtype not in HALF, "half precision, in which many errors are equal and the peer's order is its own")
    serve(pred.ndim == 4 and pred.shape[1] == 1, "shapes that are an error")
    serve(target.shape == (pred.shape[0], *pred.shape[2:]), "shapes that are an error")
    table, _ = lovasz_table(pred, foreground(target.unsqueeze(1)), True, errors=HINGE)
    return table.mean().to(pred.dtype)


@functools.lru_cache(maxsize=16)
def _erosion(alpha: float, k: int) -> HausdorffErosionLoss:
    return HausdorffErosionLoss(alpha=alpha, erosions=k, activation=None, include_background=True, reduction="none")


@served(HausdorffERLoss)
@served(HausdorffERLoss3D)
def hausdorff(self: Any, pred: Tensor, target: Tensor) -> Tensor:
    """HausdorffERLoss and HausdorffERLoss3D: of probabilities."""
    check_tensors(pred, target)
    serve(self.reduction in ("mean", "sum"), f"reduction {self.reduction}")
    serve(pred.ndim == (4 if isinstance(self, HausdorffERLoss) else 5), "shapes that are an error")
    serve(target.dtype == torch.int64 and target.shape == (pred.shape[0], 1, *pred.shape[2:]), "an error")
    serve(implements(self, _HausdorffERLossBase, "perform_erosion"), "another erosion")
    serve(pred.shape[1] > 1, "one class, whose label is 0")
    serve(pred.dtype == torch.float32, "another dtype than float32")
    serve(not torch.is_autocast_enabled(pred.device.type), "convolutions under autocast")
    mean = attempt(attempt(_erosion, self.alpha, self.k), pred, target).mean()
    return (mean if self.reduction == "mean" else mean * pred.numel()).to(pred.dtype)


only_versions(served, "kornia", "0.9.")
