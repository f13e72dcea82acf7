"""Region-based losses: overlap of the predicted and the true volume, per sample and class.

With ``I = Σ w p y``, ``P = Σ w p``, ``Y = Σ w y`` and a smoothing ``s`` in numerator and denominator; where both
are 0 the overlap counts as perfect. All take the options of :class:`fastloss.SumLoss`. One minus a quotient is computed
as the quotient of what is wrong, ``1 - (2I + s) / (P + Y + s) = (P + Y - 2I) / (P + Y + s)``: it cancels nothing where
all is right, and takes fewer operators.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..passes.inputs import check_at_least_zero, check_flag, check_positive
from ..terms import EPSILON
from .base import SumLoss, Sums, never_zero, ratio


def where_counted(sums: Sums, value: Tensor) -> Tensor:
    """``value``, and 0 where no voxel counts: for formulas that are not 0 for a perfect overlap."""
    return value if never_zero(sums["count"]) else torch.where(sums["count"] > 0, value, 0.0)


def one_minus_tversky_index(
    overlap: Tensor, false_positive: Tensor, false_negative: Tensor, alpha: float, beta: float, smooth: float
) -> Tensor:
    """``1 - (I + s) / (I + α FP + β FN + s)``."""
    errors = torch.add(alpha * false_positive, false_negative, alpha=beta)
    return ratio(errors, overlap + errors + smooth, 0.0)


class DiceLoss(SumLoss):
    r"""Soft Dice loss.

    .. math:: 1 - \frac{2I + s}{P + Y + s}, \qquad \text{squared:}\quad
        1 - \frac{2I + s}{\sum w p^2 + \sum w y^2 + s}

    Args:
        smooth: s, at least 0.
        squared: squares in the denominator, the form of V-Net.
        **options: see :class:`fastloss.SumLoss`.

    Source: Milletari et al. 2016, V-Net, arXiv:1606.04797. The survey's eq. 8 lacks the sums.
    """

    terms: tuple[str, ...] = ("p", "py", "y")

    def __init__(self, *, smooth: float = 1e-5, squared: bool = False, **options: Any):
        check_at_least_zero(smooth=smooth)
        check_flag(squared=squared)
        if squared:
            self.terms = ("py", "p2", "y2")
        super().__init__(**options)
        self.smooth = smooth
        self.squared = squared

    def formula(self, sums: Sums) -> Tensor:
        volumes = sums["p2"] + sums["y2"] if self.squared else sums["p"] + sums["y"]
        return ratio(torch.sub(volumes, sums["py"], alpha=2), volumes + self.smooth, 0.0)


class LogCoshDiceLoss(DiceLoss):
    r"""The logarithm of the hyperbolic cosine of the Dice loss: quadratic where it is small.

    .. math:: \log\cosh(L) = L + \log(1 + e^{-2L}) - \log 2, \qquad L = \text{DiceLoss}

    Args:
        smooth, squared: of :class:`DiceLoss`.
        **options: see :class:`fastloss.SumLoss`.

    Source: the survey's own loss, section II-O (Jadon 2020, arXiv:2006.14822, eq. 32).
    """

    def formula(self, sums: Sums) -> Tensor:
        loss = super().formula(sums)
        return loss + torch.log1p(torch.exp(-2 * loss)) - math.log(2)


class JaccardLoss(SumLoss):
    r"""Soft Jaccard (intersection over union) loss.

    .. math:: 1 - \frac{I + s}{P + Y - I + s}

    Args:
        smooth: s, at least 0.
        **options: see :class:`fastloss.SumLoss`.

    Source: Rahman & Wang 2016, Optimizing intersection-over-union in deep neural networks for image segmentation.
    """

    terms = ("p", "py", "y")

    def __init__(self, *, smooth: float = 1e-5, **options: Any):
        check_at_least_zero(smooth=smooth)
        super().__init__(**options)
        self.smooth = smooth

    def formula(self, sums: Sums) -> Tensor:
        union = sums["p"] + sums["y"] - sums["py"]
        return ratio(union - sums["py"], union + self.smooth, 0.0)


class TverskyLoss(SumLoss):
    r"""Tversky loss: Dice with its own weights for false positives (α) and false negatives (β).

    .. math:: 1 - T, \qquad T = \frac{I + s}{I + \alpha (P - I) + \beta (Y - I) + s}

    α = β = 1/2 is Dice with smoothing 2s; α = β = 1 is Jaccard.

    Args:
        alpha: weight of the false positives, at least 0.
        beta: weight of the false negatives, at least 0.
        smooth: s, at least 0.
        **options: see :class:`fastloss.SumLoss`.

    Source: Salehi et al. 2017, arXiv:1706.05721. The survey's single β (eq. 9, 10) sits on the false positives.
    """

    terms: tuple[str, ...] = ("p", "py", "y")

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-5, **options: Any):
        check_at_least_zero(alpha=alpha, beta=beta, smooth=smooth)
        super().__init__(**options)
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def formula(self, sums: Sums) -> Tensor:
        overlap, predicted, true = sums["py"], sums["p"], sums["y"]
        wrong, missed = predicted - overlap, true - overlap
        return one_minus_tversky_index(overlap, wrong, missed, self.alpha, self.beta, self.smooth)


class FocalTverskyLoss(TverskyLoss):
    r"""A power of the Tversky loss, which for γ > 1 looks more at the classes that are nearly right.

    .. math:: \max(1 - T, 10^{-7})^{1/\gamma}

    Args:
        alpha, beta, smooth: of :class:`TverskyLoss`.
        gamma: γ, above 0, usually from 1 to 3; 1 is the Tversky loss.
        **options: see :class:`fastloss.SumLoss`.

    Source: Abraham & Khan 2019, arXiv:1810.07842, whose exponent is 1/γ; the survey (eq. 11) prints γ: for that pass
    ``1 / gamma``.
    """

    terms = ("p", "py", "y", "count")

    def __init__(self, *, gamma: float = 4 / 3, **options: Any):
        check_positive(gamma=gamma)
        super().__init__(**options)
        self.gamma = gamma

    def formula(self, sums: Sums) -> Tensor:
        return where_counted(sums, super().formula(sums).clamp_min(EPSILON) ** (1 / self.gamma))
