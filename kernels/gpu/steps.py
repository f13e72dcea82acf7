"""Triton kernel of the distance transforms' last axis: whole steps to the nearest site of the same line, by two scans.

A site of a voxel is a zero voxel, a voxel on the other side of the mask, or one of another label. A *span* is between
which lines of a slice, and slices of a volume, there are sites at all: kept as ``[length - first, last + 1]``, 0 where
there is none, so that both only grow.
"""

from __future__ import annotations

import triton
import triton.language as tl

BEYOND = tl.constexpr(2**30)  # where no site is: farther away than any


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def place(number, sizes, strides, AXES: tl.constexpr):
    """Element offset of the voxel that is ``number`` in C order."""
    offset = (number * 0).to(tl.int64)
    for i in tl.static_range(AXES - 1, 0, -1):
        offset += (number % sizes[i]).to(tl.int64) * strides[i]
        number = number // sizes[i]
    return offset + number.to(tl.int64) * strides[0]


@triton.jit
def raise_to(address, value, mask):
    """Most of what many programs have; most of them see that it is no less already."""
    known = tl.load(address, mask, other=BEYOND, cache_modifier=".cg")
    tl.atomic_max(address, value, mask & (value > known), sem="relaxed")


@triton.jit
def note_span(spans, volume_spans, found, row, lines, planes, SIDES: tl.constexpr, SIDE: tl.constexpr):
    """Widens the spans by the rows where something was found."""
    slice = row // lines
    line = (row % lines).to(tl.int32)
    tl.atomic_max(spans + (slice * SIDES + SIDE) * 2, lines - line, found, sem="relaxed")
    tl.atomic_max(spans + (slice * SIDES + SIDE) * 2 + 1, line + 1, found, sem="relaxed")
    if volume_spans is not None:
        volume = slice // planes
        plane = (slice % planes).to(tl.int32)
        raise_to(volume_spans + (volume * SIDES + SIDE) * 2, planes - plane, found)
        raise_to(volume_spans + (volume * SIDES + SIDE) * 2 + 1, plane + 1, found)


@triton.jit
def sites(voxels, stride, x, there, length, MODE: tl.constexpr):
    """The voxels, where their nearest sites may lie: as numbers of the line at or before, and at or after each."""
    value = tl.load(voxels, there, other=0)
    if MODE == "mask":
        site = there & (value == 0)
        return value, tl.where(site, x, -BEYOND), tl.where(site, x, BEYOND)
    else:
        back, forth = there & (x > 0), there & (x < length - 1)
        before, after = tl.load(voxels - stride, back, other=0), tl.load(voxels + stride, forth, other=0)
        if MODE == "sides":
            changed, changes = (value != 0) != (before != 0), (value != 0) != (after != 0)
        else:
            changed, changes = value != before, value != after
        return value, tl.where(back & changed, x - 1, -BEYOND), tl.where(forth & changes, x + 1, BEYOND)


@triton.jit
def tell(value, first, there, found, others, MODE: tl.constexpr):
    """Which rows have zero voxels, and which others; or with labels, voxels that are not like the volume's first."""
    if MODE == "labels":
        found |= tl.max((there & (value != first)).to(tl.int32), 1)
    else:
        found |= tl.max((there & (value == 0)).to(tl.int32), 1)
    if MODE == "sides":
        others |= tl.max((there & (value != 0)).to(tl.int32), 1)
    return found, others


@triton.jit
def put(address, behind, ahead, value, there, MODE: tl.constexpr, NONE: tl.constexpr):
    """Writes the fewer of the steps back and ahead: their one's complement back, or of ``"sides"`` outside."""
    steps = tl.minimum(tl.minimum(behind, ahead), NONE)
    if MODE == "sides":
        steps = tl.where(value != 0, steps, ~steps)
    elif MODE == "mask":
        steps = tl.where(behind < ahead, ~steps, steps)
    tl.store(address, steps.to(address.dtype.element_ty), there)


@triton.jit(do_not_specialize=["rows", "lines", "planes"])
def scan_lines(
    voxels, steps, spans, volume_spans, rows, length, lines, planes, sizes, strides, stride,
    AXES: tl.constexpr, MODE: tl.constexpr, NONE: tl.constexpr, ONE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps ``[rows, length]`` to the nearest site of the line (``NONE`` where it has none), see :func:`put`; and the
    spans. ``ONE``: a line is one block.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    line = voxels + place(row, sizes, strides, AXES)
    first = line
    if MODE == "labels":
        first = voxels + place(row - row % (lines * planes), sizes, strides, AXES)
    first = tl.load(first, exists, other=0)
    out = steps + row * length
    found = tl.full([ROWS], 0, tl.int32)
    others = tl.full([ROWS], 0, tl.int32)
    if ONE:
        x = tl.arange(0, BLOCK)[None, :]
        there = exists[:, None] & (x < length)
        value, last, after = sites(line[:, None] + x.to(tl.int64) * stride, stride, x, there, length, MODE)
        found, others = tell(value, first[:, None], there, found, others, MODE)
        ahead = tl.associative_scan(after, 1, smaller, reverse=True) - x
        put(out[:, None] + x, x - tl.associative_scan(last, 1, larger), ahead, value, there, MODE, NONE)
    else:
        carried = tl.full([ROWS], -BEYOND, tl.int32)
        for block in range(0, tl.cdiv(length, BLOCK)):
            x = (block * BLOCK + tl.arange(0, BLOCK))[None, :]
            there = exists[:, None] & (x < length)
            value, last, after = sites(line[:, None] + x.to(tl.int64) * stride, stride, x, there, length, MODE)
            found, others = tell(value, first[:, None], there, found, others, MODE)
            last = tl.maximum(tl.associative_scan(last, 1, larger), carried[:, None])
            tl.store(out[:, None] + x, tl.minimum(x - last, NONE).to(out.dtype.element_ty), there)
            carried = tl.max(last, 1)
        tl.debug_barrier()
        carried = tl.full([ROWS], BEYOND, tl.int32)
        for turn in range(0, tl.cdiv(length, BLOCK)):
            x = ((tl.cdiv(length, BLOCK) - 1 - turn) * BLOCK + tl.arange(0, BLOCK))[None, :]
            there = exists[:, None] & (x < length)
            value, last, after = sites(line[:, None] + x.to(tl.int64) * stride, stride, x, there, length, MODE)
            after = tl.minimum(tl.associative_scan(after, 1, smaller, reverse=True), carried[:, None])
            behind = tl.load(out[:, None] + x, there, other=0).to(tl.int32)
            put(out[:, None] + x, behind, after - x, value, there, MODE, NONE)
            carried = tl.min(after, 1)
    SIDES: tl.constexpr = 2 if MODE == "sides" else 1
    note_span(spans, volume_spans, exists & (found != 0), row, lines, planes, SIDES, 0)
    if MODE == "sides":
        note_span(spans, volume_spans, exists & (others != 0), row, lines, planes, SIDES, 1)
