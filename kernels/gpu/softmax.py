"""The softmax over the classes of a voxel: all of them in one thread, or in rows that threads share.

Rows are held in registers, or read again for each sweep; see :mod:`kernels.gpu.rows`.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .math import LOG2_E, minus_log_clamped, normalise
from .tiles import read

# Below any logit, yet finite: a difference of two of them must not be NaN.
LOWEST_SINGLE = tl.constexpr(-3.3e38)
LOWEST_DOUBLE = tl.constexpr(-1.7e308)


@triton.jit
def softmax_parts(
    logits, place, inside, counted, TERMS: tl.constexpr, SELECT: tl.constexpr, CHANNELS: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Per channel z - max, exp(z - max) and the others' sum of it; the log of the sum; its reciprocal."""
    z = ()
    highest = 0.0
    for c in tl.static_range(CHANNELS):
        z = z + (read(logits, place, c, inside, counted, SELECT, REAL),)
        highest = z[0] if c == 0 else tl.maximum(highest, z[c])
    below = ()
    power = ()
    before = (tl.zeros_like(highest),)  # sums of the channels before one, and (last first) of those after it
    after = before
    for c in tl.static_range(CHANNELS):
        below = below + (z[c] - highest,)
        power = power + (tl.exp2(below[c] * LOG2_E),)
        before = before + (power[0] if c == 0 else before[c] + power[c],)
    # 1 - p comes from the other channels: the difference would leave no digits where p is nearly 1.
    others = ()
    for c in tl.static_range(CHANNELS):
        after = after + (after[c] + power[CHANNELS - 1 - c],)
    for c in tl.static_range(CHANNELS):
        others = others + (before[c] + after[CHANNELS - 1 - c],)
    rest = ()
    for k in tl.static_range(len(TERMS)):
        if TERMS[k].l > 0 and TERMS[k].l < 1:  # only then are all digits of -log p needed near p = 1
            rest = (lowest(others, CHANNELS),)
    log_total, reciprocal = normalise(before[CHANNELS], rest)
    return below, power, others, log_total, tl.where(counted, reciprocal, 0.0)


@triton.jit
def lowest(values, COUNT: tl.constexpr):
    """The lowest of a tuple, elementwise: of the others' sums, that of the channel that leads."""
    least = values[0]
    for i in tl.static_range(COUNT - 1):
        least = tl.minimum(least, values[i + 1])
    return least


@triton.jit
def softmax_channel(c: tl.constexpr, below, power, others, log_total, reciprocal):
    """p, 1 - p, -log p and -log(1-p) of one channel."""
    p = power[c] * reciprocal
    q = others[c] * reciprocal
    return p, q, log_total - below[c], minus_log_clamped(q, -p)


@triton.jit
def read_rows(
    field, place, channel, inside, counted, outside, SELECT: tl.constexpr, CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
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
def held_softmax(
    logits, place, inside, counted, APART: tl.constexpr, SELECT: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, PIECES: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The logits, a tuple of [ROWS, BLOCK], and of them what :func:`softmax_rows` gives.

    The others' sum is one of its own, not a difference, only if that is needed (``APART``).
    """
    z = ()
    for i in tl.static_range(PIECES):
        channel = i * ROWS + tl.arange(0, ROWS)[:, None]
        z = z + (read_rows(logits, place, channel, inside, counted, float("-inf"), SELECT, CHANNELS, REAL),)
        highest = z[0] if i == 0 else tl.maximum(highest, z[i])  # noqa: F821
    top = tl.max(highest, axis=0)[None, :]
    for i in tl.static_range(PIECES):
        power = tl.exp2((z[i] - top) * LOG2_E)
        total = power if i == 0 else total + power  # noqa: F821
        if APART:
            power = tl.where(z[i] - top == 0.0, 0.0, power)  # of an infinite maximum it stays NaN
            rest = power if i == 0 else rest + power  # noqa: F821
    total = tl.sum(total, axis=0)[None, :]
    if APART:
        rest = tl.sum(rest, axis=0)[None, :]
        rest += tl.floor(total - rest + 0.5) - 1.0  # the channels that lead, but one
        log_total, reciprocal = normalise(rest + 1.0, (rest,))
    else:
        rest = total - 1.0
        log_total, reciprocal = normalise(total, ())
    if CHANNELS % ROWS != 0:
        channel = (PIECES - 1) * ROWS + tl.arange(0, ROWS)[:, None]
        z = z[: PIECES - 1] + (tl.where(channel < CHANNELS, z[PIECES - 1], top),)
    return z, (top, rest, log_total, tl.where(counted, reciprocal, 0.0))


@triton.jit
def row_parts(z, softmax):
    """p, 1 - p, -log p and -log(1-p) of a row of channels; finite in rows past the last one, which hold the maximum."""
    top, rest, log_total, reciprocal = softmax
    p = tl.exp2((z - top) * LOG2_E) * reciprocal
    q = tl.where(z - top == 0.0, rest * reciprocal, 1.0 - p)
    return p, q, log_total - (z - top), minus_log_clamped(q, -p)
