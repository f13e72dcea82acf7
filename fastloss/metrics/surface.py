"""Surface distances from exact distance transforms: Hausdorff, average surface distance, surface Dice."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distance import edt
from ..distance.inputs import Spacing, numbers, spacing_per_sample
from ..passes.options import as_flag
from .device import distances_on_device
from .directions import Direction, DirectionOfTensors
from .elements import areas_of_codes, cell_codes
from .inputs import Segmentations, check_segmentations

Vector = np.ndarray | Tensor


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between the surfaces of prediction and truth, and the metrics of them, float64 ``[B, C]``.

    A surface is the foreground voxels with a face neighbour outside, where the volume's edge is outside, too; distances
    are between voxel centres. With ``use_subvoxels`` it is the cells between neighbouring voxels that are not all on
    one side, in which its area is that of marching cubes; distances are between cells' centres, and means, percentiles
    and shares are over the area.

    A metric is NaN where the class is absent from prediction and truth; where it is in one of them alone, distances are
    +inf and the surface Dice is 0.

    Attributes:
        to_target, to_prediction: of each sample and class the distance from every surface voxel of the prediction to
            the truth's surface, and the reverse: float32 vectors, empty where there is no surface. NumPy's, or tensors
            on the GPU from which they come.
        prediction_area, target_area: the surface's area in each cell, alike: float64 vectors, mm² in 3D, mm in 2D; None
            where the surfaces are voxels.
        classes: the classes of the tables' columns.
        device: of the tables.
    """

    to_target: list[list[Vector]]
    to_prediction: list[list[Vector]]
    prediction_area: list[list[Vector]] | None
    target_area: list[list[Vector]] | None
    classes: range
    device: torch.device

    def hausdorff(self, percentile: float | None = None, *, one_sided: bool = False, pooled: bool = False) -> Tensor:
        """The largest distance in mm, of both directions: the Hausdorff distance, or a percentile of it, as in HD95.

        Args:
            percentile: 0 to 100: the larger of the two directions' percentiles, interpolated linearly; over areas the
                least distance within which so much of the surface lies.
            one_sided: only from the prediction's surface to the truth's.
            pooled: the percentile of the distances of both directions together, as MedPy's ``hd95`` has it.
        """
        percent = 100.0 if percentile is None else _percent(percentile)
        one_sided, pooled = as_flag(one_sided, "one_sided"), as_flag(pooled, "pooled")
        if one_sided and pooled:
            raise ValueError("pooled: got True with one_sided=True, expected one of them: one side has nothing to pool")

        def largest(to: Any, back: Any, _: int) -> Any:
            directions = (to,) if one_sided else (to.and_back(back),) if pooled else (to, back)
            found = [each.percentile(percent, self.weighted) for each in directions]
            return max(found) if isinstance(to, Direction) else functools.reduce(torch.maximum, found)

        return self._table(largest, math.inf)

    def average(self, *, one_sided: bool = False) -> Tensor:
        """The average distance in mm over both surfaces, or only from the prediction's to the truth's."""
        one_sided = as_flag(one_sided, "one_sided")

        def mean(to: Any, back: Any, _: int) -> Any:
            return (to if one_sided else to.and_back(back)).mean()

        return self._table(mean, math.inf)

    def surface_dice(self, tolerance_mm: float | Sequence[float] | Tensor) -> Tensor:
        """The share of both surfaces that is at most the tolerance from the other surface.

        Args:
            tolerance_mm: one number, or one for each of all C classes.

        Source: Nikolov et al. 2018, arXiv:1809.04430, whose areas come with ``use_subvoxels``; Seidlitz et al. 2021,
        arXiv:2111.05408.
        """
        tolerances = numbers(tolerance_mm, "tolerance_mm", "a number or one for each class")
        classes = self.classes.stop
        if tolerances.shape not in ((), (classes,)):
            raise ValueError(f"tolerance_mm: got {tolerance_mm!r}, expected a number or {classes}, one for each class")
        if not (np.isfinite(tolerances) & (tolerances >= 0)).all():
            raise ValueError(f"tolerance_mm: got {tolerance_mm!r}, expected finite numbers of at least 0")
        per_class = np.broadcast_to(tolerances, classes)

        def share(to: Any, back: Any, label: int) -> Any:
            return to.and_back(back).share_within(per_class[label])

        return self._table(share, 0.0)

    @property
    def weighted(self) -> bool:
        """Whether surfaces have areas."""
        return self.prediction_area is not None

    def _table(self, metric: Callable[[Any, Any, int], Any], in_one_alone: float) -> Tensor:
        first = next((vector for row in self.to_target for vector in row), None)
        device = first.device if isinstance(first, Tensor) else "cpu"
        values = torch.full((len(self.to_target), len(self.classes)), math.nan, dtype=torch.float64, device=device)
        for b, row in enumerate(self.to_target):
            for column, label in enumerate(self.classes):
                to = _direction(row[column], self.prediction_area, b, column)
                back = _direction(self.to_prediction[b][column], self.target_area, b, column)
                if len(to.mm) and len(back.mm):
                    values[b, column] = metric(to, back, label)
                elif len(to.mm) or len(back.mm):
                    values[b, column] = in_one_alone
        return values.to(self.device)


