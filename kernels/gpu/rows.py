"""The fused passes in Triton for a softmax over many channels.

A tile is ``[ROWS, BLOCK]``, row r taking the channels r, r + ROWS, ...; a first sweep over the channels finds
the log-sum-exp, the next ones read the logits again, from the cache.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .math import LOG2_E, minus_log_clamped, normalise
from .products import plus, product_value, quiet, through_softmax, uncoupled
from .tiles import offsets, read, read_truth, slopes, weigh, within, write

# Below any logit, yet finite: a difference of two of them must not be NaN.
LOWEST_SINGLE = tl.constexpr(-3.3e38)
LOWEST_DOUBLE = tl.constexpr(-1.7e308)


@triton.jit
def read_rows(
    field,
    place,
    channel,
    inside,
    counted,
    outside,
    SELECT: tl.constexpr,
    CHANNELS: tl.constexpr,
    REAL: tl.constexpr,
):
    """A channel a row, [ROWS, BLOCK]; rows past the last channel hold ``outside``."""
    x = read(field, place, channel, inside & (channel < CHANNELS), counted, SELECT, REAL)
    return tl.where(channel < CHANNELS, x, outside)


@triton.jit
def softmax_rows(
    logits, place, inside, counted, SELECT: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """In one sweep, each [1, BLOCK]: max, the others' sum of exp(z - max), log of the sum, its reciprocal."""
    lowest: tl.constexpr = LOWEST_DOUBLE if tl.float64 == REAL else LOWEST_SINGLE
    highest = tl.full([ROWS, BLOCK], lowest, REAL)
    rest = tl.full([ROWS, BLOCK], -1.0, REAL)  # rest + 1 is the sum; no channel yet
    for start in tl.range(0, CHANNELS, ROWS, loop_unroll_factor=2):
        channel = start + tl.arange(0, ROWS)[:, None]
        z = read_rows(logits, place, channel, inside, counted, float("-inf"), SELECT, CHANNELS, REAL)
        power = tl.exp2(-tl.abs(z - highest) * LOG2_E)
        rest = tl.where(z > highest, (rest + 1.0) * power, rest + power)
        highest = tl.maximum(highest, z)
    top = tl.max(highest, axis=0)[None, :]
    leads = highest == top
    rest = tl.where(leads, rest, (rest + 1.0) * tl.exp2((highest - top) * LOG2_E))
    rest = tl.sum(rest, axis=0)[None, :] + (tl.sum(tl.where(leads, 1.0, 0.0).to(REAL), axis=0)[None, :] - 1.0)
    # NaN where the maximum is infinite or every channel is -inf.
    rest = rest + tl.where(tl.abs(top) < -lowest, 0.0, float("nan"))
    log_total, reciprocal = normalise(rest + 1.0, (rest,))
    return top, tl.where(counted, rest, 0.0), log_total, tl.where(counted, reciprocal, 0.0)


