"""The walk over a chunk of a sample's voxels, tile by tile: brings what a plan's code reads into rows where it does not
lie in them, and calls the code by its address. It knows addresses and sizes only, and is compiled once for each real."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .compiling import INNER, no_inline
from .forms import ARGUMENTS
from .rows import NO_CLASS, ROW
from .tensors import WALK, array_at, record_at, record_type
from .threads import call, code_of

CHUNK = 16384  # voxels; a multiple of every tile
_HEADER = 512  # bytes
_WALK = WALK.itemsize


class Pass(NamedTuple):
    """What all chunks of a pass have in common; the Walks of the tensors follow it."""

    table: int  # address of the sums of the first chunk, or of the gradient by those of the first sample
    code: int  # address of the plan's
    labels: int  # address of that which makes classes of labels; 0 for dense targets
    table_row: int  # bytes of a class in it
    by_chunk: int  # whether each chunk has a table, or each sample
    voxels: int  # of a sample
    chunks: int  # of a sample
    tile: int  # voxels
    lanes: int  # rows are filled up to a multiple of them
    channels: int
    classes: int  # that depend on one another
    outputs: int  # rows that the code writes for them
    narrow: int  # whether labels are numbers of 8 bits
    first_label: int  # of the first channel
    labels_known: int  # labels are classes from 0 to below
    ignored: int  # address
    ignore: int
    pitch: int  # bytes from row to row
    places: int  # bytes from the first row to those of the logits
    target_rows: int  # and on to those of a dense target,
    map_rows: int  # of the map,
    out_rows: int  # of the results,
    scratch: int  # and to the memory for the coefficients
    memory: int  # bytes in all


PASS = record_type(Pass)
_PASS = PASS.itemsize
real = np.float32  # the codes have their own


@cache
def _code(kind: type) -> Any:
    return code_of(_chunk, f"chunk_{np.dtype(kind).name}", real=kind)


def chunk_code(kind: type) -> int:
    """The address of the code for :class:`Pass` that walks over chunk i, for reals of a type; it returns how many labels
    that count are no class."""
    return int(_code(kind).address)


@njit(**INNER)
def _rows_of(walk, first, classes, v, whole, row, place, pitch):  # type: ignore[no-untyped-def]
    """The address of the rows of some classes, and the bytes from one to the next: in place, or brought to a place in
    rows of ``pitch`` bytes, one more than there are classes."""
    no_inline()
    w = record_at(walk, WALK)
    if w.address == 0:
        return np.int64(0), np.int64(0)
    there = w.address + w.size * (row.sample * w.batch + first * w.channel + v)
    if w.in_place != 0 and w.convert == 0 and (whole or w.copy == 0):
        return there, w.size * w.channel
    for c in range(classes):
        to = place + c * pitch
        row.walk, row.channel, row.voxel = walk, first + c, v
        row.source = there + c * w.size * w.channel
        if w.in_place == 0 or w.convert == 0:
            row.row = row.source = to if w.convert == 0 else place + classes * pitch
            call(w.copy, row.itself, 0)
        if w.convert != 0:
            row.row = to
            call(w.convert, row.itself, 0)
    return place, pitch


@njit(**INNER)
def _weigh(p, target, mask, v, whole, row):  # type: ignore[no-untyped-def]
    """Fills the weights, and the labels that need it, of ``row.count`` voxels; returns where the labels are, whether a
    weight is other than 1 or a label no class, and how many labels are wrong."""
    no_inline()
    n, labels, bad, place = row.count, np.int64(0), np.int64(0), row.weights + p.pitch
    weights = array_at(row.weights, (p.tile,), real)
    masked = record_at(mask, WALK).address != 0
    weighted = masked or not whole
    if masked:
        source, _ = _rows_of(mask, 0, 1, v, whole, row, row.weights, p.pitch)
        if source != row.weights:
            given = array_at(source, (n,), real)
            for k in range(n):
                weights[k] = given[k]
    elif weighted:
        for k in range(n):
            weights[k] = 1
    if p.labels != 0:
        row.weighted, row.keep = weighted, whole
        row.source, _ = _rows_of(target, 0, 1, v, True, row, place + p.pitch, p.pitch)
        row.row = place
        bad = call(p.labels, row.itself, 0)
        labels = row.source if bad < 0 and record_at(target, WALK).size == 1 and p.narrow != 0 and whole else place
        weighted = weighted or bad >= 0
        bad = max(bad, np.int64(0))
    if not whole:
        narrow, wide = array_at(place, (p.tile,), np.uint8), array_at(place, (p.tile,), np.int32)
        for k in range(n, (n + p.lanes - 1) // p.lanes * p.lanes):
            weights[k] = 0
            if p.narrow != 0:
                narrow[k] = NO_CLASS
            elif p.labels != 0:
                wide[k] = -1
    return labels, weighted, bad


def _chunk(arguments, i):  # type: ignore[no-untyped-def]
    p = record_at(arguments, PASS)
    logits = arguments + _PASS
    target, mask, weight_map, results = logits + _WALK, logits + 2 * _WALK, logits + 3 * _WALK, logits + 4 * _WALK
    out = record_at(results, WALK)
    b, start = i // p.chunks, i % p.chunks * CHUNK
    stop, bad = min(start + CHUNK, p.voxels), np.int64(0)
    memory = np.empty(64 + _HEADER + p.memory, np.uint8)
    base = (memory.ctypes.data + 63) // 64 * 64
    row, a = record_at(base, ROW), record_at(base + _HEADER // 2, ARGUMENTS)
    row.itself, row.sample, row.weights = base, b, base + _HEADER
    row.classes, row.ignored, row.ignore = p.labels_known, p.ignored, p.ignore
    places = row.weights + p.places
    a.weights, a.scratch, a.first = row.weights, places + p.scratch, 1
    for v in range(start, stop, p.tile):
        row.count = min(p.tile, stop - v)
        whole = row.count % p.lanes == 0
        labels, weighted, wrong = _weigh(p, target, mask, v, whole, row)
        bad += wrong
        a.weighted, a.voxels = weighted, (row.count + p.lanes - 1) // p.lanes * p.lanes
        if weighted and out.address == 0 and not array_at(row.weights, (row.count,), real).any():
            continue
        for c in range(0, p.channels, p.classes):
            a.logits, a.logits_step = _rows_of(logits, c, p.classes, v, whole, row, places, p.pitch)
            a.target, a.target_step = labels, 0
            if p.labels == 0:
                a.target, a.target_step = _rows_of(target, c, p.classes, v, whole, row, places + p.target_rows, p.pitch)
            a.map, a.map_step = _rows_of(weight_map, c, p.classes, v, whole, row, places + p.map_rows, p.pitch)
            a.out, a.out_step = places + p.out_rows, p.pitch
            in_place = out.in_place != 0 and whole
            if in_place:
                a.out, a.out_step = out.address + out.size * (b * out.batch + c * out.channel + v), out.size * out.channel
            a.label, a.table = c + p.first_label, p.table + ((i if p.by_chunk else b) * p.channels + c) * p.table_row
            call(p.code, base + _HEADER // 2, 0)
            if out.address != 0 and not in_place:
                for k in range(p.outputs):
                    row.walk, row.channel, row.voxel, row.row = results, c + k, v, a.out + k * a.out_step
                    call(out.copy, row.itself, 0)
            a.first = p.classes < p.channels
    return bad + (0 if memory.size else 1)  # the last use of the memory: until here it must live
