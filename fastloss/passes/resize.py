"""Interpolation as ``F.interpolate`` has it, of parts of volumes: along each axis a product with a small matrix, whose
transpose is the adjoint. The same bits every time, on every device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BAND = 64  # outputs that are made of the inputs that they have, rather than of all


class Resize(NamedTuple):
    """To another size; of no size: nothing."""

    size: tuple[int, ...] = ()
    mode: str = ""  # "linear", "nearest" or "nearest-exact"
    align_corners: bool = False
    scales: tuple[float, ...] = ()  # the factors that were asked for, where they are not those of the sizes

    def sources(self, axis: int, length: int, dtype: torch.dtype) -> Sources:
        """Along an axis of so many voxels."""
        scale = self.scales[axis] if self.scales else 0.0
        return Sources(length, self.size[axis], self.mode, self.align_corners, scale, dtype)


NO_RESIZE = Resize()


def interpolated(x: Tensor, resize: Resize) -> Tensor:
    """The whole, by torch."""
    linear = resize.mode == "linear"
    mode = ("linear", "bilinear", "trilinear")[x.ndim - 3] if linear else resize.mode
    corners = resize.align_corners if linear else None
    if resize.scales:
        return F.interpolate(x, scale_factor=list(resize.scales), mode=mode, align_corners=corners)
    return F.interpolate(x, size=list(resize.size), mode=mode, align_corners=corners)


class Sources(NamedTuple):
    """Which voxels of an axis each output is made of."""

    length: int
    outputs: int
    mode: str
    align_corners: bool
    scale: float
    dtype: torch.dtype  # of the arithmetic: float32 or float64, as in torch's kernels

    @property
    def identity(self) -> bool:
        """As torch has it: a factor near 1 moves the nearest voxels even where it leaves their number as it is."""
        return self.length == self.outputs and (self.mode == "linear" or self.scale in (0.0, 1.0))

    def places(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The lower and the upper voxel of each output, and the share of the upper."""
        out = torch.arange(self.outputs, dtype=self.dtype, device=device)
        if self.identity:
            return out.long(), out.long(), torch.zeros_like(out)
        if self.align_corners:
            step = (self.length - 1) / (self.outputs - 1) if self.outputs > 1 else 0.0
        else:
            step = 1 / self.scale if self.scale > 0 else self.length / self.outputs
        last = self.length - 1
        if self.mode != "linear":
            place = (out + 0.5 if self.mode == "nearest-exact" else out) * step
            low = place.floor().long().clamp(0, last)
            return low, low, torch.zeros_like(out)
        place = out * step if self.align_corners else ((out + 0.5) * step - 0.5).clamp_min(0)
        low = place.floor().long().clamp_max(last)
        return low, (low + 1).clamp_max(last), (place - low).clamp(0, 1)

    def range_of(self, outputs: slice) -> slice:
        """The voxels that a range of outputs is made of."""
        if self.identity:
            return outputs
        low, high = _ends(self)
        return slice(low[outputs.start], high[outputs.stop - 1] + 1) if outputs.stop > outputs.start else slice(0, 0)

    def matrix(self, outputs: slice, device: torch.device) -> Tensor:
        """What each of a range of outputs has of each voxel of their :meth:`range_of`."""
        # kept on the CPU alone: a graph that captures what it makes on a GPU would own the memory
        return (_kept_matrix if device.type == "cpu" else _matrix)(self, outputs.start, outputs.stop, device)


def _matrix(sources: Sources, start: int, stop: int, device: torch.device) -> Tensor:
    low, high, share = (x[start:stop].unsqueeze(1) for x in sources.places(device))
    inputs = sources.range_of(slice(start, stop))
    voxel = torch.arange(inputs.start, inputs.stop, device=device)
    return torch.where(low == voxel, 1 - share, 0.0) + torch.where(high == voxel, share, 0.0)


_kept_matrix = lru_cache(maxsize=64)(_matrix)


@lru_cache(maxsize=64)
def _ends(sources: Sources) -> tuple[list[int], list[int]]:
    """The first and the last voxel of each output."""
    low, high, _ = sources.places(torch.device("cpu"))
    return low.tolist(), high.tolist()


def ranges_of(resize: Resize, space: Sequence[int], box: Sequence[slice], dtype: torch.dtype) -> tuple[slice, ...]:
    """What a box of the outputs is made of."""
    given = enumerate(zip(space, box, strict=True))
    return tuple(resize.sources(axis, length, dtype).range_of(part) for axis, (length, part) in given)


def resized(part: Tensor, resize: Resize, space: Sequence[int], box: Sequence[slice]) -> Tensor:
    """The box ``[b, C, *box]`` of the outputs, from the part of a volume of size ``space`` that it is made of."""
    for axis, (length, outputs) in enumerate(zip(space, box, strict=True)):
        part = _along(part, axis, resize.sources(axis, length, part.dtype), outputs, False)
    return part


def resized_back(gradient: Tensor, resize: Resize, space: Sequence[int], box: Sequence[slice]) -> Tensor:
    """The adjoint of :func:`resized`: what the gradient of a box gives each voxel of the part."""
    for axis in reversed(range(len(space))):
        gradient = _along(gradient, axis, resize.sources(axis, space[axis], gradient.dtype), box[axis], True)
    return gradient


def _along(x: Tensor, axis: int, sources: Sources, outputs: slice, back: bool) -> Tensor:
    """The product along a spatial axis, band by band."""
    if sources.identity:
        return x
    before, shape = math.prod(x.shape[: 2 + axis]), list(x.shape)
    inputs = sources.range_of(outputs)
    shape[2 + axis] = (inputs.stop - inputs.start) if back else (outputs.stop - outputs.start)
    whole = x.reshape(before, x.shape[2 + axis], -1)
    found = (x.new_zeros if back else x.new_empty)((before, shape[2 + axis], whole.shape[2]))
    matrix = sources.matrix(outputs, x.device)
    for start in range(outputs.start, outputs.stop, BAND):
        band = slice(start, min(start + BAND, outputs.stop))
        of_band = sources.range_of(band)
        a = slice(band.start - outputs.start, band.stop - outputs.start)
        b = slice(of_band.start - inputs.start, of_band.stop - inputs.start)
        if back:
            found[:, b] += _product(matrix[a, b].t(), whole[:, a])
        else:
            found[:, a] = _product(matrix[a, b], whole[:, b])
    return found.view(shape)


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """``[n, m]`` times each ``[m, k]`` of ``x``."""
    if x.shape[2] == 1:  # the last axis: one product of all rows
        return (x.squeeze(2) @ matrix.t()).unsqueeze(2)
    return torch.matmul(matrix, x)