@triton.jit
def probability_rows(
    logits, softmax, place, channel, inside, counted, SELECT: tl.constexpr, CHANNELS: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """p, 1 - p, -log p and -log(1-p) of a row of channels; finite in rows past the last one."""
    top, rest, log_total, reciprocal = softmax
    z = read_rows(logits, place, channel, inside, counted, top, SELECT, CHANNELS, REAL)
    p = tl.exp2((z - top) * LOG2_E) * reciprocal
    q = tl.where(z == top, rest * reciprocal, 1.0 - p)
    return p, q, log_total - (z - top), minus_log_clamped(q, -p)


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def forward_rows(
    logits, target, mask, weight_map, partial, voxels, programs, tiles,
    TERMS: tl.constexpr, ACTIVATION: tl.constexpr,
    IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Partial sums [B, programs, CHANNELS, K], updated in place tile after tile."""
    REAL: tl.constexpr = partial.dtype.element_ty
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        tl.debug_barrier()  # the sums that other threads wrote for the previous tile
        voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
        for start in range(0, CHANNELS, ROWS):
            row = start + tl.arange(0, ROWS)
            channel = row[:, None]
            present = inside & (channel < CHANNELS)
            parts = probability_rows(logits, softmax, place, channel, inside, counted, SELECT, CHANNELS, REAL)
            truth = read_truth(
                target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            for k in tl.static_range(len(TERMS)):
                value = product_value(TERMS[k], parts, one, truth, DENSE)
                if TERMS[k].mapped:
                    map_place = offsets(weight_map, sample, voxel, AXES[3])
                    value *= read(weight_map, map_place, channel, present, counted, SELECT, REAL)
                if len(weight) > 0:
                    value *= weight[0]
                value = tl.sum(tl.broadcast_to(value, [ROWS, BLOCK]), axis=1)
                out = partial + ((sample * programs + part) * CHANNELS + row) * len(TERMS) + k
                before = tl.load(out, row < tl.where(part * tiles < tile, CHANNELS, 0), other=0)
                tl.store(out, before + value, row < CHANNELS)


@triton.jit
def rows_slopes(
    place, sample, voxel, channel, inside, target, weight_map, coefficients, labels, counted, one, logits,
    softmax,
    TERMS: tl.constexpr, SELECT: tl.constexpr, DENSE: tl.constexpr,
    AXES: tl.constexpr, CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """p, 1 - p and the :func:`uncoupled` slopes of a row of channels."""
    present = inside & (channel < CHANNELS)
    parts = probability_rows(logits, softmax, place, channel, inside, counted, SELECT, CHANNELS, REAL)
    truth_place = offsets(target, sample, voxel, AXES[1])
    truth = read_truth(target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL)
    map_value = one
    if weight_map is not None:
        map_place = offsets(weight_map, sample, voxel, AXES[3])
        map_value = read(weight_map, map_place, channel, present, counted, SELECT, REAL)
    scale = ()
    for k in tl.static_range(len(TERMS)):
        at = coefficients + (sample * CHANNELS + channel) * len(TERMS) + k
        scale = scale + (tl.load(at, channel < CHANNELS, other=0),)
    by = slopes(scale, map_value, parts, one, truth, TERMS, DENSE)
    v, rest = uncoupled(by, parts[0], parts[1])
    return parts[0], parts[1], v, rest


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def backward_rows(
    logits, target, mask, weight_map, coefficients, grad, voxels, programs, tiles,
    TERMS: tl.constexpr, ACTIVATION: tl.constexpr,
    IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Gradient in three sweeps over the channels: log-sum-exp, what couples the channels, gradient."""
    REAL: tl.constexpr = coefficients.dtype.element_ty
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        grad_place = offsets(grad, sample, voxel, AXES[4])
        softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
        total = tl.zeros([ROWS, BLOCK], REAL)
        rest_total = total
        rest_quiet = total
        for start in range(0, CHANNELS, ROWS):
            channel = start + tl.arange(0, ROWS)[:, None]
            p, q, v, rest = rows_slopes(
                place, sample, voxel, channel, inside, target, weight_map, coefficients, labels, counted, one,
                logits, softmax, TERMS, SELECT, DENSE, AXES, CHANNELS, REAL,
            )  # fmt: skip
            total = plus((total,), v)[0]
            rest_total = plus((rest_total,), rest)[0]
            rest_quiet = plus((rest_quiet,), quiet(rest, p))[0]
        total = tl.sum(total, axis=0)[None, :]
        rest_total = tl.sum(rest_total, axis=0)[None, :]
        rest_quiet = tl.sum(rest_quiet, axis=0)[None, :]
        for start in range(0, CHANNELS, ROWS):
            channel = start + tl.arange(0, ROWS)[:, None]
            p, q, v, rest = rows_slopes(
                place, sample, voxel, channel, inside, target, weight_map, coefficients, labels, counted, one,
                logits, softmax, TERMS, SELECT, DENSE, AXES, CHANNELS, REAL,
            )  # fmt: skip
            slope = through_softmax(v, rest, ((total,), (rest_total,), (rest_quiet,)), p, q)
            write(grad, grad_place, channel, inside & (channel < CHANNELS), counted, slope, weight, SELECT)
