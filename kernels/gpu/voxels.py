"""What is ranked or seen by neighbours, written for every voxel in one Triton pass: cross-entropies, errors, p.

Two families as for the sums: *unrolled*, where a thread holds all channels of its voxels, and *rows*.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .math import probability
from .products import product
from .rows import probability_rows, softmax_rows
from .tiles import offsets, read, read_truth, weigh, within
from .unrolled import softmax_channel, softmax_parts


@triton.jit
def value_of(WHAT: tl.constexpr, parts, truth, counted, weight, DENSE: tl.constexpr):
    """For a y of 0 or 1 |y - p| (``"errors"``) or, of a logit p, max(1 - p (2y - 1), 0) (``"hinges"``); 0 where a voxel
    does not count: p, or w (y - p)^2 (``"squares"``)."""
    if WHAT == "p":
        value = tl.where(counted, parts[0], 0.0)
    elif WHAT == "hinges":
        value = tl.where(truth[1], parts[1], tl.where(parts[0] < -1.0, 0.0, 1.0 + parts[0]))  # 1 - p is at least 0
    else:
        value = parts[0] - truth[0] if DENSE and WHAT == "squares" else tl.where(truth[1], parts[1], parts[0])
        if WHAT == "squares":
            value *= value
            if len(weight) > 0:
                value *= weight[0]
            value = tl.where(counted, value, 0.0)
    return value


@triton.jit
def loss_of(parts, one, truth, BOTH_SIDES: tl.constexpr, DENSE: tl.constexpr):
    """The cross-entropy of a channel."""
    loss = product("y", 0, 0, 1, 0, 0, 0, parts, one, truth, DENSE)
    if BOTH_SIDES:
        loss += product("r", 0, 0, 0, 1, 0, 0, parts, one, truth, DENSE)
    return loss


@triton.jit
def write_loss(out, place, channel, inside, counted, weight, loss):
    """The weighted loss, at least 0, and -1 where a voxel does not count."""
    if len(weight) > 0:
        loss = loss * weight[0]
    tl.store(out.pointer + place + channel * out.channel, tl.where(counted, tl.abs(loss), -1.0), inside)


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def values_unrolled(
    logits, target, mask, out, voxels, programs, tiles,
    WHAT: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr,
    AXES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
    INDEX: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """``WHAT``: :func:`value_of` of all channels, or losses: one a voxel for softmax, else one a channel."""
    REAL: tl.constexpr = out.pointer.dtype.element_ty
    LOSSES: tl.constexpr = WHAT == "losses" or WHAT == "own"
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    CHUNKS: tl.constexpr = (CHANNELS + CHUNK - 1) // CHUNK
    program = tl.program_id(0)
    first = (program % CHUNKS) * CHUNK
    sample = (program // CHUNKS).to(tl.int64) // programs
    part = ((program // CHUNKS) % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, LANES * VECTOR))):
        voxel = tile * (LANES * VECTOR) + tl.arange(0, LANES * VECTOR).to(INDEX)
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        out_place = offsets(out, sample, voxel, AXES[4])
        if ACTIVATION == "softmax":
            below, power, others, log_total, reciprocal = softmax_parts(
                logits, place, inside, counted, (), SELECT, CHANNELS, REAL
            )
            total = tl.zeros_like(one)
        for c in tl.static_range(CHUNK):
            present = inside
            if CHANNELS % CHUNK != 0:
                present = voxel < tl.where(first + c < CHANNELS, voxels, 0)
            if ACTIVATION == "softmax":
                parts = softmax_channel(c, below, power, others, log_total, reciprocal)
            else:
                parts = probability(read(logits, place, first + c, present, counted, SELECT, REAL), ACTIVATION)
            truth = read_truth(
                target, truth_place, first + c, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            if not LOSSES:
                value = value_of(WHAT, parts, truth, counted, weight, DENSE)
                tl.store(out.pointer + out_place + (first + c) * out.channel, value, present)
            elif ACTIVATION == "softmax":
                total += loss_of(parts, one, truth, False, DENSE)
            else:
                loss = loss_of(parts, one, truth, WHAT == "losses", DENSE)
                write_loss(out, out_place, first + c, present, counted, weight, loss)
        if ACTIVATION == "softmax" and LOSSES:
            write_loss(out, out_place, 0, inside, counted, weight, total)


@triton.jit(do_not_specialize=["programs", "tiles"])  # they follow the batch size
def values_rows(
    logits, target, mask, out, voxels, programs, tiles,
    WHAT: tl.constexpr, ACTIVATION: tl.constexpr, IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr,
    AXES: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """The same for a softmax over many channels."""
    REAL: tl.constexpr = out.pointer.dtype.element_ty
    LOSSES: tl.constexpr = WHAT == "losses" or WHAT == "own"
    SELECT: tl.constexpr = MASK != "none" or len(IGNORE) > 0
    program = tl.program_id(0)
    sample = program.to(tl.int64) // programs
    part = (program % programs).to(INDEX)
    for tile in range(part * tiles, min(part * tiles + tiles, tl.cdiv(voxels, BLOCK))):
        voxel = (tile * BLOCK + tl.arange(0, BLOCK).to(INDEX))[None, :]
        inside = within(voxel, voxels, EVEN)
        labels, counted, one, weight = weigh(target, mask, sample, voxel, inside, IGNORE, DENSE, MASK, AXES, REAL)
        place = offsets(logits, sample, voxel, AXES[0])
        truth_place = offsets(target, sample, voxel, AXES[1])
        out_place = offsets(out, sample, voxel, AXES[4])
        softmax = softmax_rows(logits, place, inside, counted, SELECT, CHANNELS, ROWS, BLOCK, REAL)
        total = tl.zeros([ROWS, BLOCK], REAL)
        for start in range(0, CHANNELS, ROWS):
            channel = start + tl.arange(0, ROWS)[:, None]
            present = inside & (channel < CHANNELS)
            parts = probability_rows(logits, softmax, place, channel, inside, counted, SELECT, CHANNELS, REAL)
            truth = read_truth(
                target, truth_place, channel, present, labels, counted, one, SELECT, DENSE, CHANNELS, REAL
            )
            if not LOSSES:
                value = value_of(WHAT, parts, truth, counted, weight, DENSE)
                tl.store(out.pointer + out_place + channel * out.channel, value, present)
            else:
                total += tl.where(channel < CHANNELS, loss_of(parts, one, truth, False, DENSE), 0.0)
        if LOSSES:
            write_loss(out, out_place, 0, inside, counted, weight, tl.sum(total, axis=0)[None, :])
