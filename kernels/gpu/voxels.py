"""What is written for every voxel in one Triton pass: sums of products, and what is ranked or seen by neighbours.

Two families as for the sums: *unrolled*, where a thread holds all channels of its voxels, and *rows*.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .math import probability
from .products import distance
from .softmax import read_rows, row_parts, softmax_channel, softmax_parts, softmax_rows
from .tiles import combine, load_coefficients, of_channel, offsets, read, read_truth, weigh, within


@triton.jit
def value_of(WHAT: tl.constexpr, parts, truth, counted, weight, DENSE: tl.constexpr):
    """For a y of 0 or 1 |y - p| (``"errors"``) or, of a logit p, max(1 - p (2y - 1), 0) (``"hinges"``); 0 where a voxel
    does not count: p, or w (y - p)^2 (``"squares"``)."""
    if WHAT == "p":
        value = tl.where(counted, parts[0], 0.0)
    elif WHAT == "hinges":
        value = tl.where(truth[1], parts[1], tl.where(parts[0] < -1.0, 0.0, 1.0 + parts[0]))  # 1 - p is at least 0
    else:
        value = tl.where(truth[1], parts[1], parts[0])
        if WHAT == "squares":
            if DENSE:
                value = distance(parts[0], parts[1], truth[0], truth[2])
            value *= value
            if len(weight) > 0:
                value *= weight[0]
            value = tl.where(counted, value, 0.0)
    return value


@triton.jit
def write_value(
    out, place, channel, inside, counted, weight, value, WHAT: tl.constexpr, SELECT: tl.constexpr,
):  # fmt: skip
    """A weighted sum of terms; ``"losses"`` for ranks: at least 0, and -1 where a voxel does not count."""
    if len(weight) > 0:
        value *= weight[0]
    if WHAT == "losses":
        value = tl.where(counted, tl.abs(value), -1.0)
    elif SELECT:
        value = tl.where(counted, value, 0.0)
    tl.store(out.pointer + place + of_channel(out, channel), value, inside)


@triton.jit
def read_map(
    weight_map, sample, voxel, channel, inside, counted, one, AXES: tl.constexpr, SELECT: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """The voxel weight map of a channel; an absent one is not asked for."""
    if AXES[3] == 0:
        return one
    else:
        place = offsets(weight_map, sample, voxel, AXES[3])
        return read(weight_map, place, channel, inside, counted, SELECT, REAL)


@triton.jit
def channels_apart(
    logits, target, mask, weight_map, coefficients, out, sample, voxel, voxels, first, inside, total,
    WHAT: tl.constexpr, TERMS: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, SELECT: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Some channels on their own: what is written of each, or the total of their values and those before."""
    labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
    place = offsets(logits, sample, voxel, AXES[0])
    truth_place = offsets(target, sample, voxel, AXES[1])
    out_place = offsets(out, sample, voxel, AXES[4])
    for c in tl.static_range(CHUNK):
        channel = first + c
        present = inside
        if CHANNELS % CHUNK != 0:
            present = voxel < tl.where(channel < CHANNELS, voxels, 0)
        if MASK == "channel":
            labels, counted, one, weight = weigh(
                target, mask, sample, voxel, channel, present, IGNORE, DENSE, MASK, AXES, REAL
            )
        parts = probability(read(logits, place, channel, present, counted, SELECT, REAL), ACTIVATION)
        truth = read_truth(target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL)
        if len(TERMS) == 0:
            value = value_of(WHAT, parts, truth, counted, weight, DENSE)
            tl.store(out.pointer + out_place + of_channel(out, channel), value, present)
        else:
            scale = load_coefficients(coefficients, sample, channel, len(TERMS), CHANNELS)
            map_value = read_map(weight_map, sample, voxel, channel, present, counted, one, AXES, SELECT, REAL)
            # the map of what does not count, and p of sigmoid, need not be 0
            value = tl.where(counted, combine(scale, map_value, parts, one, truth, TERMS, DENSE), 0.0)
            if WHAT == "totals":
                total += value * weight[0] if len(weight) > 0 else value
            else:
                write_value(out, out_place, channel, present, counted, weight, value, WHAT, SELECT)
    return total


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def values_unrolled(
    logits, target, mask, weight_map, coefficients, out, voxels, programs, tiles,
    WHAT: tl.constexpr, TERMS: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, SPAN: tl.constexpr,
    LANES: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """``WHAT``: :func:`value_of` of all channels, or the weighted sum of terms: of each channel (``"values"``), or of
    all together (``"totals"``, and ``"losses"`` of a softmax). A program takes ``SPAN`` channels on their own."""
    REAL: tl.constexpr = out.pointer.dtype.element_ty
    COUNT: tl.constexpr = len(TERMS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    SPANS: tl.constexpr = (CHANNELS + SPAN - 1) // SPAN
    program = tl.program_id(0)
    first = (program % SPANS) * SPAN
    sample = (program // SPANS).to(tl.int64) // programs
    part = ((program // SPANS) % programs).to(INDEX)
    scale = ()
    if ACTIVATION == "softmax":
        for c in tl.static_range(CHANNELS):
            scale = scale + (load_coefficients(coefficients, sample, first + c, COUNT, CHANNELS),)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, LANES * VECTOR))):
        voxel = tile * (LANES * VECTOR) + tl.arange(0, LANES * VECTOR).to(INDEX)
        inside = within(voxel, voxels, EVEN)
        total = tl.zeros([LANES * VECTOR], REAL)
        if ACTIVATION != "softmax":
            if WHAT == "totals":
                for start in range(0, CHANNELS, CHUNK):
                    total = channels_apart(
                        logits, target, mask, weight_map, coefficients, out, sample, voxel, voxels, start, inside,
                        total, WHAT, TERMS, ACTIVATION, IGNORE, DENSE, MASK, AXES, CHANNELS, CHUNK, SELECT, REAL,
                    )  # fmt: skip
                write_value(out, offsets(out, sample, voxel, AXES[4]), 0, inside, inside, (), total, WHAT, False)
            else:
                channels_apart(
                    logits, target, mask, weight_map, coefficients, out, sample, voxel, voxels, first, inside, total,
                    WHAT, TERMS, ACTIVATION, IGNORE, DENSE, MASK, AXES, CHANNELS, CHUNK, SELECT, REAL,
                )  # fmt: skip
        else:
            labels, counted, one, weight = weigh(
                target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL
            )
            place = offsets(logits, sample, voxel, AXES[0])
            truth_place = offsets(target, sample, voxel, AXES[1])
            out_place = offsets(out, sample, voxel, AXES[4])
            below, power, others, log_total, reciprocal = softmax_parts(
                logits, place, inside, counted, TERMS, SELECT, CHANNELS, REAL
            )
            for c in tl.static_range(CHANNELS):
                parts = softmax_channel(c, below, power, others, log_total, reciprocal)
                truth = read_truth(target, truth_place, c, inside, labels, counted, one, SELECT, DENSE, CHANNELS, REAL)
                if COUNT == 0:
                    value = value_of(WHAT, parts, truth, counted, weight, DENSE)
                    tl.store(out.pointer + out_place + of_channel(out, c), value, inside)
                else:
                    map_value = read_map(weight_map, sample, voxel, c, inside, counted, one, AXES, SELECT, REAL)
                    value = combine(scale[c], map_value, parts, one, truth, TERMS, DENSE)
                    total = value if c == 0 else total + value
                    if WHAT == "values":
                        write_value(out, out_place, c, inside, counted, weight, value, WHAT, SELECT)
            if COUNT > 0 and WHAT != "values":
                write_value(out, out_place, 0, inside, counted, weight, total, WHAT, SELECT)


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def values_rows(
    logits, target, mask, weight_map, coefficients, out, voxels, programs, tiles,
    WHAT: tl.constexpr, TERMS: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr,
    MASK: tl.constexpr, AXES: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The same for a softmax over many channels."""
    REAL: tl.constexpr = out.pointer.dtype.element_ty
    COUNT: tl.constexpr = len(TERMS)
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, 0, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        out_place = offsets(out, sample, voxel, AXES[4])
        softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
        total = tl.zeros([ROWS, BLOCK], REAL)
        for start in range(0, CHANNELS, ROWS):
            channel = start + tl.arange(0, ROWS)[:, None]
            present = inside & (channel < CHANNELS)
            z = read_rows(logits, place, channel, inside, counted, softmax[0], SELECT, CHANNELS, REAL)
            parts = row_parts(z, softmax)
            truth = read_truth(
                target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            if COUNT == 0:
                value = value_of(WHAT, parts, truth, counted, weight, DENSE)
                tl.store(out.pointer + out_place + of_channel(out, channel), value, present)
            else:
                scale = load_coefficients(coefficients, sample, channel, COUNT, CHANNELS)
                map_value = read_map(weight_map, sample, voxel, channel, present, counted, one, AXES, SELECT, REAL)
                value = combine(scale, map_value, parts, one, truth, TERMS, DENSE)
                if WHAT == "values":
                    write_value(out, out_place, channel, present, counted, weight, value, WHAT, SELECT)
                else:
                    total += tl.where(channel < CHANNELS, value, 0.0)
        if COUNT > 0 and WHAT != "values":
            total = tl.sum(total, axis=0)[None, :]
            write_value(out, out_place, 0, inside, counted, weight, total, WHAT, SELECT)
