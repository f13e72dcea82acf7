"""The Lovász extension of the Jaccard loss for one class, by a sort of the bits of the errors (Numba).

Errors come as float32 with the truth in the sign (negative: foreground), and are replaced by their slopes. Their bits,
inverted, are split by the leading ones into parts that fit the caches, each of which is sorted by itself. Both steps
are stable: of equal errors, the first voxel ranks first. Where every foreground voxel has been passed the slopes are 0
and need no order. Parts follow from the data alone and are added in order: the result does not depend on the threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from .math import INNER, no_inline
from .threads import pick, serial_and_parallel

_BLOCK = 65536  # voxels of a block, at least; there are at most _BLOCKS
_BLOCKS = 64
_PART = 8192  # voxels of a part, at least, and about a share of _PARTS
_PARTS = 256
_BUCKETS = 4096
_SHIFT = 19  # of 31 bits, these are left to the sort within a part
_DIGIT = 11  # bits of a pass of that sort, at most
_UNCOUNTED = np.uint32(0x7F7FFFFF)  # the bits of the largest float32
_KEY = np.uint32(0x7FFFFFFF)
_fast = njit(**INNER)


def jaccard_of_class(errors) -> tuple[float, int]:
    """The value of a class and the number of its foreground voxels; ``errors``, a contiguous tensor of one axis,
    becomes the slopes by p."""
    bits, slopes = errors.numpy().view(np.uint32), errors.numpy()
    block = max(_BLOCK, -(-bits.size // _BLOCKS))
    counts = np.zeros((-(-bits.size // block), 2, _BUCKETS), np.int64)
    pick(_COUNT, errors.numel())(bits, counts, block)
    totals = counts.sum(0)
    foreground = int(totals[1].sum())
    if foreground == 0:
        return _of_absent_class(bits, slopes, totals), 0
    parts = _plan_parts(totals, foreground)
    ranked = np.empty(int(parts.sizes.sum()), np.uint64)
    by_part = np.add.reduceat(counts.sum(1), parts.first_bucket, axis=1)[:, : parts.sizes.size]
    places = parts.starts + np.cumsum(by_part, 0) - by_part
    pick(_SCATTER, errors.numel())(bits, places, parts.of_bucket, ranked, block)
    values = np.zeros(parts.sizes.size)
    pick(_RANK, errors.numel())(ranked, slopes, values, parts.starts, parts.sizes, parts.passed, foreground)
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
    slopes[first] = 1
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
    first_bucket = np.array(firsts)
    of_bucket = np.full(_BUCKETS, -1, np.int64)
    of_bucket[: last + 1] = np.searchsorted(first_bucket, np.arange(last + 1), side="right") - 1
    starts = before.sum(0)[first_bucket]
    part_sizes = np.add.reduceat(sizes[: last + 1], first_bucket)
    ends = [] if last + 1 == _BUCKETS else [last + 1]
    return _Parts(
        np.array([*firsts, *ends]), of_bucket, starts, part_sizes, np.ascontiguousarray(before[:, first_bucket].T)
    )


@_fast
def _count_block(bits, counts):
    no_inline()
    for j in range(bits.size):
        if bits[j] != _UNCOUNTED:
            bucket = np.int64(_KEY - (bits[j] & _KEY)) >> _SHIFT
            counts[np.int64(bits[j] >> np.uint32(31)), bucket] += 1


def _count_loop(bits, counts, block):  # type: ignore[no-untyped-def]
    """How many voxels of either side are in each bucket, for every block."""
    for i in prange(counts.shape[0]):
        _count_block(bits[i * block : i * block + block], counts[i])


@_fast
def _scatter_block(bits, first, place, of_bucket, ranked):
    no_inline()
    for j in range(bits.size):
        inverted = np.uint32(_KEY - (bits[j] & _KEY))
        part = of_bucket[np.int64(inverted) >> _SHIFT]
        if part < 0 or bits[j] == _UNCOUNTED:
            bits[j] = 0
        else:
            key = np.uint64(inverted) << np.uint64(33) | np.uint64(bits[j] >> np.uint32(31)) << np.uint64(32)
            ranked[place[part]] = key | np.uint64(first + j)
            place[part] += 1


def _scatter_loop(bits, places, of_bucket, ranked, block):  # type: ignore[no-untyped-def]
    """Moves inverted key, truth and index of each voxel to its part; clears what is not ranked."""
    for i in prange(places.shape[0]):
        _scatter_block(bits[i * block : i * block + block], i * block, places[i], of_bucket, ranked)


@_fast
def _sort_pass(source, out, counts, shift, mask):
    no_inline()
    counts[:] = 0
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
def _sorted_part(part, counts):
    """The part in the order of its keys; which bits differ decides how many passes that takes."""
    no_inline()
    low, high = part[0], part[0]
    for i in range(part.size):
        low = min(low, part[i])
        high = max(high, part[i])
    different, width = (low >> np.uint64(33)) ^ (high >> np.uint64(33)), 0
    while different >> np.uint64(width):
        width += 1
    if width == 0:
        return part
    passes = (width + _DIGIT - 1) // _DIGIT
    digit = (width + passes - 1) // passes
    source, out = part, np.empty_like(part)
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
        slope = above / below
        value += slope * error
        slopes[np.int64(key & np.uint64(0xFFFFFFFF))] = -slope if true else slope
        foreground += true
        background += one - true
    return value


def _rank_loop(ranked, slopes, values, starts, sizes, passed, total):  # type: ignore[no-untyped-def]
    for i in prange(values.size):
        counts = np.empty(1 << _DIGIT, np.int64)
        part = _sorted_part(ranked[starts[i] : starts[i] + sizes[i]], counts)
        values[i] = _slopes_of_part(part, slopes, passed[i, 0], passed[i, 1], total)


_COUNT = serial_and_parallel(_count_loop)
_SCATTER = serial_and_parallel(_scatter_loop)
_RANK = serial_and_parallel(_rank_loop)
