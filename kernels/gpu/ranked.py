"""The GPU's back end of losses that rank voxels: a Triton pass writes what is ranked, torch sorts it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastloss.terms import Plan, Term, first_label

from ..layout import labels_within
from ..ranking import jaccard_of_groups
from ..ranking import select_largest as largest
from . import sums as gpu
from .values import values_launch


def largest_losses(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, exclusive: bool, k: float, of_all: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The plan's sums; mean and number of the largest voxel losses; the weight that each voxel has in that mean."""
    batch, channels, *space = logits.shape
    softmax = plan.activation == "softmax"
    losses = torch.empty((batch, 1 if softmax else channels, *space), dtype=gpu._real(logits), device=logits.device)
    if losses.numel():
        losses_launch(logits, target, mask, plan, losses, exclusive)[0].run()
    if exclusive and not softmax:  # probabilities, whose channels lie with different programs
        losses = losses.sum(1, keepdim=True).clamp_min(-1)  # -1 in every channel of a voxel that does not count
    mean, count, weights = largest(losses, k, of_all)
    return gpu.forward(logits, target, mask, None, plan), mean, count, weights


def losses_launch(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, out: Tensor, exclusive: bool
) -> tuple[gpu.Launch, Tensor]:
    """The call of the kernel that fills ``out`` with cross-entropies: those of the true class alone if the channels are
    classes of a voxel (``exclusive``)."""
    terms = (Term("y", l=1.0),) if exclusive else (Term("y", l=1.0), Term("r", m=1.0))
    return values_launch(logits, target, mask, plan, out, "losses", terms)


def jaccard(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, per_sample: bool, hinge: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss ``[B or 1, C]``, the weight of each class's voxels, and the slopes by p,
    or for the ``hinge`` by the logit, ``[C, B, *S]``."""
    errors = torch.empty(logits.shape, dtype=gpu._real(logits), device=logits.device)
    if errors.numel():
        values_launch(logits, target, mask, plan, errors, "hinges" if hinge else "errors")[0].run()
    return jaccard_of_groups(
        errors, _truth(target, logits.shape[1], plan.dense), voxel_weight(target, mask, plan), per_sample
    )


def _truth(target: Tensor, channels: int, dense: bool) -> Callable[[slice, int], Tensor]:
    """Where a class is true in some samples: made one class at a time."""
    if dense:
        return lambda samples, c: target[samples, c] != 0
    # a small dtype would wrap the label it is compared to
    labels = target if channels <= 100 or target.dtype == torch.int64 else target.int()
    return lambda samples, c: labels[samples] == c + first_label(channels)


def voxel_weight(target: Tensor, mask: Tensor | None, plan: Plan) -> Tensor:
    """The weight of each voxel, ``[B, 1, *S]``."""
    labels = target[:, :1] if plan.dense else target.unsqueeze(1)
    weight = torch.ones_like(labels, dtype=torch.float32)
    for label in labels_within(plan, target.dtype):
        weight *= labels != label
    return weight if mask is None else weight * mask.unsqueeze(1)
