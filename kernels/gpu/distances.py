"""The GPU back end of the exact distance transforms: which numbers will do, and the launches, one for each axis.

The meaning is that of ``csrc/``, to the last bit where spacings are multiples of one length. Otherwise the same float64
squares are added in another order, which a float32 distance may show in its last place. Nothing waits for the device,
and what programs share are maxima, so that the bits are the same each time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import minplus
from . import steps as scan
from .sums import Launch, interpreted

# outputs of a lane, rows a step, lanes of a warp; the interpreter's time is a matter of operations, not of elements
TILE, AHEAD, LANES = (2, 1, 4096) if interpreted() else (8, 4, 128)
LONGEST_LINE = 2048  # that a program scans at once
LONGEST_NARROW = 2**15 - 1  # line whose steps are int16
SCANNED = 4096 * (16 if interpreted() else 1)  # voxels of a program
SCAN_WARPS = 4
MOST_PARTS = 64  # of the least spacing, in which the common length of all is looked for
ROUNDING = 4 * 2.0**-52
GREATEST_MULTIPLE = 4096
SAME_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # equal is equal and zero zero


class Axis(NamedTuple):
    length: int
    stride: int  # elements
    spacing: float  # mm


class Metric(NamedTuple):
    """Numbers of squared distances: whole multiples of a unit, or mm²."""

    whole: bool
    unit: float  # mm
    multiples: tuple[int, ...]  # of the unit, of each axis, where whole
    greatest: float  # square between two voxels, in square units, where whole


def metric_of(axes: list[Axis]) -> Metric:
    """Whole numbers where the spacings are multiples of one length and int32 holds the squares."""
    least = min((axis.spacing for axis in axes if axis.length > 1), default=math.inf)
    for parts in range(1, MOST_PARTS + 1):
        unit = least / parts
        ratios = [axis.spacing / unit if axis.length > 1 else 1.0 for axis in axes]
        multiples = tuple(round(ratio) if ratio < GREATEST_MULTIPLE else GREATEST_MULTIPLE for ratio in ratios)
        if all(
            n < GREATEST_MULTIPLE and abs(ratio - n) <= ROUNDING * n for ratio, n in zip(ratios, multiples, strict=True)
        ):
            extents = (n * (axis.length - 1) for n, axis in zip(multiples, axes, strict=True))
            greatest = float(sum(extent * extent for extent in extents))
            fits = greatest < minplus.FAR.value and 1e-100 < unit < 1e100  # whose square is a normal number
            return Metric(fits, unit, multiples, greatest)
    return Metric(False, 1.0, (), math.inf)


def transform(
    voxels: Tensor,
    spacing: list[float],
    mode: str,
    *,
    root: bool = True,
    signed: bool = False,
    double: bool = False,
    indices: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Distances ``[..., *S]`` of an integer or bool tensor, with one spacing for each axis of S.

    ``mode``: ``"mask"`` from nonzero voxels to zero voxels, ``"sides"`` to the other side (``signed``: negative within
    the mask), ``"labels"`` to other labels. Takes ``out`` and one more volume: of int32 (float64 where spacings are not
    multiples of one length) for three axes, of int16 for fewer. With ``indices`` also the int64 number, within
    its volume, of the site of each voxel, or -1; for which the steps and the rows found take six bytes a voxel more.
    """
    out = torch.empty(voxels.shape, dtype=torch.float64 if double else torch.float32, device=voxels.device)
    sites = torch.empty(voxels.shape, dtype=torch.int64, device=voxels.device) if indices else None
    if voxels.numel():
        for launch in Passes(voxels, spacing, mode, root, signed, out, sites).launches():
            launch.run()
    return out, sites


