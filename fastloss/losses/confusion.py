"""Region-based losses that weigh classes by their size, or look at the true negatives as well.

With ``I``, ``P``, ``Y`` and ``s`` as in :mod:`fastloss.losses.region` and the number of voxels ``N = Σ w``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..passes.options import Smooth, check_choice, check_fraction, check_smooth
from .base import SumLoss, Sums, never_zero
from .region import OverlapLoss, one_minus_ratio, where_counted


class GeneralizedDiceLoss(OverlapLoss):
    r"""Dice of all classes together, each weighted by its size: one value per sample.

    .. math:: 1 - \frac{2 \sum_c \omega_c I_c + s}{\sum_c \omega_c (P_c + Y_c) + s}, \qquad
        \omega_c = 1/Y_c^2 \;|\; 1/Y_c \;|\; 1

    A class that is absent would have an infinite ω; it gets the sample's largest finite one (1 if there is none). A
    background that is left out leaves before that. ω is a constant.

    Args:
        weighting: ω as above: ``"square"``, ``"simple"`` or ``"uniform"``.
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator.
        soft_label: for soft labels :math:`I = \sum w \min(p, y)`; see :class:`DiceLoss`.
        **options: see :class:`fastloss.SumLoss`; ``class_weight`` multiplies ω, and ``reduction="none"`` gives
            ``[B, 1]`` (``[1, 1]`` with ``batch``).

    Source: Sudre et al. 2017, arXiv:1707.03237. The survey cites it for Dice (its reference 10).
    """

    def __init__(self, *, weighting: str = "square", smooth: Smooth = 1e-5, soft_label: bool = False, **options: Any):
        super().__init__(smooth=smooth, soft_label=soft_label, **options)
        self.weighting = check_choice("weighting", weighting, ("square", "simple", "uniform"))

    def from_sums(self, sums: Sums) -> Tensor:
        sums = self.merge(sums)
        weight = self.weights(sums["y"])
        if not self.include_background and sums["y"].shape[1] > 1:
            sums = {name: value[:, 1:] for name, value in sums.items()}
            weight = weight if weight is None else weight[1:]
        omega = self.size_weights(sums["y"])
        omega = omega if weight is None else omega * weight
        volumes = sums["p"] + sums["y"]
        wrong = (omega * self.differences(sums, volumes)).sum(1, keepdim=True)
        return self.collapse(one_minus_ratio(wrong, (omega * volumes).sum(1, keepdim=True), self.smooth_pair))

    def size_weights(self, true: Tensor) -> Tensor:
        """ω ``[B, C]`` of the true volumes."""
        if self.weighting == "uniform":
            return torch.ones_like(true)
        size = true * true if self.weighting == "square" else true
        omega = 1 / size
        if never_zero(1 / omega):
            return omega  # all of it finite
        finite = torch.isfinite(omega)
        largest = torch.where(finite, omega, 0.0).amax(1, keepdim=True)
        return torch.where(finite, omega, torch.where(largest > 0, largest, 1.0))


class SensitivitySpecificityLoss(SumLoss):
    r"""One minus a weighted mean of sensitivity and specificity, or the squared errors of both regions.

    .. math::
        \text{ratio:}\quad 1 - \left[ a\,\frac{I + s}{Y + s} + (1-a)\,\frac{N-P-Y+I + s}{N - Y + s} \right]
        \qquad
        \text{squared\_error:}\quad
        a\,\frac{\sum w (p-y)^2 y}{Y + s} + (1-a)\,\frac{\sum w (p-y)^2 (1-y)}{N - Y + s}

    Args:
        sensitivity_weight: a, from 0 to 1; 0.05 in the paper of the squared errors.
        variant: ``"ratio"`` or ``"squared_error"``, whose target must be labels, bool or integer: soft targets are an
            error.
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator (``"ratio"`` alone).
        **options: see :class:`fastloss.SumLoss`.

    Source: ratio: survey, section II-H, whose eq. 12 is a score (the loss is one minus it). Squared errors: Brosch et
    al. 2015, Deep convolutional encoder networks for multiple sclerosis lesion segmentation.
    """

    terms: tuple[str, ...] = ("p", "py", "y", "count")

    def __init__(
        self, *, sensitivity_weight: float = 0.5, variant: str = "ratio", smooth: Smooth = 1e-5, **options: Any
    ):
        check_fraction(sensitivity_weight=sensitivity_weight)
        above, below = self.smooth_pair = check_smooth(smooth)
        squared = check_choice("variant", variant, ("ratio", "squared_error")) == "squared_error"
        if squared:
            if above != below:
                raise ValueError(
                    f"smooth: got {smooth!r}, expected a number for variant='squared_error' (a denominator's)"
                )
            self.terms = ("py", "y", "count", "p2", "p2y")
        super().__init__(**options)
        self.sensitivity_weight, self.variant, self.smooth = sensitivity_weight, variant, smooth

    def check_target(self, target: Tensor, dense: bool) -> None:
        if self.variant == "squared_error" and dense and target.is_floating_point():
            raise ValueError(
                f"target: got a {target.dtype} tensor, expected labels or a bool or integer dense target for "
                "variant='squared_error' (its sums need y² = y); variant='ratio' takes soft targets"
            )

    def formula(self, sums: Sums) -> Tensor:
        inside, outside = sums["y"], sums["count"] - sums["y"]
        if self.variant == "ratio":
            missed = inside - sums["py"]
            wrong = sums["p"] - sums["py"]
        else:
            missed = inside - 2 * sums["py"] + sums["p2y"]
            wrong = sums["p2"] - sums["p2y"]
        share = self.sensitivity_weight
        parts = [one_minus_ratio(*part, self.smooth_pair) for part in ((missed, inside), (wrong, outside))]
        return share * parts[0] + (1 - share) * parts[1]


class MCCLoss(SumLoss):
    r"""One minus Matthews' correlation coefficient, which also counts true negatives.

    .. math:: 1 - \frac{N I - P Y + s}{\sqrt{\max(P\, Y (N - P)(N - Y), 0) + s^2}}

    Args:
        smooth: s, at least 0; a pair is that of the numerator and that of the denominator, whose square is finite.
        **options: see :class:`fastloss.SumLoss`.

    Source: Abhishek & Hamarneh 2021, arXiv:2010.13454. Not in the survey. MONAI's ``MCCLoss`` has its smoothing in the
    root, unsquared.
    """

    terms = ("p", "py", "y", "count")

    def __init__(self, *, smooth: Smooth = 1e-5, **options: Any):
        self.smooth_pair = check_smooth(smooth)
        below = float(self.smooth_pair[1])
        if math.isinf(below * below):
            raise ValueError(f"smooth: got {smooth!r}, expected a number whose square is finite")
        super().__init__(**options)
        self.smooth = smooth

    def formula(self, sums: Sums) -> Tensor:
        above, below = self.smooth_pair
        predicted, true, count = sums["p"], sums["y"], sums["count"]
        product = predicted * true * (count - predicted) * (count - true)
        square = product.clamp_min(0) + float(below) ** 2
        correlated = count * sums["py"] - predicted * true + above
        if never_zero(square):
            value = 1 - correlated / square.sqrt()
            return value if above == below else where_counted(sums, value)
        degenerate = square == 0  # without smoothing: the root has no derivative there, and 0 / 0 is perfect
        root = torch.where(degenerate, 1.0, square).sqrt()
        return 1 - torch.where(degenerate, 1.0, correlated / root)
