"""Selection of the largest of many numbers by the histograms of their bits (Numba): exact, without a sort.

The numbers are at least 0, so that their bits as an integer have their order (and NaN comes last); what does not count
is negative. Counts are integers and sums of blocks are added in order: the result does not depend on the threads.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from .math import INNER, SUMS, no_inline
from .threads import pick, serial_and_parallel

BLOCK = 65536  # numbers
_DIGIT = 11  # bits
_TABLES = 2  # that neighbouring numbers are counted in: of equal digits one would wait for the addition before


def select_largest(losses: Tensor, k: float) -> tuple[float, int, Tensor]:
    """The mean of the ``max(1, floor(k n))`` largest of the n losses that count, how many those are, and weights.

    The weights take the losses' place, in memory as well: 1 above the smallest of the largest, and equal shares of what
    is left for all losses that equal it. ``losses`` is contiguous.
    """
    double = losses.dtype == torch.float64
    keys = losses.view(-1).numpy().view(np.int64 if double else np.int32)
    if keys.size == 0:
        return 0.0, 0, losses
    fixed = 63 if double else 31  # the bits from here on are known: first, that the sign is positive
    found, prefix, count, left, ties = keys, 0, 0, 0, 0  # found: the keys that begin with the known bits
    while fixed:
        shift = max(0, fixed - _DIGIT)
        partial = np.zeros((-(-found.size // BLOCK), _TABLES, 1 << _DIGIT), np.int32)
        pick(_HISTOGRAM, found.size)(found, partial, fixed, prefix, shift)
        of_blocks = partial.sum(1)
        histogram = of_blocks.sum(0)
        if not count:
            n = int(histogram.sum())
            if n == 0:
                losses.zero_()
                return 0.0, 0, losses
            count = left = max(1, math.floor(k * n))
        from_above = histogram[::-1].cumsum()
        place = int(np.searchsorted(from_above, left))  # the first digit at which enough have been seen
        digit = histogram.size - 1 - place
        ties = int(histogram[digit])
        left -= int(from_above[place]) - ties
        prefix = prefix << (fixed - shift) | digit
        if found is keys and shift:
            found = _gather(keys, of_blocks[:, digit], shift, prefix)
        fixed = shift
    like = losses.numpy().dtype.type
    threshold = keys.dtype.type(prefix)
    bits = np.array([1, left / ties], like).view(keys.dtype)
    partial_sums = np.zeros(-(-keys.size // BLOCK))
    pick(_WEIGH, losses.numel())(keys, losses.view(-1).numpy(), partial_sums, threshold, bits)
    total = float(partial_sums.sum()) + left * float(threshold.view(like))
    return total / count, count, losses


def _gather(keys: np.ndarray, counts: np.ndarray, shift: int, prefix: int) -> np.ndarray:
    """The keys that begin with the prefix, of which each block has a known number; a block's last is followed by one
    that does not."""
    ends = (counts + 1).cumsum()
    found = np.empty(int(ends[-1]), keys.dtype)
    pick(_GATHER, keys.size)(keys, found, ends - counts - 1, shift, prefix)
    return found


@njit(**INNER)
def _count_block(keys, counts, fixed, prefix, shift):
    no_inline()
    mask = (1 << (fixed - shift)) - 1
    for j in range(keys.size):
        if keys[j] >> fixed == prefix:
            counts[j % _TABLES, (keys[j] >> shift) & mask] += 1


def _histogram_loop(keys, partial, fixed, prefix, shift):  # type: ignore[no-untyped-def]
    """For the keys whose bits from ``fixed`` on are ``prefix``: how often each digit above ``shift`` occurs."""
    for i in prange(partial.shape[0]):
        _count_block(keys[i * BLOCK : i * BLOCK + BLOCK], partial[i], fixed, prefix, shift)


@njit(**INNER)
def _gather_block(keys, found, shift, prefix):
    """Without a branch, which the processor would guess wrongly."""
    no_inline()
    place = 0
    for j in range(keys.size):
        found[place] = keys[j]
        place += np.int64(keys[j] >> shift == prefix)
    found[place] = -1


def _gather_loop(keys, found, places, shift, prefix):  # type: ignore[no-untyped-def]
    for i in prange(places.size):
        _gather_block(keys[i * BLOCK : i * BLOCK + BLOCK], found[places[i] :], shift, prefix)


# Of parts of arrays: an index that might be negative, and then count from the end, keeps LLVM from vectorising


@njit(fastmath=SUMS, **INNER)
def _sum_above(keys, values, threshold):
    no_inline()
    total, zero = 0.0, values.dtype.type(0)
    for j in range(keys.size):
        total += values[j] if keys[j] > threshold else zero
    return total


@njit(**INNER)
def _weigh_block(keys, threshold, one, share):
    no_inline()
    zero = keys.dtype.type(0)
    for j in range(keys.size):
        keys[j] = one if keys[j] > threshold else share if keys[j] == threshold else zero


def _weigh_loop(keys, values, sums, threshold, weights):  # type: ignore[no-untyped-def]
    """Sums what is above the threshold, then replaces every key by the bits of its weight, in the same memory."""
    for i in prange(sums.size):
        part = keys[i * BLOCK : i * BLOCK + BLOCK]
        sums[i] = _sum_above(part, values[i * BLOCK : i * BLOCK + BLOCK], threshold)
        _weigh_block(part, threshold, weights[0], weights[1])


_HISTOGRAM = serial_and_parallel(_histogram_loop)
_GATHER = serial_and_parallel(_gather_loop)
_WEIGH = serial_and_parallel(_weigh_loop)
