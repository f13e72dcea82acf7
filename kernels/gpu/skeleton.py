"""Triton kernels of soft skeletons and of their derivative: erosions, dilations, residues."""

from __future__ import annotations

import triton
import triton.language as tl

from .neighbours import corner, face, locate

EROSION_BITS = tl.constexpr(3)  # of a code, which also holds the dilation's neighbour
CENTRE = tl.constexpr(13)  # of the 27 voxels of a cube


@triton.jit(do_not_specialize=["planes", "lines"])
def erode(
    x, out, codes, voxels, planes, lines, length,
    AXES: tl.constexpr, CODES: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The smallest of a voxel and its face neighbours; ``CODES``: and which it is, 0 for itself."""
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    value = tl.load(x + base + voxel, inside, other=0)
    code = tl.zeros([BLOCK], tl.int32)
    for i in tl.static_range(6 - 2 * AXES, 6):
        place, there = face(voxel, at, inside, planes, lines, length, i, False)
        other = tl.load(x + base + place, there, other=float("inf"))
        smaller = other < value
        value = tl.where(smaller, other, value)
        if CODES:
            code = tl.where(smaller, i + 1, code)
    tl.store(out + base + voxel, value, inside)
    if CODES:
        tl.store(codes + base + voxel, code.to(tl.uint8), inside)


@triton.jit(do_not_specialize=["planes", "lines"])
def residue(
    x, eroded, rest, codes, voxels, planes, lines, length,
    AXES: tl.constexpr, CODES: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """max(x - dilated, 0) of the eroded volume's dilation: 1 less this multiplies ``rest``.

    ``CODES``: it replaces x instead, and which voxel of the cube was the largest joins the code.
    """
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    value = tl.load(eroded + base + voxel, inside, other=0)
    code = tl.zeros([BLOCK], tl.int32) + CENTRE
    for i in tl.static_range(27):
        if i != CENTRE and (AXES == 3 or i // 9 == 1) and (AXES >= 2 or i // 3 % 3 == 1):
            place, there = corner(voxel, at, inside, planes, lines, length, i, False)
            other = tl.load(eroded + base + place, there, other=float("-inf"))
            larger = other > value
            value = tl.where(larger, other, value)
            if CODES:
                code = tl.where(larger, i, code)
    left = tl.load(x + base + voxel, inside, other=0) - value
    left = tl.where(left <= 0, 0.0, left)  # NaN stays
    if CODES:
        tl.store(x + base + voxel, left, inside)
        of_erosion = tl.load(codes + base + voxel, inside, other=0).to(tl.int32)
        tl.store(codes + base + voxel, (of_erosion | (code << EROSION_BITS)).to(tl.uint8), inside)
    else:
        product = tl.load(rest + base + voxel, inside, other=0) * (1.0 - left)
        tl.store(rest + base + voxel, product, inside)


@triton.jit(do_not_specialize=["planes", "lines"])
def gather(
    out, g, codes, voxels, planes, lines, length,
    AXES: tl.constexpr, DILATION: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Adds g of the voxels whose erosion took their value here, or subtracts that of dilations."""
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    total = tl.load(out + base + voxel, inside, other=0)
    if DILATION:
        for i in tl.static_range(27):
            if (AXES == 3 or i // 9 == 1) and (AXES >= 2 or i // 3 % 3 == 1):
                place, there = corner(voxel, at, inside, planes, lines, length, i, True)
                took = tl.load(codes + base + place, there, other=255) >> EROSION_BITS
                total -= tl.load(g + base + place, there & (took == i), other=0)
    else:
        took = tl.load(codes + base + voxel, inside, other=255) & 7
        total += tl.load(g + base + voxel, inside & (took == 0), other=0)
        for i in tl.static_range(6 - 2 * AXES, 6):
            place, there = face(voxel, at, inside, planes, lines, length, i, True)
            took = tl.load(codes + base + place, there, other=255) & 7
            total += tl.load(g + base + place, there & (took == i + 1), other=0)
    tl.store(out + base + voxel, total, inside)


@triton.jit(do_not_specialize=["steps"])
def residue_derivatives(first, later, y, w, by, steps, voxels, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Residues, of the first step and the later ``[steps, n, V]``, become the derivatives by them.

    The skeleton is 1 less the product of 1 - residue; ``by`` ``[n, 2]``: by the sums of w s y and of w s.
    """
    voxel = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    inside = voxel < voxels
    volume = tl.program_id(1).to(tl.int64)
    whole = tl.num_programs(1).to(tl.int64) * voxels
    own = volume * voxels + voxel
    tail = tl.load(w + voxel, inside, other=0)
    tail *= tl.load(by + 2 * volume) * tl.load(y + own, inside, other=0) + tl.load(by + 2 * volume + 1)
    for i in range(0, steps - 1):
        k = steps - 1 - i
        rest = 1.0 - tl.load(first + own, inside, other=0)
        for j in range(1, k):
            rest *= 1.0 - tl.load(later + (j - 1) * whole + own, inside, other=0)
        place = later + (k - 1) * whole + own
        found = tl.load(place, inside, other=0)
        tl.store(place, tl.where(found > 0, tail * rest, 0.0), inside)
        tail *= 1.0 - found
    found = tl.load(first + own, inside, other=0)
    tl.store(first + own, tl.where(found > 0, tail, 0.0), inside)


@triton.jit
def add_constants(out, rest, y, w, by, voxels, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Adds w times (skeleton of y, y, 1) weighted ``[n, 3]``; ``rest`` is 1 less the skeleton."""
    voxel = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    inside = voxel < voxels
    volume = tl.program_id(1).to(tl.int64)
    own = volume * voxels + voxel
    slope = tl.load(by + 3 * volume) * (1.0 - tl.load(rest + own, inside, other=0))
    slope += tl.load(by + 3 * volume + 1) * tl.load(y + own, inside, other=0) + tl.load(by + 3 * volume + 2)
    slope = tl.load(out + own, inside, other=0) + tl.load(w + voxel, inside, other=0) * slope
    tl.store(out + own, slope, inside)


@triton.jit
def skeleton_sums(rest, other, x, w, partial, voxels, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """``partial`` ``[n, programs, 4]``: sums of w times s y, s, y and x y; s is 1 - rest, ``other`` y."""
    voxel = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    inside = voxel < voxels
    own = tl.program_id(1).to(tl.int64) * voxels + voxel
    weight = tl.load(w + voxel, inside, other=0)
    skeleton = weight * (1.0 - tl.load(rest + own, inside, other=0))
    y = tl.load(other + own, inside, other=0)
    place = partial + 4 * (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0))
    tl.store(place, tl.sum(skeleton * y))
    tl.store(place + 1, tl.sum(skeleton))
    tl.store(place + 2, tl.sum(weight * y))
    tl.store(place + 3, tl.sum(weight * y * tl.load(x + own, inside, other=0)))
