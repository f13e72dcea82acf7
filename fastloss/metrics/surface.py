"""Surface distances from exact distance transforms: Hausdorff, average surface distance, surface Dice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..distance import edt
from ..distance.inputs import spacing_per_axis
from ..passes.inputs import check_factor, check_weight_length
from .inputs import Segmentations, check_segmentations


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between the surfaces of prediction and truth, and the metrics of them, float64 ``[B, C]``.

    A surface is the foreground voxels with a face neighbour outside, where the volume's edge is outside, too; distances
    are between voxel centres. A metric is NaN where the class is absent from prediction and truth; where it is in one
    of them alone, distances are +inf and the surface Dice is 0.

    Attributes:
        to_target, to_prediction: of each sample and class the distance from every surface voxel of the prediction to
            the truth's surface, and the reverse: float32 NumPy vectors, empty where there is no surface.
        classes: the classes of the tables' columns.
        device: of the tables.
    """

    to_target: list[list[np.ndarray]]
    to_prediction: list[list[np.ndarray]]
    classes: range
    device: torch.device

    def hausdorff(self, percentile: float | None = None, *, one_sided: bool = False) -> Tensor:
        """The largest distance in mm, of both directions: the Hausdorff distance, or a percentile of it, as in HD95.

        Args:
            percentile: 0 to 100: the larger of the two directions' percentiles, interpolated linearly.
            one_sided: only from the prediction's surface to the truth's.
        """
        if percentile is not None and not (isinstance(percentile, (int, float)) and 0 <= percentile <= 100):
            raise ValueError(f"percentile: got {percentile!r}, expected None or a number from 0 to 100")

        def largest(mm: np.ndarray) -> float:
            return float(mm.max() if percentile is None else np.percentile(mm.astype(np.float64), percentile))

        return self._table(lambda to, back, _: largest(to) if one_sided else max(largest(to), largest(back)), math.inf)

    def average(self, *, one_sided: bool = False) -> Tensor:
        """The average distance in mm over the voxels of both surfaces, or only from the prediction's to the truth's."""

        def mean(to: np.ndarray, back: np.ndarray, _: int) -> float:
            total, count = to.sum(dtype=np.float64), to.size
            if not one_sided:
                total, count = total + back.sum(dtype=np.float64), count + back.size
            return float(total / count)

        return self._table(mean, math.inf)

    def surface_dice(self, tolerance_mm: float | Sequence[float] | Tensor) -> Tensor:
        """The share of both surfaces' voxels that are at most the tolerance from the other surface.

        Args:
            tolerance_mm: one number, or one for each of all C classes.

        Source: Nikolov et al. 2018, arXiv:1809.04430, with voxels for their areas; Seidlitz et al. 2021,
        arXiv:2111.05408.
        """
        tolerances = check_factor(tolerance_mm, "tolerance_mm")
        if tolerances.ndim:
            check_weight_length(tolerances, self.classes.stop, "tolerance_mm")
        per_class = tolerances.expand(self.classes.stop).float().numpy()  # rounded as the distances are

        def share(to: np.ndarray, back: np.ndarray, label: int) -> float:
            near = np.count_nonzero(to <= per_class[label]) + np.count_nonzero(back <= per_class[label])
            return near / (to.size + back.size)

        return self._table(share, 0.0)

    def _table(self, metric: Callable[[np.ndarray, np.ndarray, int], float], in_one_alone: float) -> Tensor:
        values = torch.full((len(self.to_target), len(self.classes)), math.nan, dtype=torch.float64)
        for b, (row, reverse) in enumerate(zip(self.to_target, self.to_prediction, strict=True)):
            for column, (to, back) in enumerate(zip(row, reverse, strict=True)):
                if to.size and back.size:
                    values[b, column] = metric(to, back, self.classes[column])
                elif to.size or back.size:
                    values[b, column] = in_one_alone
        return values.to(self.device)


def surface_distances(
    prediction: Tensor,
    target: Tensor,
    spacing: float | Sequence[float] | None = None,
    *,
    classes: int | None = None,
    activation: str | None = None,
    include_background: bool = False,
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
) -> SurfaceDistances:
    """Distances between the surfaces of prediction and truth: computed once for all metrics of them.

    One exact distance transform (:func:`fastloss.distance.edt`) for each surface, of the two segmentations' bounding
    box, on the CPU wherever the tensors are.

    Args:
        spacing: voxel size in mm, one number or one per spatial axis; 1 where None.
        ignore_index, mask: a voxel that does not count is outside of every class, in prediction and truth.

    The other arguments and the errors are those of :func:`fastloss.metrics.confusion_counts`.

    Surfaces and metrics are MONAI's (``get_mask_edges``, ``SurfaceDiceMetric(use_subvoxels=False)``), except that a
    percentile of infinite distances is +inf, where MONAI has NaN.
    """
    given = check_segmentations(prediction, target, classes, activation, ignore_index, mask)
    spacing_mm = spacing_per_axis(spacing, len(given.space), "prediction")
    columns = given.columns(include_background)
    to_target, to_prediction = [], []
    for sample in range(given.target.shape[0]):
        volumes = _volumes(given, sample)
        pairs = []
        for label in columns:
            predicted, true = (volume[label] if given.overlapping else volume == label for volume in volumes)
            pairs.append(_between_surfaces(predicted, true, spacing_mm))
        to_target.append([to for to, _ in pairs])
        to_prediction.append([back for _, back in pairs])
    return SurfaceDistances(to_target, to_prediction, columns, given.target.device)


def _volumes(given: Segmentations, sample: int) -> list[np.ndarray]:
    """Prediction and truth of a sample as labels of few bytes, or as masks."""
    channels, every = ((given.classes,), (slice(None),)) if given.overlapping else ((), ())
    dtype = np.bool_ if given.overlapping else np.min_scalar_type(given.classes)
    volumes = [np.empty((*channels, *given.space), dtype) for _ in range(2)]
    for slab in given.slabs(sample):
        for volume, part in zip(volumes, (slab.prediction, slab.target), strict=True):
            volume[every + slab.place] = part.numpy(force=True)
    return volumes


def _between_surfaces(
    predicted: np.ndarray, true: np.ndarray, spacing_mm: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The distances from the surface of each mask to that of the other."""
    box = _bounding_box(predicted | true)
    surfaces = [_surface(mask[box]) for mask in (predicted, true)]
    to_target, to_prediction = (
        edt(~there, spacing_mm)[here] if there.any() else np.full(np.count_nonzero(here), np.inf, np.float32)
        for here, there in (surfaces, surfaces[::-1])
    )
    return to_target, to_prediction


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Where the mask has its voxels; of no size where it has none."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        cropped = mask[tuple(box)]
        hit = np.flatnonzero(cropped.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(hit[0], hit[-1] + 1) if hit.size else slice(0, 0))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with a face neighbour outside of it or of the volume."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        lines, own = mask.swapaxes(0, axis), inside.swapaxes(0, axis)
        own[1:] &= lines[:-1]
        own[:-1] &= lines[1:]
        own[:1] = own[-1:] = False
    return mask & ~inside
