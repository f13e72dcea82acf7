"""Exact counts of hits and misses, and the metrics of overlap that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..passes.lazy_logits import LazyLogits
from .inputs import Segmentations, check_segmentations


@dataclass(frozen=True)
class ConfusionCounts:
    """Voxels of each sample and class, int64 ``[B, C]``, and the metrics of overlap, float64 ``[B, C]``.

    A metric is NaN where it is 0/0, and nowhere else.
    """

    true_positive: Tensor
    false_positive: Tensor
    false_negative: Tensor
    true_negative: Tensor

    def pooled(self) -> ConfusionCounts:
        """The counts of the whole batch as one volume, ``[C]``."""
        return ConfusionCounts(*(getattr(self, field.name).sum(0) for field in fields(self)))

    def dice(self) -> Tensor:
        """``2 TP / (2 TP + FP + FN)``; NaN where prediction and truth lack the class. Dice 1945, Sørensen 1948."""
        return _ratio(2 * self.true_positive, self.false_positive + self.false_negative)

    def jaccard(self) -> Tensor:
        """``TP / (TP + FP + FN)``, the intersection over the union; NaN where :meth:`dice` is. Jaccard 1901."""
        return _ratio(self.true_positive, self.false_positive + self.false_negative)

    def sensitivity(self) -> Tensor:
        """``TP / (TP + FN)``, the recall; NaN where the truth lacks the class."""
        return _ratio(self.true_positive, self.false_negative)

    def specificity(self) -> Tensor:
        """``TN / (TN + FP)``; NaN where the class fills the truth."""
        return _ratio(self.true_negative, self.false_positive)

    def precision(self) -> Tensor:
        """``TP / (TP + FP)``, the positive predictive value; NaN where the prediction lacks the class."""
        return _ratio(self.true_positive, self.false_positive)


def _ratio(hits: Tensor, misses: Tensor) -> Tensor:
    return hits.double() / (hits + misses)


def confusion_counts(
    prediction: Tensor | LazyLogits,
    target: Tensor,
    *,
    classes: int | None = None,
    activation: str | None = None,
    include_background: bool = True,
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
    spatial_axes: int | None = None,
) -> ConfusionCounts:
    """True and false positives and negatives of each sample and class, as exact integers.

    Args:
        prediction: a tensor, or a NumPy array, as all that follow. With ``classes`` labels, ``[B, *S]`` or
            ``[B, 1, *S]``, bool or any integer dtype; with ``activation`` logits ``[B, C, *S]`` of any float dtype,
            or :class:`fastloss.LazyLogits`, which are made slab by slab; with neither bool masks ``[B, C, *S]``. 1 to 3
            spatial axes, any strides.
        target: labels ``[B, *S]`` or ``[B, 1, *S]``, bool, any integer dtype, or whole numbers as floats; or, where the
            prediction has C > 1 channels, masks ``[B, C, *S]``, bool or integers (true where not 0), or 0 and 1 as
            floats. For C = 1 the labels are 0 and 1. A volume of a batch of several sizes has a call of its own, its
            table one row: :class:`fastloss.metrics.Accumulator` takes them one by one.
        classes: how many classes a prediction of labels has, the background included; None where it has channels.
        activation: ``"softmax"``: the class of the largest logit; ``"sigmoid"``: each channel on its own, p > 0.5.
        include_background: False leaves out class 0 where there are several.
        ignore_index: label or labels of the target whose voxels do not count, whatever is predicted there.
        mask: ``[B, *S]`` or ``[B, 1, *S]``, bool or integers; voxels of 0 do not count.
        spatial_axes: how many axes a volume has, for a prediction of labels ``[B, 1, ...]``, whose axis 1 is taken for
            the channels' otherwise.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected; labels and logits of voxels that
            count are checked on every device: a NaN would pass for background.
    """
    given = check_segmentations(prediction, target, classes, activation, ignore_index, mask, spatial_axes)
    count = _count_masks if given.overlapping else _count_labels
    batch = given.target.shape[0]
    table = given.target.new_zeros((batch, 4, given.classes), dtype=torch.int64)
    for sample in range(batch):
        count(given, sample, table[sample])
    given.read()
    hits, predicted, true, voxels = table[:, :, given.columns(include_background).start :].unbind(1)
    return ConfusionCounts(hits, predicted - hits, true - hits, voxels - predicted - true + hits)


def confusion_matrix(
    prediction: Tensor | LazyLogits,
    target: Tensor,
    *,
    classes: int | None = None,
    activation: str | None = None,
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
    spatial_axes: int | None = None,
) -> Tensor:
    """How many voxels of each true class (rows) are predicted as which (columns): int64 ``[B, C, C]``.

    Prediction and target say one class for each voxel: labels with ``classes``, or logits with ``"softmax"``, against
    labels. Arguments and errors are those of :func:`confusion_counts`.
    """
    given = check_segmentations(prediction, target, classes, activation, ignore_index, mask, spatial_axes)
    if given.overlapping:
        raise ValueError(
            "prediction, target: got a mask for each class, which may overlap, expected labels with classes=, or "
            "activation='softmax' and a target of labels"
        )
    samples = [_pairs(given, sample) for sample in range(given.target.shape[0])]
    given.read()
    side = (given.classes, given.classes)
    return torch.stack(samples) if samples else given.target.new_zeros((0, *side), dtype=torch.int64)


def _pairs(given: Segmentations, sample: int) -> Tensor:
    """Voxels of each true and predicted label, ``[C, C]``."""
    side = given.classes + 1  # the last: voxels that do not count
    pairs = given.target.new_zeros(side * side, dtype=torch.int64)
    for slab in given.slabs(sample):
        number = slab.target.mul(side).add_(slab.prediction).flatten()
        if given.on_device:  # whose bincount reads the greatest number first; a label beyond is raised in the end
            pairs.index_add_(0, number.clamp_(0, side * side - 1), number.new_ones(1).expand_as(number))
        else:
            pairs += torch.bincount(number, minlength=side * side)
    return pairs.view(side, side)[:-1, :-1]


def _count_labels(given: Segmentations, sample: int, table: Tensor) -> None:
    """Adds hits, predicted, true and all voxels ``[4, C]``."""
    square = _pairs(given, sample)
    table += torch.stack([square.diagonal(), square.sum(0), square.sum(1), square.sum().expand(given.classes)])


def _count_masks(given: Segmentations, sample: int, table: Tensor) -> None:
    """The same of masks."""
    for slab in given.slabs(sample):
        both = slab.prediction & slab.target
        table[:3] += torch.stack([x.flatten(1).sum(1) for x in (both, slab.prediction, slab.target)])
        table[3] += slab.counted
