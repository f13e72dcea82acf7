"""The fused passes in Triton. A program walks several tiles of one sample; nothing is shared between programs.

* ``*_unrolled``: a thread holds all channels of its voxels (few channels, or channels that are independent: then a
  program takes a chunk of them). Sums are accumulated in registers and reduced once, at the end of the program.
* ``*_rows``: softmax over many channels. A tile is ``[ROWS, BLOCK]``, row r taking the channels r, r + ROWS, ...;
  a first sweep finds the log-sum-exp, the next ones read the logits again, from the cache.

Tensors come as :class:`kernels.gpu.Field`: pointer, strides of sample and channel, sizes and strides of the space.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gpu_terms import (
    LOG2_E,
    clamped_slope,
    compare,
    minus,
    minus_log_clamped,
    normalise,
    plus,
    probability,
    quiet,
    soften,
    term_derivative,
    term_value,
    through_channel,
    through_rest,
    times,
)


@triton.jit
def offsets(field, sample, voxel, AXES: tl.constexpr):
    """Element offsets of channel 0, where ``AXES`` spatial axes are left after merging."""
    if AXES == 1:
        inside = voxel.to(tl.int64) * field.stride2
    else:
        row = voxel // field.size2
        inside = (voxel % field.size2).to(tl.int64) * field.stride2
        if AXES == 2:
            inside += row.to(tl.int64) * field.stride1
        else:
            inside += (row % field.size1).to(tl.int64) * field.stride1
            inside += (row // field.size1).to(tl.int64) * field.stride0
    return sample * field.sample + inside


@triton.jit
def narrow(labels):
    """Labels as int32; those that do not fit belong to no class."""
    if labels.dtype == tl.int64:
        small = labels.to(tl.int32)
        return tl.where(small.to(tl.int64) == labels, small, -1)
    else:
        return labels.to(tl.int32)


@triton.jit
def weigh(
    target, mask, sample, voxel, inside, IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr,
    AXES: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Labels (-1: no class), which voxels count, 1 where they do, and their weights (absent: 1)."""
    counted = inside
    labels = voxel
    weight = ()
    if MASK != "none":
        factor = tl.load(mask.pointer + offsets(mask, sample, voxel, AXES[2]), inside, other=0)
        counted = counted & (factor != 0)
        if MASK == "weight":
            weight = (factor.to(REAL),)
    if not DENSE:
        labels = tl.load(target.pointer + offsets(target, sample, voxel, AXES[1]), inside, other=0)
        for i in tl.static_range(len(IGNORE)):
            counted = counted & (labels != IGNORE[i])
        labels = tl.where(counted, narrow(labels), -1)
    return labels, counted, tl.where(counted, 1.0, 0.0).to(REAL), weight


@triton.jit
def read(field, place, channel, inside, counted, SELECT: tl.constexpr, REAL: tl.constexpr):
    """One channel of a field; what is not counted becomes 0, whatever it holds."""
    x = tl.load(field.pointer + place + channel * field.channel, inside, other=0).to(REAL)
    return tl.where(counted, x, 0.0) if SELECT else x


