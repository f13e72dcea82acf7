"""Where a voxel's neighbours lie, for Triton kernels that look at them.

Volumes are ``[n, V]``, contiguous; programs are tiles of BLOCK voxels by volumes. What a tile shares with others lies
in the caches, so that a volume comes from memory about once. Derivatives are gathered by the voxel that receives
them, in a fixed order: no atomics, the same bits each time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def locate(voxels, planes, lines, length, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """The voxels of this program, where each lies, which exist, and where their volume begins."""
    voxel = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    row = voxel // length
    return voxel, (row // lines, row % lines, voxel % length), voxel < voxels, tl.program_id(1).to(tl.int64) * voxels


@triton.jit
def axis_bound(at, size, inside, STEP: tl.constexpr):
    """Which voxels have one so many further along an axis."""
    if STEP < 0:
        inside = inside & (at >= -STEP)
    elif STEP > 0:
        inside = inside & (at < size - STEP)
    return inside


@triton.jit
def neighbour(voxel, at, inside, planes, lines, length, Z: tl.constexpr, Y: tl.constexpr, X: tl.constexpr):
    """The voxel so far away, and where there is one."""
    inside = axis_bound(at[0], planes, inside, Z)
    inside = axis_bound(at[1], lines, inside, Y)
    inside = axis_bound(at[2], length, inside, X)
    return voxel + (Z * lines + Y) * length + X, inside


@triton.jit
def face(voxel, at, inside, planes, lines, length, I: tl.constexpr, BACK: tl.constexpr):
    """One of six: before and after along planes, lines and voxels; ``BACK``: its opposite."""
    STEP: tl.constexpr = (2 * (I % 2) - 1) * (-1 if BACK else 1)
    if I < 2:
        return neighbour(voxel, at, inside, planes, lines, length, STEP, 0, 0)
    elif I < 4:
        return neighbour(voxel, at, inside, planes, lines, length, 0, STEP, 0)
    else:
        return neighbour(voxel, at, inside, planes, lines, length, 0, 0, STEP)


@triton.jit
def corner(voxel, at, inside, planes, lines, length, I: tl.constexpr, BACK: tl.constexpr):
    """One of a cube's 27; ``BACK``: its opposite."""
    J: tl.constexpr = 26 - I if BACK else I
    return neighbour(voxel, at, inside, planes, lines, length, J // 9 - 1, J // 3 % 3 - 1, J % 3 - 1)


@triton.jit
def along(voxel, at, inside, planes, lines, length, AXIS: tl.constexpr, STEP: tl.constexpr):
    """The voxel so many further along an axis, and where there is one."""
    if AXIS == 0:
        return neighbour(voxel, at, inside, planes, lines, length, STEP, 0, 0)
    elif AXIS == 1:
        return neighbour(voxel, at, inside, planes, lines, length, 0, STEP, 0)
    else:
        return neighbour(voxel, at, inside, planes, lines, length, 0, 0, STEP)
