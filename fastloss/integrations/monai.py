"""Scores as MONAI's metrics, and maps of labels as a transform: ``pip install 'fastloss[monai]'``.

    hd95 = SurfaceMetric("hausdorff", percentile=95)
    for batch in loader:
        hd95(y_pred=one_hot_prediction, y=one_hot_labels, spacing=(3.0, 1.0, 1.0))
    hd95.aggregate().item()
    hd95.reset()

For Ignite they go into MONAI's handler:
``IgniteMetricHandler(metric_fn=hd95, output_transform=…).attach(evaluator, "hd95")``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.transforms import MapTransform
from torch import Tensor

from ..losses.spatial.maps import DistanceLoss
from ..precompute import LabelMaps
from .scores import Overlap, Surface, as_tuple

_SPACING = "fastloss spacing"


class _Table(CumulativeIterationMetric):
    """Tables of a value per sample and class, gathered from all processes and reduced as MONAI does."""

    def __init__(self, reduction: str, get_not_nans: bool):
        super().__init__()
        self.reduction, self.get_not_nans = reduction, get_not_nans

    def aggregate(self, reduction: str | None = None) -> Any:
        """The reduction over all batches since :meth:`reset`; with ``get_not_nans`` also how many values are in it.

        Args:
            reduction: another one than the metric's: MONAI's ``"mean"``, ``"sum"``, ``"mean_batch"``, ``"sum_batch"``,
                ``"mean_channel"``, ``"sum_channel"`` or ``"none"``.
        """
        tables = self.get_buffer()
        if not isinstance(tables, Tensor):
            raise ValueError("aggregate: got no batch since the last reset, expected a call of the metric before")
        value, not_nans = do_metric_reduction(tables, reduction or self.reduction)
        return (value, not_nans) if self.get_not_nans else value


class OverlapMetric(_Table):
    """Dice, Jaccard, sensitivity, specificity or precision: MONAI's ``DiceMetric`` and ``ConfusionMatrixMetric``.

    Args:
        score: ``"dice"``, ``"jaccard"``, ``"sensitivity"``, ``"specificity"`` or ``"precision"``.
        include_background: False leaves out channel 0.
        reduction: MONAI's, over values that are not NaN: ``"mean"`` is that over samples of the mean over classes.
        get_not_nans: whether :meth:`aggregate` also gives how many values there are.
        num_classes: None where predictions have a channel for each class; C for label maps.
        activation: None; ``"softmax"`` or ``"sigmoid"`` for logits.
        ignore_index: a label of a target of labels whose voxels do not count.

    A call takes ``y_pred`` and ``y``, batches or lists of samples with a channel axis (masks also as floats), and
    ``mask``, the voxels that count. It gives the table ``[B, C]`` of the batch.
    """

    def __init__(
        self,
        score: str = "dice",
        include_background: bool = True,
        reduction: str = "mean",
        get_not_nans: bool = False,
        *,
        num_classes: int | None = None,
        activation: str | None = None,
        ignore_index: int | None = None,
    ):
        super().__init__(reduction, get_not_nans)
        self.options = Overlap(score, num_classes, activation, include_background, ignore_index)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.options.of(self.options.counts(y_pred, y, mask))


class SurfaceMetric(_Table):
    """Hausdorff distance, average distance or surface Dice: MONAI's ``HausdorffDistanceMetric`` and its siblings.

    Args:
        score: ``"hausdorff"``, ``"average_distance"`` (of both directions) or ``"surface_dice"``.
        percentile: of the Hausdorff distance, 95 for HD95; None for the largest.
        tolerance_mm: of the surface Dice, one number or one for each class, the background's included.
        spacing: voxel size in mm, one number or one per axis; that of a call goes first.
        use_subvoxels: surfaces as areas: see :class:`fastloss.metrics.SurfaceDistances`.

    The other arguments are those of :class:`OverlapMetric`; a call takes ``spacing`` besides.
    """

    def __init__(
        self,
        score: str = "hausdorff",
        include_background: bool = False,
        reduction: str = "mean",
        get_not_nans: bool = False,
        *,
        percentile: float | None = None,
        tolerance_mm: float | Sequence[float] | None = None,
        spacing: float | Sequence[float] | None = None,
        use_subvoxels: bool = False,
        num_classes: int | None = None,
        activation: str | None = None,
        ignore_index: int | None = None,
    ):
        super().__init__(reduction, get_not_nans)
        of_surface = (as_tuple(spacing), percentile, as_tuple(tolerance_mm), use_subvoxels)
        self.options = Surface(score, num_classes, activation, include_background, ignore_index, *of_surface)

    def _compute_tensor(
        self, y_pred: Tensor, y: Tensor | None = None, spacing: Any = None, mask: Tensor | None = None
    ) -> Tensor:
        return self.options.table(y_pred, y, spacing, mask)


class LabelMapsd(MapTransform):
    """:class:`fastloss.precompute.LabelMaps` for dictionaries of MetaTensors.

    The maps have the labels' metadata, so that the spatial transforms that follow turn, flip and crop them along with
    the image: name them in those transforms' keys. What interpolates or pads (zoom, affine, resize) leaves no
    distances: compute the maps after it::

        Compose([
            LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"]), Spacingd(…),
            LabelMapsd("label", fastloss.BoundaryLoss(), channels=4, pixdim=True),
            RandFlipd(["image", "label", "maps"], 0.5), RandSpatialCropd(["image", "label", "maps"], (96, 96, 96)),
        ])

    Args:
        keys: the key of the labels.
        loss, channels, spacing, spatial_axes, cache: those of :class:`fastloss.precompute.LabelMaps`.
        maps: the key to add.
        pixdim: whether the voxel size is that of the labels' metadata, in place of the loss's.
        allow_missing_keys: whether a sample without labels passes unchanged.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        loss: DistanceLoss,
        channels: int,
        *,
        maps: str = "maps",
        spacing: str | None = None,
        pixdim: bool = False,
        spatial_axes: int | None = None,
        cache: str | Callable[[Any], Any] | None = None,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys: got {list(self.keys)}, expected one key, of the labels")
        if pixdim and spacing is not None:
            raise ValueError(f"spacing: got {spacing!r} with pixdim=True, expected one of them")
        self.maps, self.pixdim = maps, pixdim
        self.compute = LabelMaps(
            loss,
            channels,
            label=self.keys[0],
            maps=maps,
            spacing=_SPACING if pixdim else spacing,
            spatial_axes=spatial_axes,
            cache=cache,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its map, float32 ``[C, *S]``, a MetaTensor where the labels are one."""
        found = dict(data)
        for key in self.key_iterator(found):
            labels = found[key]
            sample = dict(found)
            if self.pixdim:
                if not isinstance(labels, MetaTensor):
                    raise TypeError(
                        f"pixdim: got labels of {type(labels).__name__}, expected a MetaTensor, which has it"
                    )
                sample[_SPACING] = [float(mm) for mm in labels.pixdim[: labels.ndim - 1]]
            maps = self.compute(sample)[self.maps]
            if isinstance(labels, MetaTensor):
                maps = MetaTensor(maps, meta={**labels.meta, "affine": labels.affine.clone()})
            found[self.maps] = maps
        return found
