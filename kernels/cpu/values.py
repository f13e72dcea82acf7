"""The CPU back end of losses that are kept apart for each voxel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan

from .forms import TOTALS, VALUES
from .sums import run_plan
from .tensors import real_of


def voxel_losses_with_bad_labels(
    coefficients: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    per_class: bool,
) -> tuple[Tensor, int]:
    """The weighted sum of the plan's terms of each voxel ``[B, *S]``, or also of each class ``[B, C, *S]``; the number
    of counted voxels whose label is no class."""
    shape = (logits.shape[0], logits.shape[1] if per_class else 1, *logits.shape[2:])
    out, bad = torch.empty(shape, dtype=real_of(logits.dtype)), 0
    if out.numel():
        table = np.ascontiguousarray(coefficients.detach().numpy())
        bad = run_plan(VALUES if per_class else TOTALS, logits, target, mask, weight_map, plan, out, table)
    return (out if per_class else out[:, 0]), bad
