"""Where the local structure of one class's prediction and target differ (Numba): the structural similarity loss.

Means and variances under a Gaussian window are taken axis by axis: along each axis the mean of the means, and the mean
of the variances plus that of the squared deviations of the means, weighted by the voxels that count. No difference of
large numbers arises. Rows are padded by voxels of weight 0, so that a shift along any axis is an offset.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from .math import INNER, SUMS, distinct_rows, no_inline
from .memory import bare
from .threads import serial_and_parallel

_reduction = njit(fastmath=SUMS, **INNER)
_fast = njit(**INNER)  # no reciprocals: a mean of ones should be one

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
def _largest(bits):
    """Of values that are not negative, whose bits compare as integers."""
    no_inline()
    high = bits[0]
    for i in range(bits.size):
        high = max(high, bits[i])
    return high


@_reduction
def _select(x, w, limit):
    """Zero where not above the limit; the sum of w where it is."""
    distinct_rows()
    zero = x.dtype.type(0)
    total = zero
    for i in range(x.size):
        total += w[i] if x[i] > limit else zero
        x[i] = x[i] if x[i] > limit else zero
    return total


@_fast
def _along(out, first, source, start, stop, stride, taps):
    """Statistics of voxels start to stop of flat fields ``[FIELDS, size]``, from those ``stride`` apart, into out from
    voxel ``first`` on."""
    no_inline()
    size, half, offset = source.shape[1], taps.size // 2, first - start
    every = slice(first, first + stop - start)
    for f in range(FIELDS):
        _fill(out[f, every], out.dtype.type(0))
    for t in range(taps.size):
        shift = (t - half) * stride
        a, b = max(start, -shift), min(stop, size - shift)
        if a < b:
            to, at, w = slice(a + offset, b + offset), slice(a + shift, b + shift), source[WEIGHT]
            _add_weight(out[WEIGHT, to], w[at], taps[t])
            _add_mean(out[MEAN_P, to], w[at], source[MEAN_P, at], taps[t])
            _add_mean(out[MEAN_Y, to], w[at], source[MEAN_Y, at], taps[t])
    _divide(out[MEAN_P, every], out[WEIGHT, every])
    _divide(out[MEAN_Y, every], out[WEIGHT, every])
    for t in range(taps.size):
        shift = (t - half) * stride
        a, b = max(start, -shift), min(stop, size - shift)
        if a < b:
            to, at, w = slice(a + offset, b + offset), slice(a + shift, b + shift), source[WEIGHT]
            for m, v in ((MEAN_P, VARIANCE_P), (MEAN_Y, VARIANCE_Y)):
                _add_variance(out[v, to], w[at], source[m, at], source[v, at], out[m, to], taps[t])
    _divide(out[VARIANCE_P, every], out[WEIGHT, every])
    _divide(out[VARIANCE_Y, every], out[WEIGHT, every])


@_fast
def _plane_statistics(fields, p, y, w, z, taps, both):
    """Statistics of a plane along its rows and columns."""
    no_inline()
    fields, p, y, w = bare(fields), bare(p), bare(y), bare(w)
    lines, length = p.shape[1], p.shape[2]
    pitch = length + taps.size // 2
    plane = lines * pitch
    memory = np.zeros((2, FIELDS, plane), p.dtype)
    planes = bare(memory)
    for line in range(lines):
        at = slice(line * pitch, line * pitch + length)
        _copy(planes[0, WEIGHT, at], w[z, line])
        _copy(planes[0, MEAN_P, at], p[z, line])
        _copy(planes[0, MEAN_Y, at], y[z, line])
    for start in range(0, plane, SEGMENT):
        stop = min(start + SEGMENT, plane)
        _along(planes[1], start, planes[0], start, stop, 1, taps)
    for start in range(0, plane, SEGMENT):
        stop = min(start + SEGMENT, plane)
        first = z * plane + start
        if both:
            _along(fields, first, planes[1], start, stop, pitch, taps)
        else:
            for f in range(FIELDS):
                _copy(fields[f, first : first + stop - start], planes[1, f, start:stop])
    return memory.size


@_fast
def _plane_differences(fields, p, bits, y, w, z, taps, c, largest):
    """|difference of the normalised p and y| w of a plane replaces its p."""
    no_inline()
    fields, p, bits, y, w = bare(fields), bare(p), bare(bits), bare(y), bare(w)
    lines, length = p.shape[1], p.shape[2]
    pitch = length + taps.size // 2
    memory = np.empty((FIELDS, length), p.dtype)
    s = bare(memory)
    high = bits.dtype.type(0)
    for line in range(lines):
        start = (z * lines + line) * pitch
        _along(s, np.int64(0), fields, start, start + length, lines * pitch, taps)
        row = p[z, line]
        _difference(row, row, y[z, line], w[z, line], s[MEAN_P], s[VARIANCE_P], s[MEAN_Y], s[VARIANCE_Y], c)
        high = max(high, _largest(bits[z, line]))
    largest[z] = high
    return memory.size


def _statistics_loop(fields, p, y, w, taps, both):  # type: ignore[no-untyped-def]
    for z in prange(p.shape[0]):
        _plane_statistics(fields, p, y, w, z, taps, both)


def _differences_loop(fields, p, bits, y, w, taps, c, largest):  # type: ignore[no-untyped-def]
    for z in prange(p.shape[0]):
        _plane_differences(fields, p, bits, y, w, z, taps, c[0], largest)


def _select_loop(p, w, limit, sums):  # type: ignore[no-untyped-def]
    for z in prange(p.shape[0]):
        total = 0.0
        for line in range(p.shape[1]):
            total += _select(p[z, line], w[z, line], limit[0])
        sums[z] = total


STATISTICS, DIFFERENCES, SELECT = map(serial_and_parallel, (_statistics_loop, _differences_loop, _select_loop))
