"""Ranked losses in plain PyTorch, on any device: the oracle of the tests. It materialises everything."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.terms import Plan

from . import reference
from .ranking import UNCOUNTED, jaccard_of_groups, select_largest
from .reference import _Voxels


def largest_losses(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, exclusive: bool, k: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The plan's sums; mean and number of the largest voxel losses; the weight that each voxel has in that mean."""
    v = _Voxels(logits, target, mask, plan)
    losses = torch.where(v.y != 0, v.y * v.l, 0)
    if exclusive:
        losses = losses.sum(1, keepdim=True)
    else:
        losses = losses + torch.where(v.y != 1, (1 - v.y) * v.m, 0)
    losses = torch.where(v.counted, v.weight * losses.abs(), UNCOUNTED)
    mean, count, weights = select_largest(losses, k)
    sums = reference.forward(logits, target, mask, None, plan) if plan.terms else _no_sums(logits)
    return sums, mean, count, weights.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)


def jaccard(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, per_sample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss ``[B or 1, C]``, the weight of each class's voxels, and the slopes by p
    ``[C, B, *S]``."""
    v = _Voxels(logits, target, mask, plan)
    true = v.y != 0
    errors = torch.where(true, v.q if v.sigmoid else 1 - v.p, v.p)
    values, sizes, slopes = jaccard_of_groups(errors, true, v.weight, per_sample)
    return values, sizes, slopes.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)


def _no_sums(logits: Tensor) -> Tensor:
    return torch.zeros((*logits.shape[:2], 0), dtype=reference._sum_dtype(logits), device=logits.device)
