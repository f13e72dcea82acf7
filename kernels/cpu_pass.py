"""The fused pass over one chunk of voxels of one sample, in tiles that stay in the cache (Numba).

``SLOTS`` fixes a column for every kind of term; ``bits`` says which columns a pass needs, the columns from
``MAPPED`` on hold the same terms under the voxel weight map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fastloss.terms import ACTIVATIONS, EPSILON, KINDS, Plan

from . import cpu_rows as rows
from .cpu_math import INNER, SAFE, SUMS, no_inline
from .cpu_memory import (
    ClassRows,
    Tile,
    Walk,
    class_row,
    class_rows,
    label_row,
    load_integers,
    load_row,
    row,
    store_row,
)

MAPPED = len(KINDS)
SLOTS = 2 * MAPPED
P, PY, Y, COUNT, P2, Y2, P2Y, CE_POS, CE_NEG = (1 << k for k in range(MAPPED))
_P, _PY, _Y, _COUNT, _P2, _Y2, _P2Y, _CE_POS, _CE_NEG = range(MAPPED)
SOFTMAX, SIGMOID, NONE = map(ACTIVATIONS.index, ("softmax", "sigmoid", "none"))
EMPTY, ALL, SOME = range(3)

# The rows of a tile: target, a row of zeros, the voxel weight and the same times the map; 1 - p, -log p and
# -log(1 - p); the derivative j of the activation (see cpu_rows), j / p, j / (1 - p); over the classes the largest
# logit, the total derivative, 1 / sum of the exponentials, the same times the weight, the logarithm of the sum, the
# sum without the largest; labels
_Y_ROW, _NO_Y, _U, _MAPPED_U, _Q, _LOG_P, _LOG_Q, _J, _J_OVER_P, _J_OVER_Q = range(10)
_LARGEST, _TOTAL, _INVERSE, _INVERSE_U, _LOG_SUM, _REST, _LABELS = range(10, 17)
# then, for every class under softmax and once otherwise: logits, probabilities, derivatives, steep derivatives
_CLASS_ROWS = 17

_SHORT = P | PY | CE_POS | COUNT | Y  # what the short forms of the softmax know, which never normalise p
_FEW = 8  # classes whose rows may be read in place: more would share the sets of the L1 cache
FOUR = 4  # classes that fit the registers together
_ABSENT_Z, _ABSENT_OUT = _J, _Q  # rows of missing classes, in a pass that uses these rows for nothing else

_fast = njit(**INNER)
_over_classes = njit(fastmath=SAFE, **INNER)
_inlined = njit(inline="always", **INNER)


class Options(NamedTuple):
    """The plan of a pass as numbers; the classes of a softmax have rows of their own, ``width`` of each kind."""

    activation: int
    dense: int
    label_count: int
    first_label: int
    bits: int
    mapped_bits: int
    width: int
    short: bool


@_inlined
def _z(o, c):
    return _CLASS_ROWS + (c if o.width > 1 else 0)


@_inlined
def _p(o, c):
    return _CLASS_ROWS + o.width + (c if o.width > 1 else 0)


@_inlined
def _d(o, c):
    return _CLASS_ROWS + 2 * o.width + (c if o.width > 1 else 0)


@_inlined
def _steep(o, c):
    return _CLASS_ROWS + 3 * o.width + (c if o.width > 1 else 0)


@_inlined
def _walk(w, i):
    """Parallel loops take arrays only: a tensor is a row of numbers (logits, target, mask, map, gradient)."""
    return Walk(w[i, 0], w[i, 1], w[i, 2], w[i, 3], w[i, 4], w[i, 5], w[i, 6], w[i, 7], w[i, 8])


@_inlined
def _options(n, channels):
    softmax = n[0] == SOFTMAX
    short = softmax and (n[4] & ~_SHORT) == 0 and n[5] == 0
    return Options(n[0], n[1], n[2], n[3], n[4], n[5], channels if softmax else np.int64(1), short)


# What a tile reads


@_fast
def _load_weight(t, target, mask, o, ignore, b, v):
    """Fills the weights and labels. Returns (EMPTY | ALL | SOME counted, bad labels, lowest, highest label)."""
    no_inline()
    u, labels = row(t, _U), label_row(t, _LABELS)
    weighted = mask.code >= 0
    if weighted:
        load_row(u, mask, b, np.int64(0), v)
    else:
        rows.set_one(u)
    bad, low, high = 0, 0, o.label_count - 1
    if not o.dense:
        load_integers(labels, target, b, np.int64(0), v)
        low, high = rows.label_range(labels)
        for i in range(ignore.size):
            if low <= ignore[i] <= high:
                rows.ignore_label(labels, u, np.int32(ignore[i]))
                weighted = True
        if weighted or low < 0 or high >= o.label_count:
            bad, low, high = rows.drop_invalid_labels(labels, u, np.int32(o.label_count))
    zeros = rows.count_zeros(u) if weighted else 0
    return (EMPTY if zeros == t.n else ALL if zeros == 0 else SOME), bad, low, high


@_fast
def _load_target(t, target, o, b, c, v, state):
    """Fills the target row of a class, unless no voxel has it; whether any has."""
    no_inline()
    if o.dense:
        load_row(row(t, _Y_ROW), target, b, c, v)
        if state[0] == SOME:
            rows.clear_uncounted(row(t, _Y_ROW), row(t, _U))
        return True
    label = np.int32(c + o.first_label)
    if label < state[2] or label > state[3]:
        return False
    rows.one_hot(row(t, _Y_ROW), label_row(t, _LABELS), label)
    return True


@_fast
def _load_logits(t, k, logits, b, c, v, counted):
    no_inline()
    load_row(row(t, k), logits, b, c, v)
    if counted == SOME:
        rows.clear_uncounted(row(t, k), row(t, _U))


@_fast
def _load_map(t, weight_map, b, c, v):
    """The voxel weight of the mapped terms."""
    no_inline()
    load_row(row(t, _MAPPED_U), weight_map, b, c, v)
    rows.multiply(row(t, _MAPPED_U), row(t, _MAPPED_U), row(t, _U))


# Activations


@_over_classes
def _max_and_exp(t, z, o):
    """The largest logit, the exponentials of z - max, and their sum."""
    no_inline()
    m, total, done = row(t, _LARGEST), row(t, _INVERSE), np.int64(4)
    if o.width >= 4:
        rows.max_of_four(m, class_row(t, z, 0), class_row(t, z, 1), class_row(t, z, 2), class_row(t, z, 3))
    else:
        rows.copy(m, class_row(t, z, 0))
        done = np.int64(1)
    for c in range(done, o.width):
        rows.row_max(m, class_row(t, z, c))
    rows.first_shifted_exp(class_row(t, z, 0), m, row(t, _p(o, 0)), total)
    for c in range(1, o.width):
        rows.shifted_exp(class_row(t, z, c), m, row(t, _p(o, c)), total)


@_fast
def _load_classes(t, logits, o, b, v, counted, few):
    """Where the logits of all classes are: in place if they may be, else loaded into the tile."""
    no_inline()
    z = class_rows(t, _z(o, 0), logits, b, v, counted == ALL and o.width <= few)
    if not z.in_place:
        for c in range(o.width):
            _load_logits(t, _z(o, c), logits, b, c, v, counted)
    return z


@_inlined
def _row_of_four(t, o, r, c, absent):
    """The row of class c, or the row ``absent``."""
    address = r.address + c * r.step if c < o.width else np.int64(t.base) + absent * t.pitch * row(t, 0).itemsize
    return class_row(t, ClassRows(address, np.int64(0), True), 0)


@_fast
def _sums_of_four(acc, t, logits, o, b, v, state):
    no_inline()
    z = _load_classes(t, logits, o, b, v, state[0], np.int64(FOUR))
    own_p, own_z, total, log_p = row(t, _Q), row(t, _LOG_Q), row(t, _LOG_SUM), row(t, _LOG_P)
    u, labels = row(t, _U), label_row(t, _LABELS)
    p = rows.sum_of_four(
        _row_of_four(t, o, z, 0, _ABSENT_Z),
        _row_of_four(t, o, z, 1, _ABSENT_Z),
        _row_of_four(t, o, z, 2, _ABSENT_Z),
        _row_of_four(t, o, z, 3, _ABSENT_Z),
        u,
        labels,
        np.int32(o.first_label),
        own_p,
        own_z,
        total,
    )
    for c in range(o.width):
        acc[c, _P] += p[c]
    if o.bits & CE_POS:
        rows.own_log(log_p, total, own_z, u)
    else:
        rows.set_zero(log_p)
    first, last = _classes_present(o, state)
    for c in range(first, last):
        py, y, ce = rows.sum_own(own_p, log_p, u, labels, np.int32(c + o.first_label))
        acc[c, _PY] += py
        acc[c, _Y] += y
        acc[c, _CE_POS] += ce


@_inlined
def _coefficients_of_four(k, column):
    """One column of the coefficients, 0 for missing classes."""
    zero = k[0, column] * 0
    c2 = k[2, column] if k.shape[0] > 2 else zero
    return k[0, column], k[1, column], c2, k[3, column] if k.shape[0] > 3 else zero


@_fast
def _gradient_of_four(k, t, logits, gradient, o, b, v, counted):
    no_inline()
    z = _load_classes(t, logits, o, b, v, counted, np.int64(FOUR))
    out = class_rows(t, _p(o, 0), gradient, b, v, v >= 0)
    rows.gradient_of_four(
        _row_of_four(t, o, out, 0, _ABSENT_OUT),
        _row_of_four(t, o, out, 1, _ABSENT_OUT),
        _row_of_four(t, o, out, 2, _ABSENT_OUT),
        _row_of_four(t, o, out, 3, _ABSENT_OUT + 1),
        _row_of_four(t, o, z, 0, _ABSENT_Z),
        _row_of_four(t, o, z, 1, _ABSENT_Z),
        _row_of_four(t, o, z, 2, _ABSENT_Z),
        _row_of_four(t, o, z, 3, _ABSENT_Z),
        row(t, _U),
        label_row(t, _LABELS),
        np.int32(o.first_label),
        _coefficients_of_four(k, _P),
        _coefficients_of_four(k, _PY),
        _coefficients_of_four(k, _CE_POS),
    )
    if not out.in_place:
        for c in range(o.width):
            store_row(class_row(t, out, c), gradient, b, c, v)


@_fast
def _softmax_exponentials(t, logits, o, every, b, v, counted):
    """For all classes the exponential of z - max (in p), and what normalises it; returns where the logits are."""
    no_inline()
    z = _load_classes(t, logits, o, b, v, counted, np.int64(_FEW))
    _max_and_exp(t, z, o)
    if every & CE_NEG:
        rows.set_zero(row(t, _REST))
        for c in range(o.width):
            rows.add_below_max(row(t, _REST), row(t, _p(o, c)), class_row(t, z, c), row(t, _LARGEST))
    if every & CE_POS:
        rows.log_row(row(t, _LOG_SUM), row(t, _INVERSE))
    rows.reciprocal(row(t, _INVERSE), row(t, _INVERSE_U), row(t, _U))
    return z


@_fast
def _softmax_complement(t, o, c):
    """1 - p and -log(1 - p) of a class whose p is normalised."""
    no_inline()
    rows.softmax_complement(row(t, _Q), row(t, _p(o, c)), row(t, _REST), row(t, _INVERSE))
    rows.clamped_log(row(t, _LOG_Q), row(t, _Q), t.like)


@_fast
def _channel_rows(t, logits, o, every, b, c, v, counted):
    """p, 1 - p and the logarithms of a class that does not depend on the others."""
    no_inline()
    z, p, q = row(t, _z(o, c)), row(t, _p(o, c)), row(t, _Q)
    _load_logits(t, _z(o, c), logits, b, c, v, counted)
    if o.activation == SIGMOID:
        rows.sigmoid_rows(p, q, z)
        if every & (CE_POS | CE_NEG):
            rows.softplus_rows(row(t, _LOG_P), row(t, _LOG_Q), z)
    else:
        rows.copy(p, z)
        rows.complement(q, p)
        if every & CE_POS:
            rows.clamped_log(row(t, _LOG_P), p, t.like)
        if every & CE_NEG:
            rows.clamped_log(row(t, _LOG_Q), q, t.like)


# Forward


@_fast
def _add_sums(acc, c, first, bits, t, p, present, u):
    """Adds the sums of a class to the columns of its terms, but those of p and of 1."""
    no_inline()
    probability, weight = row(t, p), row(t, u)
    y = row(t, _Y_ROW if present else _NO_Y)
    if present:
        if bits & (PY | Y):
            py, total = rows.sum_overlap(probability, y, weight)
            acc[c, first + _PY] += py
            acc[c, first + _Y] += total
        if bits & CE_POS:
            acc[c, first + _CE_POS] += rows.sum_log(row(t, _LOG_P), y, weight)
    if bits & (P2 | Y2 | P2Y):
        p2, y2, p2y = rows.sum_squares(probability, y, weight)
        acc[c, first + _P2] += p2
        acc[c, first + _Y2] += y2
        acc[c, first + _P2Y] += p2y
    if bits & CE_NEG:
        acc[c, first + _CE_NEG] += rows.sum_log_complement(row(t, _LOG_Q), y, weight)


@_fast
def _short_softmax_sums(acc, t, target, o, b, v, state, z):
    """For p, p y and the cross-entropy: p is never normalised."""
    no_inline()
    if o.bits & P:
        _sum_probabilities(acc, t, o)
    u, inverse_u, labels = row(t, _U), row(t, _INVERSE_U), label_row(t, _LABELS)
    log_s, m = row(t, _LOG_SUM), row(t, _LARGEST)
    first, last = _classes_present(o, state)
    for c in range(first, last):
        e, label = row(t, _p(o, c)), np.int32(c + o.first_label)
        if o.dense:
            _load_target(t, target, o, b, c, v, state)
            py, y = rows.sum_dense_overlap(e, inverse_u, u, row(t, _Y_ROW))
        else:
            py, y = rows.sum_label_overlap(e, inverse_u, u, labels, label)
        acc[c, _PY] += py
        acc[c, _Y] += y
        if o.bits & CE_POS and o.dense:
            rows.log_softmax(row(t, _LOG_P), log_s, class_row(t, z, c), m)
            acc[c, _CE_POS] += rows.sum_log(row(t, _LOG_P), row(t, _Y_ROW), u)
        elif o.bits & CE_POS:
            acc[c, _CE_POS] += rows.sum_label_log(log_s, class_row(t, z, c), m, u, labels, label)


@njit(fastmath=SUMS, **INNER)
def _sum_probabilities(acc, t, o):
    no_inline()
    u = row(t, _INVERSE_U)
    for c in range(o.width):
        e, total = row(t, _p(o, c)), t.like * 0
        for i in range(t.n):
            total += e[i] * u[i]
        acc[c, _P] += total


@_inlined
def _classes_present(o, state):
    """The range of classes that may have a voxel in the tile."""
    if o.dense:
        return np.int64(0), o.width
    return max(np.int64(0), state[2] - o.first_label), min(o.width, state[3] - o.first_label + 1)


@_fast
def _softmax_sums(acc, t, target, weight_map, o, b, v, state, z):
    no_inline()
    every = o.bits | o.mapped_bits
    for c in range(o.width):
        p = row(t, _p(o, c))
        present = _load_target(t, target, o, b, c, v, state)
        if present and every & CE_POS:
            rows.log_softmax(row(t, _LOG_P), row(t, _LOG_SUM), class_row(t, z, c), row(t, _LARGEST))
        rows.multiply(p, p, row(t, _INVERSE))
        if every & CE_NEG:
            _softmax_complement(t, o, c)
        _add_all_sums(acc, c, t, weight_map, o, b, v, present)


@_fast
def _channel_sums(acc, t, logits, target, weight_map, o, b, v, state):
    no_inline()
    for c in range(acc.shape[0]):
        _channel_rows(t, logits, o, o.bits | o.mapped_bits, b, c, v, state[0])
        _add_all_sums(acc, c, t, weight_map, o, b, v, _load_target(t, target, o, b, c, v, state))


@_fast
def _add_all_sums(acc, c, t, weight_map, o, b, v, present):
    """The sums of a class whose p and logarithms are ready."""
    no_inline()
    acc[c, _P] += rows.sum_p(row(t, _p(o, c)), row(t, _U))
    _add_sums(acc, c, np.int64(0), o.bits, t, _p(o, c), present, np.int64(_U))
    if o.mapped_bits:
        _load_map(t, weight_map, b, c, v)
        acc[c, MAPPED + _COUNT] += rows.sum_row(row(t, _MAPPED_U))
        acc[c, MAPPED + _P] += rows.sum_p(row(t, _p(o, c)), row(t, _MAPPED_U))
        _add_sums(acc, c, np.int64(MAPPED), o.mapped_bits, t, _p(o, c), present, np.int64(_MAPPED_U))


@_inlined
def _forward_tile(acc, t, walks, o, ignore, b, v):
    """Adds the sums of a tile; returns its bad labels."""
    logits, target, weight_map = _walk(walks, 0), _walk(walks, 1), _walk(walks, 3)
    state = _load_weight(t, target, _walk(walks, 2), o, ignore, b, v)
    if state[0] != EMPTY:
        count = rows.sum_row(row(t, _U))
        for c in range(acc.shape[0]):
            acc[c, _COUNT] += count
        if o.activation == SOFTMAX:
            z = _softmax_exponentials(t, logits, o, o.bits | o.mapped_bits, b, v, state[0])
            if o.short:
                _short_softmax_sums(acc, t, target, o, b, v, state, z)
            else:
                _softmax_sums(acc, t, target, weight_map, o, b, v, state, z)
        else:
            _channel_sums(acc, t, logits, target, weight_map, o, b, v, state)
    return state[1]


@_fast
def _buffer(o, kinds, size, epsilon):
    """Memory for the rows of tiles of ``size`` voxels, with its constant rows filled."""
    no_inline()
    buffer = np.empty((_CLASS_ROWS + kinds * o.width, size), epsilon.dtype)
    rows.set_zero(buffer[_NO_Y])
    rows.set_one(buffer[_J_OVER_P])  # of softmax; the other activations fill it themselves
    rows.set_lowest(buffer[_ABSENT_Z])
    return buffer


@_fast
def forward_chunk(acc, walks, numbers, b, start, stop, tile, epsilon):
    """Adds the sums of voxels start to stop of sample b to acc ``[C, SLOTS]``; returns the bad labels seen."""
    no_inline()
    o, ignore = _options(numbers, acc.shape[0]), numbers[6:]
    buffer = _buffer(o, np.int64(2), tile, epsilon)
    bad_labels = 0
    for v in range(start, stop, tile):
        t = Tile(buffer.ctypes.data, tile, min(tile, stop - v), epsilon[0])
        bad_labels += _forward_tile(acc, t, walks, o, ignore, b, v)
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live


# Backward


@_fast
def _jacobian_rows(t, o, every, p):
    """j, j / p and j / (1 - p) of a class; see cpu_rows."""
    no_inline()
    if o.activation == SOFTMAX:
        rows.copy(row(t, _J), row(t, p))
        if every & CE_NEG:
            rows.clamped_ratio(row(t, _J_OVER_Q), row(t, p), row(t, _Q), t.like)
    elif o.activation == SIGMOID:
        rows.multiply(row(t, _J), row(t, p), row(t, _Q))
        rows.copy(row(t, _J_OVER_P), row(t, _Q))
        rows.copy(row(t, _J_OVER_Q), row(t, p))
    else:
        rows.set_one(row(t, _J))
        rows.clamped_ratio(row(t, _J_OVER_P), row(t, _J), row(t, p), t.like)
        rows.clamped_ratio(row(t, _J_OVER_Q), row(t, _J), row(t, _Q), t.like)


@_fast
def _add_derivatives(t, o, c, present, u, k, first):
    """Adds the derivatives of the terms of a class, with coefficients ``k[c, first:]``."""
    no_inline()
    d, steep, p, weight = row(t, _d(o, c)), row(t, _steep(o, c)), row(t, _p(o, c)), row(t, u)
    y = row(t, _Y_ROW if present else _NO_Y)
    linear, quadratic = (k[c, first + _P], k[c, first + _PY]), (k[c, first + _P2], k[c, first + _P2Y])
    rows.add_polynomial_derivative(d, p, row(t, _J), y, weight, linear[0], linear[1], quadratic[0], quadratic[1])
    if present and k[c, first + _CE_POS] != 0:
        rows.add_log_derivative(d, row(t, _J_OVER_P), y, weight, k[c, first + _CE_POS])
    if k[c, first + _CE_NEG] != 0:
        rows.add_log_complement_derivative(steep, row(t, _J_OVER_Q), y, weight, k[c, first + _CE_NEG])


@_fast
def _class_derivatives(t, weight_map, o, c, present, k, b, v):
    """The derivatives of all terms of a class."""
    no_inline()
    _jacobian_rows(t, o, o.bits | o.mapped_bits, _p(o, c))
    rows.set_zero(row(t, _d(o, c)))
    rows.set_zero(row(t, _steep(o, c)))
    _add_derivatives(t, o, c, present, np.int64(_U), k, np.int64(0))
    if o.mapped_bits:
        _load_map(t, weight_map, b, c, v)
        _add_derivatives(t, o, c, present, np.int64(_MAPPED_U), k, np.int64(MAPPED))


@_over_classes
def _dots(t, o, k):
    """Over the classes the sum of e a."""
    no_inline()
    dot, done = row(t, _TOTAL), np.int64(0)
    rows.set_zero(dot)
    for c in range(0, o.width - 3, 4):
        e0, e1, e2, e3 = row(t, _p(o, c)), row(t, _p(o, c + 1)), row(t, _p(o, c + 2)), row(t, _p(o, c + 3))
        rows.dot_of_four(dot, e0, e1, e2, e3, k[c, _P], k[c + 1, _P], k[c + 2, _P], k[c + 3, _P])
        done = c + 4
    for c in range(done, o.width):
        rows.dot_absent(dot, row(t, _p(o, c)), k[c, _P])


@_over_classes
def _label_dots(t, o, k, first, last):
    """What the classes that occur add to that; then the sum of p (a + y b) - y g."""
    no_inline()
    dot, hits, labels = row(t, _TOTAL), row(t, _Q), label_row(t, _LABELS)
    rows.set_zero(hits)
    for c in range(first, last):
        rows.dot_label(dot, hits, row(t, _p(o, c)), labels, np.int32(c + o.first_label), k[c, _PY], k[c, _CE_POS])
    rows.finish_dot(dot, row(t, _INVERSE), hits)


@_over_classes
def _label_gradients(t, o, k, results, first, last):
    no_inline()
    dot, inverse_u, u, labels = row(t, _TOTAL), row(t, _INVERSE_U), row(t, _U), label_row(t, _LABELS)
    for c in range(o.width):
        out, e = class_row(t, results, c), row(t, _p(o, c))
        if first <= c < last:
            label = np.int32(c + o.first_label)
            rows.gradient_label(out, e, inverse_u, dot, u, labels, label, k[c, _P], k[c, _PY], k[c, _CE_POS])
        else:
            rows.gradient_absent(out, e, inverse_u, dot, k[c, _P])


@_over_classes
def _dense_gradients(t, target, o, k, results, b, v, state):
    no_inline()
    dot, hits, y = row(t, _TOTAL), row(t, _Q), row(t, _Y_ROW)
    rows.set_zero(hits)
    for c in range(o.width):
        _load_target(t, target, o, b, c, v, state)
        rows.dot_dense(dot, hits, row(t, _p(o, c)), y, k[c, _PY], k[c, _CE_POS])
    rows.finish_dot(dot, row(t, _INVERSE), hits)
    for c in range(o.width):
        _load_target(t, target, o, b, c, v, state)
        out, e, inverse_u = class_row(t, results, c), row(t, _p(o, c)), row(t, _INVERSE_U)
        rows.gradient_dense(out, e, inverse_u, dot, row(t, _U), y, k[c, _P], k[c, _PY], k[c, _CE_POS])


@_fast
def _short_softmax_gradient(k, t, target, gradient, o, b, v, state):
    """For p, p y and the cross-entropy: no derivative is stored."""
    no_inline()
    results = class_rows(t, _z(o, 0), gradient, b, v, v >= 0)
    _dots(t, o, k)
    if o.dense:
        _dense_gradients(t, target, o, k, results, b, v, state)
    else:
        first, last = _classes_present(o, state)
        _label_dots(t, o, k, first, last)
        _label_gradients(t, o, k, results, first, last)
    if not results.in_place:
        for c in range(o.width):
            store_row(class_row(t, results, c), gradient, b, c, v)


@_fast
def _softmax_gradient(k, t, target, weight_map, gradient, o, b, v, state):
    no_inline()
    steep_terms = (o.bits | o.mapped_bits) & CE_NEG
    rows.set_zero(row(t, _TOTAL))
    rows.set_zero(row(t, _LARGEST))
    for c in range(o.width):
        rows.multiply(row(t, _p(o, c)), row(t, _p(o, c)), row(t, _INVERSE))
        if steep_terms:
            _softmax_complement(t, o, c)
        present = _load_target(t, target, o, b, c, v, state)
        _class_derivatives(t, weight_map, o, c, present, k, b, v)
        rows.add(row(t, _TOTAL), row(t, _d(o, c)))
        if steep_terms:
            rows.add_steep(row(t, _TOTAL), row(t, _LARGEST), row(t, _steep(o, c)), row(t, _p(o, c)))
    for c in range(o.width):
        p, d = row(t, _p(o, c)), row(t, _d(o, c))
        rows.softmax_gradient(d, d, p, row(t, _TOTAL))
        if steep_terms:
            rows.softmax_complement(row(t, _Q), p, row(t, _REST), row(t, _INVERSE))
            rows.add_steep_gradient(d, row(t, _steep(o, c)), row(t, _LARGEST), p, row(t, _Q))
        store_row(d, gradient, b, c, v)


@_fast
def _channel_gradient(k, t, logits, target, weight_map, gradient, o, b, v, state):
    no_inline()
    for c in range(k.shape[0]):
        _channel_rows(t, logits, o, np.int64(0), b, c, v, state[0])
        present = _load_target(t, target, o, b, c, v, state)
        _class_derivatives(t, weight_map, o, c, present, k, b, v)
        rows.add(row(t, _d(o, c)), row(t, _steep(o, c)))
        store_row(row(t, _d(o, c)), gradient, b, c, v)


@_inlined
def _backward_tile(k, t, walks, o, ignore, b, v):
    logits, target, weight_map, gradient = _walk(walks, 0), _walk(walks, 1), _walk(walks, 3), _walk(walks, 4)
    state = _load_weight(t, target, _walk(walks, 2), o, ignore, b, v)
    if state[0] == EMPTY:
        for c in range(k.shape[0]):
            store_row(row(t, _NO_Y), gradient, b, c, v)
    elif o.activation == SOFTMAX:
        _softmax_exponentials(t, logits, o, (o.bits | o.mapped_bits) & CE_NEG, b, v, state[0])
        if o.short:
            _short_softmax_gradient(k, t, target, gradient, o, b, v, state)
        else:
            _softmax_gradient(k, t, target, weight_map, gradient, o, b, v, state)
    else:
        _channel_gradient(k, t, logits, target, weight_map, gradient, o, b, v, state)


@_fast
def backward_chunk(coefficients, walks, numbers, b, start, stop, tile, epsilon):
    """Writes the gradient of voxels start to stop of sample b; coefficients ``[C, SLOTS]``."""
    no_inline()
    o, ignore = _options(numbers, coefficients.shape[0]), numbers[6:]
    buffer = _buffer(o, np.int64(2) if o.short else np.int64(4), tile, epsilon)
    for v in range(start, stop, tile):
        t = Tile(buffer.ctypes.data, tile, min(tile, stop - v), epsilon[0])
        _backward_tile(coefficients, t, walks, o, ignore, b, v)
    return buffer.size  # the last use of the buffer: until here it must live


# The same for labels of up to four classes under softmax, with short terms: kernels of their own, which are compiled
# in a fraction of the time


@_fast
def forward_chunk_of_four(acc, walks, numbers, b, start, stop, tile, epsilon):
    """As forward_chunk."""
    no_inline()
    o, ignore = _options(numbers, acc.shape[0]), numbers[6:]
    logits, target, mask = _walk(walks, 0), _walk(walks, 1), _walk(walks, 2)
    buffer = _buffer(o, np.int64(2), tile, epsilon)
    bad_labels = 0
    for v in range(start, stop, tile):
        t = Tile(buffer.ctypes.data, tile, min(tile, stop - v), epsilon[0])
        state = _load_weight(t, target, mask, o, ignore, b, v)
        bad_labels += state[1]
        if state[0] != EMPTY:
            count = rows.sum_row(row(t, _U))
            for c in range(acc.shape[0]):
                acc[c, _COUNT] += count
            _sums_of_four(acc, t, logits, o, b, v, state)
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live


@_fast
def backward_chunk_of_four(coefficients, walks, numbers, b, start, stop, tile, epsilon):
    """As backward_chunk."""
    no_inline()
    o, ignore = _options(numbers, coefficients.shape[0]), numbers[6:]
    logits, target, mask, gradient = _walk(walks, 0), _walk(walks, 1), _walk(walks, 2), _walk(walks, 4)
    buffer = _buffer(o, np.int64(2), tile, epsilon)
    for v in range(start, stop, tile):
        t = Tile(buffer.ctypes.data, tile, min(tile, stop - v), epsilon[0])
        state = _load_weight(t, target, mask, o, ignore, b, v)
        if state[0] == EMPTY:
            for c in range(coefficients.shape[0]):
                store_row(row(t, _NO_Y), gradient, b, c, v)
        else:
            _gradient_of_four(coefficients, t, logits, gradient, o, b, v, state[0])
    return buffer.size  # the last use of the buffer: until here it must live


def suits_four(plan: Plan, channels: int) -> bool:
    """Whether the kernels for up to four classes can run a plan."""
    short = all(_SHORT >> KINDS.index(term.kind) & 1 and not term.mapped for term in plan.terms)
    return plan.activation == "softmax" and not plan.dense and channels <= FOUR and short


def epsilon_array(real: type) -> np.ndarray:
    """The clamp of the logarithms; as an array it also carries the kernel's floating type."""
    return np.full(1, EPSILON, real)
