"""The fused passes in Triton where a thread holds all channels of its voxels.

For few channels, or channels that are independent (then a program takes a chunk of them). A program walks
several tiles of one sample; sums are accumulated in registers and reduced once, at its end.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .math import probability
from .products import plus, product_value, quiet, through_channel, through_softmax, uncoupled
from .softmax import softmax_channel, softmax_parts
from .tiles import load_coefficients, offsets, read, read_truth, slopes, weigh, within, write


@triton.jit
def stack(parts, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """``COUNT`` tensors [L] as one [L, SIZE] padded with zeros; no data leaves its thread."""
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


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def forward_unrolled(
    logits, target, mask, weight_map, partial, voxels, programs, tiles,
    TERMS: tl.constexpr, ACTIVATION: tl.constexpr,
    IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Partial sums [B, programs, CHANNELS, K]; a program walks ``tiles`` tiles of LANES * VECTOR voxels."""
    REAL: tl.constexpr = partial.dtype.element_ty
    COUNT: tl.constexpr = len(TERMS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    CHUNKS: tl.constexpr = (CHANNELS + CHUNK - 1) // CHUNK
    program = tl.program_id(0)
    first = (program % CHUNKS) * CHUNK
    sample = (program // CHUNKS).to(tl.int64) // programs
    part = ((program // CHUNKS) % programs).to(INDEX)
    sums = ()
    for _ in tl.static_range(CHUNK * COUNT):
        sums = sums + (tl.zeros([LANES], REAL),)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, LANES * VECTOR))):
        voxel = tile * (LANES * VECTOR) + tl.arange(0, LANES * VECTOR).to(INDEX)
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        if ACTIVATION == "softmax":
            below, power, others, log_total, reciprocal = softmax_parts(
                logits, place, inside, counted, TERMS, SELECT, CHANNELS, REAL
            )
        added = ()
        for c in tl.static_range(CHUNK):
            present = inside
            if CHANNELS % CHUNK != 0:
                present = voxel < tl.where(first + c < CHANNELS, voxels, 0)
            if MASK == "channel":
                labels, counted, one, weight = weigh(
                    target, mask, sample, voxel, first + c, present, IGNORE, DENSE, MASK, AXES, REAL
                )
            if ACTIVATION == "softmax":
                parts = softmax_channel(c, below, power, others, log_total, reciprocal)
            else:
                z = read(logits, place, first + c, present, counted, SELECT, REAL)
                p, q, minus_log, minus_log_rest = probability(z, ACTIVATION)
                parts = tl.where(counted, p, 0.0), q, minus_log, minus_log_rest
            truth = read_truth(
                target, truth_place, first + c, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            for k in tl.static_range(COUNT):
                value = product_value(TERMS, k, parts, one, truth, DENSE)
                if TERMS[k].mapped:
                    map_place = offsets(weight_map, sample, voxel, AXES[3])
                    value *= read(weight_map, map_place, first + c, present, counted, SELECT, REAL)
                if len(weight) > 0:
                    value *= weight[0]
                # Summed within the thread first: a register a sum, however many voxels a thread holds.
                value = tl.sum(tl.reshape(value, [LANES, VECTOR]), axis=1)
                added = added + (sums[c * COUNT + k] + value,)
        sums = added
    SIZE: tl.constexpr = triton.next_power_of_2(CHUNK * COUNT)
    row = tl.sum(stack(sums, CHUNK * COUNT, SIZE), axis=0)
    place = tl.arange(0, SIZE)
    out = partial + ((sample * programs + part) * CHANNELS + first) * COUNT
    tl.store(out + place, row, (place < CHUNK * COUNT) & (place < (CHANNELS - first) * COUNT))


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def backward_unrolled(
    logits, target, mask, weight_map, coefficients, grad, voxels, programs, tiles,
    TERMS: tl.constexpr, ACTIVATION: tl.constexpr,
    IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits from the coefficients [B, CHANNELS, K] of the sums."""
    REAL: tl.constexpr = coefficients.dtype.element_ty
    COUNT: tl.constexpr = len(TERMS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    CHUNKS: tl.constexpr = (CHANNELS + CHUNK - 1) // CHUNK
    program = tl.program_id(0)
    first = (program % CHUNKS) * CHUNK
    sample = (program // CHUNKS).to(tl.int64) // programs
    part = ((program // CHUNKS) % programs).to(INDEX)
    scale = ()
    for c in tl.static_range(CHUNK):
        scale = scale + (load_coefficients(coefficients, sample, first + c, COUNT, CHANNELS),)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, LANES * VECTOR))):
        voxel = tile * (LANES * VECTOR) + tl.arange(0, LANES * VECTOR).to(INDEX)
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        grad_place = offsets(grad, sample, voxel, AXES[4])
        truth_place = offsets(target, sample, voxel, AXES[1])
        map_value = one
        if ACTIVATION == "softmax":
            below, power, others, log_total, reciprocal = softmax_parts(
                logits, place, inside, counted, TERMS, SELECT, CHANNELS, REAL
            )
            found = ()
            total = ()
            rest_total = ()
            rest_quiet = ()
        for c in tl.static_range(CHUNK):
            present = inside
            if CHANNELS % CHUNK != 0:
                present = voxel < tl.where(first + c < CHANNELS, voxels, 0)
            if MASK == "channel":
                labels, counted, one, weight = weigh(
                    target, mask, sample, voxel, first + c, present, IGNORE, DENSE, MASK, AXES, REAL
                )
            if ACTIVATION == "softmax":
                parts = softmax_channel(c, below, power, others, log_total, reciprocal)
            else:
                parts = probability(read(logits, place, first + c, present, counted, SELECT, REAL), ACTIVATION)
            truth = read_truth(
                target, truth_place, first + c, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            if AXES[3] > 0:
                map_place = offsets(weight_map, sample, voxel, AXES[3])
                map_value = read(weight_map, map_place, first + c, present, counted, SELECT, REAL)
            by = slopes(scale[c], map_value, parts, one, truth, TERMS, DENSE)
            if ACTIVATION == "softmax":
                v, rest = uncoupled(by, parts[0], parts[1])
                found = found + ((v, rest),)
                total = plus(total, v)
                rest_total = plus(rest_total, rest)
                rest_quiet = plus(rest_quiet, quiet(rest, parts[0]))
            else:
                slope = through_channel(by, parts[0], parts[1], ACTIVATION)
                write(grad, grad_place, first + c, present, counted, slope, weight, SELECT)
        if ACTIVATION == "softmax":
            totals = total, rest_total, rest_quiet
            for c in tl.static_range(CHUNK):
                p, q, _l, _m = softmax_channel(c, below, power, others, log_total, reciprocal)
                slope = through_softmax(found[c][0], found[c][1], totals, p, q)
                write(grad, grad_place, c, inside, counted, slope, weight, SELECT)
