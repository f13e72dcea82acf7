"""Region-based losses: overlap of the predicted and the true volume, per sample and class.

With ``I = Σ w p y``, ``P = Σ w p``, ``Y = Σ w y`` and a smoothing ``s`` in numerator and denominator, a number or one
for each; where both volumes are 0 the overlap counts as perfect. All take the options of :class:`fastloss.SumLoss`.
One minus a quotient is computed as the quotient of what is wrong, ``1 - (2I + s) / (P + Y + s)`` as ``(P + Y - 2I) /
(P + Y + s)``: it cancels nothing where all is right, and takes fewer operators.

Of soft labels, shares of a voxel, ``Σ w p y`` is no overlap: where p = y it is less than both volumes, and the loss is
not the least. With ``soft_label`` the overlap is ``I = (P + Y - D) / 2 = Σ w min(p, y)``, ``D = Σ w |p - y|``, which is
the same for labels. Source: Wang et al. 2023, Dice semimetric losses, arXiv:2303.16296 (of its two forms the first),
and Jaccard metric losses, arXiv:2302.05666.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..passes.options import Smooth, check_at_least_zero, check_flag, check_positive, check_smooth
from ..quotients import Quotient
from ..terms import EPSILON
from .base import SumLoss, Sums, never_zero, ratio
from .weights import check_weight_length


def where_counted(sums: Sums, value: Tensor) -> Tensor:
    """``value``, and 0 where no voxel counts: for formulas that are not 0 for a perfect overlap."""
    return value if never_zero(sums["count"]) else value.masked_fill(sums["count"] <= 0, 0.0)


def one_minus_ratio(wrong: Tensor, whole: Tensor, smooth: tuple[float, float]) -> Tensor:
    """``1 - (V - E + s) / (V + t)`` of what is wrong, E, of the whole, V, and a pair s, t; 0 where V is."""
    above, below = smooth
    if above == below:
        return ratio(wrong, whole + below, 0.0)
    return ratio(wrong + (below - above), whole + below, 0.0).masked_fill(whole == 0, 0.0)


def one_minus_tversky_index(
    overlap: Tensor,
    false_positive: Tensor,
    false_negative: Tensor,
    alpha: float,
    beta: float,
    smooth: tuple[float, float],
) -> Tensor:
    """``1 - (I + s) / (I + α FP + β FN + s)``."""
    errors = torch.add(alpha * false_positive, false_negative, alpha=beta)
    return one_minus_ratio(errors, overlap + errors, smooth)


class OverlapLoss(SumLoss):
    """The base of losses that have an overlap I, for labels or soft labels, and a smoothing.

    Args:
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator.
        soft_label: I of soft labels.
        **options: see :class:`fastloss.SumLoss`.
    """

    terms: tuple[str, ...] = ("p", "py", "y")

    def __init__(self, *, smooth: Smooth, soft_label: bool, **options: Any):
        self.smooth_pair = check_smooth(smooth)
        check_flag(soft_label=soft_label)
        if soft_label:
            self.terms = tuple("d" if name == "py" else name for name in self.terms)
        super().__init__(**options)
        self.smooth, self.soft_label = smooth, soft_label

    def overlap(self, sums: Sums) -> Tensor:
        """I."""
        return (sums["p"] + sums["y"] - sums["d"]) / 2 if self.soft_label else sums["py"]

    def linear_forms(self) -> tuple[dict[str, float], dict[str, float]]:
        """What is wrong and the whole, as the formula of the same class has them: coefficients of the sums."""
        raise NotImplementedError(f"{type(self).__name__} has no linear_forms")

    def quotients(self, batch: int, channels: int) -> list[Quotient] | None:
        if not self.has_forms("formula", "linear_forms") or self.reduction not in ("mean", "sum"):
            return None
        if self.class_weight is not None:
            check_weight_length(self.class_weight, channels)
        first = 1 if not self.include_background and channels > 1 else 0
        cells = (1 if self.batch else batch) * (channels - first)
        wrong, whole = self.linear_forms()
        above, below = self.smooth_pair
        part = Quotient(
            wrong,
            whole,
            factor=1 / max(1, cells) if self.reduction == "mean" else 1.0,
            table=True,
            first=first,
            batch=self.batch,
            smooth_above=below - above,
            smooth_below=below,
            weight=self.class_weight,
        )
        return [part]

    def differences(self, sums: Sums, volumes: Tensor) -> Tensor:
        """``P + Y - 2I``, given P + Y."""
        return sums["d"] if self.soft_label else torch.sub(volumes, sums["py"], alpha=2)


class DiceLoss(OverlapLoss):
    r"""Soft Dice loss.

    .. math:: 1 - \frac{2I + s}{P + Y + s}, \qquad \text{squared:}\quad
        1 - \frac{2I + s}{\sum w p^2 + \sum w y^2 + s}

    Args:
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator.
        squared: squares in the denominator, the form of V-Net. It is the least where p = y for soft labels as well.
        soft_label: for soft labels :math:`I = \sum w \min(p, y)`, so that the loss is :math:`\sum w |p - y| / (P + Y +
            s)` (Wang et al. 2023, arXiv:2303.16296); the same as without for labels. Not with ``squared``.
        **options: see :class:`fastloss.SumLoss`.

    Source: Milletari et al. 2016, V-Net, arXiv:1606.04797. The survey's eq. 8 lacks the sums.
    """

    def __init__(self, *, smooth: Smooth = 1e-5, squared: bool = False, soft_label: bool = False, **options: Any):
        check_flag(squared=squared, soft_label=soft_label)
        if squared and soft_label:
            raise ValueError(
                "soft_label: got True with squared=True, which needs no other overlap for soft labels; expected False"
            )
        if squared:
            self.terms = ("py", "p2", "y2")
        super().__init__(smooth=smooth, soft_label=soft_label, **options)
        self.squared = squared

    def linear_forms(self) -> tuple[dict[str, float], dict[str, float]]:
        volumes = {"p2": 1.0, "y2": 1.0} if self.squared else {"p": 1.0, "y": 1.0}
        return {"d": 1.0} if self.soft_label else {**volumes, "py": -2.0}, volumes

    def formula(self, sums: Sums) -> Tensor:
        volumes = sums["p2"] + sums["y2"] if self.squared else sums["p"] + sums["y"]
        return one_minus_ratio(self.differences(sums, volumes), volumes, self.smooth_pair)


class LogCoshDiceLoss(DiceLoss):
    r"""The logarithm of the hyperbolic cosine of the Dice loss: quadratic where it is small.

    .. math:: \log\cosh(L) = L + \log(1 + e^{-2L}) - \log 2, \qquad L = \text{DiceLoss}

    Args:
        smooth, squared, soft_label: of :class:`DiceLoss`.
        **options: see :class:`fastloss.SumLoss`.

    Source: the survey's own loss, section II-O (Jadon 2020, arXiv:2006.14822, eq. 32).
    """

    def formula(self, sums: Sums) -> Tensor:
        loss = super().formula(sums)
        return loss + torch.log1p(torch.exp(-2 * loss)) - math.log(2)


class JaccardLoss(OverlapLoss):
    r"""Soft Jaccard (intersection over union) loss.

    .. math:: 1 - \frac{I + s}{P + Y - I + s}

    Args:
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator.
        soft_label: for soft labels :math:`I = \sum w \min(p, y)` (Wang et al. 2023, arXiv:2302.05666 and 2303.16296);
            the same as without for labels.
        **options: see :class:`fastloss.SumLoss`.

    Source: Rahman & Wang 2016, Optimizing intersection-over-union in deep neural networks for image segmentation.
    """

    def __init__(self, *, smooth: Smooth = 1e-5, soft_label: bool = False, **options: Any):
        super().__init__(smooth=smooth, soft_label=soft_label, **options)

    def linear_forms(self) -> tuple[dict[str, float], dict[str, float]]:
        if self.soft_label:
            return {"d": 1.0}, {"p": 0.5, "y": 0.5, "d": 0.5}
        return {"p": 1.0, "y": 1.0, "py": -2.0}, {"p": 1.0, "y": 1.0, "py": -1.0}

    def formula(self, sums: Sums) -> Tensor:
        volumes = sums["p"] + sums["y"]
        union = volumes - self.overlap(sums)
        return one_minus_ratio(self.differences(sums, volumes), union, self.smooth_pair)


class TverskyLoss(OverlapLoss):
    r"""Tversky loss: Dice with its own weights for false positives (α) and false negatives (β).

    .. math:: 1 - T, \qquad T = \frac{I + s}{I + \alpha (P - I) + \beta (Y - I) + s}

    α = β = 1/2 is Dice with smoothing 2s; α = β = 1 is Jaccard.

    Args:
        alpha: weight of the false positives, at least 0.
        beta: weight of the false negatives, at least 0.
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator.
        soft_label: for soft labels :math:`I = \sum w \min(p, y)` (Wang et al. 2023, arXiv:2303.16296); the same as
            without for labels.
        **options: see :class:`fastloss.SumLoss`.

    Source: Salehi et al. 2017, arXiv:1706.05721. The survey's single β (eq. 9, 10) sits on the false positives.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: Smooth = 1e-5,
        soft_label: bool = False,
        **options: Any,
    ):
        check_at_least_zero(alpha=alpha, beta=beta)
        super().__init__(smooth=smooth, soft_label=soft_label, **options)
        self.alpha, self.beta = alpha, beta

    def linear_forms(self) -> tuple[dict[str, float], dict[str, float]]:
        a, b = self.alpha, self.beta
        if self.soft_label:  # I = (P + Y - D) / 2
            wrong = {"p": (a - b) / 2, "y": (b - a) / 2, "d": (a + b) / 2}
            return wrong, {"p": wrong["p"] + 0.5, "y": wrong["y"] + 0.5, "d": wrong["d"] - 0.5}
        return {"p": a, "y": b, "py": -(a + b)}, {"p": a, "y": b, "py": 1 - a - b}

    def formula(self, sums: Sums) -> Tensor:
        overlap, predicted, true = self.overlap(sums), sums["p"], sums["y"]
        wrong, missed = predicted - overlap, true - overlap
        return one_minus_tversky_index(overlap, wrong, missed, self.alpha, self.beta, self.smooth_pair)


class FocalTverskyLoss(TverskyLoss):
    r"""A power of the Tversky loss, which for γ > 1 looks more at the classes that are nearly right.

    .. math:: \max(1 - T, 10^{-7})^{1/\gamma}

    Args:
        alpha, beta, smooth, soft_label: of :class:`TverskyLoss`.
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
