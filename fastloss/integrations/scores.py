"""Scores by their names, as the metrics of other programs share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ..distance.inputs import as_tensor
from ..metrics import ConfusionCounts, confusion_counts, surface_distances

OVERLAP = ("dice", "jaccard", "sensitivity", "specificity", "precision")
SURFACE = ("hausdorff", "average_distance", "surface_dice")


@dataclass(frozen=True)
class Options:
    """What both kinds of scores have: see :func:`fastloss.metrics.confusion_counts`."""

    score: str
    num_classes: int | None = None  # of label maps; None where predictions have a channel for each class
    activation: str | None = None
    include_background: bool = True
    ignore_index: int | None = None

    def name(self) -> str:
        """The score, and digits that differ where an option does."""
        return f"{self.score}_{crc32(repr(sorted(asdict(self).items())).encode()):08x}"

    def segmentations(self) -> dict[str, Any]:
        """The arguments of the functions that score."""
        # with an activation the channels say how many classes there are
        classes = None if self.activation else self.num_classes
        chosen = {"include_background": self.include_background, "ignore_index": self.ignore_index}
        return {"classes": classes, "activation": self.activation, **chosen}

    def prediction(self, given: Any) -> Tensor:
        """The prediction, of which 0 and 1 as floats, as one-hot masks come, are made bool."""
        tensor = as_tensor(given, "prediction")
        channels = self.activation is None and self.num_classes is None
        if not channels or tensor.dtype == torch.bool:
            return tensor
        if not ((tensor == 0) | (tensor == 1)).all():
            raise ValueError(
                "prediction: got values beside 0 and 1, expected masks [B, C, *S], or labels with num_classes=, or "
                "logits with activation="
            )
        return tensor.bool()


@dataclass(frozen=True)
class Overlap(Options):
    """A score of counts."""

    def __post_init__(self) -> None:
        _known(self.score, OVERLAP)

    def counts(self, prediction: Any, target: Any, mask: Any = None) -> ConfusionCounts:
        """Those of each sample and class."""
        return confusion_counts(self.prediction(prediction), target, mask=mask, **self.segmentations())

    def of(self, counts: ConfusionCounts) -> Tensor:
        """The score of counts, float64 of their shape."""
        table: Tensor = getattr(counts, self.score)()
        return table


@dataclass(frozen=True)
class Surface(Options):
    """A score of surfaces; distances in mm."""

    include_background: bool = False
    spacing: float | tuple[float, ...] | None = None
    percentile: float | None = None
    tolerance_mm: float | tuple[float, ...] | None = None
    use_subvoxels: bool = False

    def __post_init__(self) -> None:
        _known(self.score, SURFACE)
        if (self.tolerance_mm is None) == (self.score == "surface_dice"):
            expected = "a number of mm" if self.score == "surface_dice" else "None, but for score='surface_dice'"
            raise ValueError(f"tolerance_mm: got {self.tolerance_mm!r} with score={self.score!r}, expected {expected}")
        if self.percentile is not None and self.score != "hausdorff":
            raise ValueError(
                f"percentile: got {self.percentile!r} with score={self.score!r}, expected None, but for 'hausdorff'"
            )

    def table(self, prediction: Any, target: Any, spacing: Any = None, mask: Any = None) -> Tensor:
        """The score of each sample and class, float64 ``[B, C]``."""
        chosen = {"mask": mask, "use_subvoxels": self.use_subvoxels, **self.segmentations()}
        given = self.spacing if spacing is None else spacing
        surfaces = surface_distances(self.prediction(prediction), target, given, **chosen)
        if self.score == "hausdorff":
            return surfaces.hausdorff(self.percentile)
        if self.score == "surface_dice":
            assert self.tolerance_mm is not None
            return surfaces.surface_dice(self.tolerance_mm)
        return surfaces.average()


def as_tuple(value: float | Sequence[float] | None) -> float | tuple[float, ...] | None:
    """Numbers as options that do not change."""
    return value if value is None or isinstance(value, (int, float)) else tuple(float(x) for x in value)


def _known(score: str, scores: tuple[str, ...]) -> None:
    if score not in scores:
        raise ValueError(f"score: got {score!r}, expected one of {', '.join(map(repr, scores))}")
