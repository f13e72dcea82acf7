"""The fused pass for any terms, targets and activations over one chunk of voxels of one sample (Numba).

Class by class: rows of p and of the logarithms, then the sums or the derivatives of every term that is asked for.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import rows as rows
from .label_rows import log_rows
from .math import INNER, no_inline
from .memory import class_row, label_row, load_row, pointer, row, store_row, stream_fence
from .powers import MISS, power_slopes, power_values
from .tile import (
    CE_NEG,
    CE_POS,
    COUNT,
    EMPTY,
    FIRST_FREE,
    LABELS,
    LARGEST,
    MAPPED,
    NEEDS_LOG_P,
    NEEDS_LOG_Q,
    NEEDS_Q,
    NEEDS_STEEP,
    NLL_NEG,
    NLL_POS,
    NONE,
    P2,
    P2Y,
    PY,
    SIGMOID,
    SLOTS,
    SOFTMAX,
    SOME,
    TOTAL,
    Y2,
    ZERO,
    P,
    R,
    U,
    Y,
    exponentials,
    has,
    load_classes,
    load_logits,
    load_weight,
    options_of,
    power_kind,
    power_mapped,
    tile_buffer,
    tile_of,
    walk_of,
)

# Rows: target, the voxel weight times the map; 1 - p, -log p and -log(1 - p); the derivative j of the activation (see
# cpu_rows), j / p, j / (1 - p); over the classes the total derivative, the same of the leading class, the logarithm of
# the sum of the exponentials, the sum without the largest; value or slopes of a term with a power, 1 - y,
# the cross-entropy of a voxel
_Y, _MAPPED_U, _Q, _LOG_P, _LOG_Q, _J, _J_OVER_P, _J_OVER_Q = range(FIRST_FREE, FIRST_FREE + 8)
_ALL_D, _LEADING_D, _LOG_SUM, _REST, _SLOPE, _SLOPE_Q, _NOT_Y, _LOSS = range(FIRST_FREE + 8, FIRST_FREE + 16)
# then, for every class under softmax and once otherwise: probabilities, derivatives, steep derivatives, logits
_CLASS_ROWS = FIRST_FREE + 16
_COMPLEMENT = 1 << CE_NEG | 1 << NLL_NEG
_LOGS = 1 << CE_POS | 1 << NLL_POS

_fast = njit(**INNER)
_inlined = njit(inline="always", **INNER)


@_inlined
def _width(o, classes):
    """How many rows of a kind: the classes of a softmax have one each."""
    return classes if o.activation == SOFTMAX else np.int64(1)


@_inlined
def _row_of(o, classes, kind, c):
    return _CLASS_ROWS + kind * _width(o, classes) + (c if o.activation == SOFTMAX else 0)


@_inlined
def _needs(o, forward):
    """Which rows a pass needs."""
    every = o.bits | o.mapped_bits
    logs = NEEDS_LOG_P if forward and every & _LOGS else 0
    complement = (NEEDS_Q | (NEEDS_LOG_Q if forward else NEEDS_STEEP)) if every & _COMPLEMENT else 0
    return logs | complement | o.power_needs


# What a tile reads


@_fast
def _load_target(t, target, o, b, c, v, state):
    """Fills the target row of a class; whether any voxel has it."""
    no_inline()
    if o.dense:
        load_row(row(t, _Y), target, b, c, v)
        if state[0] == SOME:
            rows.clear_uncounted(row(t, _Y), row(t, U))
        return True
    label = np.int32(c + o.first_label)
    if label < state[2] or label > state[3]:
        rows.set_zero(row(t, _Y))
        return False
    rows.one_hot(row(t, _Y), label_row(t, LABELS), label)
    return True


@_fast
def _load_map(t, weight_map, b, c, v):
    """The voxel weight of the mapped terms."""
    no_inline()
    load_row(row(t, _MAPPED_U), weight_map, b, c, v)
    rows.multiply(row(t, _MAPPED_U), row(t, _MAPPED_U), row(t, U))
    rows.clear_uncounted(row(t, _MAPPED_U), row(t, U))


@_fast
def _softmax(t, logits, o, needs, classes, b, v, counted):
    """The exponentials of all classes (in p), and what normalises them; returns where the logits are."""
    no_inline()
    z = load_classes(t, _row_of(o, classes, 3, 0), classes, logits, b, v, counted)
    exponentials(t, z, _row_of(o, classes, 0, 0), classes)
    if needs & NEEDS_LOG_P:
        log_rows(t.n, pointer(t, _LOG_SUM), pointer(t, TOTAL))
    if needs & NEEDS_Q:
        rows.set_zero(row(t, _REST))
        for c in range(classes):
            rows.add_below_max(row(t, _REST), row(t, _row_of(o, classes, 0, c)), class_row(t, z, c), row(t, LARGEST))
    return z


@_fast
def _softmax_class(t, z, needs, c, p):
    """p, 1 - p and the logarithms of a class."""
    no_inline()
    if needs & NEEDS_LOG_P:
        rows.log_softmax(row(t, _LOG_P), row(t, _LOG_SUM), class_row(t, z, c), row(t, LARGEST))
    rows.multiply(row(t, p), row(t, p), row(t, R))
    if needs & NEEDS_Q:
        rows.softmax_complement(row(t, _Q), row(t, p), row(t, _REST), row(t, R))
    if needs & NEEDS_LOG_Q:
        rows.clamped_log(row(t, _LOG_Q), row(t, _Q), t.like)


@_fast
def _channel(t, logits, o, needs, b, c, v, counted):
    """The same of a class that does not depend on the others."""
    no_inline()
    z, p, q = row(t, _row_of(o, np.int64(1), 3, 0)), row(t, _CLASS_ROWS), row(t, _Q)
    load_logits(t, _row_of(o, np.int64(1), 3, 0), logits, b, c, v, counted)
    if o.activation == SIGMOID:
        rows.sigmoid_rows(p, q, z)
        if needs & (NEEDS_LOG_P | NEEDS_LOG_Q):
            rows.softplus_rows(row(t, _LOG_P), row(t, _LOG_Q), z)
    else:
        rows.copy(p, z)
        rows.complement(q, p)
        if needs & NEEDS_LOG_P:
            rows.clamped_log(row(t, _LOG_P), p, t.like)
        if needs & NEEDS_LOG_Q:
            rows.clamped_log(row(t, _LOG_Q), q, t.like)


# Forward


@_fast
def _add_sums(acc, c, first, bits, t, p, present, u):
    """Adds the sums of a class to the columns of its terms."""
    no_inline()
    probability, weight, y = row(t, p), row(t, u), row(t, _Y)
    if present and (has(bits, PY) or has(bits, Y)):
        total, py, true = rows.sum_overlap(probability, y, weight)
        acc[c, first + P] += total
        acc[c, first + PY] += py
        acc[c, first + Y] += true
    else:
        acc[c, first + P] += rows.sum_p(probability, weight)
    if has(bits, P2) or has(bits, Y2) or has(bits, P2Y):
        p2, y2, p2y = rows.sum_squares(probability, y, weight)
        acc[c, first + P2] += p2
        acc[c, first + Y2] += y2
        acc[c, first + P2Y] += p2y
    if present and has(bits, CE_POS):
        acc[c, first + CE_POS] += rows.sum_log(row(t, _LOG_P), y, weight)
    if has(bits, CE_NEG):
        acc[c, first + CE_NEG] += rows.sum_log_complement(row(t, _LOG_Q), y, weight)
    if has(bits, NLL_POS):
        acc[c, first + NLL_POS] += rows.sum_p(row(t, _LOG_P), weight)
    if has(bits, NLL_NEG):
        acc[c, first + NLL_NEG] += rows.sum_p(row(t, _LOG_Q), weight)


@_fast
def _add_powers(acc, c, t, o, p, numbers, reals):
    """Adds the sums of the terms with a power."""
    no_inline()
    value = row(t, _SLOPE)
    for j in range(o.powers):
        kind, weight = power_kind(numbers, j), row(t, _MAPPED_U if power_mapped(numbers, j) else U)
        if kind % 2 == 0:
            power_values(value, kind // 2, reals[1 + j], row(t, _LOG_P), row(t, _Q), reals[0])
            acc[c, SLOTS + j] += rows.sum_log(value, row(t, _Y), weight)
        else:
            power_values(value, kind // 2, reals[1 + j], row(t, _LOG_Q), row(t, p), reals[0])
            acc[c, SLOTS + j] += rows.sum_log_complement(value, row(t, _Y), weight)


@_inlined
def _exclusive(o, classes):
    """Whether the channels are the classes of a voxel, which has one cross-entropy; otherwise each channel has."""
    return o.activation == SOFTMAX or (o.activation == NONE and classes > 1)


@_fast
def _add_losses(t, losses, o, classes, b, c, v):
    """Writes the cross-entropy of each voxel, once all its classes are added, or of a channel of its own."""
    no_inline()
    loss, y = row(t, _LOSS), row(t, _Y)
    alone = not _exclusive(o, classes)
    if alone or c == 0:
        rows.set_zero(loss)
    rows.add_log_of_class(loss, row(t, _LOG_P), y)
    if alone:
        rows.add_log_of_complement(loss, row(t, _LOG_Q), y)
    if alone or c == classes - 1:
        rows.weigh_losses(loss, row(t, U))
        store_row(loss, losses, b, c if alone else np.int64(0), v)


@_fast
def _clear_losses(t, losses, o, classes, b, v):
    """The same where no voxel counts."""
    no_inline()
    rows.weigh_losses(row(t, _LOSS), row(t, U))
    for c in range(1 if _exclusive(o, classes) else classes):
        store_row(row(t, _LOSS), losses, b, c, v)


@_fast
def _add_class(acc, c, t, target, weight_map, losses, o, p, b, v, state, numbers, reals):
    """The sums of a class whose p and logarithms are ready."""
    no_inline()
    present = _load_target(t, target, o, b, c, v, state)
    _add_sums(acc, c, np.int64(0), o.bits, t, p, present, np.int64(U))
    if weight_map.code >= 0:
        _load_map(t, weight_map, b, c, v)
        acc[c, MAPPED + COUNT] += rows.sum_row(row(t, _MAPPED_U))
        _add_sums(acc, c, np.int64(MAPPED), o.mapped_bits, t, p, present, np.int64(_MAPPED_U))
    if o.powers > 0:
        _add_powers(acc, c, t, o, p, numbers, reals)
    if losses.code >= 0:
        _add_losses(t, losses, o, acc.shape[0], b, c, v)


@_fast
def _add_tile(acc, t, logits, target, weight_map, losses, o, b, v, state, numbers, reals):
    no_inline()
    classes, needs = acc.shape[0], _needs(o, True)
    if losses.code >= 0:
        needs |= NEEDS_LOG_P if _exclusive(o, classes) else NEEDS_LOG_P | NEEDS_Q | NEEDS_LOG_Q
    count = rows.sum_row(row(t, U))
    for c in range(classes):
        acc[c, COUNT] += count
    if o.activation == SOFTMAX:
        z = _softmax(t, logits, o, needs, classes, b, v, state[0])
        for c in range(classes):
            p = _row_of(o, classes, 0, c)
            _softmax_class(t, z, needs, c, p)
            _add_class(acc, c, t, target, weight_map, losses, o, p, b, v, state, numbers, reals)
    else:
        own = np.int64(_CLASS_ROWS)
        for c in range(classes):
            _channel(t, logits, o, needs, b, c, v, state[0])
            _add_class(acc, c, t, target, weight_map, losses, o, own, b, v, state, numbers, reals)


@_fast
def forward_general(acc, walks, numbers, b, start, stop, tile, reals):
    """Adds the sums of voxels start to stop of sample b to acc ``[C, SLOTS + powers]``; returns the bad labels seen.

    Where the walks name a volume of losses, writes each voxel's cross-entropy into it.
    """
    no_inline()
    o, bad_labels = options_of(numbers), 0
    logits, target, mask, weight_map = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 3)
    losses = walk_of(walks, 4)
    buffer = tile_buffer(_row_of(o, acc.shape[0], 4, 0), tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad_labels += state[1]
        if state[0] != EMPTY:
            _add_tile(acc, t, logits, target, weight_map, losses, o, b, v, state, numbers, reals)
        elif losses.code >= 0:
            _clear_losses(t, losses, o, acc.shape[0], b, v)
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live


# Backward


@_fast
def _jacobian_rows(t, o, p):
    """j, j / p and j / (1 - p) of a class; see cpu_rows."""
    no_inline()
    if o.activation == SOFTMAX:
        rows.copy(row(t, _J), row(t, p))
        rows.set_one(row(t, _J_OVER_P))
        if _needs(o, False) & NEEDS_STEEP:
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
def _add_derivatives(t, d, steep, p, u, k, c, first):
    """Adds the derivatives of the terms of a class, with coefficients ``k[c, first:]``."""
    no_inline()
    weight, y = row(t, u), row(t, _Y)
    a, b, a2, b2 = k[c, first + P], k[c, first + PY], k[c, first + P2], k[c, first + P2Y]
    if a != 0 or b != 0 or a2 != 0 or b2 != 0:
        rows.add_polynomial_derivative(d, row(t, p), row(t, _J), y, weight, a, b, a2, b2)
    if k[c, first + CE_POS] != 0:
        rows.add_log_derivative(d, row(t, _J_OVER_P), y, weight, k[c, first + CE_POS])
    if k[c, first + CE_NEG] != 0:
        rows.add_log_complement_derivative(steep, row(t, _J_OVER_Q), y, weight, k[c, first + CE_NEG])
    if k[c, first + NLL_POS] != 0:
        rows.add_weighted(d, row(t, _J_OVER_P), weight, -k[c, first + NLL_POS])
    if k[c, first + NLL_NEG] != 0:
        rows.add_weighted(steep, row(t, _J_OVER_Q), weight, k[c, first + NLL_NEG])


@_fast
def _add_power_derivatives(t, o, d, steep, p, k, c, numbers, reals):
    """Adds the derivatives of the terms with a power."""
    no_inline()
    y, not_y, by_l, by_q = row(t, _Y), row(t, _NOT_Y), row(t, _SLOPE), row(t, _SLOPE_Q)
    rows.complement(not_y, y)
    for j in range(o.powers):
        kind, factor = power_kind(numbers, j), k[c, SLOTS + j]
        weight = row(t, _MAPPED_U if power_mapped(numbers, j) else U)
        if factor == 0:
            continue
        if kind % 2 == 0:
            power_slopes(by_l, by_q, kind // 2, reals[1 + j], row(t, _LOG_P), row(t, _Q), reals[0])
            if kind // 2 != MISS:
                rows.add_power_derivative(d, by_l, row(t, _J_OVER_P), y, weight, -factor)
            rows.add_power_derivative(d, by_q, row(t, _J), y, weight, -factor)
        else:
            power_slopes(by_l, by_q, kind // 2, reals[1 + j], row(t, _LOG_Q), row(t, p), reals[0])
            if kind // 2 != MISS:
                rows.add_power_derivative(steep, by_l, row(t, _J_OVER_Q), not_y, weight, factor)
            rows.add_power_derivative(d, by_q, row(t, _J), not_y, weight, factor)


@_fast
def _class_derivatives(t, weight_map, o, c, p, d, steep, k, b, v, numbers, reals):
    """The derivatives of all terms of a class."""
    no_inline()
    _jacobian_rows(t, o, p)
    rows.set_zero(d)
    rows.set_zero(steep)
    _add_derivatives(t, d, steep, p, np.int64(U), k, c, np.int64(0))
    if weight_map.code >= 0:
        _load_map(t, weight_map, b, c, v)
        _add_derivatives(t, d, steep, p, np.int64(_MAPPED_U), k, c, np.int64(MAPPED))
    if o.powers > 0:
        _add_power_derivatives(t, o, d, steep, p, k, c, numbers, reals)


@_fast
def _softmax_gradient(k, t, logits, target, weight_map, gradient, o, b, v, state, numbers, reals):
    no_inline()
    classes, needs = k.shape[0], _needs(o, False)
    z = _softmax(t, logits, o, needs, classes, b, v, state[0])
    rows.set_zero(row(t, _ALL_D))
    rows.set_zero(row(t, _LEADING_D))
    for c in range(classes):
        p = _row_of(o, classes, 0, c)
        d, steep = row(t, _row_of(o, classes, 1, c)), row(t, _row_of(o, classes, 2, c))
        _softmax_class(t, z, needs, c, p)
        _load_target(t, target, o, b, c, v, state)
        _class_derivatives(t, weight_map, o, c, p, d, steep, k, b, v, numbers, reals)
        rows.add(row(t, _ALL_D), d)
        if needs & NEEDS_STEEP:
            rows.add_steep(row(t, _ALL_D), row(t, _LEADING_D), steep, row(t, p))
    for c in range(classes):
        p, d = row(t, _row_of(o, classes, 0, c)), row(t, _row_of(o, classes, 1, c))
        rows.softmax_gradient(d, d, p, row(t, _ALL_D))
        if needs & NEEDS_STEEP:
            rows.softmax_complement(row(t, _Q), p, row(t, _REST), row(t, R))
            rows.add_steep_gradient(d, row(t, _row_of(o, classes, 2, c)), row(t, _LEADING_D), p, row(t, _Q))
        store_row(d, gradient, b, c, v)


@_fast
def _channel_gradient(k, t, logits, target, weight_map, gradient, o, b, v, state, numbers, reals):
    no_inline()
    d, steep = row(t, _CLASS_ROWS + 1), row(t, _CLASS_ROWS + 2)
    for c in range(k.shape[0]):
        _channel(t, logits, o, _needs(o, False), b, c, v, state[0])
        _load_target(t, target, o, b, c, v, state)
        _class_derivatives(t, weight_map, o, c, np.int64(_CLASS_ROWS), d, steep, k, b, v, numbers, reals)
        rows.add(d, steep)
        store_row(d, gradient, b, c, v)


@_fast
def backward_general(k, walks, numbers, b, start, stop, tile, reals):
    """Writes the gradient of voxels start to stop of sample b; coefficients k ``[C, SLOTS + powers]``."""
    no_inline()
    o = options_of(numbers)
    logits, target, weight_map, gradient = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 3), walk_of(walks, 4)
    mask = walk_of(walks, 2)
    buffer = tile_buffer(_row_of(o, k.shape[0], 4, 0), tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        if state[0] == EMPTY:
            for c in range(k.shape[0]):
                store_row(row(t, ZERO), gradient, b, c, v)
        elif o.activation == SOFTMAX:
            _softmax_gradient(k, t, logits, target, weight_map, gradient, o, b, v, state, numbers, reals)
        else:
            _channel_gradient(k, t, logits, target, weight_map, gradient, o, b, v, state, numbers, reals)
    if gradient.streamed:
        stream_fence()
    return buffer.size  # the last use of the buffer: until here it must live
