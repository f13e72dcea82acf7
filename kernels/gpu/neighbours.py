"""Triton kernels of volumes whose voxels see their neighbours: erosions, dilations, crosses and windows.

Volumes are ``[n, V]``, contiguous; programs are tiles of BLOCK voxels by volumes. What a tile shares with others lies
in the caches, so that a volume comes from memory about once. Derivatives are gathered by the voxel that receives
them, in a fixed order: no atomics, the same bits each time.
"""

from __future__ import annotations

import triton
import triton.language as tl

EROSION_BITS = tl.constexpr(3)  # of a code, which also holds the dilation's neighbour
CENTRE = tl.constexpr(13)  # of the 27 voxels of a cube


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


@triton.jit(do_not_specialize=["planes", "lines"])
def cross(
    x, factors, out, partial, voxels, planes, lines, length,
    AXES: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """max(mean - 1/2, 0), of a voxel's and its face neighbours' (x - low) scale, 0 outside the volume.

    ``factors`` ``[n, 2]``: low and scale. ``partial`` ``[n, programs, 3]``: the largest, the smallest, the sum.
    """
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    low = tl.load(factors + 2 * tl.program_id(1))
    total = tl.load(x + base + voxel, inside, other=0) - low
    for i in tl.static_range(6 - 2 * AXES, 6):
        place, there = face(voxel, at, inside, planes, lines, length, i, False)
        total += tl.where(there, tl.load(x + base + place, there, other=0) - low, 0.0)
    value = total * tl.load(factors + 2 * tl.program_id(1) + 1) * (1.0 / (2 * AXES + 1)) - 0.5
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

    ``factors`` ``[n, 6]``: scale, largest, smallest, what the largest and the smallest get, and the coefficient.
    """
    voxel, at, inside, base = locate(voxels, planes, lines, length, BLOCK, INDEX)
    own = factors + 6 * tl.program_id(1)
    scale, high, low = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    at_high, at_low = tl.load(own + 3), tl.load(own + 4)
    total = through_threshold(g, x, base + voxel, inside, scale, high, low, at_high, at_low)
    for i in tl.static_range(6 - 2 * AXES, 6):
        place, there = face(voxel, at, inside, planes, lines, length, i, False)
        total += through_threshold(g, x, base + place, there, scale, high, low, at_high, at_low)
    tl.store(out + base + voxel, total * (1.0 / (2 * AXES + 1)) + tl.load(own + 5), inside)


@triton.jit
def along(voxel, at, inside, planes, lines, length, AXIS: tl.constexpr, STEP: tl.constexpr):
    """The voxel so many further along an axis, and where there is one."""
    if AXIS == 0:
        return neighbour(voxel, at, inside, planes, lines, length, STEP, 0, 0)
    elif AXIS == 1:
        return neighbour(voxel, at, inside, planes, lines, length, 0, STEP, 0)
    else:
        return neighbour(voxel, at, inside, planes, lines, length, 0, 0, STEP)


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
