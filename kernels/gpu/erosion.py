"""Triton kernels of the Hausdorff loss by erosion: the mean over a cross, its threshold, and their derivative."""

from __future__ import annotations

import triton
import triton.language as tl

from .neighbours import face, locate


@triton.jit(do_not_specialize=["planes", "lines"])
def cross(
    x, factors, out, partial, voxels, planes, lines, length,
    AXES: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """max(mean - 1/2, 0), of a voxel's and its face neighbours' (x - low) scale, 0 outside the volume.

    ``factors`` ``[n, 3]``: low, the share that makes a sum the mean times scale, and what its rounding left.
    ``partial`` ``[n, programs, 3]``: the largest, the smallest, the sum.
    """
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    own = factors + 3 * tl.program_id(1)
    low, share, rest = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    total = tl.load(x + base + voxel, inside, other=0) - low
    for i in tl.static_range(6 - 2 * AXES, 6):
        place, there = face(voxel, at, inside, planes, lines, length, i, False)
        total += tl.where(there, tl.load(x + base + place, there, other=0) - low, 0.0)
    value = (total * share - 0.5) + total * rest
    value = tl.where((value <= 0) | ~inside, 0.0, value)  # NaN stays
    tl.store(out + base + voxel, value, inside)
    place = partial + 3 * (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0))
    tl.store(place, tl.max(value))
    tl.store(place + 1, tl.min(tl.where(inside, value, float("inf"))))
    tl.store(place + 2, tl.sum(value))


@triton.jit
def cross_statistics(g, x, factors, partial, voxels, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """``partial`` ``[n, programs, 4]``: sums of g, of g (x - low) scale, and how many x are the largest, the smallest.

    ``factors`` ``[n, 3]``: low, scale and the largest.
    """
    voxel = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    inside = voxel < voxels
    own = tl.program_id(1).to(tl.int64) * voxels + voxel
    low = tl.load(factors + 3 * tl.program_id(1))
    scale = tl.load(factors + 3 * tl.program_id(1) + 1)
    high = tl.load(factors + 3 * tl.program_id(1) + 2)
    gradient, value = tl.load(g + own, inside, other=0), tl.load(x + own, inside, other=0)
    place = partial + 4 * (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0))
    tl.store(place, tl.sum(gradient))
    largest = inside & (value == high)
    normalised = tl.where(largest, 1.0, (value - low) * scale)  # exactly 1: what it gives cancels against g
    tl.store(place + 1, tl.sum(gradient * normalised))
    tl.store(place + 2, tl.sum(tl.where(largest, 1.0, 0.0)))
    tl.store(place + 3, tl.sum(tl.where(inside & (value == low), 1.0, 0.0)))


@triton.jit
def through_threshold(g, x, place, there, scale, high, low, at_high, at_low):
    """The derivative by what the threshold was applied to."""
    value = tl.load(x + place, there, other=0)
    slope = tl.load(g + place, there, other=0) * scale
    slope += tl.where(value == high, at_high, 0.0) + tl.where(value == low, at_low, 0.0)
    return tl.where(there & (value > 0), slope, 0.0)


@triton.jit(do_not_specialize=["planes", "lines"])
def cross_derivative(
    g, x, factors, out, voxels, planes, lines, length,
    AXES: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """A coefficient plus the mean, over the cross, of g through normalisation and threshold of x.

    ``factors`` ``[n, 8]``: scale, largest, smallest, what the largest and the smallest get, the coefficient, the share
    that makes a sum the mean, and what its rounding left.
    """
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    own = factors + 8 * tl.program_id(1)
    scale, high, low = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    at_high, at_low = tl.load(own + 3), tl.load(own + 4)
    total = through_threshold(g, x, base + voxel, inside, scale, high, low, at_high, at_low)
    for i in tl.static_range(6 - 2 * AXES, 6):
        place, there = face(voxel, at, inside, planes, lines, length, i, False)
        total += through_threshold(g, x, base + place, there, scale, high, low, at_high, at_low)
    value = (total * tl.load(own + 6) + tl.load(own + 5)) + total * tl.load(own + 7)
    tl.store(out + base + voxel, value, inside)
