"""Distribution-based losses: cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from .base import SumLoss, Sums, ratio


class CrossEntropyLoss(SumLoss):
    r"""Cross-entropy, averaged over the counted voxels.

    .. math::
        \text{softmax:}\quad \frac{\sum_{bc} \omega_c \sum_v w\, y\, (-\log p)}{\sum_{bc} \omega_c \sum_v w\, y}
        \qquad
        \text{sigmoid:}\quad
        \frac{\sum_{bc} \omega_c \sum_v w\,[\,y\,(-\log p) + (1-y)(-\log(1-p))\,]}{\sum_{bc} \sum_v w}

    Equals ``F.cross_entropy(logits, labels, weight, ignore_index=...)`` and, for sigmoid,
    ``F.binary_cross_entropy_with_logits``. With an activation of None the clamped forms
    :math:`\log\max(p, 10^{-7})` are used; several channels are read as softmax, one as sigmoid.

    Args:
        activation: ``"softmax"``, ``"sigmoid"`` or None (the input holds probabilities).
        ignore_index: label or labels whose voxels leave the mean and the gradient.
        class_weight: ω, one weight a channel.
        reduction: ``"mean"`` as above; ``"sum"``: the numerator; ``"none"``: the numerator's table ``[B, C]``.
        validate: see :func:`fastloss.voxel_sums`.

    Source: survey, section II-A (Jadon 2020, arXiv:2006.14822, eq. 1).
    """

    terms: tuple[str, ...] = ("y", "count", "ce_pos", "ce_neg")

    def __init__(
        self,
        *,
        activation: str | None = "softmax",
        ignore_index: int | Iterable[int] | None = None,
        class_weight: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
    ):
        if activation == "softmax":
            self.terms = ("y", "ce_pos")
        super().__init__(
            activation=activation,
            ignore_index=ignore_index,
            class_weight=class_weight,
            reduction=reduction,
            validate=validate,
        )

    def from_sums(self, sums: Sums) -> Tensor:
        exclusive = self.activation == "softmax" or (self.activation == "none" and sums["ce_pos"].shape[1] > 1)
        table = sums["ce_pos"] if exclusive else sums["ce_pos"] + sums["ce_neg"]
        counted = sums["y"] if exclusive else sums["count"]
        weight = self.weights(table)
        if weight is not None:
            table = table * weight
            counted = counted * weight if exclusive else counted
        if self.reduction == "none":
            return table
        return table.sum() if self.reduction == "sum" else ratio(table.sum(), counted.sum(), 0.0)
