"""Triton kernel of structural similarity: mean and variance under a window, axis by axis."""

from __future__ import annotations

import triton
import triton.language as tl

from .neighbours import along, locate


@triton.jit(do_not_specialize=["planes", "lines"])
def window(
    x, mean, variance, w, out_mean, out_variance, out_w, voxels, planes, lines, length,
    AXIS: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, TAPS: tl.constexpr, STABILITY: tl.constexpr,
    BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Mean, variance and weight under a window along one axis, of those under the window along the axes before.

    The ``FIRST`` axis has no variance yet, and a mean of x; the ``LAST`` writes (x - mean + C) / (deviation + C)
    instead. The weights are those of every volume.
    """
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    REACH: tl.constexpr = len(TAPS) // 2
    weight = tl.zeros([BLOCK], x.dtype.element_ty)
    outer = weight
    for i in tl.static_range(len(TAPS)):
        place, there = along(voxel, at, inside, planes, lines, length, AXIS, i - REACH)
        near = tl.load(w + place, there, other=0) * TAPS[i]
        weight += near
        outer += near * tl.load(mean + base + place, there, other=0)
    safe = tl.where(weight > 0, weight, 1.0)
    outer = outer / safe
    spread = tl.zeros([BLOCK], x.dtype.element_ty)
    for i in tl.static_range(len(TAPS)):
        place, there = along(voxel, at, inside, planes, lines, length, AXIS, i - REACH)
        near = tl.load(w + place, there, other=0) * TAPS[i]
        off = tl.load(mean + base + place, there, other=0) - outer
        off = off * off
        if not FIRST:
            off += tl.load(variance + base + place, there, other=0)
        spread += near * off
    spread = spread / safe
    if LAST:
        value = (tl.load(x + base + voxel, inside, other=0) - outer + STABILITY) / (tl.sqrt(spread) + STABILITY)
        tl.store(out_mean + base + voxel, value, inside)
    else:
        tl.store(out_mean + base + voxel, outer, inside)
        tl.store(out_variance + base + voxel, spread, inside)
        if tl.program_id(1) == 0:
            tl.store(out_w + voxel, weight, inside)
