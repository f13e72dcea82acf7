"""Exact counts of hits and misses, and the metrics of overlap that follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .inputs import Segmentations, check_segmentations


@dataclass(frozen=True)
class ConfusionCounts:
    """Voxels of each sample and class, int64 ``[B, C]``, and the metrics of overlap, float64 ``[B, C]``.

    A metric is NaN where it is 0/0, and where the class is absent from prediction and truth.
    """

    true_positive: Tensor
    false_positive: Tensor
    false_negative: Tensor
    true_negative: Tensor

    def pooled(self) -> ConfusionCounts:
        """The counts of the whole batch as one volume, ``[C]``."""
        return ConfusionCounts(*(getattr(self, field.name).sum(0) for field in fields(self)))

    def dice(self) -> Tensor:
        """``2 TP / (2 TP + FP + FN)``. Dice 1945, Sørensen 1948."""
        return self._ratio(2 * self.true_positive, self.false_positive + self.false_negative)

    def jaccard(self) -> Tensor:
        """``TP / (TP + FP + FN)``, the intersection over the union. Jaccard 1901."""
        return self._ratio(self.true_positive, self.false_positive + self.false_negative)

    def sensitivity(self) -> Tensor:
        """``TP / (TP + FN)``, the recall; NaN also where the truth alone lacks the class."""
        return self._ratio(self.true_positive, self.false_negative)

    def specificity(self) -> Tensor:
        """``TN / (TN + FP)``; NaN also where the class fills the truth."""
        return self._ratio(self.true_negative, self.false_positive)

    def _ratio(self, hits: Tensor, misses: Tensor) -> Tensor:
        present = self.true_positive + self.false_positive + self.false_negative > 0
        return torch.where(present, hits.double() / (hits + misses), math.nan)


def confusion_counts(
    prediction: Tensor,
    target: Tensor,
    *,
    classes: int | None = None,
    activation: str | None = None,
    include_background: bool = True,
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
) -> ConfusionCounts:
    """True and false positives and negatives of each sample and class, as exact integers.

    Args:
        prediction: with ``classes`` labels, ``[B, *S]`` or ``[B, 1, *S]`` (an axis 1 of size 1 is the channels'), bool
            or any integer dtype; with ``activation`` logits ``[B, C, *S]`` of any float dtype; with neither bool masks
            ``[B, C, *S]``. 1 to 3 spatial axes, any strides.
        target: labels ``[B, *S]`` or ``[B, 1, *S]``, bool or any integer dtype; or, where the prediction has C > 1
            channels, masks ``[B, C, *S]``. For C = 1 the labels are 0 and 1.
        classes: how many classes a prediction of labels has, the background included; None where it has channels.
        activation: ``"softmax"``: the class of the largest logit; ``"sigmoid"``: each channel on its own, p > 0.5.
        include_background: False leaves out class 0 where there are several.
        ignore_index: label or labels of the target whose voxels do not count, whatever is predicted there.
        mask: ``[B, *S]`` or ``[B, 1, *S]``, bool or integers; voxels of 0 do not count.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected; labels of voxels that count are
            checked on every device.
    """
    given = check_segmentations(prediction, target, classes, activation, ignore_index, mask)
    count = _count_masks if given.overlapping else _count_labels
    batch = given.target.shape[0]
    table = torch.zeros((batch, 4, given.classes), dtype=torch.int64, device=given.target.device)
    for sample in range(batch):
        count(given, sample, table[sample])
    hits, predicted, true, voxels = table[:, :, given.columns(include_background).start :].unbind(1)
    return ConfusionCounts(hits, predicted - hits, true - hits, voxels - predicted - true + hits)


def _count_labels(given: Segmentations, sample: int, table: Tensor) -> None:
    """Adds hits, predicted, true and all voxels ``[4, C]``: a count of the pairs of labels."""
    side = given.classes + 1  # the last: voxels that do not count
    pairs = torch.zeros(side * side, dtype=torch.int64, device=table.device)
    for slab in given.slabs(sample):
        pairs += torch.bincount(slab.target.mul(side).add_(slab.prediction).flatten(), minlength=side * side)
    square = pairs.view(side, side)[:-1, :-1]
    table += torch.stack([square.diagonal(), square.sum(0), square.sum(1), square.sum().expand(given.classes)])


def _count_masks(given: Segmentations, sample: int, table: Tensor) -> None:
    """The same of masks."""
    for slab in given.slabs(sample):
        both = slab.prediction & slab.target
        table[:3] += torch.stack([x.flatten(1).sum(1) for x in (both, slab.prediction, slab.target)])
        table[3] += slab.counted
