"""The CPU back end of losses that rank voxels: a pass writes what is ranked, Numba kernels rank it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.terms import Plan

from ..ranking import jaccard_of_groups
from .forms import ERRORS, HINGES, LOSSES, UNCOUNTED
from .jaccard import jaccard_of_class
from .select import select_largest
from .sums import write_voxels
from .tensors import real_of


def largest_losses_with_bad_labels(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, exclusive: bool, k: float, of_all: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The plan's sums; mean and number of the largest voxel losses; the weight that each voxel has in that mean; the
    number of counted voxels whose label is no class."""
    shape = (logits.shape[0], 1 if exclusive else logits.shape[1], *logits.shape[2:])
    losses = torch.empty(shape, dtype=real_of(logits.dtype))
    sums, bad = write_voxels(LOSSES, logits, target, mask, plan, losses)
    return sums, *largest(losses, k, of_all), bad


def largest(losses: Tensor, k: float, of_all: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and number of the largest of some losses, contiguous, and the weight of each, in their place."""
    mean, count, weights = select_largest(losses, k, of_all)
    return _scalar(mean), _scalar(count), weights


def jaccard_with_bad_labels(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, per_sample: bool, hinge: bool
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The Lovász extension of the Jaccard loss ``[B or 1, C]``, the weight of each class's voxels, and the slopes by p,
    or for the ``hinge`` by the logit, ``[C, B, *S]``; the number of counted voxels whose label is no class."""
    batch, channels = logits.shape[:2]
    errors = torch.empty((channels, batch, *logits.shape[2:]), dtype=real_of(logits.dtype))
    groups = batch if per_sample else 1
    values, sizes = (torch.zeros(groups, channels, dtype=torch.float64) for _ in range(2))
    if not logits.numel():
        return values, sizes, errors, 0
    _, bad = write_voxels(HINGES if hinge else ERRORS, logits, target, mask, plan, errors.transpose(0, 1))
    if errors.dtype == torch.float64 or is_weighted(mask) or errors[0].numel() >= 2**32:  # a voxel's number has 32 bits
        return *_jaccard_of_weights(errors, mask, per_sample), bad
    for c in range(channels):
        for i, errors_of_group in enumerate(errors[c].view(groups, -1)):
            values[i, c], sizes[i, c] = jaccard_of_class(errors_of_group)
    return values, sizes, errors, bad


def _jaccard_of_weights(errors: Tensor, mask: Tensor | None, per_sample: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same from signed errors, in float64 and by torch's sort."""
    counted = errors[:1].transpose(0, 1) != float(UNCOUNTED)
    weight = counted if mask is None else counted * mask.unsqueeze(1)
    true = errors.signbit()
    return jaccard_of_groups(errors.abs().transpose(0, 1), lambda samples, c: true[c, samples], weight, per_sample)


def is_weighted(mask: Tensor | None) -> bool:
    """Whether a mask has weights other than 0 and 1."""
    return mask is not None and mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all())


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
