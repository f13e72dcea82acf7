"""The pass that writes the error of every voxel and class of a chunk of one sample, where no plan has code for it."""

from __future__ import annotations

from numba import njit

from .general import _Q, _Y, _channel, _load_target, _row_of, _softmax, _softmax_class
from .math import INNER, no_inline
from .memory import row, store_row
from .tile import (
    EMPTY,
    NEEDS_Q,
    SOFTMAX,
    UNCOUNTED,
    ZERO,
    U,
    load_weight,
    options_of,
    tile_buffer,
    tile_of,
    walk_of,
)

_fast = njit(**INNER)  # no flags: the sign of a zero has a meaning


@_fast
def _signed_error(error, p, q, y, u):
    """p where y is 0, and -(1 - p), be it -0, where it is 1. error may be p."""
    no_inline()
    zero, uncounted = p.dtype.type(0), p.dtype.type(UNCOUNTED)
    for i in range(error.size):
        value = -abs(q[i]) if y[i] != zero else abs(p[i])
        error[i] = value if u[i] != zero else uncounted


@_fast
def _store_uncounted(t, errors, classes, b, v):
    no_inline()
    _signed_error(row(t, _Q), row(t, ZERO), row(t, ZERO), row(t, ZERO), row(t, ZERO))
    for c in range(classes):
        store_row(row(t, _Q), errors, b, c, v)


@_fast
def errors_of_chunk(acc, walks, numbers, b, start, stop, tile, reals):
    """Writes the errors of voxels start to stop of sample b where a gradient would go; returns the bad labels seen."""
    no_inline()
    classes = acc.shape[0]
    o, bad_labels = options_of(numbers), 0
    logits, target, mask, errors = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 4)
    buffer = tile_buffer(_row_of(o, classes, 4, 0), tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad_labels += state[1]
        if state[0] == EMPTY:
            _store_uncounted(t, errors, classes, b, v)
            continue
        if o.activation == SOFTMAX:
            z = _softmax(t, logits, o, NEEDS_Q, classes, b, v, state[0])
        for c in range(classes):
            p = _row_of(o, classes, 0, c)
            if o.activation == SOFTMAX:
                _softmax_class(t, z, NEEDS_Q, c, p)
            else:
                _channel(t, logits, o, NEEDS_Q, b, c, v, state[0])
            _load_target(t, target, o, b, c, v, state)
            _signed_error(row(t, p), row(t, p), row(t, _Q), row(t, _Y), row(t, U))
            store_row(row(t, p), errors, b, c, v)
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live
