"""Scores as ``torchmetrics.Metric``: ``pip install 'fastloss[torchmetrics]'``.

    dice = OverlapMetric("dice", num_classes=4)
    hd95 = SurfaceMetric("hausdorff", percentile=95, num_classes=4, spacing=(3.0, 1.0, 1.0))
    for prediction, labels in batches:
        dice.update(prediction, labels)
        hd95.update(prediction, labels)
    dice.compute(), hd95.compute()

They go into a ``MetricCollection``, into Lightning's ``self.log`` and, over several processes, have the value of one
process with all samples: their states are sums, which do not grow with the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..distance.inputs import whole_number
from ..metrics import ConfusionCounts
from .scores import Overlap, Surface, as_tuple

AVERAGES = ("macro", "none")
LEVELS = ("samplewise", "global")


class _Score(Metric):
    """Sums of tables of a value per sample and class, and their means."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, options: Overlap | Surface, average: str, kwargs: dict[str, Any]):
        super().__init__(**kwargs)
        classes = whole_number(options.num_classes, "num_classes", "a NumPy integer")
        _one_of("average", average, AVERAGES)
        self.options, self.average = options, average
        self.columns = classes if options.include_background or classes == 1 else classes - 1
        # a collection takes metrics for one whose states have equal names and, after the first batch, values
        self._names = [f"{what}_of_{options.name()}" for what in ("total", "count")]
        self.add_state(self._names[0], torch.zeros(self.columns, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state(self._names[1], torch.zeros(self.columns, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better segmentation."""
        return self.options.score not in ("hausdorff", "average_distance")

    def _add(self, table: Tensor) -> None:
        known = ~table.isnan()
        for name, more in zip(self._names, (torch.where(known, table, 0.0).sum(0), known.sum(0)), strict=True):
            state = getattr(self, name)
            setattr(self, name, state + more.to(state.device))

    def compute(self) -> Tensor:
        """The mean over the samples of each class, float64 ``[C]``, or over the classes, too; NaN of nothing."""
        total, count = (getattr(self, name) for name in self._names)
        return self._averaged(total / count)

    def _averaged(self, per_class: Tensor) -> Tensor:
        return per_class if self.average == "none" else per_class.nanmean()


class OverlapMetric(_Score):
    """Dice, Jaccard, sensitivity, specificity or precision of hard segmentations, over a data set.

    Args:
        score: ``"dice"``, ``"jaccard"``, ``"sensitivity"``, ``"specificity"`` or ``"precision"``.
        num_classes: C, the background's included.
        activation: None for label maps; ``"softmax"`` or ``"sigmoid"`` for logits ``[B, C, *S]``.
        include_background: False leaves out class 0.
        ignore_index: a label of the target whose voxels do not count.
        average: ``"macro"``: the mean over the classes; ``"none"``: a value for each.
        aggregation_level: ``"samplewise"``: the mean over samples of each sample's score, without those where it is
            0/0; ``"global"``: the score of the whole data set's counts.
        kwargs: those of ``torchmetrics.Metric``, such as ``dist_sync_on_step``, ``process_group``.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.
    """

    options: Overlap

    def __init__(
        self,
        score: str = "dice",
        *,
        num_classes: int,
        activation: str | None = None,
        include_background: bool = True,
        ignore_index: int | None = None,
        average: str = "macro",
        aggregation_level: str = "samplewise",
        **kwargs: Any,
    ):
        _one_of("aggregation_level", aggregation_level, LEVELS)
        super().__init__(Overlap(score, num_classes, activation, include_background, ignore_index), average, kwargs)
        self.aggregation_level = aggregation_level
        if aggregation_level == "global":
            shape = (len(fields(ConfusionCounts)), self.columns)
            self._counts = f"counts_of_{self.options.name()}"
            self.add_state(self._counts, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Adds a batch: label maps ``[B, *S]`` or ``[B, 1, *S]``, or logits; labels; voxels that count ``[B, *S]``."""
        counts = self.options.counts(preds, target, mask)
        if self.aggregation_level == "samplewise":
            self._add(self.options.of(counts))
        else:
            pooled, state = counts.pooled(), getattr(self, self._counts)
            more = torch.stack([getattr(pooled, field.name) for field in fields(pooled)])
            setattr(self, self._counts, state + more.to(state.device))

    def compute(self) -> Tensor:
        """The score of each class, float64 ``[C]``, or the mean over the classes, a scalar; NaN where it is 0/0."""
        if self.aggregation_level == "samplewise":
            return super().compute()
        return self._averaged(self.options.of(ConfusionCounts(*getattr(self, self._counts))))


class SurfaceMetric(_Score):
    """The Hausdorff distance or a percentile of it, the average distance, or the surface Dice, over a data set.

    A sample where prediction and truth lack the class does not count; where it is in one of them alone a distance, and
    with it the mean, is +inf.

    Args:
        score: ``"hausdorff"``, ``"average_distance"`` or ``"surface_dice"``.
        num_classes: C, the background's included.
        spacing: voxel size in mm, one number or one per axis; that of an update goes first.
        percentile: of the Hausdorff distance, 95 for HD95; None for the largest.
        tolerance_mm: of the surface Dice, one number or one for each class.
        use_subvoxels: surfaces as areas: see :class:`fastloss.metrics.SurfaceDistances`.

    The other arguments and the errors are those of :class:`OverlapMetric`.
    """

    options: Surface

    def __init__(
        self,
        score: str = "hausdorff",
        *,
        num_classes: int,
        spacing: float | Sequence[float] | None = None,
        percentile: float | None = None,
        tolerance_mm: float | Sequence[float] | None = None,
        use_subvoxels: bool = False,
        activation: str | None = None,
        include_background: bool = False,
        ignore_index: int | None = None,
        average: str = "macro",
        **kwargs: Any,
    ):
        of_surface = (as_tuple(spacing), percentile, as_tuple(tolerance_mm), use_subvoxels)
        options = Surface(score, num_classes, activation, include_background, ignore_index, *of_surface)
        super().__init__(options, average, kwargs)

    def update(self, preds: Tensor, target: Tensor, spacing: Any = None, mask: Tensor | None = None) -> None:
        """Adds a batch, as that of :class:`OverlapMetric`; ``spacing`` may be ``[B, axes]``, that of each sample."""
        self._add(self.options.table(preds, target, spacing, mask))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, known))}")
