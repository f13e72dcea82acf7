"""Metrics of hard segmentations: overlap from exact counts, surface distances from exact distance transforms.

    counts = confusion_counts(prediction, labels, classes=4)
    counts.dice()                                               # [B, C], NaN where a class is absent from both
    surfaces = surface_distances(prediction, labels, spacing=(3, 1, 1), classes=4)
    surfaces.hausdorff(percentile=95)                           # mm, [B, C - 1], the background left out

Every metric is a float64 table of samples and classes. A class that is absent from prediction and truth has NaN, which
``torch.nanmean`` and :class:`Accumulator` leave out.
"""

from .accumulator import Accumulator, Summary
from .counts import ConfusionCounts, confusion_counts
from .surface import SurfaceDistances, surface_distances

__all__ = ["Accumulator", "ConfusionCounts", "Summary", "SurfaceDistances", "confusion_counts", "surface_distances"]
