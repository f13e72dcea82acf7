"""Selection of the largest of many numbers by the histograms of their bits (Numba): exact, without a sort.

The numbers are at least 0, so that their bits as an integer have their order (and NaN comes last); what does not count
is negative. Counts are integers and sums of blocks are added in order: the result does not depend on the threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from torch import Tensor

from .compiling import INNER, SUMS, no_inline
from .loops import Loop, array, number, part

real, bits = np.float32, np.int32  # the clones of a loop have their own

BLOCK = 65536  # numbers
_DIGIT = 11  # bits
_TABLES = 2  # that neighbouring numbers are counted in: of equal digits one would wait for the addition before


def select_largest(losses: Tensor, k: float, of_all: bool = False) -> tuple[float, int, Tensor]:
    """The mean of the ``m = max(1, floor(k n))`` largest of the n losses that count, m, and weights.

    With ``of_all`` n is the number of all losses, and those that do not count are 0 in the mean. The weights take the
    losses' place, in memory as well: 1 above the smallest of the largest, and equal shares of what is left for all
    losses that equal it. ``losses`` is contiguous.
    """
    keys = losses.view(-1).numpy()
    if keys.size == 0:
        return 0.0, 0, losses
    fixed = 8 * keys.itemsize - 1  # the bits from here on are known: first, that the sign is positive
    found, prefix, of, left, ties = keys, 0, 0, 0, 0  # found: the keys that begin with the known bits
    while fixed:
        shift = max(0, fixed - _DIGIT)
        blocks = -(-found.size // BLOCK)
        partial = np.zeros((blocks, _TABLES, 1 << _DIGIT), np.int32)
        _HISTOGRAM(blocks, found.size, found, partial, fixed, prefix, shift)
        of_blocks = partial.sum(1)
        histogram = of_blocks.sum(0)
        if not of:
            n = int(histogram.sum())
            if n == 0:
                losses.zero_()
                return 0.0, 0, losses
            of = max(1, math.floor(k * (keys.size if of_all else n)))
            left = min(of, n)
        from_above = histogram[::-1].cumsum()
        place = int(np.searchsorted(from_above, left))  # the first digit at which enough have been seen
        digit = histogram.size - 1 - place
        ties = int(histogram[digit])
        left -= int(from_above[place]) - ties
        prefix = prefix << (fixed - shift) | digit
        if found is keys and shift:
            found = _gather(keys, of_blocks[:, digit], shift, prefix)
        fixed = shift
    threshold = np.array([prefix], np.int32 if keys.itemsize == 4 else np.int64).view(keys.dtype)
    weights = np.array([1, left / ties], keys.dtype)
    partial_sums = np.zeros(-(-keys.size // BLOCK))
    _WEIGH(partial_sums.size, keys.size, keys, partial_sums, threshold, weights)
    total = float(partial_sums.sum()) + left * float(threshold[0])
    return total / of, of, losses


def _gather(keys: np.ndarray, counts: np.ndarray, shift: int, prefix: int) -> np.ndarray:
    """The keys that begin with the prefix, of which each block has a known number; a block's last is followed by one
    that does not."""
    ends = (counts + 1).cumsum(dtype=np.int64)
    found = np.empty(int(ends[-1]), keys.dtype)
    _GATHER(ends.size, keys.size, keys, found, ends - counts - 1, shift, prefix)
    return found


# Of parts of arrays: an index that might be negative, and then count from the end, keeps LLVM from vectorising


@njit(**INNER)
def _block(whole, i):
    return part(whole, i * BLOCK, min(BLOCK, whole.size - i * BLOCK))


@njit(fastmath=SUMS, **INNER)
def _sum_above(keys, values, threshold):
    no_inline()
    total, zero = 0.0, values.dtype.type(0)
    for j in range(keys.size):
        total += values[j] if keys[j] > threshold else zero
    return total


def _histogram(arguments, i):  # type: ignore[no-untyped-def]
    """For the keys whose bits from ``fixed`` on are ``prefix``: how often each digit above ``shift`` occurs."""
    keys, counts = _block(array(arguments, 0, 1, bits), i), array(arguments, 1, 3, np.int32)
    fixed, prefix, shift = number(arguments, 2), number(arguments, 3), number(arguments, 4)
    mask = (1 << (fixed - shift)) - 1
    for j in range(keys.size):
        if keys[j] >> fixed == prefix:
            counts[i, j % _TABLES, (keys[j] >> shift) & mask] += 1
    return 0


def _gather_block(arguments, i):  # type: ignore[no-untyped-def]
    """Without a branch, which the processor would guess wrongly."""
    keys, found = _block(array(arguments, 0, 1, bits), i), array(arguments, 1, 1, bits)
    place, shift, prefix = array(arguments, 2, 1, np.int64)[i], number(arguments, 3), number(arguments, 4)
    for j in range(keys.size):
        found[place] = keys[j]
        place += np.int64(keys[j] >> shift == prefix)
    found[place] = -1
    return 0


def _weigh(arguments, i):  # type: ignore[no-untyped-def]
    """Sums what is above the threshold, then replaces every number by its weight, in the same memory."""
    keys, values = _block(array(arguments, 0, 1, bits), i), _block(array(arguments, 0, 1, real), i)
    threshold, weights = array(arguments, 2, 1, bits)[0], array(arguments, 3, 1, bits)
    array(arguments, 1, 1, np.float64)[i] = _sum_above(keys, values, threshold)
    one, share, zero = weights[0], weights[1], bits(0)
    for j in range(keys.size):
        keys[j] = one if keys[j] > threshold else share if keys[j] == threshold else zero
    return 0


_HISTOGRAM, _GATHER, _WEIGH = map(Loop, (_histogram, _gather_block, _weigh))
