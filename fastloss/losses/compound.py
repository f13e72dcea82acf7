"""Compound losses: weighted sums of an overlap loss and a voxel loss, in one fused pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..passes.options import Smooth, as_number, check_at_least_zero, check_fraction, check_iterable
from ..terms import EPSILON, term_name
from .base import CompoundLoss, Sums, ratio
from .distribution import CrossEntropyLoss, VoxelLoss
from .focal import FocalLoss
from .region import DiceLoss, where_counted
from .weights import check_class_weight, check_part_weight, check_weight_length

_OF_BOTH_PARTS = ("activation", "ignore_index", "class_weight", "reduction", "validate", "process_group")


def _voxel_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those options that a voxel loss shares with an overlap loss."""
    return {name: options[name] for name in _OF_BOTH_PARTS if name in options}


class DiceCELoss(CompoundLoss):
    r"""Dice plus cross-entropy, the usual loss of medical segmentation.

    .. math:: \lambda_D \cdot \text{DiceLoss} + \lambda_{CE} \cdot \text{CrossEntropyLoss}

    Args:
        dice_weight: λ_D, at least 0; an ``nn.Parameter`` is learned.
        ce_weight: λ_CE, likewise.
        label_smoothing: of the cross-entropy.
        **options: ``activation``, ``ignore_index``, ``class_weight``, ``reduction``, ``validate`` of both parts (with
            ``reduction="none"`` the value is the table ``[B, C]`` of both); ``include_background``, ``batch``,
            ``smooth``, ``squared``, ``soft_label`` of :class:`DiceLoss` alone: the cross-entropy always has all
            classes.

    Source: Isensee et al. 2018, nnU-Net, arXiv:1809.10486.
    """

    def __init__(
        self,
        *,
        dice_weight: float | nn.Parameter = 1.0,
        ce_weight: float | nn.Parameter = 1.0,
        label_smoothing: float = 0.0,
        **options: Any,
    ):
        check_part_weight(dice_weight=dice_weight, ce_weight=ce_weight)
        cross_entropy = CrossEntropyLoss(label_smoothing=label_smoothing, **_voxel_options(options))
        super().__init__([DiceLoss(**options), cross_entropy], [dice_weight, ce_weight])


class DiceFocalLoss(CompoundLoss):
    r"""Dice plus focal loss.

    .. math:: \lambda_D \cdot \text{DiceLoss} + \lambda_F \cdot \text{FocalLoss}

    Args:
        dice_weight: λ_D, at least 0; an ``nn.Parameter`` is learned.
        focal_weight: λ_F, likewise.
        gamma, alpha: of :class:`FocalLoss`.
        **options: as :class:`DiceCELoss`.

    MONAI's ``DiceFocalLoss`` has a sigmoid focal loss whatever the activation of its Dice loss.

    Source: Zhu et al. 2019, AnatomyNet, arXiv:1808.05238.
    """

    def __init__(
        self,
        *,
        dice_weight: float | nn.Parameter = 1.0,
        focal_weight: float | nn.Parameter = 1.0,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = None,
        **options: Any,
    ):
        check_part_weight(dice_weight=dice_weight, focal_weight=focal_weight)
        focal = FocalLoss(gamma=gamma, alpha=alpha, **_voxel_options(options))
        super().__init__([DiceLoss(**options), focal], [dice_weight, focal_weight])


class _TwoSidedCrossEntropyLoss(VoxelLoss):
    """β of the foreground, 1 - β of the complement, over voxels and channels for every activation."""

    def __init__(self, beta: float, **options: Any):
        super().__init__(("ce_pos", "ce_neg"), (), **options)
        self.beta = beta

    def exclusive(self, channels: int) -> bool:
        return False

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        return self.beta * sums["ce_pos"] + (1 - self.beta) * sums["ce_neg"]


class ComboLoss(CompoundLoss):
    r"""Dice and a cross-entropy that weighs false negatives against false positives.

    .. math::
        \alpha\, \frac{\sum_{bc} \sum_v w\,[\,\beta\, y\, (-\log p) + (1-\beta)(1-y)(-\log(1-p))\,]}{\sum_{bc} N_b}
        + (1-\alpha)\, \text{DiceLoss}

    Args:
        alpha: α, from 0 to 1.
        beta: β, from 0 to 1; above 1/2 false negatives cost more.
        smooth: of :class:`DiceLoss`.
        **options: as :class:`DiceCELoss`.

    Source: Taghanaki et al. 2019, arXiv:1805.02798. The survey's eq. 17 has y - log p for y log p (a misprint, as the
    authors confirmed) and its eq. 18 the sign of the Dice loss wrong: the paper subtracts the coefficient.
    """

    def __init__(self, *, alpha: float = 0.5, beta: float = 0.5, smooth: Smooth = 1.0, **options: Any):
        check_fraction(alpha=alpha, beta=beta)
        cross_entropy = _TwoSidedCrossEntropyLoss(beta, **_voxel_options(options))
        super().__init__([cross_entropy, DiceLoss(smooth=smooth, **options)], [alpha, 1 - alpha])


