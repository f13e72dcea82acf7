"""Where the local structure of one class's prediction and target differ (Numba): the structural similarity loss.

Means and variances under a Gaussian window are taken axis by axis: along each axis the mean of the means, and the mean
of the variances plus that of the squared deviations of the means, weighted by the voxels that count. No difference of
large numbers arises. Rows are padded by voxels of weight 0, so that a shift along any axis is an offset.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import INNER, SUMS, distinct_rows, no_inline
from .loops import Loop, array, number, part

_reduction = njit(fastmath=SUMS, **INNER)
_fast = njit(**INNER)  # no reciprocals: a mean of ones should be one
real, bits = np.float32, np.int32  # the clones of a loop have their own

SEGMENT = 1024
# Fields of statistics: the weight; mean and variance of p, and of y
WEIGHT, MEAN_P, VARIANCE_P, MEAN_Y, VARIANCE_Y = range(5)
FIELDS = 5


@_fast
def _fill(x, value):
    no_inline()
    for i in range(x.size):
        x[i] = value


@_fast
def _copy(dst, src):
    no_inline()
    for i in range(dst.size):
        dst[i] = src[i]


@_fast
def _add_weight(out, w, k):
    distinct_rows()
    for i in range(out.size):
        out[i] += k * w[i]


@_fast
def _add_mean(out, w, m, k):
    distinct_rows()
    for i in range(out.size):
        out[i] += k * w[i] * m[i]


@_fast
def _add_variance(out, w, m, v, mean, k):
    distinct_rows()
    for i in range(out.size):
        d = m[i] - mean[i]
        out[i] += k * w[i] * (v[i] + d * d)


@_fast
def _divide(x, w):
    distinct_rows()
    zero = x.dtype.type(0)
    for i in range(x.size):
        x[i] = x[i] / w[i] if w[i] > 0 else zero


@_fast
def _difference(out, p, y, w, mean_p, variance_p, mean_y, variance_y, c):
    distinct_rows()
    for i in range(out.size):
        of_y = (y[i] - mean_y[i] + c) / (np.sqrt(variance_y[i]) + c)
        of_p = (p[i] - mean_p[i] + c) / (np.sqrt(variance_p[i]) + c)
        out[i] = abs(of_y - of_p) * w[i]


@_fast
def _largest(x):
    """Of values that are not negative, whose bits compare as integers."""
    no_inline()
    high = x[0]
    for i in range(x.size):
        high = max(high, x[i])
    return high


@_reduction
def _select(x, w, limit, least):
    """Zero where not above the limit, and ``least`` w; the sum of w where it is."""
    distinct_rows()
    zero = x.dtype.type(0)
    total = zero
    for i in range(x.size):
        bound = max(limit, least * w[i])
        total += w[i] if x[i] > bound else zero
        x[i] = x[i] if x[i] > bound else zero
    return total


@_fast
def _along(out, pitch, first, source, size, start, stop, stride, taps):
    """Statistics of voxels start to stop of flat fields ``[FIELDS * size]``, from those ``stride`` apart, into out
    ``[FIELDS * pitch]`` from voxel ``first`` on."""
    no_inline()
    for f in range(FIELDS):
        _fill(part(out, f * pitch + first, stop - start), out.dtype.type(0))
    for moment in range(2):  # means, then variances, which need them
        for t in range(taps.size):
            shift = (t - taps.size // 2) * stride
            a = max(start, -shift)
            n, to, at = min(stop, size - shift) - a, a + first - start, a + shift
            if n <= 0:
                continue
            w = part(source, WEIGHT * size + at, n)
            if moment == 0:
                _add_weight(part(out, WEIGHT * pitch + to, n), w, taps[t])
            for f in range(MEAN_P, FIELDS, 2):
                m, mean = part(source, f * size + at, n), part(out, f * pitch + to, n)
                if moment == 0:
                    _add_mean(mean, w, m, taps[t])
                else:
                    v = part(source, (f + 1) * size + at, n)
                    _add_variance(part(out, (f + 1) * pitch + to, n), w, m, v, mean, taps[t])
        for f in range(MEAN_P + moment, FIELDS, 2):
            _divide(part(out, f * pitch + first, stop - start), part(out, WEIGHT * pitch + first, stop - start))


# Loops over planes


def _statistics(arguments, z):  # type: ignore[no-untyped-def]
    """Of a plane along its rows and, if ``both``, its columns."""
    fields, p, y = array(arguments, 0, 1, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    w, taps, both = array(arguments, 3, 3, real), array(arguments, 4, 1, real), number(arguments, 5) != 0
    lines, n = p.shape[1], p.shape[2]
    pitch, every = n + taps.size // 2, fields.size // FIELDS
    plane = lines * pitch
    memory = np.zeros(2 * FIELDS * plane, real)
    own, of_rows = part(memory, 0, FIELDS * plane), part(memory, FIELDS * plane, FIELDS * plane)
    for line in range(lines):
        _copy(part(own, WEIGHT * plane + line * pitch, n), w[z, line])
        _copy(part(own, MEAN_P * plane + line * pitch, n), p[z, line])
        _copy(part(own, MEAN_Y * plane + line * pitch, n), y[z, line])
    for step in range(2):
        for start in range(0, plane, SEGMENT):
            stop, first = min(start + SEGMENT, plane), z * plane + start
            if step == 0:
                _along(of_rows, plane, start, own, plane, start, stop, 1, taps)
            elif both:
                _along(fields, every, first, of_rows, plane, start, stop, pitch, taps)
            else:
                for f in range(FIELDS):
                    _copy(part(fields, f * every + first, stop - start), part(of_rows, f * plane + start, stop - start))
    return memory.size  # its last use: until here it must live


def _differences(arguments, z):  # type: ignore[no-untyped-def]
    """|difference of the normalised p and y| w of a plane replaces its p."""
    fields, p, y = array(arguments, 0, 1, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    w, taps, c = array(arguments, 3, 3, real), array(arguments, 4, 1, real), array(arguments, 5, 1, real)
    largest, p_bits = array(arguments, 6, 1, bits), array(arguments, 1, 3, bits)
    lines, n = p.shape[1], p.shape[2]
    pitch, every, high = n + taps.size // 2, fields.size // FIELDS, bits(0)
    memory = np.empty(FIELDS * n, real)
    s = part(memory, 0, memory.size)
    mean_p, variance_p = part(s, MEAN_P * n, n), part(s, VARIANCE_P * n, n)
    mean_y, variance_y = part(s, MEAN_Y * n, n), part(s, VARIANCE_Y * n, n)
    for line in range(lines):
        start = (z * lines + line) * pitch
        _along(s, n, 0, fields, every, start, start + n, lines * pitch, taps)
        row = p[z, line]
        _difference(row, row, y[z, line], w[z, line], mean_p, variance_p, mean_y, variance_y, c[0])
        high = max(high, _largest(p_bits[z, line]))
    largest[z] = high
    return memory.size


def _select_plane(arguments, z):  # type: ignore[no-untyped-def]
    p, w, limits = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 1, real)
    sums, total = array(arguments, 3, 1, np.float64), 0.0
    for line in range(p.shape[1]):
        total += _select(p[z, line], w[z, line], limits[0], limits[1])
    sums[z] = total
    return 0


STATISTICS, DIFFERENCES, SELECT = map(Loop, (_statistics, _differences, _select_plane))
