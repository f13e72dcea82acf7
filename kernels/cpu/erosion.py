"""The erosions of one class's squared error, and their derivative (Numba): the Hausdorff loss by erosion.

A volume is ``[planes, rows, voxels]``. An eroded volume is kept as it comes out of the threshold, without its
normalisation, which is a factor for the next step. Rows without a voxel above the threshold are marked and skipped,
which is exact; most are, once a network has learnt something. Values are never negative, so that their bits compare
as integers, which are vectorised where NaN must come through.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from .math import INNER, SAFE, SUMS, distinct_rows, no_inline
from .memory import bare
from .threads import serial_and_parallel

_elementwise = njit(fastmath=SAFE, **INNER)
_reduction = njit(fastmath=SUMS, **INNER)
_fast = njit(**INNER)
_inlined = njit(inline="always", **INNER)

LARGEST, SMALLEST = 0, 1  # columns of bits
SUM, DOT, COUNT_LARGEST, COUNT_SMALLEST = range(4)  # columns of sums


@_elementwise
def _cross_row(out, c, n, s, u, d, factor, offset):
    """offset + factor times the sum of a voxel of c and its neighbours."""
    distinct_rows()
    last = c.size - 1
    for i in range(1, last):
        out[i] = offset + factor * (((c[i - 1] + c[i + 1]) + c[i]) + ((n[i] + s[i]) + (u[i] + d[i])))
    zero = c.dtype.type(0)
    out[0] = offset + factor * ((c[0] + (c[1] if last > 0 else zero)) + ((n[0] + s[0]) + (u[0] + d[0])))
    if last > 0:
        out[last] = offset + factor * ((c[last - 1] + c[last]) + ((n[last] + s[last]) + (u[last] + d[last])))


@_elementwise
def _clip_negative(x):
    no_inline()
    zero = x.dtype.type(0)
    for i in range(x.size):
        x[i] = zero if x[i] <= zero else x[i]  # NaN stays


@_elementwise
def _extremes(bits):
    no_inline()
    high, low = bits[0], bits[0]
    for i in range(bits.size):
        high = max(high, bits[i])
        low = min(low, bits[i])
    return high, low


@_reduction
def _sum(x):
    no_inline()
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    return total


@_reduction
def _dot(x, g):
    no_inline()
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * g[i]
    return total


@_elementwise
def _count(bits, value):
    no_inline()
    found = 0
    for i in range(bits.size):
        found += 1 if bits[i] == value else 0
    return found


@_elementwise
def _fill(x, value):
    no_inline()
    for i in range(x.size):
        x[i] = value


@_elementwise
def _subtract(x, value):
    no_inline()
    for i in range(x.size):
        x[i] -= value


@_elementwise
def _through_threshold(x, bits, g, scale, largest, at_largest, at_zero, every):
    """x becomes the derivative by what was thresholded; ``at_zero`` and ``every``: where the smallest was not 0."""
    no_inline()
    zero = x.dtype.type(0)
    for i in range(x.size):
        own = scale * g[i] + (at_largest if bits[i] == largest else zero)
        own = own + (at_zero if bits[i] == 0 else zero)
        x[i] = own if bits[i] != 0 or every else zero


@_inlined
def _neighbour(x, active, zeros, z, y):
    """A row, or zeros outside the volume and where nothing is active."""
    inside = 0 <= z < x.shape[0] and 0 <= y < x.shape[1]
    return x[z, y] if inside and active[z, y] else zeros


@_inlined
def _near(active, z, y):
    """Whether the row or a neighbour is active."""
    near = active[z, y]
    near |= active[z - 1, y] if z > 0 else False
    near |= active[z + 1, y] if z + 1 < active.shape[0] else False
    near |= active[z, y - 1] if y > 0 else False
    near |= active[z, y + 1] if y + 1 < active.shape[1] else False
    return near


@_fast
def _cross_of(out, x, active, zeros, z, y, factor, offset):
    no_inline()
    north, south = _neighbour(x, active, zeros, z, y - 1), _neighbour(x, active, zeros, z, y + 1)
    above, below = _neighbour(x, active, zeros, z - 1, y), _neighbour(x, active, zeros, z + 1, y)
    _cross_row(out, _neighbour(x, active, zeros, z, y), north, south, above, below, factor, offset)


@_fast
def _erode_plane(source, active, out, bits, active_out, extremes, sums, z, factors):
    no_inline()
    source, active, out, bits = bare(source), bare(active), bare(out), bare(bits)
    zeros = np.zeros(source.shape[2], source.dtype)
    row = bare(zeros)
    extremes[z, LARGEST], total = 0, 0.0
    extremes[z, SMALLEST] = np.iinfo(np.int64).max
    for y in range(source.shape[1]):
        active_out[z, y] = False
        high, low = bits[z, y, 0], bits[z, y, 0]
        if _near(active, z, y):
            _cross_of(out[z, y], source, active, row, z, y, factors[0], factors[1])
            _clip_negative(out[z, y])
            high, low = _extremes(bits[z, y])
            if high != 0 or low != 0:  # NaN may have a sign
                active_out[z, y] = True
                total += _sum(out[z, y])
                extremes[z, LARGEST] = max(extremes[z, LARGEST], np.int64(high))
        if not active_out[z, y]:
            low = bits.dtype.type(0)
        extremes[z, SMALLEST] = min(extremes[z, SMALLEST], np.int64(low))
    sums[z, SUM] = total
    return zeros.size


@_fast
def _statistics_plane(x, bits, active, g, sums, z, largest):
    """Sum of g, of g x, and how many voxels are the largest and the smallest (0)."""
    no_inline()
    x, bits, active, g = bare(x), bare(bits), bare(active), bare(g)
    for k in range(sums.shape[1]):
        sums[z, k] = 0.0
    for y in range(x.shape[1]):
        if active[z, y]:
            sums[z, SUM] += _sum(g[z, y])
            sums[z, DOT] += _dot(x[z, y], g[z, y])
            sums[z, COUNT_LARGEST] += _count(bits[z, y], largest)
            sums[z, COUNT_SMALLEST] += _count(bits[z, y], bits.dtype.type(0))


@_fast
def _spread_plane(h, active, wanted, out, z, factors):
    """The cross once more: it is its own transpose. Rows that nobody wants are left as they are."""
    no_inline()
    h, active, out = bare(h), bare(active), bare(out)
    zeros = np.zeros(h.shape[2], h.dtype)
    row = bare(zeros)
    for y in range(h.shape[1]):
        if wanted[z, y]:
            if _near(active, z, y):
                _cross_of(out[z, y], h, active, row, z, y, factors[0], factors[1])
            else:
                _fill(out[z, y], factors[1])
    return zeros.size


def _erode_loop(source, active, out, bits, active_out, extremes, sums, factors):  # type: ignore[no-untyped-def]
    for z in prange(source.shape[0]):
        _erode_plane(source, active, out, bits, active_out, extremes, sums, z, factors)


def _shift_loop(x, active, value):  # type: ignore[no-untyped-def]
    for z in prange(x.shape[0]):
        for y in range(x.shape[1]):
            active[z, y] = True
            _subtract(x[z, y], value[0])


def _statistics_loop(x, bits, active, g, sums, largest):  # type: ignore[no-untyped-def]
    for z in prange(x.shape[0]):
        _statistics_plane(x, bits, active, g, sums, z, largest[0])


def _threshold_loop(x, bits, active, g, largest, factors, every):  # type: ignore[no-untyped-def]
    for z in prange(x.shape[0]):
        for y in range(x.shape[1]):
            if active[z, y]:
                _through_threshold(x[z, y], bits[z, y], g[z, y], factors[0], largest[0], factors[1], factors[2], every)


def _spread_loop(h, active, wanted, out, factors):  # type: ignore[no-untyped-def]
    for z in prange(h.shape[0]):
        _spread_plane(h, active, wanted, out, z, factors)


ERODE, SHIFT, STATISTICS, THRESHOLD, SPREAD = map(
    serial_and_parallel, (_erode_loop, _shift_loop, _statistics_loop, _threshold_loop, _spread_loop)
)
