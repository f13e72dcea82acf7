"""The Lovász extension of the Jaccard loss for one class, by a sort of the bits of the errors (Numba).

Errors come as float32 with the truth in the sign (negative: foreground), and are replaced by their slopes (0 of an
error of 0). Their bits,
inverted, are split by the leading ones into parts that fit the caches, each of which is sorted by itself. Both steps
are stable: of equal errors, the first voxel ranks first. Where every foreground voxel has been passed the slopes are 0
and need no order. Parts follow from the data alone and are added in order: the result does not depend on the threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .compiling import INNER, no_inline
from .forms import UNCOUNTED
from .loops import Loop, array, number, part

_BLOCK = 65536  # voxels of a block, at least; there are at most _BLOCKS
_BLOCKS = 64
_PART = 8192  # voxels of a part, at least, and about a share of _PARTS
_PARTS = 256
_BUCKETS = 4096
_SHIFT = 19  # of 31 bits, these are left to the sort within a part
_DIGIT = 11  # bits of a pass of that sort, at most
_UNCOUNTED = np.float32(UNCOUNTED).view(np.uint32)
_KEY = np.uint32(0x7FFFFFFF)
_fast = njit(**INNER)


def jaccard_of_class(errors) -> tuple[float, int]:
    """The value of a class and the number of its foreground voxels; ``errors``, a contiguous tensor of one axis,
    becomes the slopes by p."""
    bits, slopes = errors.numpy().view(np.uint32), errors.numpy()
    block = max(_BLOCK, -(-bits.size // _BLOCKS))
    blocks = -(-bits.size // block)
    counts = np.zeros((blocks, 2, _BUCKETS), np.int64)
    _COUNT(blocks, bits.size, slopes, counts, block)
    totals = counts.sum(0)
    foreground = int(totals[1].sum())
    if foreground == 0:
        return _of_absent_class(bits, slopes, totals), 0
    parts = _plan_parts(totals, foreground)
    ranked = np.empty(int(parts.sizes.sum()), np.uint64)
    by_part = np.add.reduceat(counts.sum(1), parts.first_bucket, axis=1)[:, : parts.sizes.size]
    places = parts.starts + np.cumsum(by_part, 0) - by_part
    _SCATTER(blocks, bits.size, slopes, places, parts.of_bucket, ranked, block)
    values = np.zeros(parts.sizes.size)
    _RANK(values.size, bits.size, slopes, ranked, values, parts.starts, parts.sizes, parts.passed, foreground)
    return float(values.sum()), foreground


def _of_absent_class(bits, slopes, totals) -> float:
    """The largest error: without foreground the Jaccard loss of any voxel is 1."""
    if not totals.any():
        slopes[:] = 0
        return 0.0
    # in place, in memory order: no copy of the volume
    bits[bits == _UNCOUNTED] = 0
    first = int(bits.argmax())  # the bits of a NaN are the largest
    value = float(slopes[first])
    slopes[:] = 0
    slopes[first] = value != 0
    return value


class _Parts(NamedTuple):
    """Ranges of buckets that are sorted together, from the largest errors on, until all foreground is passed."""

    first_bucket: np.ndarray  # and one more, where the rest begins
    of_bucket: np.ndarray  # -1: not ranked
    starts: np.ndarray
    sizes: np.ndarray
    passed: np.ndarray  # [parts, 2] background and foreground voxels before a part


def _plan_parts(totals: np.ndarray, foreground: int) -> _Parts:
    sizes = totals.sum(0)
    before = np.cumsum(totals, 1) - totals
    last = int(np.flatnonzero(totals[1])[-1])
    least = max(_PART, int(sizes[: last + 1].sum()) // _PARTS)
    firsts, size = [0], 0
    for bucket in range(last + 1):
        if size and size + sizes[bucket] > least:
            firsts.append(bucket)
            size = 0
        size += int(sizes[bucket])
    first_bucket = np.array(firsts, np.int64)
    of_bucket = np.full(_BUCKETS, -1, np.int64)
    of_bucket[: last + 1] = np.searchsorted(first_bucket, np.arange(last + 1), side="right") - 1
    starts = before.sum(0)[first_bucket]
    part_sizes = np.add.reduceat(sizes[: last + 1], first_bucket)
    ends = [] if last + 1 == _BUCKETS else [last + 1]
    return _Parts(
        np.array([*firsts, *ends]), of_bucket, starts, part_sizes, np.ascontiguousarray(before[:, first_bucket].T)
    )


def _count(arguments, i):  # type: ignore[no-untyped-def]
    """How many voxels of either side are in each bucket, for every block."""
    whole, counts, block = array(arguments, 0, 1, np.uint32), array(arguments, 1, 3, np.int64), number(arguments, 2)
    bits = part(whole, i * block, min(block, whole.size - i * block))
    for j in range(bits.size):
        if bits[j] != _UNCOUNTED:
            bucket = np.int64(_KEY - (bits[j] & _KEY)) >> _SHIFT
            counts[i, np.int64(bits[j] >> np.uint32(31)), bucket] += 1
    return 0


def _scatter(arguments, i):  # type: ignore[no-untyped-def]
    """Moves inverted key, truth and index of each voxel to its part; clears what is not ranked."""
    whole, places = array(arguments, 0, 1, np.uint32), array(arguments, 1, 2, np.int64)
    of_bucket, ranked = array(arguments, 2, 1, np.int64), array(arguments, 3, 1, np.uint64)
    block = number(arguments, 4)
    first, place = i * block, places[i]
    bits = part(whole, first, min(block, whole.size - first))
    for j in range(bits.size):
        inverted = np.uint32(_KEY - (bits[j] & _KEY))
        part_of = of_bucket[np.int64(inverted) >> _SHIFT]
        if part_of < 0 or bits[j] == _UNCOUNTED:
            bits[j] = 0
        else:
            key = np.uint64(inverted) << np.uint64(33) | np.uint64(bits[j] >> np.uint32(31)) << np.uint64(32)
            ranked[place[part_of]] = key | np.uint64(first + j)
            place[part_of] += 1
    return 0


@_fast
def _sort_pass(source, out, counts, shift, mask):
    no_inline()
    for d in range(mask + 1):
        counts[d] = 0
    for i in range(source.size):
        counts[np.int64(source[i] >> shift) & mask] += 1
    total = 0
    for d in range(mask + 1):
        count = counts[d]
        counts[d] = total
        total += count
    for i in range(source.size):
        digit = np.int64(source[i] >> shift) & mask
        out[counts[digit]] = source[i]
        counts[digit] += 1


@_fast
def _sort(own, spare, counts):
    """Puts a part in the order of its keys, and returns it or the spare, which has it then; which bits differ decides
    how many passes that takes."""
    no_inline()
    low, high = own[0], own[0]
    for i in range(own.size):
        low = min(low, own[i])
        high = max(high, own[i])
    different, width = (low >> np.uint64(33)) ^ (high >> np.uint64(33)), 0
    while different >> np.uint64(width):
        width += 1
    passes = (width + _DIGIT - 1) // _DIGIT
    digit = (width + passes - 1) // max(passes, 1)
    source, out = own, spare
    for k in range(passes):
        _sort_pass(source, out, counts, np.uint64(33 + k * digit), (1 << digit) - 1)
        source, out = out, source
    return source


@_fast
def _slopes_of_part(ranked, slopes, background, foreground, total):
    """Writes the slopes of a part, given the voxels passed before it; returns its share of the value."""
    no_inline()
    value, one = 0.0, np.int64(1)
    for i in range(ranked.size):
        key = ranked[i]
        error = np.uint32(_KEY - np.uint32(key >> np.uint64(33))).view(np.float32)
        true = np.int64(key >> np.uint64(32)) & one
        union = np.float64(total + background)
        above = 1.0 if true else np.float64(total - foreground)
        below = union if true else union * (union + 1.0)
        slope = above / below if error > 0 or error != error else 0.0
        value += slope * error
        slopes[np.int64(key & np.uint64(0xFFFFFFFF))] = -slope if true else slope
        foreground += true
        background += one - true
    return value


def _rank(arguments, i):  # type: ignore[no-untyped-def]
    slopes, ranked = array(arguments, 0, 1, np.float32), array(arguments, 1, 1, np.uint64)
    values, starts = array(arguments, 2, 1, np.float64), array(arguments, 3, 1, np.int64)
    sizes, passed = array(arguments, 4, 1, np.int64), array(arguments, 5, 2, np.int64)
    n = sizes[i]
    spare, counts = np.empty(n, np.uint64), np.empty(1 << _DIGIT, np.int64)
    own = _sort(part(ranked, starts[i], n), part(spare, 0, n), part(counts, 0, counts.size))
    values[i] = _slopes_of_part(own, slopes, passed[i, 0], passed[i, 1], number(arguments, 6))
    return spare.size + counts.size  # their last use: until here they must live


_COUNT, _SCATTER, _RANK = map(Loop, (_count, _scatter, _rank))
