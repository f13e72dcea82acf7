"""The fused passes in Triton for a softmax over many channels.

A tile is ``[ROWS, BLOCK]``, row r taking the channels r, r + ROWS, ... A thread *holds* all channels of its rows where
its registers suffice (``PIECES`` tiles, read once), and keeps the sums from one tile of voxels to the next. For still
more channels (no pieces) a first sweep finds the log-sum-exp, the next ones read the logits again, from the cache.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .products import plus, product_value, quiet, through_softmax, uncoupled
from .softmax import held_softmax, read_rows, row_parts, softmax_rows
from .tiles import load_coefficients, offsets, read, read_truth, slopes, weigh, within, write


@triton.jit
def voxels_of(tile, ROWS: tl.constexpr, BLOCK: tl.constexpr, PIECES: tl.constexpr, INDEX: tl.constexpr):
    """The voxels of a tile, [1, BLOCK]; of pieces [ROWS, BLOCK], so that a thread itself reads what its voxels have."""
    voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
    return voxel + tl.zeros([ROWS, BLOCK], INDEX) if PIECES > 0 else voxel


@triton.jit
def row_truth(
    spot, channel, target, weight_map, SELECT: tl.constexpr, DENSE: tl.constexpr, AXES: tl.constexpr,
    CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The truth of a row of channels, and its voxel weight map (absent: 1)."""
    sample, voxel, inside, labels, counted, one, _weight = spot
    present = inside & (channel < CHANNELS)
    place = offsets(target, sample, voxel, AXES[1])
    truth = read_truth(target, place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL)
    if AXES[3] == 0:
        return truth, one
    else:
        place = offsets(weight_map, sample, voxel, AXES[3])
        return truth, read(weight_map, place, channel, present, counted, SELECT, REAL)


