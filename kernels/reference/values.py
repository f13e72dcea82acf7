"""Losses that are kept apart for each voxel, in plain PyTorch: the oracle of the tests. It materialises everything."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.terms import Plan

from .sums import _Voxels


def voxel_losses(
    coefficients: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    per_class: bool,
) -> Tensor:
    """The weighted sum of the plan's terms of each voxel ``[B, *S]``, or also of each class ``[B, C, *S]``."""
    v = _Voxels(logits, target, mask, plan)
    total = torch.zeros_like(v.p)
    for k, term in enumerate(plan.terms):
        factor = v.of_class(coefficients[..., k])
        if term.mapped:
            assert weight_map is not None
            factor = factor * weight_map.to(v.real)
        total = total + factor * v.weight * v.value(term)
    total = torch.where(v.counted, total, 0)
    total = (total if per_class else total.sum(1)).to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    return total.contiguous()
