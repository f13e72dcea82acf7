"""The class of the largest logit at another resolution, in plain PyTorch: class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import Axis


def write_labels(logits: Tensor, axes: tuple[Axis, Axis, Axis], labels: Tensor) -> None:
    """Fills ``labels`` ``[planes, lines, length]``, uint8 or int16; the first of equal classes, and of NaN.

    Args:
        logits: ``[C, planes, lines, length]``, float32 or float64.
        axes: of which voxels each output along an axis is made.
    """
    best = _interpolated(logits[0], axes)
    labels.zero_()
    for c in range(1, logits.shape[0]):
        value = _interpolated(logits[c], axes)
        better = ~(value <= best) & ~best.isnan()
        labels.masked_fill_(better, c)
        best = torch.where(better, value, best)


def _interpolated(volume: Tensor, axes: tuple[Axis, Axis, Axis]) -> Tensor:
    for k in (2, 1, 0):  # torch's order
        low, high, share = axes[k]
        share = share.to(volume.dtype).view(-1, *[1] * (2 - k))
        volume = volume.index_select(k, low) * (1 - share) + volume.index_select(k, high) * share
    return volume
