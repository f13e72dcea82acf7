"""The unified focal loss: focal cross-entropy and focal Tversky with one pair of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..passes.options import Smooth, check_flag, check_fraction, check_smooth
from ..terms import EPSILON, term_name
from .base import CompoundLoss, SumLoss, Sums
from .distribution import VoxelLoss
from .region import one_minus_tversky_index, where_counted


def _first_and_rest(first: Tensor, rest: Tensor) -> Tensor:
    """The background's column of one table and the other classes' of another."""
    return torch.cat([first[:, :1], rest[:, 1:]], 1)


class _UnifiedCrossEntropyLoss(VoxelLoss):
    """``(1-δ) (1-p)^γ (-log p)`` of the background, ``δ (-log p)`` of the rest, which a symmetric one damps too."""

    def __init__(self, delta: float, gamma: float, symmetric: bool, **options: Any):
        self.background = term_name("focal_pos", gamma)
        self.foreground = self.background if symmetric else "ce_pos"
        self.complement = term_name("focal_neg", gamma)
        super().__init__(tuple(dict.fromkeys((self.foreground, self.background))), (self.complement,), **options)
        self.delta = delta

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        foreground = self.delta * sums[self.foreground]
        if exclusive:
            return _first_and_rest((1 - self.delta) * sums[self.background], foreground)
        return foreground + (1 - self.delta) * sums[self.complement]


class _UnifiedTverskyLoss(SumLoss):
    """``1 - T`` of the background, unless symmetric, and ``(1 - T)^(1-γ)`` of the rest."""

    terms = ("p", "py", "y", "count")

    def __init__(self, delta: float, gamma: float, symmetric: bool, smooth: Smooth, **options: Any):
        super().__init__(**options)
        self.delta, self.gamma, self.symmetric, self.smooth_pair = delta, gamma, symmetric, check_smooth(smooth)

    def formula(self, sums: Sums) -> Tensor:
        overlap = sums["py"]
        wrong, missed = sums["p"] - overlap, sums["y"] - overlap
        foreground = self.loss(overlap, wrong, missed, True)
        if self.exclusive(overlap.shape[1]):
            value = _first_and_rest(self.loss(overlap, wrong, missed, self.symmetric), foreground)
        else:
            true_negative = sums["count"] - sums["p"] - missed
            value = (self.loss(true_negative, missed, wrong, self.symmetric) + foreground) / 2
        return where_counted(sums, value)

    def loss(self, overlap: Tensor, false_positive: Tensor, false_negative: Tensor, enhanced: bool) -> Tensor:
        errors = (false_positive, false_negative)
        value = one_minus_tversky_index(overlap, *errors, 1 - self.delta, self.delta, self.smooth_pair)
        return value.clamp_min(EPSILON) ** (1 - self.gamma) if enhanced else value


class UnifiedFocalLoss(CompoundLoss):
    r"""Unified focal loss: a focal cross-entropy that damps the easy background, and a Tversky loss that enhances the
    foreground.

    .. math::
        \lambda\, \frac{\sum_b \left[(1-\delta)\, F_0 + \delta \sum_{c \ne 0} F_c\right]}{\sum_b N_b}
        + (1-\lambda)\, \text{mean}_{bc}\; (1 - T_c)^{e_c}, \qquad
        T = \frac{I + s}{I + \delta (Y - I) + (1-\delta)(P - I) + s}

    .. math::
        F_0 = \sum_v w\, y\, (1-p)^\gamma (-\log p), \quad F_{c \ne 0} = \sum_v w\, y\, (-\log p), \quad
        e_0 = 1, \quad e_{c \ne 0} = 1 - \gamma

    The symmetric form has :math:`(1-p)^\gamma` in every F and :math:`e_0 = 1-\gamma`. The base of a power is at least
    :math:`10^{-7}`. Foreground is every class but 0. With sigmoid each channel is a two-class problem of its own, its
    complement the background, and the means run over the channels.

    Args:
        weight: λ, from 0 to 1.
        delta: δ, from 0 to 1: of the foreground in F, of the false negatives in T.
        gamma: γ, from 0 to below 1.
        symmetric: as above.
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator.
        **options: ``activation``, ``batch`` (of the Tversky part), ``ignore_index``, ``class_weight``, ``reduction``,
            ``validate`` of :class:`fastloss.SumLoss`.

    Source: Yeung et al. 2022, arXiv:2102.04525. The authors' code has λ on the Tversky part and clips p to
    [1e-7, 1 - 1e-7]. MONAI's ``AsymmetricUnifiedFocalLoss`` is for two classes and takes probabilities, averages F over
    the two classes as well (half of this one's), and does not clamp 1 - T, so that its gradient is infinite at T = 1.
    Not in the survey.
    """

    def __init__(
        self,
        *,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        symmetric: bool = False,
        smooth: Smooth = 1e-5,
        batch: bool = False,
        **options: Any,
    ):
        check_fraction(weight=weight, delta=delta, gamma=gamma)
        check_flag(symmetric=symmetric)
        if gamma == 1:
            raise ValueError("gamma: got 1, expected a number from 0 to below 1 (the power of 1 - T is 1 - gamma)")
        cross_entropy = _UnifiedCrossEntropyLoss(delta, gamma, symmetric, **options)
        tversky = _UnifiedTverskyLoss(delta, gamma, symmetric, smooth, batch=batch, **options)
        super().__init__([cross_entropy, tversky], [weight, 1 - weight])
