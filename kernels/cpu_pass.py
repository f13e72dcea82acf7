"""The fused pass over one chunk of voxels of one sample, in tiles that stay in the cache (Numba).

``SLOTS`` fixes a column for every kind of term; ``bits`` says which columns a pass needs, the columns from
``MAPPED`` on hold the same terms under the voxel weight map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fastloss.terms import ACTIVATIONS, EPSILON, KINDS

from . import cpu_rows as rows
from .cpu_math import INNER, no_inline
from .cpu_memory import Walk, load_integers, load_row, row_in_place, store_row

MAPPED = len(KINDS)
SLOTS = 2 * MAPPED
P, PY, Y, COUNT, P2, Y2, P2Y, CE_POS, CE_NEG = (1 << k for k in range(MAPPED))
_P, _PY, _Y, _COUNT, _P2, _Y2, _P2Y, _CE_POS, _CE_NEG = range(MAPPED)
SOFTMAX, SIGMOID, NONE = map(ACTIVATIONS.index, ("softmax", "sigmoid", "none"))
_SHORT = P | PY | CE_POS | COUNT | Y | Y2  # what the short form of the softmax backward knows
EMPTY, ALL, SOME = range(3)

_fast = njit(**INNER)
_inlined = njit(inline="always", **INNER)


class Tensors(NamedTuple):
    """The tensors of a pass; the gradient is absent in a forward pass."""

    logits: Walk
    target: Walk
    mask: Walk
    weight_map: Walk
    gradient: Walk


class Options(NamedTuple):
    """The plan of a pass as numbers."""

    activation: int
    dense: int
    label_count: int
    first_label: int
    bits: int
    mapped_bits: int
    ignore: np.ndarray


class Rows(NamedTuple):
    """The rows of one tile. A softmax needs all classes at once: z to steep are ``[C, n]``, else ``[1, n]``."""

    z: np.ndarray  # logits; under softmax soon minus their largest
    p: np.ndarray
    d: np.ndarray  # derivatives
    steep: np.ndarray  # derivatives with 1 / (1 - p) in them
    q: np.ndarray  # 1 - p
    log_p: np.ndarray  # -log p
    log_q: np.ndarray  # -log(1 - p)
    j: np.ndarray
    j_over_p: np.ndarray
    j_over_q: np.ndarray
    y: np.ndarray
    no_y: np.ndarray  # zeros
    u: np.ndarray  # voxel weight
    mapped_u: np.ndarray
    largest: np.ndarray
    total: np.ndarray
    inverse: np.ndarray  # 1 / sum of exponentials
    log_sum: np.ndarray
    rest: np.ndarray  # sum of exponentials without the largest
    labels: np.ndarray


@_fast
def _rows(width, n, derivative_width, epsilon):
    real = epsilon.dtype
    tile = np.empty((2, width, n), real)
    derivatives = np.empty((2, derivative_width, n), real)
    r = np.empty((14, n), real)
    no_y, ones = np.zeros(n, real), np.ones(n, real)
    return Rows(
        tile[0], tile[1], derivatives[0], derivatives[1], r[0], r[1], r[2], r[3], ones, r[5], r[6], no_y,
        r[7], r[8], r[9], r[10], r[11], r[12], r[13], np.empty(n, np.int32),
    )  # fmt: skip


@_fast
def _walk(row):
    return Walk(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8])


@_fast
def _unpack(walks, numbers):
    """Parallel loops take arrays only: a row for each tensor; the numbers of Options, then the ignored labels."""
    w, n = walks, numbers
    tensors = Tensors(_walk(w[0]), _walk(w[1]), _walk(w[2]), _walk(w[3]), _walk(w[4]))
    return tensors, Options(n[0], n[1], n[2], n[3], n[4], n[5], n[6:])


# What a tile reads


@_fast
def _load_weight(t, tensors, options, b, v):
    """Fills the weights and labels. Returns (EMPTY | ALL | SOME counted, bad labels, lowest, highest label)."""
    no_inline()
    u, labels, label_count = t.u, t.labels, options.label_count
    weighted = tensors.mask.code >= 0
    if weighted:
        load_row(u, tensors.mask, b, np.int64(0), v)
    else:
        rows.set_one(u)
    bad, low, high = 0, 0, label_count - 1
    if not options.dense:
        load_integers(labels, tensors.target, b, np.int64(0), v)
        low, high = rows.label_range(labels)
        for label in options.ignore:
            if low <= label <= high:
                rows.ignore_label(labels, u, label)
                weighted = True
        if weighted or low < 0 or high >= label_count:
            bad, low, high = rows.drop_invalid_labels(labels, u, label_count)
    zeros = rows.count_zeros(u) if weighted else 0
    return (EMPTY if zeros == u.size else ALL if zeros == 0 else SOME), bad, low, high


@_fast
def _load_target(t, tensors, options, b, c, v, state):
    """The target row of a class, or the row of zeros where no voxel has it; and whether any has."""
    no_inline()
    counted, _, low, high = state
    if options.dense:
        load_row(t.y, tensors.target, b, c, v)
        if counted == SOME:
            rows.clear_uncounted(t.y, t.u)
        return t.y, True
    label = c + options.first_label
    if label < low or label > high:
        return t.no_y, False
    rows.one_hot(t.y, t.labels, label)
    return t.y, True


@_inlined
def _load_logits(z, t, tensors, b, c, v, state):
    load_row(z, tensors.logits, b, c, v)
    if state[0] == SOME:
        rows.clear_uncounted(z, t.u)


@_inlined
def _load_map(t, tensors, b, c, v):
    """The voxel weight of the mapped terms."""
    load_row(t.mapped_u, tensors.weight_map, b, c, v)
    rows.multiply(t.mapped_u, t.mapped_u, t.u)


# Activations


@_fast
def _softmax_exponentials(t, tensors, every, b, v, state):
    """For all classes z - max and its exponential (in p), and what normalises it."""
    no_inline()
    largest, total = t.largest, t.inverse
    for c in range(t.z.shape[0]):
        _load_logits(t.z[c], t, tensors, b, c, v, state)
        if c == 0:
            rows.copy(largest, t.z[0])
        else:
            rows.row_max(largest, t.z[c])
    rows.set_zero(total)
    for c in range(t.z.shape[0]):
        rows.shifted_exp(t.z[c], largest, t.p[c], total)
    if every & CE_NEG:
        rows.set_zero(t.rest)
        for c in range(t.z.shape[0]):
            rows.add_below_max(t.rest, t.p[c], t.z[c])
    if every & CE_POS:
        rows.log_row(t.log_sum, total)
    rows.reciprocal(total)


@_inlined
def _softmax_logs(t, every, c, present, eps):
    """1 - p and the logarithms of a class whose p is normalised."""
    if present and every & CE_POS:
        rows.subtract(t.log_p, t.log_sum, t.z[c])
    if every & CE_NEG:
        rows.softmax_complement(t.q, t.p[c], t.rest, t.inverse)
        rows.clamped_log(t.log_q, t.q, eps)


@_fast
def _channel_rows(t, tensors, options, every, b, c, v, state, eps):
    """p, 1 - p and the logarithms of a class that does not depend on the others."""
    no_inline()
    z, p, q = t.z[0], t.p[0], t.q
    _load_logits(z, t, tensors, b, c, v, state)
    if options.activation == SIGMOID:
        rows.sigmoid_rows(p, q, z)
        if every & (CE_POS | CE_NEG):
            rows.softplus_rows(t.log_p, t.log_q, z)
    else:
        rows.copy(p, z)
        rows.complement(q, p)
        if every & CE_POS:
            rows.clamped_log(t.log_p, p, eps)
        if every & CE_NEG:
            rows.clamped_log(t.log_q, q, eps)


# Forward


@_fast
def _add_sums(acc, bits, t, p, y, present, u):
    """Adds the sums of a class to the columns of its terms, but those of p and of 1."""
    no_inline()
    if present:
        if bits & (PY | Y):
            py, total = rows.sum_overlap(p, y, u)
            acc[_PY] += py
            acc[_Y] += total
        if bits & CE_POS:
            acc[_CE_POS] += rows.sum_log(t.log_p, y, u)
    if bits & (P2 | Y2 | P2Y):
        p2, y2, p2y = rows.sum_squares(p, y, u)
        acc[_P2] += p2
        acc[_Y2] += y2
        acc[_P2Y] += p2y
    if bits & CE_NEG:
        acc[_CE_NEG] += rows.sum_log_complement(t.log_q, y, u)


@_inlined
def _forward_tile(acc, t, tensors, options, b, v, eps):
    """Adds the sums of a tile; returns its bad labels."""
    every = options.bits | options.mapped_bits
    state = _load_weight(t, tensors, options, b, v)
    if state[0] == EMPTY:
        return state[1]
    softmax = options.activation == SOFTMAX
    if softmax:
        _softmax_exponentials(t, tensors, every, b, v, state)
    count = rows.sum_row(t.u)
    for c in range(acc.shape[0]):
        acc[c, _COUNT] += count
        y, present = _load_target(t, tensors, options, b, c, v, state)
        p = t.p[c if softmax else 0]
        if softmax:
            if every & ~(COUNT | Y | Y2 | CE_POS):
                acc[c, _P] += rows.normalise_and_sum(p, t.inverse, t.u)
            _softmax_logs(t, every, c, present, eps)
        else:
            _channel_rows(t, tensors, options, every, b, c, v, state, eps)
            acc[c, _P] += rows.sum_p(p, t.u)
        _add_sums(acc[c], options.bits, t, p, y, present, t.u)
        if options.mapped_bits:
            _load_map(t, tensors, b, c, v)
            acc[c, MAPPED + _COUNT] += rows.sum_row(t.mapped_u)
            acc[c, MAPPED + _P] += rows.sum_p(p, t.mapped_u)
            _add_sums(acc[c, MAPPED:], options.mapped_bits, t, p, y, present, t.mapped_u)
    return state[1]


@_fast
def forward_chunk(acc, walks, numbers, b, start, stop, tile, epsilon):
    """Adds the sums of voxels start to stop of sample b to acc ``[C, SLOTS]``; returns the bad labels seen."""
    no_inline()
    tensors, options = _unpack(walks, numbers)
    width = acc.shape[0] if options.activation == SOFTMAX else 1
    size = min(tile, stop - start)
    t = _rows(width, size, np.int64(1), epsilon)
    bad_labels = 0
    for v in range(start, stop, size):
        if stop - v < size:
            t = _rows(width, stop - v, np.int64(1), epsilon)
        bad_labels += _forward_tile(acc, t, tensors, options, b, v, epsilon[0])
    return bad_labels


# Backward


@_fast
def _jacobian_rows(t, options, every, p, eps):
    """j, j / p and j / (1 - p) of a class; see cpu_rows."""
    no_inline()
    if options.activation == SOFTMAX:
        rows.copy(t.j, p)
        if every & CE_NEG:
            rows.clamped_ratio(t.j_over_q, p, t.q, eps)  # j / p is a row of ones, made once
    elif options.activation == SIGMOID:
        rows.multiply(t.j, p, t.q)
        rows.copy(t.j_over_p, t.q)
        rows.copy(t.j_over_q, p)
    else:
        rows.set_one(t.j)
        rows.clamped_ratio(t.j_over_p, t.j, p, eps)
        rows.clamped_ratio(t.j_over_q, t.j, t.q, eps)


@_fast
def _add_derivatives(d, steep, t, p, y, present, u, k):
    """Adds the derivatives of the terms of a class with coefficients k."""
    no_inline()
    rows.add_polynomial_derivative(d, p, t.j, y, u, k[_P], k[_PY], k[_P2], k[_P2Y])
    if present and k[_CE_POS] != 0:
        rows.add_log_derivative(d, t.j_over_p, y, u, k[_CE_POS])
    if k[_CE_NEG] != 0:
        rows.add_log_complement_derivative(steep, t.j_over_q, y, u, k[_CE_NEG])


@_fast
def _class_derivatives(d, steep, t, tensors, options, p, y, present, k, b, c, v, eps):
    """The derivatives of all terms of a class."""
    no_inline()
    _jacobian_rows(t, options, options.bits | options.mapped_bits, p, eps)
    rows.set_zero(d)
    rows.set_zero(steep)
    _add_derivatives(d, steep, t, p, y, present, t.u, k[:MAPPED])
    if options.mapped_bits:
        _load_map(t, tensors, b, c, v)
        _add_derivatives(d, steep, t, p, y, present, t.mapped_u, k[MAPPED:])


@_fast
def _short_softmax_gradient(coefficients, t, tensors, options, b, v, state):
    """For p, p y and the cross-entropy: no derivative is stored."""
    no_inline()
    rows.set_zero(t.total)
    for c in range(coefficients.shape[0]):
        k = coefficients[c]
        y, present = _load_target(t, tensors, options, b, c, v, state)
        if present:
            rows.dot_present(t.p[c], t.inverse, t.total, y, k[_P], k[_PY], k[_CE_POS])
        else:
            rows.dot_absent(t.p[c], t.inverse, t.total, k[_P])
    for c in range(coefficients.shape[0]):
        k = coefficients[c]
        out, in_place = row_in_place(t.d[0], tensors.gradient, b, c, v)
        y, present = _load_target(t, tensors, options, b, c, v, state)
        if present:
            rows.gradient_present(out, t.p[c], t.total, t.u, y, k[_P], k[_PY], k[_CE_POS])
        else:
            rows.gradient_absent(out, t.p[c], t.total, t.u, k[_P])
        if not in_place:
            store_row(out, tensors.gradient, b, c, v)


@_fast
def _softmax_gradient(coefficients, t, tensors, options, b, v, state, eps):
    no_inline()
    steep_terms = (options.bits | options.mapped_bits) & CE_NEG
    rows.set_zero(t.total)
    rows.set_zero(t.largest)
    for c in range(coefficients.shape[0]):
        p, d, steep = t.p[c], t.d[c], t.steep[c]
        rows.multiply(p, p, t.inverse)
        _softmax_logs(t, steep_terms, c, True, eps)
        y, present = _load_target(t, tensors, options, b, c, v, state)
        _class_derivatives(d, steep, t, tensors, options, p, y, present, coefficients[c], b, c, v, eps)
        rows.add(t.total, d)
        if steep_terms:
            rows.add_steep(t.total, t.largest, steep, p)
    for c in range(coefficients.shape[0]):
        p, d = t.p[c], t.d[c]
        rows.softmax_gradient(d, d, p, t.total)
        if steep_terms:
            rows.softmax_complement(t.q, p, t.rest, t.inverse)
            rows.add_steep_gradient(d, t.steep[c], t.largest, p, t.q)
        store_row(d, tensors.gradient, b, c, v)


@_inlined
def _backward_tile(coefficients, t, tensors, options, b, v, eps, short):
    channels, every = coefficients.shape[0], options.bits | options.mapped_bits
    state = _load_weight(t, tensors, options, b, v)
    if state[0] == EMPTY:
        rows.set_zero(t.d[0])
        for c in range(channels):
            store_row(t.d[0], tensors.gradient, b, c, v)
    elif options.activation == SOFTMAX:
        _softmax_exponentials(t, tensors, every & CE_NEG, b, v, state)
        if short:
            _short_softmax_gradient(coefficients, t, tensors, options, b, v, state)
        else:
            _softmax_gradient(coefficients, t, tensors, options, b, v, state, eps)
    else:
        d, steep, p = t.d[0], t.steep[0], t.p[0]
        for c in range(channels):
            _channel_rows(t, tensors, options, np.int64(0), b, c, v, state, eps)
            y, present = _load_target(t, tensors, options, b, c, v, state)
            _class_derivatives(d, steep, t, tensors, options, p, y, present, coefficients[c], b, c, v, eps)
            rows.add(d, steep)
            store_row(d, tensors.gradient, b, c, v)


@_fast
def backward_chunk(coefficients, walks, numbers, b, start, stop, tile, epsilon):
    """Writes the gradient of voxels start to stop of sample b; coefficients ``[C, SLOTS]``."""
    no_inline()
    tensors, options = _unpack(walks, numbers)
    softmax = options.activation == SOFTMAX
    short = softmax and (options.bits & ~_SHORT) == 0 and options.mapped_bits == 0
    width = coefficients.shape[0] if softmax else 1
    derivative_width = np.int64(1) if short else width
    size = min(tile, stop - start)
    t = _rows(width, size, derivative_width, epsilon)
    for v in range(start, stop, size):
        if stop - v < size:
            t = _rows(width, stop - v, derivative_width, epsilon)
        _backward_tile(coefficients, t, tensors, options, b, v, epsilon[0], short)


def epsilon_array(real: type) -> np.ndarray:
    """The clamp of the logarithms; as an array it also carries the kernel's floating type."""
    return np.full(1, EPSILON, real)
