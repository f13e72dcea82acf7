"""Metrics of hard segmentations: overlap from exact counts, surface distances from exact distance transforms.

    counts = confusion_counts(prediction, labels, classes=4)
    counts.dice()                                               # [B, C], NaN where a class is absent from both
    surfaces = surface_distances(prediction, labels, spacing=(3, 1, 1), classes=4)
    surfaces.hausdorff(percentile=95)                           # mm, [B, C - 1], the background left out

Every metric is a float64 table of samples and classes. Where it has nothing to measure it is NaN, which
``torch.nanmean`` and :class:`Accumulator` leave out: Dice, Jaccard and distances where a class is absent from
prediction and truth, sensitivity where it is absent from the truth, specificity where it fills it, precision where
nothing is predicted.
"""

from .accumulator import Accumulator, Summary
from .counts import ConfusionCounts, confusion_counts, confusion_matrix
from .surface import SurfaceDistances, surface_distances

__all__ = [
    "Accumulator",
    "ConfusionCounts",
    "Summary",
    "SurfaceDistances",
    "confusion_counts",
    "confusion_matrix",
    "surface_distances",
]