@triton.jit
def read_truth(
    target, place, channel, inside, labels, counted, one, SELECT: tl.constexpr, DENSE: tl.constexpr,
    CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The truth of one channel: (y, y != 0, 1 - y, 1 - y != 0)."""
    if DENSE:
        return soften(read(target, place, channel, inside, counted, SELECT, REAL), one)
    else:
        return compare(channel, 1 if CHANNELS == 1 else 0, labels, counted, REAL)


@triton.jit
def softmax_parts(
    logits, place, inside, counted, SELECT: tl.constexpr, CHANNELS: tl.constexpr, REAL: tl.constexpr
):
    """Per channel (z - max, exp(z - max), the sum of the other channels' exp); log of the sum; its reciprocal."""
    z = ()
    highest = 0.0
    for c in tl.static_range(CHANNELS):
        z = z + (read(logits, place, c, inside, counted, SELECT, REAL),)
        highest = z[0] if c == 0 else tl.maximum(highest, z[c])
    below = ()
    power = ()
    before = (tl.zeros_like(highest),)
    for c in tl.static_range(CHANNELS):
        below = below + (z[c] - highest,)
        power = power + (tl.exp2(below[c] * LOG2_E),)
        before = before + (power[0] if c == 0 else before[c] + power[c],)
    # 1 - p from the other channels: the difference would leave no digits where p is nearly 1.
    others = (before[CHANNELS - 1],)
    after = power[CHANNELS - 1]
    for c in tl.static_range(1, CHANNELS):
        others = (before[CHANNELS - 1 - c] + after, *others) if c < CHANNELS - 1 else (after, *others)
        after += power[CHANNELS - 1 - c]
    log_total, reciprocal = normalise(before[CHANNELS])
    return below, power, others, log_total, tl.where(counted, reciprocal, 0.0)


@triton.jit
def stack(parts, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """``COUNT`` tensors [L] as one [L, SIZE] padded with zeros (SIZE a power of two); no data leaves its thread."""
    for _ in tl.static_range(SIZE - COUNT):
        parts = parts + (tl.zeros_like(parts[0]),)
    width: tl.constexpr = parts[0].shape[0]
    level = parts
    for step in tl.static_range(10):
        if SIZE >> step > 1:
            joined = ()
            for i in tl.static_range(SIZE >> (step + 1)):
                pair = tl.join(level[i], level[i + (SIZE >> (step + 1))])
                joined = joined + (tl.reshape(pair, [width, 2 << step]),)
            level = joined
    return tl.reshape(level[0], [width, SIZE])


@triton.jit
def forward_unrolled(
    logits, target, mask, weight_map, partial, voxels, programs, tiles,
    KINDS: tl.constexpr, MAPPED: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    VECTOR: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Partial sums [B, programs, CHANNELS, K]; a program walks ``tiles`` tiles of LANES * VECTOR voxels."""
    REAL: tl.constexpr = partial.dtype.element_ty
    TERMS: tl.constexpr = len(KINDS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    CHUNKS: tl.constexpr = (CHANNELS + CHUNK - 1) // CHUNK
    program = tl.program_id(0)
    first = (program % CHUNKS) * CHUNK
    sample = (program // CHUNKS).to(tl.int64) // programs
    part = ((program // CHUNKS) % programs).to(INDEX)
    sums = ()
    for i in tl.static_range(CHUNK * TERMS):
        sums = sums + (tl.zeros([LANES], REAL),)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, LANES * VECTOR))):
        voxel = tile * (LANES * VECTOR) + tl.arange(0, LANES * VECTOR).to(INDEX)
        inside = voxel < voxels
        labels, counted, one, weight = weigh(
            target, mask, sample, voxel, inside, IGNORE, DENSE, MASK, AXES, REAL
        )
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        if ACTIVATION == "softmax":
            below, power, others, log_total, reciprocal = softmax_parts(
                logits, place, inside, counted, SELECT, CHANNELS, REAL
            )
        added = ()
        for c in tl.static_range(CHUNK):
            present = inside
            if CHANNELS % CHUNK != 0:
                present = voxel < tl.where(first + c < CHANNELS, voxels, 0)
            if ACTIVATION == "softmax":
                p = power[c] * reciprocal
                minus_log = log_total - below[c]
                minus_log_rest = minus_log_clamped(others[c] * reciprocal)
            else:
                z = read(logits, place, first + c, present, counted, SELECT, REAL)
                p, q, minus_log, minus_log_rest = probability(z, ACTIVATION)
                p = tl.where(counted, p, 0.0)
            truth = read_truth(
                target, truth_place, first + c, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            for k in tl.static_range(TERMS):
                value = term_value(KINDS[k], p, minus_log, minus_log_rest, one, truth)
                if MAPPED[k]:
                    map_place = offsets(weight_map, sample, voxel, AXES[3])
                    value *= read(weight_map, map_place, first + c, present, counted, SELECT, REAL)
                if len(weight) > 0:
                    value *= weight[0]
                # Summed within the thread first: a register a sum, however many voxels a thread holds.
                value = tl.sum(tl.reshape(value, [LANES, VECTOR]), axis=1)
                added = added + (sums[c * TERMS + k] + value,)
        sums = added
    SIZE: tl.constexpr = triton.next_power_of_2(CHUNK * TERMS)
    row = tl.sum(stack(sums, CHUNK * TERMS, SIZE), axis=0)
    place = tl.arange(0, SIZE)
    out = partial + ((sample * programs + part) * CHANNELS + first) * TERMS
    tl.store(out + place, row, (place < CHUNK * TERMS) & (place < (CHANNELS - first) * TERMS))


@triton.jit
def slopes(
    coefficients, map_value, p, minus_log, minus_log_rest, one, truth, KINDS: tl.constexpr, MAPPED: tl.constexpr
):
    """Derivatives of the weighted sum of terms by p, -log p and -log(1-p) of one channel."""
    by_p = ()
    by_log = ()
    by_log_rest = ()
    for k in tl.static_range(len(KINDS)):
        a, b, c = term_derivative(KINDS[k], p, minus_log, minus_log_rest, one, truth)
        factor = coefficients[k]
        if MAPPED[k]:
            factor = factor * map_value
        by_p = plus(by_p, times(factor, a))
        by_log = plus(by_log, times(factor, b))
        by_log_rest = plus(by_log_rest, times(factor, c))
    return by_p, by_log, by_log_rest


@triton.jit
def write(grad, place, channel, inside, counted, slope, weight, SELECT: tl.constexpr):
    """One channel of the gradient; exactly zero where a voxel does not count."""
    if len(slope) == 0:
        slope = tl.where(counted, 0.0, 0.0)
    else:
        slope = slope[0]
    if len(weight) > 0:
        slope *= weight[0]
    if SELECT:
        slope = tl.where(counted, slope, 0.0)
    tl.store(grad.pointer + place + channel * grad.channel, slope.to(grad.pointer.dtype.element_ty), inside)


@triton.jit
def backward_unrolled(
    logits, target, mask, weight_map, coefficients, grad, voxels, programs, tiles,
    KINDS: tl.constexpr, MAPPED: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    VECTOR: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits from the coefficients [B, CHANNELS, K] of the sums."""
    REAL: tl.constexpr = coefficients.dtype.element_ty
    TERMS: tl.constexpr = len(KINDS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    CHUNKS: tl.constexpr = (CHANNELS + CHUNK - 1) // CHUNK
    program = tl.program_id(0)
    first = (program % CHUNKS) * CHUNK
    sample = (program // CHUNKS).to(tl.int64) // programs
    part = ((program // CHUNKS) % programs).to(INDEX)
    scale = ()
    for c in tl.static_range(CHUNK):
        row = ()
        for k in tl.static_range(TERMS):
            at = coefficients + (sample * CHANNELS + first + c) * TERMS + k
            row = row + (tl.load(at, first + c < CHANNELS, other=0),)
        scale = scale + (row,)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, LANES * VECTOR))):
        voxel = tile * (LANES * VECTOR) + tl.arange(0, LANES * VECTOR).to(INDEX)
        inside = voxel < voxels
        labels, counted, one, weight = weigh(
            target, mask, sample, voxel, inside, IGNORE, DENSE, MASK, AXES, REAL
        )
        place = offsets(logits, sample, voxel, AXES[0])
        grad_place = offsets(grad, sample, voxel, AXES[4])
        truth_place = offsets(target, sample, voxel, AXES[1])
        map_value = one
        if ACTIVATION == "softmax":
            below, power, others, log_total, reciprocal = softmax_parts(
                logits, place, inside, counted, SELECT, CHANNELS, REAL
            )
            direct = ()
            by_logs = ()
            rests = ()
            rest_total = ()
            rest_quiet = ()
            shift = ()  # what the softmax couples: the sum of by_log minus the sum of p * by_p
        for c in tl.static_range(CHUNK):
            present = inside
            if CHANNELS % CHUNK != 0:
                present = voxel < tl.where(first + c < CHANNELS, voxels, 0)
            if ACTIVATION == "softmax":
                p = power[c] * reciprocal
                minus_log = log_total - below[c]
                q = others[c] * reciprocal
                minus_log_rest = minus_log_clamped(q)
            else:
                z = read(logits, place, first + c, present, counted, SELECT, REAL)
                p, q, minus_log, minus_log_rest = probability(z, ACTIVATION)
            truth = read_truth(
                target, truth_place, first + c, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            if weight_map is not None:
                map_place = offsets(weight_map, sample, voxel, AXES[3])
                map_value = read(weight_map, map_place, first + c, present, counted, SELECT, REAL)
            by_p, by_log, by_log_rest = slopes(
                scale[c], map_value, p, minus_log, minus_log_rest, one, truth, KINDS, MAPPED
            )
            if ACTIVATION == "softmax":
                by_rest = times(p, clamped_slope(by_log_rest, q))
                rest_total = plus(rest_total, by_rest)
                rest_quiet = plus(rest_quiet, quiet(by_rest, p))
                shift = plus(shift, minus(by_log, times(p, by_p)))
                direct = direct + (by_p,)
                by_logs = by_logs + (by_log,)
                rests = rests + (by_rest,)
            else:
                slope = through_channel(by_p, by_log, by_log_rest, p, q, ACTIVATION)
                write(grad, grad_place, first + c, present, counted, slope, weight, SELECT)
        if ACTIVATION == "softmax":
            for c in tl.static_range(CHUNK):
                p = power[c] * reciprocal
                slope = minus(times(p, plus(direct[c], shift)), by_logs[c])
                slope = plus(slope, through_rest(rests[c], rest_total, rest_quiet, p, others[c] * reciprocal))
                write(grad, grad_place, c, inside, counted, slope, weight, SELECT)


@triton.jit
def read_rows(
    field, place, channel, inside, counted, outside, SELECT: tl.constexpr, CHANNELS: tl.constexpr, REAL: tl.constexpr
):
    """A channel a row, [ROWS, BLOCK]; rows past the last channel hold ``outside``."""
    x = read(field, place, channel, inside & (channel < CHANNELS), counted, SELECT, REAL)
    return tl.where(channel < CHANNELS, x, outside)


@triton.jit
def softmax_rows(
    logits, place, inside, counted, SELECT: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """In one sweep, each [1, BLOCK]: max, sum of exp(z - max) of the other channels, log of the sum, reciprocal."""
    lowest: tl.constexpr = -1.7e308 if REAL == tl.float64 else -3.3e38  # finite: differences must not be NaN
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
    log_total, reciprocal = normalise(rest + 1.0 + (top - top))  # an infinite maximum makes all NaN
    return top, tl.where(counted, rest, 0.0), log_total, tl.where(counted, reciprocal, 0.0)


@triton.jit
def probability_rows(
    logits, softmax, place, channel, inside, counted, SELECT: tl.constexpr, CHANNELS: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """p, 1 - p and -log p of a row of channels."""
    top, rest, log_total, reciprocal = softmax
    z = read_rows(logits, place, channel, inside, counted, float("-inf"), SELECT, CHANNELS, REAL)
    p = tl.exp2((z - top) * LOG2_E) * reciprocal
    return p, tl.where(z == top, rest * reciprocal, 1.0 - p), log_total - (z - top)


@triton.jit
def forward_rows(
    logits, target, mask, weight_map, partial, voxels, programs, tiles,
    KINDS: tl.constexpr, MAPPED: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Softmax over many channels: partial sums [B, programs, CHANNELS, K], updated in place tile after tile."""
    REAL: tl.constexpr = partial.dtype.element_ty
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        tl.debug_barrier()  # the sums that other threads wrote for the previous tile
        voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
        inside = voxel < voxels
        labels, counted, one, weight = weigh(
            target, mask, sample, voxel, inside, IGNORE, DENSE, MASK, AXES, REAL
        )
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
        for start in tl.range(0, CHANNELS, ROWS, loop_unroll_factor=2):
            row = start + tl.arange(0, ROWS)
            channel = row[:, None]
            present = inside & (channel < CHANNELS)
            p, q, minus_log = probability_rows(
                logits, softmax, place, channel, inside, counted, SELECT, CHANNELS, REAL
            )
            truth = read_truth(
                target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            for k in tl.static_range(len(KINDS)):
                value = term_value(KINDS[k], p, minus_log, minus_log_clamped(q), one, truth)
                if MAPPED[k]:
                    map_place = offsets(weight_map, sample, voxel, AXES[3])
                    value *= read(weight_map, map_place, channel, present, counted, SELECT, REAL)
                if len(weight) > 0:
                    value *= weight[0]
                value = tl.sum(tl.broadcast_to(value, [ROWS, BLOCK]), axis=1)
                out = partial + ((sample * programs + part) * CHANNELS + row) * len(KINDS) + k
                before = tl.load(out, row < tl.where(part * tiles < tile, CHANNELS, 0), other=0)
                tl.store(out, before + value, row < CHANNELS)


@triton.jit
def rows_slopes(
    place, sample, voxel, channel, inside, target, weight_map, coefficients, labels, counted, one, logits, softmax,
    KINDS: tl.constexpr, MAPPED: tl.constexpr, SELECT: tl.constexpr, DENSE: tl.constexpr, AXES: tl.constexpr,
    CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """p, 1 - p and what the derivatives by p, -log p and -log(1-p) come to for a row of channels."""
    present = inside & (channel < CHANNELS)
    p, q, minus_log = probability_rows(
        logits, softmax, place, channel, inside, counted, SELECT, CHANNELS, REAL
    )
    truth_place = offsets(target, sample, voxel, AXES[1])
    truth = read_truth(target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL)
    map_value = one
    if weight_map is not None:
        map_place = offsets(weight_map, sample, voxel, AXES[3])
        map_value = read(weight_map, map_place, channel, present, counted, SELECT, REAL)
    scale = ()
    for k in tl.static_range(len(KINDS)):
        at = coefficients + (sample * CHANNELS + channel) * len(KINDS) + k
        scale = scale + (tl.load(at, channel < CHANNELS, other=0),)
    by_p, by_log, by_log_rest = slopes(
        scale, map_value, p, minus_log, minus_log_clamped(q), one, truth, KINDS, MAPPED
    )
    return p, q, by_p, by_log, times(p, clamped_slope(by_log_rest, q))


@triton.jit
def backward_rows(
    logits, target, mask, weight_map, coefficients, grad, voxels, programs, tiles,
    KINDS: tl.constexpr, MAPPED: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Gradient of a softmax over many channels, in three sweeps: log-sum-exp, what couples the channels, gradient."""
    REAL: tl.constexpr = coefficients.dtype.element_ty
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
        inside = voxel < voxels
        labels, counted, one, weight = weigh(
            target, mask, sample, voxel, inside, IGNORE, DENSE, MASK, AXES, REAL
        )
        place = offsets(logits, sample, voxel, AXES[0])
        grad_place = offsets(grad, sample, voxel, AXES[4])
        softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
        shift = tl.zeros([ROWS, BLOCK], REAL)
        rest_total = shift
        rest_quiet = shift
        for start in tl.range(0, CHANNELS, ROWS, loop_unroll_factor=2):
            channel = start + tl.arange(0, ROWS)[:, None]
            p, q, by_p, by_log, by_rest = rows_slopes(
                place, sample, voxel, channel, inside, target, weight_map, coefficients, labels, counted, one, logits,
                softmax, KINDS, MAPPED, SELECT, DENSE, AXES, CHANNELS, REAL,
            )  # fmt: skip
            shift = plus((shift,), minus(by_log, times(p, by_p)))[0]
            rest_total = plus((rest_total,), by_rest)[0]
            rest_quiet = plus((rest_quiet,), quiet(by_rest, p))[0]
        shift = tl.sum(shift, axis=0)[None, :]
        rest_total = tl.sum(rest_total, axis=0)[None, :]
        rest_quiet = tl.sum(rest_quiet, axis=0)[None, :]
        for start in tl.range(0, CHANNELS, ROWS, loop_unroll_factor=2):
            channel = start + tl.arange(0, ROWS)[:, None]
            p, q, by_p, by_log, by_rest = rows_slopes(
                place, sample, voxel, channel, inside, target, weight_map, coefficients, labels, counted, one, logits,
                softmax, KINDS, MAPPED, SELECT, DENSE, AXES, CHANNELS, REAL,
            )  # fmt: skip
            slope = minus(times(p, plus(by_p, (shift,))), by_log)
            slope = plus(slope, through_rest(by_rest, (rest_total,), (rest_quiet,), p, q))
            write(grad, grad_place, channel, inside & (channel < CHANNELS), counted, slope, weight, SELECT)