class Passes:
    """The kernels of one call: a scan of the last axis, then the others, one by one."""

    def __init__(
        self,
        voxels: Tensor,
        spacing: list[float],
        mode: str,
        root: bool,
        signed: bool,
        out: Tensor,
        sites: Tensor | None = None,
    ):
        self.voxels, self.out, self.sites = voxels.view(SAME_BITS[voxels.element_size()]), out, sites
        self.mode, self.root, self.signed = mode, root, signed
        leading = voxels.ndim - len(spacing)
        walked = [Axis(*axis) for axis in zip(voxels.shape, voxels.stride(), [0.0] * leading + spacing, strict=True)]
        self.lead, axes = walked[:leading], [axis for axis in walked[leading:] if axis.length != 1]
        self.axes = [Axis(1, 0, 1.0)] * (2 - len(axes)) + axes
        self.metric = metric_of(self.axes)

    def launches(self) -> Iterator[Launch]:
        """Each is to be run before the next is asked for."""
        volumes = math.prod(axis.length for axis in self.lead) * 2 * (2 if self.mode == "sides" else 1)
        narrow = self.axes[-1].length <= LONGEST_NARROW
        dtype, none = (torch.int16, LONGEST_NARROW) if narrow else (torch.int32, 2**30 - 1)
        deep = len(self.axes) == 3
        # the output's own memory serves until the last axis is written
        steps = self._volume(dtype) if self.sites is not None or not deep else self._within_out(dtype)
        counts = [volumes] + [volumes * self.axes[0].length] * deep
        spans = torch.zeros(sum(counts), dtype=torch.int32, device=self.out.device).split(counts)
        yield self._scan(steps, none, *spans[::-1])
        if deep:
            numbers = self._volume(torch.int32 if self.metric.whole else torch.int64)
            rows = None if self.sites is None else self._volume(torch.int32)
            yield self._spread(1, steps, none, numbers, spans[1], rows)
            yield self._spread(0, numbers, 0, self.out, spans[0], self.sites, steps, rows)
        else:
            yield self._spread(0, steps, none, self.out, spans[0], self.sites, steps)

    def _volume(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.out.numel(), dtype=dtype, device=self.out.device)

    def _within_out(self, dtype: torch.dtype) -> Tensor:
        return self.out.view(-1).view(dtype)[: self.out.numel()]

    def _unit(self, axis: int) -> int:
        """How long a step is: in units, or the bits of mm."""
        return self.metric.multiples[axis] if self.metric.whole else bits_of(self.axes[axis].spacing)

    def _scan(self, steps: Tensor, none: int, spans: Tensor, of_volumes: Tensor | None = None) -> Launch:
        """The first pass, over lines of the last axis."""
        *rest, x = self.axes
        block = min(triton.next_power_of_2(x.length), LONGEST_LINE)
        scanned = SCANNED if self.mode == "mask" else SCANNED // 2  # as each voxel is read with those beside it
        rows = max(1, scanned // block)
        sizes, strides = merged(self.lead + rest)
        lines, count = rest[-1].length, steps.numel() // x.length
        planes = rest[0].length if len(rest) == 2 else 1
        args = self.voxels, steps, spans, of_volumes, count, x.length, lines, planes, sizes, strides, x.stride
        constants = {"AXES": len(sizes), "MODE": self.mode, "NONE": none, "ONE": x.length <= block}
        constants |= {"ROWS": rows, "BLOCK": block, "num_warps": SCAN_WARPS}
        constants["enable_fp_fusion"] = False
        return Launch(scan.scan_lines, (triton.cdiv(count, rows),), args, constants)

    def _spread(
        self,
        axis: int,
        found: Tensor,
        none: int,
        to: Tensor,
        spans: Tensor,
        places: Tensor | None,
        steps: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Launch:
        """A further pass, over lines of an axis."""
        outer, (length, stride, _), inner = self.lead + self.axes[:axis], self.axes[axis], self.axes[axis + 1 :]
        lanes_of_all = math.prod(size for size, *_ in inner)
        tile = min(TILE, triton.next_power_of_2(length))
        most = LANES if self.metric.whole and self.mode != "labels" else LANES // 2  # as many as the registers hold
        most = LANES // 4 if not self.metric.whole and self.mode == "sides" else most
        lanes = min(most, max(32, triton.next_power_of_2(lanes_of_all)))
        tiles, blocks = triton.cdiv(length, tile), triton.cdiv(lanes_of_all, lanes)
        programs = tiles * blocks * math.prod(size for size, *_ in outer)
        outer_walk, inner_walk, unit, single = merged(outer), merged(inner), 0, False
        if axis == 0:
            unit, single = self._finish()
        sizes = (tiles, blocks, length, lanes_of_all, self.axes[-1].length)
        pack = self._bits_of_a_row(length) if places is not None else 0
        args = (found, self.voxels, to, places, steps, rows, spans, *sizes, self._unit(axis), self._unit(-1))
        args += (bits_of(unit), *outer_walk, stride, *inner_walk)
        constants = {"OUTER": len(outer_walk[0]), "INNER": len(inner_walk[0]), "MODE": self.mode, "NONE": none}
        constants |= {"WHOLE": self.metric.whole, "LAST": axis == 0, "SIGNED": self.signed and axis == 0}
        ahead = AHEAD if self.metric.whole or self.mode != "labels" else min(AHEAD, 2)  # as the registers hold
        constants |= {"ROOT": self.root and axis == 0, "SINGLE": single, "TILE": tile, "AHEAD": ahead, "LANES": lanes}
        constants |= {"PACK": pack, "LONGEST": self._longest(axis, tile, pack)}
        constants |= {"num_warps": 1, "enable_fp_fusion": False}  # which would round less often than the C++ does
        return Launch(minplus.spread, (programs,), args, constants)

    def _bits_of_a_row(self, length: int) -> int:
        """Which a word has beside a square; 0 where there is no room."""
        bits = (length - 1).bit_length()
        return bits if self.metric.whole and self.metric.greatest < minplus.FAR.value >> bits else 0

    def _longest(self, axis: int, tile: int, pack: int) -> int:
        """Units along an axis to which distances are cut lest their squares overflow; 0 where none does."""
        if not self.metric.whole:
            return 0
        longest = math.isqrt((minplus.FAR.value - 1) >> pack)
        return longest if (self.axes[axis].length + tile + AHEAD) * self._unit(axis) > longest else 0

    def _finish(self) -> tuple[float, bool]:
        """What numbers, or their roots, are multiplied by in the end; and whether float32 will do."""
        unit, greatest = self.metric.unit, self.metric.greatest
        mantissa, exponent = math.frexp(unit)
        power = self.metric.whole and mantissa == 0.5 and abs(exponent) < 32
        if power and self.out.dtype == torch.float32 and (greatest < 2**24 or not self.root):
            return (unit if self.root else unit * unit), True
        return unit * unit, False


def bits_of(number: float) -> int:
    """As which a float64 comes to a kernel, which would take a float for a float32."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


def merged(axes: list[Axis]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides, those that one stride can walk as one."""
    sizes, strides = [1], [0]
    for length, stride, _ in axes:
        if length == 1:
            continue
        if strides[-1] == stride * length or sizes[-1] == 1:
            sizes[-1], strides[-1] = sizes[-1] * length, stride
        else:
            sizes.append(length)
            strides.append(stride)
    return tuple(sizes), tuple(strides)
