"""The erosions of one class's squared error, and their derivative (Numba): the Hausdorff loss by erosion.

A volume is ``[planes, rows, voxels]``. An eroded volume is kept as it comes out of the threshold, without its
normalisation, which is a factor for the next step. Rows without a voxel above the threshold are marked and skipped,
which is exact; most are, once a network has learnt something. Values are never negative, so that their bits compare
as integers, which are vectorised where NaN must come through.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import INNER, SAFE, SUMS, distinct_rows, no_inline
from .loops import Loop, array, number

_elementwise = njit(fastmath=SAFE, **INNER)
_reduction = njit(fastmath=SUMS, **INNER)
_fast = njit(**INNER)
real, bits = np.float32, np.int32  # the clones of a loop have their own

LARGEST, SMALLEST = 0, 1  # columns of bits
SUM, DOT, COUNT_LARGEST, COUNT_SMALLEST = range(4)  # columns of sums


@_elementwise
def _cross_row(out, c, n, s, u, d, factor, rest, offset):
    """offset + (factor + rest) times the sum of a voxel of c and its neighbours."""
    distinct_rows()
    last = c.size - 1
    for i in range(1, last):
        total = ((c[i - 1] + c[i + 1]) + c[i]) + ((n[i] + s[i]) + (u[i] + d[i]))
        out[i] = (offset + factor * total) + rest * total
    zero = c.dtype.type(0)
    total = (c[0] + (c[1] if last > 0 else zero)) + ((n[0] + s[0]) + (u[0] + d[0]))
    out[0] = (offset + factor * total) + rest * total
    if last > 0:
        total = (c[last - 1] + c[last]) + ((n[last] + s[last]) + (u[last] + d[last]))
        out[last] = (offset + factor * total) + rest * total


@_elementwise
def _clip_negative(x):
    no_inline()
    zero = x.dtype.type(0)
    for i in range(x.size):
        x[i] = zero if x[i] <= zero else x[i]  # NaN stays


@_elementwise
def _extremes(x):
    no_inline()
    high, low = x[0], x[0]
    for i in range(x.size):
        high = max(high, x[i])
        low = min(low, x[i])
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
def _count(x, value):
    no_inline()
    found = 0
    for i in range(x.size):
        found += 1 if x[i] == value else 0
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
def _through_threshold(x, x_bits, g, scale, largest, at_largest, at_zero, every):
    """x becomes the derivative by what was thresholded; ``at_zero`` and ``every``: where the smallest was not 0."""
    no_inline()
    zero = x.dtype.type(0)
    for i in range(x.size):
        own = scale * g[i] + (at_largest if x_bits[i] == largest else zero)
        own = own + (at_zero if x_bits[i] == 0 else zero)
        x[i] = own if x_bits[i] != 0 or every else zero


@_fast
def _neighbour(x, active, zeros, z, y):
    """A row, or zeros outside the volume and where nothing is active."""
    inside = 0 <= z < x.shape[0] and 0 <= y < x.shape[1]
    return x[z, y] if inside and active[z, y] else zeros


@_fast
def _cross(out, x, active, zeros, z, y, factors):
    """Row y of plane z, if it or a neighbour is active; returns whether it is."""
    no_inline()
    near = active[z, y]
    near |= active[z - 1, y] if z > 0 else False
    near |= active[z + 1, y] if z + 1 < active.shape[0] else False
    near |= active[z, y - 1] if y > 0 else False
    near |= active[z, y + 1] if y + 1 < active.shape[1] else False
    if near:
        north, south = _neighbour(x, active, zeros, z, y - 1), _neighbour(x, active, zeros, z, y + 1)
        above, below = _neighbour(x, active, zeros, z - 1, y), _neighbour(x, active, zeros, z + 1, y)
        own = _neighbour(x, active, zeros, z, y)
        _cross_row(out[z, y], own, north, south, above, below, factors[0], factors[1], factors[2])
    return near


# Loops over planes


def _erode(arguments, z):  # type: ignore[no-untyped-def]
    source, active, zeros = array(arguments, 0, 3, real), array(arguments, 1, 2, np.bool_), array(arguments, 2, 1, real)
    out, out_bits = array(arguments, 3, 3, real), array(arguments, 3, 3, bits)
    active_out, extremes = array(arguments, 4, 2, np.bool_), array(arguments, 5, 2, np.int64)
    sums, factors = array(arguments, 6, 2, np.float64), array(arguments, 7, 1, real)
    largest, smallest, total = np.int64(0), np.iinfo(np.int64).max, 0.0
    for y in range(source.shape[1]):
        high, low = bits(0), bits(0)
        if _cross(out, source, active, zeros, z, y, factors):
            _clip_negative(out[z, y])
            high, low = _extremes(out_bits[z, y])
        active_out[z, y] = high != 0 or low != 0  # NaN may have a sign
        if active_out[z, y]:
            total += _sum(out[z, y])
            largest = max(largest, np.int64(high))
        smallest = min(smallest, np.int64(low))
    extremes[z, LARGEST], extremes[z, SMALLEST], sums[z, SUM] = largest, smallest, total
    return 0


def _shift(arguments, z):  # type: ignore[no-untyped-def]
    x, active, value = array(arguments, 0, 3, real), array(arguments, 1, 2, np.bool_), array(arguments, 2, 1, real)
    for y in range(x.shape[1]):
        active[z, y] = True
        _subtract(x[z, y], value[0])
    return 0


def _statistics(arguments, z):  # type: ignore[no-untyped-def]
    """Sum of g, of g x, and how many voxels are the largest and the smallest (0)."""
    x, x_bits, active = array(arguments, 0, 3, real), array(arguments, 0, 3, bits), array(arguments, 1, 2, np.bool_)
    g, sums, largest = array(arguments, 2, 3, real), array(arguments, 3, 2, np.float64), array(arguments, 4, 1, bits)
    for k in range(sums.shape[1]):
        sums[z, k] = 0.0
    for y in range(x.shape[1]):
        if active[z, y]:
            sums[z, SUM] += _sum(g[z, y])
            sums[z, DOT] += _dot(x[z, y], g[z, y])
            sums[z, COUNT_LARGEST] += _count(x_bits[z, y], largest[0])
            sums[z, COUNT_SMALLEST] += _count(x_bits[z, y], bits(0))
    return 0


def _threshold(arguments, z):  # type: ignore[no-untyped-def]
    x, x_bits, active = array(arguments, 0, 3, real), array(arguments, 0, 3, bits), array(arguments, 1, 2, np.bool_)
    g, largest, factors = array(arguments, 2, 3, real), array(arguments, 3, 1, bits), array(arguments, 4, 1, real)
    every = number(arguments, 5) != 0
    for y in range(x.shape[1]):
        if active[z, y]:
            _through_threshold(x[z, y], x_bits[z, y], g[z, y], factors[0], largest[0], factors[1], factors[2], every)
    return 0


def _spread(arguments, z):  # type: ignore[no-untyped-def]
    """The cross once more: it is its own transpose. Rows that nobody wants are left as they are."""
    h, active, zeros = array(arguments, 0, 3, real), array(arguments, 1, 2, np.bool_), array(arguments, 2, 1, real)
    wanted, out, factors = array(arguments, 3, 2, np.bool_), array(arguments, 4, 3, real), array(arguments, 5, 1, real)
    for y in range(h.shape[1]):
        if wanted[z, y] and not _cross(out, h, active, zeros, z, y, factors):
            _fill(out[z, y], factors[2])
    return 0


ERODE, SHIFT, STATISTICS, THRESHOLD, SPREAD = map(Loop, (_erode, _shift, _statistics, _threshold, _spread))
