"""The class of the largest logit at another resolution (Numba): each class of a tile of the result is interpolated
where the caches hold it, compared with the largest so far, and forgotten.

Axes are interpolated from the last to the first, as torch does: few rows along the last, all of them along the first.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from ..layout import Axis
from .compiling import INNER, SAFE, distinct_rows
from .loops import Loop, array, number, part

_elementwise = njit(fastmath=SAFE, **INNER)
real = np.float32  # the clones of a loop have their own

PLANES = 16  # of a tile
_TILE = 65536  # voxels of a tile at most, if a row is none longer


def write_labels(logits: Tensor, axes: tuple[Axis, Axis, Axis], labels: Tensor) -> None:
    """Fills ``labels`` ``[planes, lines, length]``, uint8 or int16, contiguous.

    Args:
        logits: ``[C, planes, lines, length]``, float32 or float64, contiguous.
        axes: of which voxels each output along an axis is made.
    """
    planes, lines, length = labels.shape
    rows = max(1, min(lines, _TILE // (PLANES * length)))
    tiles = -(-planes // PLANES) * -(-lines // rows)
    x, out = logits.numpy(), labels.numpy()
    numbers = [place.numpy() for axis in axes for place in (axis.low, axis.high)]
    shares = [axis.share.to(logits.dtype).numpy() for axis in axes]
    _RESAMPLE(
        tiles, out.size * x.shape[0], x.reshape(-1, x.shape[3]), out, *x.shape, rows, out.itemsize, *numbers, *shares
    )


@_elementwise
def _along_row(out, x, low, high, share):
    """A row of the result along the last axis."""
    distinct_rows()
    one = x.dtype.type(1)
    for i in range(out.size):
        a, b = x[low[i]], x[high[i]]
        out[i] = a * (one - share[i]) + b * share[i]


@_elementwise
def _between(out, a, b, share):
    distinct_rows()
    rest = a.dtype.type(1) - share
    for i in range(out.size):
        out[i] = a[i] * rest + b[i] * share


@_elementwise
def _first(best, label, a, b, share):
    """Between two rows, of class 0."""
    distinct_rows()
    rest = a.dtype.type(1) - share
    for i in range(best.size):
        best[i] = a[i] * rest + b[i] * share
        label[i] = 0


@_elementwise
def _better(best, label, a, b, share, c):
    """Between two rows, where it is more than the largest so far, or the first NaN."""
    distinct_rows()
    rest = a.dtype.type(1) - share
    for i in range(best.size):
        value, before = a[i] * rest + b[i] * share, best[i]
        better = (not value <= before) & (before == before)
        best[i] = value if better else before
        label[i] = c if better else label[i]


@_elementwise
def _narrow(out, label):
    distinct_rows()
    for i in range(out.size):
        out[i] = label[i]


def _resample(arguments, i):  # type: ignore[no-untyped-def]
    x, wide, narrow = array(arguments, 0, 2, real), array(arguments, 1, 3, np.int16), array(arguments, 1, 3, np.uint8)
    classes, depth, height = number(arguments, 2), number(arguments, 3), number(arguments, 4)
    rows, size = number(arguments, 6), number(arguments, 7)
    z_low, z_high = array(arguments, 8, 1, np.int64), array(arguments, 9, 1, np.int64)
    y_low, y_high = array(arguments, 10, 1, np.int64), array(arguments, 11, 1, np.int64)
    x_low, x_high = array(arguments, 12, 1, np.uint64), array(arguments, 13, 1, np.uint64)
    z_share, y_share, x_share = (
        array(arguments, 14, 1, real),
        array(arguments, 15, 1, real),
        array(arguments, 16, 1, real),
    )
    lines, length = wide.shape[1], wide.shape[2]
    across = (lines + rows - 1) // rows
    z0, y0 = i // across * PLANES, i % across * rows
    z1, y1 = min(z0 + PLANES, wide.shape[0]), min(y0 + rows, lines)
    first_plane, first_line = z_low[z0], y_low[y0]
    planes, high = z_high[z1 - 1] + 1 - first_plane, y_high[y1 - 1] + 1 - first_line
    best, label = np.empty((z1 - z0) * (y1 - y0) * length, real), np.empty((z1 - z0) * (y1 - y0) * length, np.int32)
    stretched, volume = np.empty(high * length, real), np.empty(planes * (y1 - y0) * length, real)
    for c in range(classes):
        for z in range(planes):
            for y in range(high):
                row = x[(c * depth + first_plane + z) * height + first_line + y]
                _along_row(part(stretched, y * length, length), row, x_low, x_high, x_share)
            for y in range(y0, y1):
                a = part(stretched, (y_low[y] - first_line) * length, length)
                b = part(stretched, (y_high[y] - first_line) * length, length)
                _between(part(volume, (z * (y1 - y0) + y - y0) * length, length), a, b, y_share[y])
        plane = (y1 - y0) * length
        for z in range(z0, z1):
            a = part(volume, (z_low[z] - first_plane) * plane, plane)
            b = part(volume, (z_high[z] - first_plane) * plane, plane)
            most, its = part(best, (z - z0) * plane, plane), part(label, (z - z0) * plane, plane)
            if c == 0:
                _first(most, its, a, b, z_share[z])
            else:
                _better(most, its, a, b, z_share[z], np.int32(c))
    for z in range(z0, z1):
        for y in range(y0, y1):
            its = part(label, ((z - z0) * (y1 - y0) + y - y0) * length, length)
            if size == 1:
                _narrow(narrow[z, y], its)
            else:
                _narrow(wide[z, y], its)
    return 0


_RESAMPLE = Loop(_resample)
