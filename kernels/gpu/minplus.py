"""Triton kernel of a further axis of the distance transforms: out[x] = min over v of cost(v, x) + square of x - v.

A program takes ``TILE`` outputs of ``LANES`` lines side by side: first the pairs among them, then rows before and after
them, ``AHEAD`` a step, until none farther away can win. Numbers are whole square units in int32, or mm² in float64; of
``"sides"`` the one's complement of their bits outside of the mask. In the last axis they become distances.

Where sites are asked for and int32 has room, a number is a word, ``number << PACK | row``, whose minimum tells the row.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .steps import place

FAR = tl.constexpr(2**30)  # no site; whole squares of which two can be added


@triton.jit
def square_of(steps, step, LONGEST: tl.constexpr, WHOLE: tl.constexpr, PACK: tl.constexpr):
    """Of a scalar number of steps."""
    if WHOLE:
        return whole_square(steps * step, LONGEST, PACK)
    else:
        distance = steps.to(tl.float64) * step
        return distance * distance


@triton.jit
def whole_square(distance, LONGEST: tl.constexpr, PACK: tl.constexpr):
    """Of a distance in units; those that lead out of the volume do not overflow (``LONGEST`` 0: nor would they)."""
    if LONGEST != 0:
        distance = tl.minimum(distance, LONGEST)
    return (distance * distance) << PACK


@triton.jit
def squares_from(steps, step, LONGEST: tl.constexpr, COUNT: tl.constexpr, WHOLE: tl.constexpr, PACK: tl.constexpr):
    squares = ()
    for i in tl.static_range(COUNT):
        if WHOLE:
            squares = squares + (whole_square(steps * step + step * i, LONGEST, PACK),)
        else:
            squares = squares + (square_of(steps + i, step, LONGEST, WHOLE, PACK),)
    return squares


@triton.jit
def number_of(found, before, WHOLE: tl.constexpr, NONE: tl.constexpr):
    """What the axes before have found, as bits: steps, with ``NONE`` where there is no site, or numbers."""
    if NONE == 0:
        number = found if WHOLE else found.to(tl.float64, bitcast=True)
    else:
        number = found.to(tl.int32 if WHOLE else tl.float64) * before
        number = tl.where(found != NONE, number * number, FAR if WHOLE else float("inf"))
    return number


@triton.jit
def row_at(
    j, inside, source, pitch, labels, label_pitch, before,
    MODE: tl.constexpr, WHOLE: tl.constexpr, NONE: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """What row j costs: its numbers; or to voxels inside and outside; or to those of its label, and the label.

    And what tells it from others: -1 outside of the mask, or its label.
    """
    row = tl.cast(j, tl.int64)
    found = tl.load(source + row * pitch, inside, other=0)
    if MODE == "mask":
        if NONE != 0:
            found = tl.where(found < 0, ~found, found)  # the sign of steps is where they lead to
        number = number_of(found, before, WHOLE, NONE)
        if PACK != 0:
            number = tl.where(number < FAR, (number << PACK) | j, FAR)
        return (number,), found
    elif MODE == "labels":
        label = tl.load(labels + row * label_pitch, inside, other=0)
        return (number_of(found, before, WHOLE, NONE), label), label
    else:
        outside = found < 0
        number = number_of(tl.where(outside, ~found, found), before, WHOLE, NONE)
        zero = tl.zeros_like(number)
        side = tl.where(outside, -1, 0).to(tl.int32 if WHOLE else tl.int64)
        return (tl.where(outside, zero, number), tl.where(outside, number, zero)), side


@triton.jit
def cost_to(center, row, MODE: tl.constexpr, WHOLE: tl.constexpr):
    """Of a row, to voxels on a side (0 or -1) or of a label."""
    if MODE == "mask":
        return row[0]
    elif MODE == "labels":
        return tl.where(row[1] == center, row[0], tl.zeros_like(row[0]))
    elif WHOLE:
        return (row[0] & ~center) | (row[1] & center)
    else:
        bits = (row[0].to(tl.int64, bitcast=True) & ~center) | (row[1].to(tl.int64, bitcast=True) & center)
        return bits.to(tl.float64, bitcast=True)


@triton.jit
def meet(
    tile, best, centers, row, j, squares,
    NEAREST: tl.constexpr, TILE: tl.constexpr, MODE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The tile after row j, which is ``squares[|NEAREST + r|]`` from output r; and where it is best."""
    met, places = (), ()
    for r in tl.static_range(TILE):
        square = squares[NEAREST + r if NEAREST + r > 0 else -(NEAREST + r)]
        cost = cost_to(centers[r], row, MODE, WHOLE) + square
        if len(best) > 0:
            places = places + (tl.where(cost < tile[r], j, best[r]),)
        met = met + (tl.minimum(tile[r], cost),)
    return met, places


