"""Ranked losses in plain PyTorch, on any device: the oracle of the tests. It materialises everything."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.terms import Plan

from ..ranking import NO_LOSS, jaccard_of_groups
from ..ranking import select_largest as largest
from . import sums as reference
from .sums import _Voxels


def largest_losses(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, exclusive: bool, k: float, of_all: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The plan's sums; mean and number of the largest voxel losses; the weight that each voxel has in that mean."""
    mean, count, weights = largest(voxel_losses(logits, target, mask, plan, exclusive), k, of_all)
    sums = reference.forward(logits, target, mask, None, plan) if plan.terms else _no_sums(logits)
    return sums, mean, count, weights.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)


def voxel_losses(logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, exclusive: bool) -> Tensor:
    """The weighted cross-entropy of each voxel, or of its channels if they are no classes of it; -1: uncounted."""
    v = _Voxels(logits, target, mask, plan)
    losses = torch.where(v.y != 0, v.y * v.l, 0)
    if exclusive:
        losses = losses.sum(1, keepdim=True)
    else:
        losses = losses + torch.where(v.y != 1, (1 - v.y) * v.m, 0)
    return torch.where(v.counted, v.weight * losses.abs(), NO_LOSS)


def jaccard(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, per_sample: bool, hinge: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss ``[B or 1, C]``, the weight of each class's voxels, and the slopes by p,
    or for the ``hinge`` by the logit, ``[C, B, *S]``."""
    errors, true, weight = voxel_errors(logits, target, mask, plan, hinge)
    values, sizes, slopes = jaccard_of_groups(errors, lambda samples, c: true[samples, c], weight, per_sample)
    return values, sizes, slopes.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)


def voxel_errors(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, hinge: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """|y - p|, or the hinge max(1 - z (2y - 1), 0) of p = z, and where y is 1, ``[B, C, *S]``; the voxels' weight."""
    v = _Voxels(logits, target, mask, plan)
    true = v.y != 0
    if hinge:
        return torch.where(true, 1 - v.z, 1 + v.z).clamp_min(0), true, v.weight
    return torch.where(true, 1 - v.p if v.activation == "none" else v.q, v.p), true, v.weight


def _no_sums(logits: Tensor) -> Tensor:
    return torch.zeros((*logits.shape[:2], 0), dtype=reference._sum_dtype(logits), device=logits.device)
