"""Compound losses: weighted sums of others, in one fused pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from .base import CompoundLoss
from .distribution import CrossEntropyLoss
from .region import DiceLoss, check_at_least_zero


class DiceCELoss(CompoundLoss):
    r"""Dice plus cross-entropy, the usual loss of medical segmentation.

    .. math:: \lambda_D \cdot \text{DiceLoss} + \lambda_{CE} \cdot \text{CrossEntropyLoss}

    Args:
        dice_weight: λ_D, at least 0.
        ce_weight: λ_CE, at least 0.
        activation, ignore_index, class_weight, reduction, validate: of both parts. With ``reduction="none"`` the
            value is the table ``[B, C]`` of both.
        **dice_options: ``include_background``, ``batch``, ``smooth``, ``squared`` of :class:`DiceLoss`; the
            cross-entropy always has all classes.

    Source: Isensee et al. 2018, nnU-Net, arXiv:1809.10486.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        activation: str | None = "softmax",
        ignore_index: int | Iterable[int] | None = None,
        class_weight: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        **dice_options: Any,
    ):
        check_at_least_zero(dice_weight=dice_weight, ce_weight=ce_weight)
        shared: dict[str, Any] = {
            "activation": activation,
            "ignore_index": ignore_index,
            "class_weight": class_weight,
            "reduction": reduction,
            "validate": validate,
        }
        parts = [DiceLoss(**shared, **dice_options), CrossEntropyLoss(**shared)]
        super().__init__(parts, [dice_weight, ce_weight])
