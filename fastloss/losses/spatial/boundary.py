"""Boundary losses: voxels weighted by exact Euclidean distances, which are constants of a training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...distance.inputs import Spacing
from ...passes.inputs import Inputs
from ...passes.options import check_flag, check_positive
from ...passes.tensors import loss_dtype
from ..base import Sums, ratio
from ..distribution import VoxelLoss
from .fields import class_masks, contours, counted, fields_of, predicted_labels, predicted_masks
from .maps import DistanceLoss


class BoundaryLoss(DistanceLoss):
    r"""Boundary loss: the probability times the signed distance to the true boundary; it may be negative.

    .. math:: \frac{\sum_v w\, p\, \varphi}{\sum_v w} \quad\text{per sample and class},
        \qquad \varphi = D_\text{outside} - D_\text{inside}

    with the distances of :func:`fastloss.distance.signed_edt`, negative inside. A class that is absent, or fills the
    volume, has :math:`\varphi = 0`. Usually added to a region loss, with a growing factor:
    ``CompoundLoss([DiceLoss(), BoundaryLoss()], weights=[1, 0.01])`` is one pass.

    Args:
        include_background: False by default: the background's distances are neither computed nor counted.
        spacing: size of a voxel in mm, one number or one for each spatial axis; 1 where None. A call takes another.
        **options: those of :class:`fastloss.SegmentationLoss`.

    ``maps`` (float32 ``[B, C, *S]``, from :meth:`.label_map`) is φ: a training step then computes no distance.

    Source: Kervadec et al. 2019, arXiv:1812.07032, eq. 5, divided by the number of voxels.
    """

    terms = ("count", "map*p")
    map_name = "signed"

    def __init__(self, *, include_background: bool = False, **options: Any):
        super().__init__(include_background=include_background, **options)

    def map_of(self, target: Tensor, dense: bool, channels: int, dtype: torch.dtype, spacing: Spacing) -> Tensor:
        masks = self.masks(target, dense, channels)
        return fields_of([masks], spacing, masks.ndim - 2, "sides", dtype, signed=True)[0]

    def formula(self, sums: Sums) -> Tensor:
        return ratio(sums["map*p"], sums["count"], 0.0)


class HausdorffDTLoss(DistanceLoss):
    r"""Hausdorff loss by distance transforms: squared errors weighted by their distance to both boundaries.

    .. math:: \frac{\sum_v w\, (p - y)^2\, (d_p^\alpha + d_y^\alpha)}{\sum_v w} \quad\text{per sample and class}

    with :math:`d` the distance to the nearest voxel on the other side (``edt(inside) + edt(outside)``, see
    :func:`fastloss.distance.boundary_distance`) of the masks :math:`p > 1/2` and :math:`y > 1/2`. A mask that is empty
    or full has d = 0. The distances are constants: no gradient flows through them.

    Equals MONAI's ``HausdorffDTLoss(softmax=True)`` for integer labels.

    Args:
        alpha: α, above 0.
        one_sided: drops :math:`d_p^\alpha`; with ``maps`` a training step then computes no distance.
        include_background: False by default: the background's distances are neither computed nor counted.
        spacing: size of a voxel in mm, one number or one for each spatial axis; 1 where None. A call takes another.
        **options: those of :class:`fastloss.SegmentationLoss`.

    ``maps`` (float32 ``[B, C, *S]``, from :meth:`.label_map` or that of :class:`BoundaryLoss`) is the signed distance.

    Source: Karimi and Salcudean 2019, arXiv:1904.10030, eq. 8 and 9.
    """

    # (p - y)² apart for both sides, whose difference would cancel; of a soft y the rest is a constant
    terms = ("count", "map*miss_pos(2.0)", "map*miss_neg(2.0)", "map*y", "map*y2")
    map_name = "signed"

    def __init__(
        self, *, alpha: float = 2.0, one_sided: bool = False, include_background: bool = False, **options: Any
    ):
        super().__init__(include_background=include_background, **options)
        check_positive(alpha=alpha)
        self.alpha = float(alpha)
        check_flag(one_sided=one_sided)
        self.one_sided, self.needs_spacing = one_sided, not one_sided

    def map_of(self, target: Tensor, dense: bool, channels: int, dtype: torch.dtype, spacing: Spacing) -> Tensor:
        masks = self.masks(target, dense, channels)
        return fields_of([masks], spacing, masks.ndim - 2, "sides", dtype, signed=True)[0]

    def complete(self, maps: Tensor | None, inputs: Inputs, spacing: Spacing) -> Tensor:
        masks = [] if maps is not None else [self.masks(inputs.target, inputs.dense, inputs.logits.shape[1])]
        if not self.one_sided:
            predicted = counted(predicted_masks(inputs.logits, self.activation), inputs)
            masks.append(self.dropped(predicted))
        dtype = loss_dtype(inputs.logits)
        squares = self.alpha == 2  # which need no root
        powers = fields_of(masks, spacing, inputs.logits.ndim - 2, "sides", dtype, root=not squares)
        if not squares:
            powers = [field.pow_(self.alpha) for field in powers]
        if maps is not None:
            powers.append(maps.square() if squares else maps.abs().pow_(self.alpha))
        return powers[0] if self.one_sided else powers[0].add_(powers[1])

    def formula(self, sums: Sums) -> Tensor:
        error = sums["map*miss_pos(2.0)"] + sums["map*miss_neg(2.0)"] + sums["map*y2"] - sums["map*y"]
        return ratio(error, sums["count"], 0.0)


class _WeightedVoxelLoss(DistanceLoss, VoxelLoss):
    """Cross-entropy with a voxel map, averaged over the counted voxels, and over channels that stand alone."""

    def __init__(self, **options: Any):
        super().__init__(terms=("map*ce_pos",), complement_terms=("map*ce_neg",), **options)

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        return sums["map*ce_pos"] if exclusive else sums["map*ce_pos"] + sums["map*ce_neg"]


class DistancePenaltyLoss(_WeightedVoxelLoss):
    r"""Distance map penalised cross-entropy: errors near a true boundary cost up to twice as much.

    .. math:: \frac{\sum_v w\, (1 + \Phi)\, \ell}{\sum_v w}, \qquad
        \Phi = \frac{\max d - d}{\max d - \min d} \quad\text{in each region}

    with :math:`\ell` the cross-entropy of the voxel (independent channels: the binary one of each, and the mean over
    channels), and d the distance to the nearest voxel outside the voxel's region. Regions are the voxels of a label, or
    of an independent channel its foreground and its background; Φ = 1 in a region of one distance, and 0 in a volume of
    one region. The survey's text, distances between truth and prediction, is not what the source has.

    Args:
        spacing: size of a voxel in mm, one number or one for each spatial axis; 1 where None. A call takes another.
        **options: ``activation``, ``ignore_index``, ``class_weight``, ``reduction``, ``validate`` of
            :class:`fastloss.SegmentationLoss`. ``reduction="none"`` is the table ``[B, C]`` of sums over voxels,
            ``"voxel"`` the loss of each voxel. A dense target under softmax has the regions of its largest channel.

    ``maps`` (float32, ``[B, 1, *S]``, or ``[B, C, *S]`` for independent channels, from :meth:`.label_map`) is 1 + Φ: a
    training step then computes no distance.

    Source: Caliva et al. 2019, arXiv:1908.03679.
    """

    map_name = "penalty"

    def map_of(self, target: Tensor, dense: bool, channels: int, dtype: torch.dtype, spacing: Spacing) -> Tensor:
        axes = target.ndim - (2 if dense else 1)
        if self.exclusive(channels):
            regions, count = (_largest(target) if dense else target).unsqueeze(1), channels
        else:
            regions, count = class_masks(target, dense, channels, self.ignore_index), 2
        return _penalty(fields_of([regions], spacing, axes, "labels", dtype)[0], regions, count)


def _largest(target: Tensor) -> Tensor:
    return (target.byte() if target.dtype == torch.bool else target).argmax(1)


def _penalty(distance: Tensor, regions: Tensor, count: int) -> Tensor:
    """1 + Φ of volumes ``[B, C, *S]`` with their regions 0, 1, ...; others share one, as they do not count."""
    index = regions.flatten(2).long()
    index = torch.where((index >= 0) & (index < count), index, count)
    d = distance.flatten(2)
    none = torch.zeros((*d.shape[:2], count + 1), dtype=d.dtype, device=d.device)
    greatest = none.scatter_reduce(2, index, d, "amax")  # none is below 0
    span = greatest - none.scatter_reduce(2, index, d, "amin", include_self=False)
    phi = (greatest.gather(2, index) - d) / span.gather(2, index)
    phi = torch.where(span.gather(2, index) > 0, phi, 1.0)
    several = greatest.amax(2, keepdim=True) > 0  # a volume of one region has no distances
    return torch.where(several, 1 + phi, 1.0).reshape(distance.shape)


class ShapeAwareLoss(_WeightedVoxelLoss):
    r"""Shape-aware cross-entropy: wrong voxels cost more, the farther the predicted contour is from the true one.

    .. math:: \frac{\sum_v w\, (1 + e)\, \ell}{\sum_v w}

    with :math:`\ell` the cross-entropy of the voxel (independent channels: the binary one of each, and the mean over
    channels). Where the hard prediction (argmax, or p > 1/2) is wrong, e is E of the voxel's true class (or channel),
    and 0 elsewhere; E is the mean, over the voxels of the predicted contour of that class, of their distance in mm to
    the true contour, and 0 where either is empty. A contour is the voxels of a mask with a face neighbour outside it.
    Both are constants. The survey's eq. 16 has wrong signs and a stray index.

    Args:
        spacing: size of a voxel in mm, one number or one for each spatial axis; 1 where None. A call takes another.
        **options: as those of :class:`DistancePenaltyLoss`.

    ``maps`` (float32 ``[B, C, *S]``, from :meth:`.label_map`) is the distance to the true contours, 0 where a class has
    none: a training step then computes no distance.

    Source: Al Arif, Knapp and Slabaugh 2017, "Shape-aware deep convolutional neural network for vertebrae
    segmentation".
    """

    map_name = "contour"

    def map_of(self, target: Tensor, dense: bool, channels: int, dtype: torch.dtype, spacing: Spacing) -> Tensor:
        truth = self._truth(target, dense, channels)
        (distance,) = fields_of([~contours(truth)], spacing, truth.ndim - 2, "mask", dtype)
        return distance.masked_fill_(distance == torch.inf, 0.0)

    def _truth(self, target: Tensor, dense: bool, channels: int) -> Tensor:
        return class_masks(target, dense, channels, self.ignore_index)

    def complete(self, maps: Tensor | None, inputs: Inputs, spacing: Spacing) -> Tensor:
        maps, logits = self.map_for(inputs, spacing) if maps is None else maps, inputs.logits
        channels = logits.shape[1]
        classes = self.exclusive(channels)
        if classes:
            predicted = class_masks(predicted_labels(logits), False, channels, ())
        else:
            predicted = predicted_masks(logits, self.activation)
        predicted = counted(predicted, inputs)
        contour = contours(predicted)
        size = torch.count_nonzero(contour.flatten(2), 2)
        far = torch.where(contour, maps, 0.0).flatten(2).sum(2) / size.clamp_min(1)
        column = far.reshape(*far.shape, *[1] * (logits.ndim - 2))
        truth = self._truth(inputs.target, inputs.dense, channels)
        wrong = (truth & ~predicted) if classes else (truth ^ predicted)
        if not classes:
            return torch.where(wrong, column + 1, 1.0)
        weights = torch.ones_like(maps[:, :1])
        for channel in range(channels):  # no more than one class holds
            weights[:, 0].add_(wrong[:, channel] * column[:, channel])
        return weights
