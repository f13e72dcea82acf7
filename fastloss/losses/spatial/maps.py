"""What losses with a voxel map of distances have in common: the labels' part of it may be known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...distance.inputs import Spacing, axes_of_spacing, has_channel_axis, numbers, spacing_per_axis
from ...passes.inputs import Inputs, check_inputs, check_maps
from ...passes.options import as_number
from ...passes.tensors import check_tensor, loss_dtype
from ..base import SumLoss
from .fields import class_masks


class DistanceLoss(SumLoss):
    """The base of losses whose voxel map comes from distances: the labels' part of it may be known beforehand.

    Args:
        spacing: size of a voxel in mm, one number or one for each spatial axis; 1 where None. A call takes another.
        **options: those of the loss.
    """

    makes_map = True
    needs_spacing = False  # whether distances are measured although maps are given
    map_name = ""  # equal in losses whose label_map is the same

    def __init__(self, *, spacing: float | Sequence[float] | None = None, **options: Any):
        super().__init__(**options)
        if spacing is not None:
            sizes = numbers(spacing, "spacing", "numbers in mm")
            checked = spacing_per_axis(spacing, max(1, sizes.size), "logits")
            self.spacing: float | tuple[float, ...] | None = tuple(checked) if sizes.ndim else checked[0]
        else:
            self.spacing = None

    def label_map(
        self, target: Tensor, channels: int, dtype: torch.dtype = torch.float32, spacing: Spacing = None
    ) -> Tensor:
        """What the loss needs of the labels alone: to be computed once and passed to the loss as ``maps``.

        Args:
            target: labels ``[B, *S]`` or ``[B, 1, *S]``, integer or bool, or a dense float target ``[B, C, *S]``.
            channels: C, the number of channels of the logits.
            dtype: float32, or float64 for losses of float64 logits.
            spacing: in place of the loss's own, as at its call: ``[B, axes]`` has a row for each sample.

        Returns:
            ``[B, C, *S]``, or ``[B, 1, *S]`` where one map serves all channels.
        """
        if not (isinstance(dtype, torch.dtype) and dtype in (torch.float32, torch.float64)):
            raise TypeError(f"dtype: got {dtype!r}, expected torch.float32 or torch.float64")
        spacing = self.spacing if spacing is None else spacing
        target, dense = as_target(target, channels, axes_of_spacing(spacing))
        return self.map_of(target, dense, channels, dtype, spacing)

    def map_of(self, target: Tensor, dense: bool, channels: int, dtype: torch.dtype, spacing: Spacing) -> Tensor:
        """:meth:`.label_map` of a checked target."""
        raise NotImplementedError(f"{type(self).__name__} has no map_of")

    def complete(self, maps: Tensor | None, inputs: Inputs, spacing: Spacing) -> Tensor:
        """The voxel map, from the prediction and the labels' part, which is not modified, or None if not known yet."""
        return self.map_for(inputs, spacing) if maps is None else maps

    def map_for(self, inputs: Inputs, spacing: Spacing) -> Tensor:
        """:meth:`.label_map` for the inputs of a pass."""
        dtype = loss_dtype(inputs.logits)
        return self.map_of(inputs.target, inputs.dense, inputs.logits.shape[1], dtype, spacing)

    def voxel_map(self, inputs: Inputs, maps: Tensor | None, spacing: Spacing) -> Tensor:
        checked = None if maps is None else check_maps(maps, inputs.logits)
        if maps is not None and spacing is not None and not self.needs_spacing:
            raise ValueError("spacing: given with maps, whose distances have been measured; expected one of the two")
        return self.complete(checked, inputs, self.spacing if spacing is None else spacing)

    def masks(self, target: Tensor, dense: bool, channels: int) -> Tensor:
        """The classes whose distances count, ``[B, C, *S]``; that of a dropped background is empty."""
        return self.dropped(class_masks(target, dense, channels, self.ignore_index))

    def dropped(self, masks: Tensor) -> Tensor:
        """Without the background's mask, whose field nothing asks for."""
        if not self.include_background and masks.shape[1] > 1:
            masks[:, 0] = False
        return masks

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, spacing={self.spacing!r}"


def as_target(target: Tensor, channels: int, axes: int | None) -> tuple[Tensor, bool]:
    """A target without its logits: labels ``[B, *S]`` and False, or ``[B, C, *S]`` and True; of ``axes``, if known."""
    check_tensor(target, "target")
    channels = as_number(channels, "channels")
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels: got {channels!r}, expected the number of the logits' channels, at least 1")
    leading = 2 if target.is_floating_point() or has_channel_axis(target.shape, axes) else 1
    if not 1 <= target.ndim - leading <= 3:
        raise ValueError(
            f"target: got shape {list(target.shape)}, expected labels [B, *S] or [B, 1, *S], or a float target "
            f"[B, {channels}, *S], with 1 to 3 spatial axes"
        )
    logits = torch.empty(1, device=target.device).expand(target.shape[0], channels, *target.shape[leading:])
    checked = check_inputs(logits, target, None, None, "none", (), None)
    return checked.target, checked.dense