def _direction(mm: Vector, areas: list[list[Vector]] | None, sample: int, column: int) -> Any:
    area: Any = None if areas is None else areas[sample][column]
    if isinstance(mm, Tensor):
        return DirectionOfTensors(mm, torch.ones_like(mm, dtype=torch.float64) if area is None else area)
    return Direction(mm, np.ones(len(mm)) if area is None else area)


def _percent(percentile: float) -> float:
    percent = numbers(percentile, "percentile", "None or a number from 0 to 100")
    if percent.ndim or not 0 <= percent <= 100:
        raise ValueError(f"percentile: got {percentile!r}, expected None or a number from 0 to 100")
    return float(percent)


def surface_distances(
    prediction: Tensor,
    target: Tensor,
    spacing: Spacing = None,
    *,
    classes: int | None = None,
    activation: str | None = None,
    include_background: bool = False,
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
    spatial_axes: int | None = None,
    use_subvoxels: bool = False,
) -> SurfaceDistances:
    """Distances between the surfaces of prediction and truth: computed once for all metrics of them.

    One exact distance transform (:func:`fastloss.distance.edt`) for each surface: on the CPU of the two segmentations'
    bounding box; of a GPU's tensors on the GPU, which is waited for once, for the sizes of the surfaces.

    Args:
        spacing: voxel size in mm, one number or one per spatial axis, or ``[B, axes]``, a row for each sample; 1 where
            None. It tells how many axes are spatial: with three numbers, labels ``[B, 1, X, Y]`` are volumes of one
            slice, else the axis of size 1 is the channels'.
        ignore_index, mask: a voxel that does not count is outside of every class, in prediction and truth.
        spatial_axes: how many axes a volume has, where ``spacing`` does not say it.
        use_subvoxels: surfaces as areas between voxels, rather than as voxels: see :class:`SurfaceDistances`.

    The other arguments and the errors are those of :func:`fastloss.metrics.confusion_counts`.

    Surfaces and metrics are MONAI's (``get_mask_edges``, ``SurfaceDiceMetric``), except that a percentile of infinite
    distances is +inf, where MONAI has NaN; with ``use_subvoxels`` those of DeepMind's ``surface-distance``.
    """
    given = check_segmentations(prediction, target, classes, activation, ignore_index, mask, spatial_axes, spacing)
    spacings_mm = spacing_per_sample(spacing, given.target.shape[0], len(given.space), "prediction")
    columns, use_subvoxels = given.columns(include_background), as_flag(use_subvoxels, "use_subvoxels")
    rows: list[list[tuple[Any, ...]]] = []
    if given.on_device:
        rows = distances_on_device(given, columns, spacings_mm, use_subvoxels)
        spacings_mm = []
    for sample, spacing_mm in enumerate(spacings_mm):
        volumes, row = _volumes(given, sample), []
        for c in columns:
            predicted, true = (x[c] if given.overlapping else x == c for x in volumes)
            row.append(_between_surfaces(predicted, true, spacing_mm, use_subvoxels))
        rows.append(row)
    to, back, *areas = ([[found[i] for found in row] for row in rows] for i in range(4 if use_subvoxels else 2))
    prediction_area, target_area = areas or (None, None)
    return SurfaceDistances(to, back, prediction_area, target_area, columns, given.target.device)


def _volumes(given: Segmentations, sample: int) -> list[np.ndarray]:
    """Prediction and truth of a sample as labels of few bytes, or as masks."""
    channels, every = ((given.classes,), (slice(None),)) if given.overlapping else ((), ())
    dtype = np.bool_ if given.overlapping else np.min_scalar_type(given.classes)
    volumes = [np.empty((*channels, *given.space), dtype) for _ in range(2)]
    for slab in given.slabs(sample):
        for volume, part in zip(volumes, (slab.prediction, slab.target), strict=True):
            volume[every + slab.place] = part.cpu().numpy()
    return volumes


def _between_surfaces(
    predicted: np.ndarray, true: np.ndarray, spacing_mm: list[float], use_subvoxels: bool
) -> tuple[np.ndarray, ...]:
    """The distances from the surface of each mask to that of the other, and the areas of both."""
    box = _bounding_box(predicted | true)
    if use_subvoxels:
        codes = [cell_codes(mask[box]) for mask in (predicted, true)]
        areas = areas_of_codes(spacing_mm)
        surfaces = [(code > 0) & (code < len(areas) - 1) for code in codes]
        area = [areas[code[surface]] for code, surface in zip(codes, surfaces, strict=True)]
    else:
        surfaces = [_surface(mask[box]) for mask in (predicted, true)]
        area = []
    distances = (
        edt(~there, spacing_mm)[here] if there.any() else np.full(np.count_nonzero(here), np.inf, np.float32)
        for here, there in (surfaces, surfaces[::-1])
    )
    return (*distances, *area)


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
