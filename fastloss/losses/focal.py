"""Distribution-based losses that look at the hard voxels more (focal) or shape the polynomial of cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.options import check_at_least_zero, check_choice, check_finite, check_fraction
from ..quotients import Quotient
from ..terms import term_name
from .base import CompoundLoss, SumLoss, Sums
from .distribution import CrossEntropyLoss, VoxelLoss
from .weights import check_factor, check_weight_length


class FocalLoss(VoxelLoss):
    r"""Focal loss: the cross-entropy of a voxel times a power of its error.

    .. math::
        \text{softmax:}\quad \frac{\sum_{bc} \alpha_c \sum_v w\, y\, (1-p)^\gamma (-\log p)}{\sum_b N_b}
        \qquad
        \text{sigmoid:}\quad
        \frac{\sum_{bc} \sum_v w\,[\,\alpha\, y\, (1-p)^\gamma (-\log p)
        + (1-\alpha)(1-y)\, p^\gamma (-\log(1-p))\,]}{\sum_{bc} N_b}

    with :math:`N = \sum w`. γ = 0 is cross-entropy. The gradient is finite at saturation for every γ.

    Args:
        gamma: γ, at least 0.
        alpha: None (all weights 1), a number in [0, 1], or one for each channel. With softmax α_c is the weight of
            class c; one number weighs the background by 1 - α and every other class by α, as in MONAI and kornia.
        **options: ``activation``, ``ignore_index``, ``class_weight`` (multiplied in), ``reduction`` and ``validate``
            of :class:`fastloss.SumLoss`. ``"mean"`` is the equation, ``"sum"`` its numerator, ``"none"`` the
            numerator's table ``[B, C]``, ``"voxel"`` what each voxel adds to it.

    MONAI's and kornia's means run over the channels too: theirs is this loss divided by C for softmax.

    Source: Lin et al. 2017, arXiv:1708.02002. The survey (section II-D) says that γ = 1 is cross-entropy; γ = 0 is.
    """

    alpha: Tensor | None

    def __init__(self, *, gamma: float = 2.0, alpha: float | Sequence[float] | Tensor | None = None, **options: Any):
        check_at_least_zero(gamma=gamma)
        self.positive, self.negative = term_name("focal_pos", gamma), term_name("focal_neg", gamma)
        super().__init__((self.positive,), (self.negative,), **options)
        self.gamma = gamma
        if isinstance(alpha, (int, float)):
            check_fraction(alpha=alpha)
        factor = None if alpha is None else check_factor(alpha, "alpha")
        if factor is not None and self.activation == "sigmoid" and bool((factor > 1).any()):
            raise ValueError(f"alpha: got {factor.tolist()}, expected numbers from 0 to 1 for sigmoid")
        self.register_class_vector("alpha", factor)

    def quotients(self, batch: int, channels: int) -> list[Quotient] | None:
        return super().quotients(batch, channels) if self.alpha is None else None

    def linear_terms(self, exclusive: bool, channels: int) -> dict[str, float]:
        return dict.fromkeys((self.positive,) if exclusive else (self.positive, self.negative), 1.0)

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        positive, alpha = sums[self.positive], self.alpha
        if alpha is not None and alpha.ndim:
            check_weight_length(alpha, positive.shape[1], "alpha")
        if exclusive:
            if alpha is not None and not alpha.ndim:
                alpha = torch.cat([1 - alpha.reshape(1), alpha.expand(positive.shape[1] - 1)])
            return positive if alpha is None else alpha * positive
        negative = sums[self.negative]
        return positive + negative if alpha is None else alpha * positive + (1 - alpha) * negative


class _ErrorPowerLoss(VoxelLoss):
    """The mean of (1 - p_t)^power."""

    def __init__(self, power: float, per_target: bool, **options: Any):
        self.per_target = per_target
        self.positive, self.negative = term_name("miss_pos", power), term_name("miss_neg", power)
        super().__init__((self.positive,), (self.negative,), **options)

    def linear_terms(self, exclusive: bool, channels: int) -> dict[str, float]:
        return dict.fromkeys((self.positive,) if exclusive else (self.positive, self.negative), 1.0)

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        return sums[self.positive] if exclusive else sums[self.positive] + sums[self.negative]


class PolyLoss(CompoundLoss):
    r"""Poly-1 loss: cross-entropy or focal loss with its first polynomial coefficient changed by ε.

    .. math::
        \text{CrossEntropyLoss} + \varepsilon\,\text{mean}(1 - p_t) \qquad\text{or}\qquad
        \text{FocalLoss} + \varepsilon\,\text{mean}\,(1 - p_t)^{\gamma+1}

    where :math:`p_t` is p of the true class (sigmoid: p or 1 - p of each channel) and the mean has the weights and the
    denominator of the base, but not its α. ε = 0 is the base.

    Args:
        base: ``"ce"`` or ``"focal"``.
        epsilon: ε, a finite number; below 0 it lowers the leading term.
        gamma: γ of the focal base, at least 0; 2 where None.
        alpha: α of the focal base, see :class:`FocalLoss`.
        **options: as :class:`FocalLoss`.

    Source: Leng et al. 2022, PolyLoss, arXiv:2204.12511. Not in the survey.
    """

    def __init__(
        self,
        *,
        base: str = "ce",
        epsilon: float = 1.0,
        gamma: float | None = None,
        alpha: float | Sequence[float] | Tensor | None = None,
        **options: Any,
    ):
        check_finite(epsilon=epsilon)
        plain = check_choice("base", base, ("ce", "focal")) == "ce"
        if plain and alpha is not None:
            raise ValueError(f"alpha: got {alpha!r} with base='ce', expected base='focal' or class_weight")
        if plain and gamma is not None:
            raise ValueError(f"gamma: got {gamma!r} with base='ce', expected base='focal'")
        gamma = 2.0 if gamma is None else gamma
        check_at_least_zero(gamma=gamma)
        power = 1.0 if plain else gamma + 1
        first: SumLoss = CrossEntropyLoss(**options) if plain else FocalLoss(gamma=gamma, alpha=alpha, **options)
        super().__init__([first, _ErrorPowerLoss(power, plain, **options)], [1.0, epsilon])
