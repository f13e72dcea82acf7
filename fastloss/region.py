"""Region-based losses: overlap of the predicted and the true volume, per sample and class.

With ``I = Σ w p y``, ``P = Σ w p``, ``Y = Σ w y`` and a smoothing ``s`` in numerator and denominator; where both
are 0 the overlap counts as perfect. All take the options of :class:`fastloss.SumLoss`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .base import SumLoss, Sums, ratio


def check_at_least_zero(**values: float) -> None:
    """Raises ValueError naming the first of the options that is negative or not finite."""
    for name, value in values.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: got {value!r}, expected a finite number of at least 0")


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

    terms = ("p", "py", "y")

    def __init__(self, *, smooth: float = 1e-5, squared: bool = False, **options: Any):
        check_at_least_zero(smooth=smooth)
        if squared:
            self.terms = ("py", "p2", "y2")
        super().__init__(**options)
        self.smooth = smooth
        self.squared = squared

    def formula(self, sums: Sums) -> Tensor:
        volumes = sums["p2"] + sums["y2"] if self.squared else sums["p"] + sums["y"]
        return 1 - ratio(2 * sums["py"] + self.smooth, volumes + self.smooth, 1.0)


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
        return 1 - ratio(sums["py"] + self.smooth, union + self.smooth, 1.0)


class TverskyLoss(SumLoss):
    r"""Tversky loss: Dice with its own weights for false positives (α) and false negatives (β).

    .. math:: 1 - \frac{I + s}{I + \alpha (P - I) + \beta (Y - I) + s}

    α = β = 1/2 is Dice with smoothing 2s; α = β = 1 is Jaccard.

    Args:
        alpha: weight of the false positives, at least 0.
        beta: weight of the false negatives, at least 0.
        smooth: s, at least 0.
        **options: see :class:`fastloss.SumLoss`.

    Source: Salehi et al. 2017, arXiv:1706.05721. The survey's single β sits on the false positives.
    """

    terms = ("p", "py", "y")

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-5, **options: Any):
        check_at_least_zero(alpha=alpha, beta=beta, smooth=smooth)
        super().__init__(**options)
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def formula(self, sums: Sums) -> Tensor:
        overlap, predicted, true = sums["py"], sums["p"], sums["y"]
        errors = self.alpha * (predicted - overlap) + self.beta * (true - overlap)
        return 1 - ratio(overlap + self.smooth, overlap + errors + self.smooth, 1.0)