class _LogDiceLoss(DiceLoss):
    """``max(-ln D, ε)^γ``."""

    def __init__(self, gamma: float, **options: Any):
        super().__init__(**options)
        self.terms = (*self.terms, "count")
        self.gamma = gamma

    def formula(self, sums: Sums) -> Tensor:
        # Without smoothing D may be 0, where the logarithm and its derivative are infinite.
        value = -(1 - super().formula(sums)).clamp_min(EPSILON).log()
        return where_counted(sums, value.clamp_min(EPSILON) ** self.gamma)


class _LogCrossEntropyLoss(VoxelLoss):
    """The mean of ``ω (-log p)^γ``, with ω from the frequencies of the classes."""

    class_frequency: Tensor | None

    def __init__(self, gamma: float, class_frequency: Sequence[float] | Tensor | None, **options: Any):
        self.positive, self.negative = term_name("log_power_pos", gamma), term_name("log_power_neg", gamma)
        super().__init__(("y", self.positive), (self.negative,), **options)
        frequency = check_class_weight(class_frequency, "class_frequency")
        if frequency is not None and self.activation == "sigmoid" and bool((frequency > 1).any()):
            raise ValueError(
                f"class_frequency: got {frequency.tolist()}, expected shares of the voxels, from 0 to 1, for sigmoid"
            )
        self.register_class_vector("class_frequency", frequency)

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        positive, frequency = sums[self.positive], self.class_frequency
        if frequency is not None:
            check_weight_length(frequency, positive.shape[1], "class_frequency")
        given = sums["y"].sum(0) if frequency is None else frequency
        if exclusive:
            return positive * ratio(given.sum(), given, 0.0).sqrt()
        total = sums["count"].sum(0) if frequency is None else 1.0
        rest = total - given
        negative = sums[self.negative] * ratio(given + rest, rest, 0.0).sqrt()
        return positive * ratio(given + rest, given, 0.0).sqrt() + negative


class ExpLogLoss(CompoundLoss):
    r"""Exponential logarithmic loss: powers of the logarithms of Dice and of the probabilities.

    .. math::
        \lambda_D\, \text{mean}_{bc} \max(-\ln D, 10^{-7})^{\gamma_D} + \lambda_{CE}\,
        \frac{\sum_{bc} \omega_c \sum_v w\, y \max(-\ln p, 10^{-7})^{\gamma_{CE}}}{\sum_b N_b}, \qquad
        \omega_c = \sqrt{\textstyle\sum_k f_k / f_c}

    with D the Dice coefficient and f the frequencies of the classes (absent: ω = 0). With sigmoid every channel is two
    classes, with their own frequencies, and the mean runs over the channels, too.

    Args:
        dice_weight: λ_D, at least 0; an ``nn.Parameter`` is learned.
        ce_weight: λ_CE, likewise.
        gamma: γ, at least 0, or a pair (γ_D, γ_CE).
        class_frequency: f, one number a channel (for sigmoid its share of the voxels, from 0 to 1); None takes the
            batch's.
        smooth: of the Dice coefficient, at least 0; a pair is that of the numerator and that of the denominator.
        **options: as :class:`DiceCELoss`.

    Source: Wong et al. 2018, arXiv:1809.00076. The survey's eq. 20 has γ inside the minus.
    """

    def __init__(
        self,
        *,
        dice_weight: float | nn.Parameter = 0.8,
        ce_weight: float | nn.Parameter = 0.2,
        gamma: float | Sequence[float] = 0.3,
        class_frequency: Sequence[float] | Tensor | None = None,
        smooth: Smooth = 1.0,
        **options: Any,
    ):
        check_part_weight(dice_weight=dice_weight, ce_weight=ce_weight)
        expected = "a number or a pair (of the Dice part, of cross-entropy)"
        pair = [gamma, gamma] if isinstance(gamma, (int, float)) else check_iterable(gamma, "gamma", expected)
        if len(pair) != 2:
            raise ValueError(f"gamma: got {gamma!r}, expected {expected}")
        pair = [as_number(value, "gamma") for value in pair]
        for value in pair:
            check_at_least_zero(gamma=value)
        cross_entropy = _LogCrossEntropyLoss(pair[1], class_frequency, **_voxel_options(options))
        super().__init__([_LogDiceLoss(pair[0], smooth=smooth, **options), cross_entropy], [dice_weight, ce_weight])