@triton.jit
def row_values(
    z, softmax, spot, channel, target, weight_map, TERMS: tl.constexpr, SELECT: tl.constexpr, DENSE: tl.constexpr,
    AXES: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The weighted terms of a row of channels, each [ROWS, BLOCK]."""
    parts = row_parts(z, softmax)
    truth, map_value = row_truth(spot, channel, target, weight_map, SELECT, DENSE, AXES, CHANNELS, REAL)
    one, weight = spot[5], spot[6]
    values = ()
    for k in tl.static_range(len(TERMS)):
        value = product_value(TERMS, k, parts, one, truth, DENSE)
        if TERMS[k].mapped:
            value *= map_value
        if len(weight) > 0:
            value *= weight[0]
        values = values + (tl.broadcast_to(value, [ROWS, BLOCK]),)
    return values


@triton.jit
def row_slopes(
    z, softmax, scale, spot, channel, target, weight_map, TERMS: tl.constexpr, SELECT: tl.constexpr,
    DENSE: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The :func:`uncoupled` slopes of a row of channels, p and 1 - p."""
    parts = row_parts(z, softmax)
    truth, map_value = row_truth(spot, channel, target, weight_map, SELECT, DENSE, AXES, CHANNELS, REAL)
    by = slopes(scale, map_value, parts, spot[5], truth, TERMS, DENSE)
    v, rest = uncoupled(by, parts[0], parts[1])
    return v, rest, parts[0], parts[1]


@triton.jit
def couple(sums, slopes):
    """The sums over channels that :func:`through_softmax` takes, with one more row of them."""
    v, rest, p, _q = slopes
    return plus(sums[0], v), plus(sums[1], rest), plus(sums[2], quiet(rest, p))


@triton.jit
def over_rows(sums):
    """Three sums over the rows, each of which may be absent."""
    found = ()
    for i in tl.static_range(3):
        if len(sums[i]) > 0:
            found = found + ((tl.sum(sums[i][0], axis=0)[None, :],),)
        else:
            found = found + ((),)
    return found


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def forward_rows(
    logits, target, mask, weight_map, partial, voxels, programs, tiles,
    TERMS: tl.constexpr, ACTIVATION: tl.constexpr,
    IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
    VECTOR: tl.constexpr = 1, PIECES: tl.constexpr = 0, APART: tl.constexpr = True,
):  # fmt: skip
    """Partial sums [B, programs, CHANNELS, K]: of pieces in registers, else updated in place tile after tile."""
    REAL: tl.constexpr = partial.dtype.element_ty
    COUNT: tl.constexpr = len(TERMS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    out = partial + (sample * programs + part) * CHANNELS * COUNT
    sums = ()
    for _ in tl.static_range(PIECES * COUNT):
        sums = sums + (tl.zeros([ROWS, BLOCK // VECTOR], REAL),)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        voxel = voxels_of(tile, ROWS, BLOCK, PIECES, INDEX)
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        spot = sample, voxel, inside, labels, counted, one, weight
        place = offsets(logits, sample, voxel, AXES[0])
        if PIECES > 0:
            z, held = held_softmax(logits, place, inside, counted, APART, SELECT, CHANNELS, ROWS, PIECES, REAL)
            added = ()
            for i in tl.static_range(PIECES):
                values = row_values(
                    z[i], held, spot, i * ROWS + tl.arange(0, ROWS)[:, None], target, weight_map, TERMS, SELECT, DENSE,
                    AXES, CHANNELS, ROWS, BLOCK, REAL,
                )  # fmt: skip
                for k in tl.static_range(COUNT):
                    # Summed within the thread first: a register a sum, however many voxels a thread holds.
                    value = tl.sum(tl.reshape(values[k], [ROWS, BLOCK // VECTOR, VECTOR]), axis=2)
                    added = added + (sums[i * COUNT + k] + value,)
            sums = added
        else:
            tl.debug_barrier()  # the sums that other threads wrote for the previous tile
            softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
            for start in range(0, CHANNELS, ROWS):
                row = start + tl.arange(0, ROWS)
                again = read_rows(logits, place, row[:, None], inside, counted, softmax[0], SELECT, CHANNELS, REAL)
                terms = row_values(
                    again, softmax, spot, row[:, None], target, weight_map, TERMS, SELECT, DENSE, AXES, CHANNELS, ROWS,
                    BLOCK, REAL,
                )  # fmt: skip
                for k in tl.static_range(COUNT):
                    before = tl.load(out + row * COUNT + k, row < tl.where(part * tiles < tile, CHANNELS, 0), other=0)
                    tl.store(out + row * COUNT + k, before + tl.sum(terms[k], axis=1), row < CHANNELS)
    for i in tl.static_range(PIECES):
        row = i * ROWS + tl.arange(0, ROWS)
        for k in tl.static_range(COUNT):
            tl.store(out + row * COUNT + k, tl.sum(sums[i * COUNT + k], axis=1), row < CHANNELS)


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def backward_rows(
    logits, target, mask, weight_map, coefficients, grad, voxels, programs, tiles,
    TERMS: tl.constexpr, ACTIVATION: tl.constexpr,
    IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
    VECTOR: tl.constexpr = 1, PIECES: tl.constexpr = 0, APART: tl.constexpr = True,
):  # fmt: skip
    """Gradient in three sweeps over the channels: log-sum-exp, what couples the channels, gradient."""
    REAL: tl.constexpr = coefficients.dtype.element_ty
    COUNT: tl.constexpr = len(TERMS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    scales = ()
    for i in tl.static_range(PIECES):
        row = i * ROWS + tl.arange(0, ROWS)[:, None]
        scales = scales + (load_coefficients(coefficients, sample, row, COUNT, CHANNELS),)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        voxel = voxels_of(tile, ROWS, BLOCK, PIECES, INDEX)
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        spot = sample, voxel, inside, labels, counted, one, weight
        place = offsets(logits, sample, voxel, AXES[0])
        grad_place = offsets(grad, sample, voxel, AXES[4])
        if PIECES > 0:
            z, held = held_softmax(logits, place, inside, counted, APART, SELECT, CHANNELS, ROWS, PIECES, REAL)
            found = ()
            coupled = (), (), ()
            for i in tl.static_range(PIECES):
                by = row_slopes(
                    z[i], held, scales[i], spot, i * ROWS + tl.arange(0, ROWS)[:, None], target, weight_map, TERMS,
                    SELECT, DENSE, AXES, CHANNELS, REAL,
                )  # fmt: skip
                found = found + (by,)
                coupled = couple(coupled, by)
            totals = over_rows(coupled)
            for i in tl.static_range(PIECES):
                channel = i * ROWS + tl.arange(0, ROWS)[:, None]
                slope = through_softmax(found[i][0], found[i][1], totals, found[i][2], found[i][3])
                write(grad, grad_place, channel, inside & (channel < CHANNELS), counted, slope, weight, SELECT)
        else:
            softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
            zero = (tl.zeros([ROWS, BLOCK], REAL),)
            summed = zero, zero, zero
            for start in range(0, CHANNELS, ROWS):
                found = reread_slopes(
                    start + tl.arange(0, ROWS)[:, None], logits, place, softmax, coefficients, spot, target,
                    weight_map, TERMS, SELECT, DENSE, AXES, CHANNELS, REAL,
                )  # fmt: skip
                summed = couple(summed, found)
            totals = over_rows(summed)
            for start in range(0, CHANNELS, ROWS):
                channel = start + tl.arange(0, ROWS)[:, None]
                v, rest, p, q = reread_slopes(
                    channel, logits, place, softmax, coefficients, spot, target, weight_map, TERMS, SELECT, DENSE,
                    AXES, CHANNELS, REAL,
                )  # fmt: skip
                slope = through_softmax(v, rest, totals, p, q)
                write(grad, grad_place, channel, inside & (channel < CHANNELS), counted, slope, weight, SELECT)


@triton.jit
def reread_slopes(
    channel, logits, place, softmax, coefficients, spot, target, weight_map, TERMS: tl.constexpr,
    SELECT: tl.constexpr, DENSE: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """:func:`row_slopes` of logits and coefficients that are read again."""
    z = read_rows(logits, place, channel, spot[2], spot[4], softmax[0], SELECT, CHANNELS, REAL)
    scale = load_coefficients(coefficients, spot[0], channel, len(TERMS), CHANNELS)
    return row_slopes(z, softmax, scale, spot, channel, target, weight_map, TERMS, SELECT, DENSE, AXES, CHANNELS, REAL)
