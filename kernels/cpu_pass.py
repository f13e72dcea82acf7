"""The fused pass over one chunk of voxels of one sample, in tiles that stay in the cache (Numba).

``SLOTS`` fixes a column for every kind of term; ``bits`` says which columns a pass needs, ``MAPPED`` columns
further right hold the same terms under the voxel weight map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fastloss.terms import ACTIVATIONS, EPSILON, KINDS

from . import cpu_rows as rows
from .cpu_math import no_inline
from .cpu_memory import Walk, load_integers, load_row, row_in_place, store_row

MAPPED = len(KINDS)
SLOTS = 2 * MAPPED
P, PY, Y, COUNT, P2, Y2, P2Y, CE_POS, CE_NEG = (1 << k for k in range(MAPPED))
_P, _PY, _Y, _COUNT, _P2, _Y2, _P2Y, _CE_POS, _CE_NEG = range(MAPPED)
SOFTMAX, SIGMOID, NONE = map(ACTIVATIONS.index, ("softmax", "sigmoid", "none"))
_SHORT = P | PY | CE_POS  # the terms that the short form of the softmax backward knows
EMPTY, ALL, SOME = range(3)

_fast = njit(error_model="numpy")




class Tensors(NamedTuple):
    """The inputs of a pass."""

    logits: Walk
    target: Walk
    mask: Walk
    weight_map: Walk


class Options(NamedTuple):
    """The plan of a pass as numbers."""

    activation: int
    dense: int
    label_count: int
    first_label: int
    bits: int
    mapped_bits: int
    ignore: np.ndarray


@_fast
def _walk(row):
    return Walk(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8])


@_fast
def _unpack(walks, numbers):
    """Parallel loops take arrays only: one row a tensor, and the numbers of Options followed by the ignored labels."""
    tensors = Tensors(_walk(walks[0]), _walk(walks[1]), _walk(walks[2]), _walk(walks[3]))
    n = numbers
    return tensors, Options(n[0], n[1], n[2], n[3], n[4], n[5], n[6:])


@_fast
def _load_weight(u, labels, tensors, options, b, v):
    """Fills the weight row and the labels. Returns (EMPTY | ALL | SOME counted, bad labels, lowest, highest)."""
    no_inline()
    mask, label_count = tensors.mask, options.label_count
    if mask.code >= 0:
        load_row(u, mask, b, np.int64(0), v)
    else:
        rows.fill(u, 1)
    weighted = mask.code >= 0
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
def _load_target(y, labels, tensors, options, b, c, v, u, counted, low, high):
    """Fills the target row; False where no voxel has the class, and y is left as it was."""
    no_inline()
    if options.dense:
        load_row(y, tensors.target, b, c, v)
        if counted == SOME:
            rows.clear_uncounted(y, u)
        return True
    label = c + options.first_label
    if label < low or label > high:
        return False
    rows.one_hot(y, labels, label)
    return True


@_fast
def _load_logits(z, tensors, b, c, v, u, counted):
    no_inline()
    load_row(z, tensors.logits, b, c, v)
    if counted == SOME:
        rows.clear_uncounted(z, u)


@_fast
def _softmax_exponentials(z, e, m, s, tensors, b, v, u, counted):
    """z - max, its exponential, and their sum s, for all classes of a tile."""
    no_inline()
    n = m.size
    for c in range(z.shape[0]):
        _load_logits(z[c, :n], tensors, b, c, v, u, counted)
        if c == 0:
            rows.copy(m, z[0, :n])
        else:
            rows.row_max(m, z[c, :n])
    rows.fill(s, 0)
    for c in range(z.shape[0]):
        rows.shifted_exp(z[c, :n], m, e[c, :n], s)


@_fast
def _add_sums(acc, bits, p, y, present, u, positive, negative, zeros):
    """Adds the sums of one class of a tile to the columns of its terms. Without present, y is all zero."""
    no_inline()
    if present:
        if bits & (PY | Y):
            py, total = rows.sum_overlap(p, y, u)
            acc[_PY] += py
            acc[_Y] += total
        if bits & CE_POS:
            acc[_CE_POS] += rows.sum_log(positive, y, u)
    if bits & (P2 | Y2 | P2Y):
        p2, y2, p2y = rows.sum_squares(p, y if present else zeros, u)
        acc[_P2] += p2
        acc[_Y2] += y2
        acc[_P2Y] += p2y
    if bits & CE_NEG:
        acc[_CE_NEG] += rows.sum_log_complement(negative, y if present else zeros, u)


@_fast
def forward_chunk(acc, walks, numbers, b, start, stop, tile, epsilon):
    """Adds the sums of voxels start to stop of sample b to acc ``[C, SLOTS]``; returns the bad labels seen."""
    no_inline()
    tensors, options = _unpack(walks, numbers)
    activation, channels = options.activation, acc.shape[0]
    bits, mapped_bits = options.bits, options.mapped_bits
    every = bits | mapped_bits
    real = epsilon.dtype
    width = channels if activation == SOFTMAX else 1
    z_tile, e_tile = np.empty((width, tile), real), np.empty((width, tile), real)
    buffer = np.empty((8, tile), real)
    zeros_tile, labels_tile = np.zeros(tile, real), np.empty(tile, np.int32)
    eps = epsilon[0]
    bad_labels = 0
    for v in range(start, stop, tile):
        n = min(tile, stop - v)
        u, y, um, zeros = buffer[0, :n], buffer[1, :n], buffer[2, :n], zeros_tile[:n]
        positive, negative = buffer[3, :n], buffer[4, :n]
        m, s, log_s = buffer[5, :n], buffer[6, :n], buffer[7, :n]
        labels = labels_tile[:n]
        counted, bad, low, high = _load_weight(u, labels, tensors, options, b, v)
        bad_labels += bad
        if counted == EMPTY:
            continue
        if activation == SOFTMAX:
            _softmax_exponentials(z_tile, e_tile, m, s, tensors, b, v, u, counted)
            if every & CE_POS:
                rows.log_row(log_s, s)
            rows.reciprocal(s)
        count = rows.sum_row(u)
        for c in range(channels):
            present = _load_target(y, labels, tensors, options, b, c, v, u, counted, low, high)
            acc[c, _COUNT] += count
            if activation == SOFTMAX:
                z, p = z_tile[c, :n], e_tile[c, :n]
                if every & ~(COUNT | Y | CE_POS):
                    acc[c, _P] += rows.normalise_and_sum(p, s, u)
                if present and every & CE_POS:
                    rows.subtract(positive, log_s, z)
            else:
                z, p = z_tile[0, :n], e_tile[0, :n]
                _load_logits(z, tensors, b, c, v, u, counted)
                if activation == SIGMOID:
                    rows.sigmoid_row(z, p)
                    if every & (CE_POS | CE_NEG):
                        rows.softplus_rows(z, positive, negative)
                else:
                    rows.copy(p, z)
                    if every & CE_POS:
                        rows.clamped_log(positive, p, eps)
                acc[c, _P] += rows.sum_p(p, u)
            if activation != SIGMOID and every & CE_NEG:
                rows.clamped_log_complement(negative, p, eps)
            _add_sums(acc[c], bits, p, y, present, u, positive, negative, zeros)
            if mapped_bits:
                load_row(um, tensors.weight_map, b, c, v)
                rows.multiply(um, um, u)
                mapped = acc[c, MAPPED:]
                mapped[_COUNT] += rows.sum_row(um)
                mapped[_P] += rows.sum_p(p, um)
                _add_sums(mapped, mapped_bits, p, y, present, um, positive, negative, zeros)
    return bad_labels


@_fast
def _add_derivatives(d, h, p, y, u, coefficients, activation, eps):
    """Adds the derivative of every term of one class: to d by the probability, to h by the logits."""
    no_inline()
    k = coefficients
    rows.add_polynomial_derivative(d, p, y, u, k[_P], k[_PY], k[_P2], k[_P2Y])
    if activation == SIGMOID:
        if k[_CE_POS] != 0 or k[_CE_NEG] != 0:
            rows.add_sigmoid_log_derivative(h, p, y, u, k[_CE_POS], k[_CE_NEG])
        return
    if k[_CE_NEG] != 0:
        rows.add_log_complement_derivative(d, p, y, u, k[_CE_NEG], eps)
    if k[_CE_POS] != 0:
        if activation == SOFTMAX:
            rows.add_scaled(h, y, u, k[_CE_POS])
        else:
            rows.add_log_derivative(d, p, y, u, k[_CE_POS], eps)


@_fast
def _class_derivatives(d, h, p, y, present, u, um, tensors, options, coefficients, b, c, v, eps):
    """d and h of one class; clears them first."""
    no_inline()
    rows.fill(d, 0)
    rows.fill(h, 0)
    if not present:
        rows.fill(y, 0)
    _add_derivatives(d, h, p, y, u, coefficients[c, :MAPPED], options.activation, eps)
    if options.mapped_bits:
        load_row(um, tensors.weight_map, b, c, v)
        rows.multiply(um, um, u)
        _add_derivatives(d, h, p, y, um, coefficients[c, MAPPED:], options.activation, eps)


@_fast
def _zero_gradient(out, gradient, b, channels, v):
    no_inline()
    rows.fill(out, 0)
    for c in range(channels):
        store_row(out, gradient, b, c, v)


@_fast
def backward_chunk(coefficients, walks, numbers, b, start, stop, tile, epsilon):
    """Writes the gradient of voxels start to stop of sample b; coefficients ``[C, SLOTS]``."""
    no_inline()
    tensors, options = _unpack(walks, numbers)
    gradient = _walk(walks[4])
    activation, channels, real = options.activation, coefficients.shape[0], epsilon.dtype
    short = activation == SOFTMAX and (options.bits & ~(_SHORT | COUNT | Y | Y2)) == 0 and options.mapped_bits == 0
    width = channels if activation == SOFTMAX else 1
    z_tile, e_tile = np.empty((width, tile), real), np.empty((width, tile), real)
    d_tile = np.empty((1 if short else width, tile), real)
    h_tile = np.empty((1 if short else width, tile), real)
    buffer = np.empty((7, tile), real)
    labels_tile = np.empty(tile, np.int32)
    eps = epsilon[0]
    for v in range(start, stop, tile):
        n = min(tile, stop - v)
        u, y, um, out = buffer[0, :n], buffer[1, :n], buffer[2, :n], buffer[3, :n]
        m, s, dot = buffer[4, :n], buffer[5, :n], buffer[6, :n]
        labels = labels_tile[:n]
        counted, _, low, high = _load_weight(u, labels, tensors, options, b, v)
        if counted == EMPTY:
            _zero_gradient(out, gradient, b, channels, v)
            continue
        if activation == SOFTMAX:
            _softmax_exponentials(z_tile, e_tile, m, s, tensors, b, v, u, counted)
            rows.reciprocal(s)
            rows.fill(dot, 0)
            for c in range(channels):
                k, p = coefficients[c], e_tile[c, :n]
                present = _load_target(y, labels, tensors, options, b, c, v, u, counted, low, high)
                if short and present:
                    rows.dot_present(p, s, dot, y, k[_P], k[_PY], k[_CE_POS])
                elif short:
                    rows.dot_absent(p, s, dot, k[_P])
                else:
                    d, h = d_tile[c, :n], h_tile[c, :n]
                    rows.multiply(p, p, s)
                    _class_derivatives(d, h, p, y, present, u, um, tensors, options, coefficients, b, c, v, eps)
                    rows.add_product(dot, p, d, h)
        for c in range(channels):
            result, in_place = row_in_place(out, gradient, b, c, v)
            if activation != SOFTMAX:
                present = _load_target(y, labels, tensors, options, b, c, v, u, counted, low, high)
                z, p, d, h = z_tile[0, :n], e_tile[0, :n], d_tile[0, :n], h_tile[0, :n]
                _load_logits(z, tensors, b, c, v, u, counted)
                if activation == SIGMOID:
                    rows.sigmoid_row(z, p)
                else:
                    rows.copy(p, z)
                _class_derivatives(d, h, p, y, present, u, um, tensors, options, coefficients, b, c, v, eps)
                if activation == SIGMOID:
                    rows.sigmoid_gradient(result, p, d, h)
                else:
                    rows.copy(result, d)
            elif short:
                k, p = coefficients[c], e_tile[c, :n]
                if _load_target(y, labels, tensors, options, b, c, v, u, counted, low, high):
                    rows.gradient_present(result, p, dot, u, y, k[_P], k[_PY], k[_CE_POS])
                else:
                    rows.gradient_absent(result, p, dot, u, k[_P])
            else:
                rows.softmax_gradient(result, e_tile[c, :n], d_tile[c, :n], dot, h_tile[c, :n])
            if not in_place:
                store_row(result, gradient, b, c, v)


def epsilon_array(real: type) -> np.ndarray:
    """The clamp of the logarithms; as an array it also carries the kernel's floating type."""
    return np.full(1, EPSILON, real)