@triton.jit
def greatest(tile, TILE: tl.constexpr):
    most = tile[0]
    for r in tl.static_range(1, TILE):
        most = tl.maximum(most, tile[r])
    return tl.max(most)


@triton.jit
def tile_sides(centers, first, length, inside, TILE: tl.constexpr):
    """Whether the tile has voxels inside of the mask, and outside."""
    most, least = tl.where(inside, -1, -1), tl.where(inside, 0, 0)
    for r in tl.static_range(TILE):
        there = inside & (inside.to(tl.int32) * 0 + first + r < length)
        side = centers[r].to(tl.int32)
        most, least = tl.maximum(most, tl.where(there, side, -1)), tl.minimum(least, tl.where(there, side, 0))
    return tl.max(most) == 0, tl.min(least) < 0


@triton.jit
def search(
    tile, best, centers, k, last, bound, first, begin, end, inside, source, pitch, labels, label_pitch, before, step,
    LONGEST: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr, TILE: tl.constexpr, AHEAD: tl.constexpr,
    MODE: tl.constexpr, WHOLE: tl.constexpr, NONE: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """Rows ``k`` to ``last`` before or after the tile, or on both sides, as long as one of them can win.

    Beyond the last the last is taken again, as if it were farther away, and does not win.
    """
    while (k <= last) & (square_of(k, step, LONGEST, WHOLE, PACK) < bound):
        squares = squares_from(k, step, LONGEST, TILE + AHEAD - 1, WHOLE, PACK)
        for i in tl.static_range(AHEAD):
            if BEFORE:
                j = tl.maximum(first - k - i, begin)
                row, _ = row_at(j, inside, source, pitch, labels, label_pitch, before, MODE, WHOLE, NONE, PACK)
                tile, best = meet(tile, best, centers, row, j, squares, i, TILE, MODE, WHOLE)
            if AFTER:
                j = tl.minimum(first + TILE - 1 + k + i, end - 1)
                row, _ = row_at(j, inside, source, pitch, labels, label_pitch, before, MODE, WHOLE, NONE, PACK)
                tile, best = meet(tile, best, centers, row, j, squares, 1 - TILE - i, TILE, MODE, WHOLE)
        k += AHEAD
        bound = greatest(tile, TILE)
    return tile, best, k, bound


@triton.jit
def distance_of(
    number, outside, several, unit,
    MODE: tl.constexpr, WHOLE: tl.constexpr, SIGNED: tl.constexpr, ROOT: tl.constexpr, SINGLE: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """In mm, or its square in mm²; where a volume has no site +inf, and 0 where it has one side or label.

    ``SINGLE``: the number and its multiple of the unit, of which it is then a power of two, are exact in float32.
    """
    if SINGLE:
        distance = number.to(tl.float32)
        distance = (tl.sqrt_rn(distance) if ROOT else distance) * unit.to(tl.float32)
    else:
        distance = number.to(tl.float64) * unit if WHOLE else number
        distance = tl.sqrt(distance) if ROOT else distance
    if SIGNED:
        distance = tl.where(outside, distance, -distance)
    return tl.where(several, distance, float("inf") if MODE == "mask" else 0.0).to(REAL)


@triton.jit
def site_of(plane, lane, outer, length, inner, width, steps, rows, there, several):
    """The number in its volume of the site that the steps lead to, from the best plane of the last axis."""
    line, x = outer * length + plane, lane
    lines = inner // width
    if rows is not None:  # the best row of each voxel within its plane
        line = line * lines + tl.load(rows + line * inner + lane, there, other=0)
        x = lane % width
    away = tl.load(steps + line * width + x, there, other=0).to(tl.int32)
    site = (line - outer * length * lines) * width + tl.where(away < 0, x + 1 + away, x + away)
    return tl.where(several, site, -1)


@triton.jit(do_not_specialize=["tiles", "blocks", "width", "step", "before", "unit"])
def spread(
    source, labels, out, places, steps, rows, spans, tiles, blocks, length, inner, width, step, before, unit,
    outer_sizes, outer_strides, label_pitch, inner_sizes, inner_strides,
    OUTER: tl.constexpr, INNER: tl.constexpr, MODE: tl.constexpr, WHOLE: tl.constexpr, NONE: tl.constexpr,
    LAST: tl.constexpr, SIGNED: tl.constexpr, ROOT: tl.constexpr, SINGLE: tl.constexpr, TILE: tl.constexpr,
    AHEAD: tl.constexpr, LANES: tl.constexpr, PACK: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    """One axis of ``[outer, length, inner]``. Tiles come fastest, so that the rows of a block of lanes stay in the L2.

    ``step``, of this axis, and ``before``, of the one whose steps are the source's, are whole units or the bits of mm.
    ``LONGEST``: units to which distances along the axis are cut, see :func:`whole_square`.
    ``places``: where the best row goes, or in the last axis the site; from ``steps``, and ``rows`` of the axis before.
    """
    if not WHOLE:
        step = tl.cast(step, tl.int64).to(tl.float64, bitcast=True)
        before = tl.cast(before, tl.int64).to(tl.float64, bitcast=True)
    unit = tl.cast(unit, tl.int64).to(tl.float64, bitcast=True)
    program = tl.program_id(0)
    first = program % tiles * TILE
    block = program // tiles
    outer = (block // blocks).to(tl.int64)
    lane = block % blocks * LANES + tl.arange(0, LANES)
    inside = lane < inner
    pitch = tl.cast(inner, tl.int64)
    base = outer * length * pitch + lane
    source += base
    if MODE == "labels":
        labels += place(outer, outer_sizes, outer_strides, OUTER) + place(lane, inner_sizes, inner_strides, INNER)

    own, centers, tile, best = (), (), (), ()
    for r in tl.static_range(TILE):
        j = tl.minimum(first + r, length - 1)
        row, center = row_at(j, inside, source, pitch, labels, label_pitch, before, MODE, WHOLE, NONE, PACK)
        own, centers = own + (row,), centers + (center,)
        number = cost_to(center, row, MODE, WHOLE)
        there = inside & (inside.to(tl.int32) * 0 + first + r < length)
        tile = tile + (tl.where(there, number, tl.zeros_like(number)),)
        if places is not None and PACK == 0:
            best = best + (inside.to(tl.int32) * 0 + first + r,)
    squares = squares_from(first * 0, step, LONGEST, TILE, WHOLE, PACK)
    for i in tl.static_range(TILE):
        tile, best = meet(tile, best, centers, own[i], first + i, squares, -i, TILE, MODE, WHOLE)

    spans += outer * (4 if MODE == "sides" else 2)
    begin, end = length - tl.load(spans), tl.load(spans + 1)
    several = end > 0
    if MODE == "sides":
        begin_inside, end_inside = length - tl.load(spans + 2), tl.load(spans + 3)
        several = several & (end_inside > 0)
        some_inside, some_outside = tile_sides(centers, first, length, inside, TILE)
        begin = tl.minimum(tl.where(some_inside, begin, length), tl.where(some_outside, begin_inside, length))
        end = tl.maximum(tl.where(some_inside, end, 0), tl.where(some_outside, end_inside, 0))
    elif MODE == "labels":
        begin, end = length * 0, length
    k = tl.maximum(tl.maximum(first - end + 1, begin - first - TILE + 1), 1)
    last_before, last_after = first - begin, end - first - TILE
    bound = greatest(tile, TILE)
    tile, best, k, bound = search(
        tile, best, centers, k, tl.minimum(last_before, last_after), bound, first, begin, end, inside, source, pitch,
        labels, label_pitch, before, step, LONGEST, True, True, TILE, AHEAD, MODE, WHOLE, NONE, PACK,
    )  # fmt: skip
    tile, best, k, bound = search(
        tile, best, centers, k, last_before, bound, first, begin, end, inside, source, pitch,
        labels, label_pitch, before, step, LONGEST, True, False, TILE, AHEAD, MODE, WHOLE, NONE, PACK,
    )  # fmt: skip
    tile, best, k, bound = search(
        tile, best, centers, k, last_after, bound, first, begin, end, inside, source, pitch,
        labels, label_pitch, before, step, LONGEST, False, True, TILE, AHEAD, MODE, WHOLE, NONE, PACK,
    )  # fmt: skip

    for r in tl.static_range(TILE):
        number, outside = tile[r], centers[r] < 0
        if PACK != 0:
            number = tl.where(number < FAR, number >> PACK, FAR)
        there = inside & (inside.to(tl.int32) * 0 + first + r < length)
        at = base + (first + r).to(tl.int64) * pitch
        if LAST:
            real = out.dtype.element_ty
            found = distance_of(number, outside, several, unit, MODE, WHOLE, SIGNED, ROOT, SINGLE, real)
        else:
            found = number if WHOLE else number.to(tl.int64, bitcast=True)
            if MODE == "sides":
                found ^= centers[r]
        tl.store(out + at, found, there)
        if places is not None:
            if PACK == 0:
                found_at = best[r]
            else:
                found_at = tile[r] & ((1 << PACK) - 1)
            if LAST:
                plane = found_at.to(tl.int64)
                found_at = site_of(plane, lane, outer, length, pitch, width, steps, rows, there, several)
            tl.store(places + at, found_at, there)
