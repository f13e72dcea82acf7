"""The fused pass for labels under softmax over one chunk of voxels of one sample (Numba).

A label's terms depend on p of its own class alone: what they add to the gradient is one number a voxel, whatever the
number of classes, and p is never normalised.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fastloss.terms import KINDS, POWER_KINDS, Plan

from . import label_rows as rows
from . import rows as rows_of_any
from .math import INNER, no_inline
from .memory import (
    class_pointer,
    class_row,
    class_rows,
    label_pointer,
    label_row,
    load_row,
    pointer,
    prefetch_classes,
    row,
    store_row,
    stream_fence,
)
from .powers import power_slopes, power_values
from .rows import set_zero, sum_row
from .tile import (
    CE_POS,
    COUNT,
    EMPTY,
    FIRST_FREE,
    LABELS,
    LARGEST,
    MAPPED,
    NLL_POS,
    P2,
    P2Y,
    PY,
    RU,
    SLOTS,
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
    load_weight,
    options_of,
    power_kind,
    tile_buffer,
    tile_of,
    walk_of,
)

# Rows: logarithm of the sum of the exponentials; p, 1 - p and -log p of each voxel's own class; slopes,
# coefficients; h and t of the gradient; the voxel weight map
_LOG_SUM, _OWN_P, _OWN_Q, _OWN_L, _SLOPE, _SLOPE_Q, _COEFFICIENT, _H, _T, _MAP = range(FIRST_FREE, FIRST_FREE + 10)
_E = FIRST_FREE + 10  # and for every class: exponentials, then logits (in the gradient's pass: results)

_fast = njit(**INNER)
_inlined = njit(inline="always", **INNER)


def serves(plan: Plan) -> bool:
    """Whether this pass knows all terms of a plan."""
    kinds = {term.kind for term in plan.terms}
    mapped = {term.kind for term in plan.terms if term.mapped}
    complement = {kind for kind in (*KINDS, *POWER_KINDS) if kind.endswith("_neg")}
    return plan.activation == "softmax" and not plan.dense and mapped <= {"ce_pos"} and not kinds & complement


# The softmax of a tile


@_fast
def _load_map(t, weight_map, b, c, v, counted):
    """The map's row of a class; one that serves all classes stays."""
    no_inline()
    if c == 0 or weight_map.channel != 0:
        load_row(row(t, _MAP), weight_map, b, c, v)
        if counted == SOME:
            rows_of_any.clear_uncounted(row(t, _MAP), row(t, U))


@_fast
def _own_rows(t, z, o, classes, first, last):
    """p, 1 - p and -log p of each voxel's own class."""
    no_inline()
    labels, p, q, l = label_pointer(t, LABELS), pointer(t, _OWN_P), pointer(t, _OWN_Q), pointer(t, _OWN_L)
    rows.start_own(t.n, p, q, l)
    for c in range(classes):
        e, label = pointer(t, _E + c), np.int32(c + o.first_label)
        if first <= c < last:
            rows.add_own(t.n, p, q, l, e, class_pointer(t, z, c), pointer(t, LARGEST), pointer(t, R), labels, label)
        else:
            rows.add_other(t.n, q, e, pointer(t, R))
    rows.add_log(t.n, l, pointer(t, TOTAL))


@_inlined
def _present(o, state, classes):
    """The range of classes that may have a voxel in the tile."""
    return max(np.int64(0), state[2] - o.first_label), min(classes, state[3] - o.first_label + 1)


# Forward


@_fast
def _sum_classes(acc, t, z, o):
    """The sums that every voxel adds to."""
    no_inline()
    classes = acc.shape[0]
    if has(o.bits, P):
        ru, done = pointer(t, RU), np.int64(0)
        for c in range(0, classes - 3, 4):
            p0, p1, p2, p3 = rows.sum_p_of_four(
                t.n, pointer(t, _E + c), pointer(t, _E + c + 1), pointer(t, _E + c + 2), pointer(t, _E + c + 3), ru
            )
            acc[c, P] += p0
            acc[c + 1, P] += p1
            acc[c + 2, P] += p2
            acc[c + 3, P] += p3
            done = c + 4
        for c in range(done, classes):
            acc[c, P] += rows.sum_p(t.n, pointer(t, _E + c), ru)
    if has(o.bits, P2):
        for c in range(classes):
            acc[c, P2] += rows.sum_p2(t.n, pointer(t, _E + c), pointer(t, R), pointer(t, RU))
    if has(o.bits, NLL_POS):
        for c in range(classes):
            acc[c, NLL_POS] += rows.sum_nll(
                t.n, pointer(t, _LOG_SUM), class_pointer(t, z, c), pointer(t, LARGEST), pointer(t, U)
            )


@_fast
def _sum_cross_entropy(acc, t, z, o, c, products):
    no_inline()
    labels, m, label = label_pointer(t, LABELS), pointer(t, LARGEST), np.int32(c + o.first_label)
    if products:
        acc[c, CE_POS] += rows.sum_log_products(t.n, pointer(t, TOTAL), labels, label)
        acc[c, CE_POS] += rows.sum_below_max(t.n, class_pointer(t, z, c), m, labels, label)
    else:
        log_s, u = pointer(t, _LOG_SUM), pointer(t, U)
        acc[c, CE_POS] += rows.sum_cross_entropy(t.n, log_s, class_pointer(t, z, c), m, u, labels, label)


@_fast
def _sum_one_label(acc, t, o, c, count, other_p, other_p2):
    """The sums where all voxels are of class c: with and without y they have the same bits, which formulas lean on."""
    no_inline()
    if has(o.bits, P):
        acc[c, PY] += acc[c, P] - other_p
    elif has(o.bits, PY):
        acc[c, PY] += rows.sum_p(t.n, pointer(t, _E + c), pointer(t, RU))
    if has(o.bits, P2):
        acc[c, P2Y] += acc[c, P2] - other_p2
    elif has(o.bits, P2Y):
        acc[c, P2Y] += rows.sum_p2(t.n, pointer(t, _E + c), pointer(t, R), pointer(t, RU))
    acc[c, Y] += count
    acc[c, Y2] += count


@_fast
def _sum_labels(acc, t, o, first, last):
    """The sums of p y and y over the voxels of each class."""
    no_inline()
    for c in range(first, last):
        label = np.int32(c + o.first_label)
        py, y = rows.sum_overlap(
            t.n, pointer(t, _E + c), pointer(t, RU), pointer(t, U), label_pointer(t, LABELS), label
        )
        acc[c, PY] += py
        acc[c, Y] += y
        acc[c, Y2] += y


@_fast
def _sum_squares(acc, t, o, first, last):
    """The sums of p^2 y over the voxels of each class."""
    no_inline()
    if has(o.bits, P2Y):
        r, ru, labels = pointer(t, R), pointer(t, RU), label_pointer(t, LABELS)
        for c in range(first, last):
            e = pointer(t, _E + c)
            acc[c, P2Y] += rows.sum_squared_overlap(t.n, e, r, ru, labels, np.int32(c + o.first_label))


@_fast
def _sum_own(acc, t, o, numbers, reals, first, last):
    """The sums of the terms with a power."""
    no_inline()
    value, u, labels = pointer(t, _SLOPE), pointer(t, U), label_pointer(t, LABELS)
    for j in range(o.powers):
        kind = power_kind(numbers, j) // 2
        power_values(row(t, _SLOPE), kind, reals[1 + j], row(t, _OWN_L), row(t, _OWN_Q), reals[0])
        for c in range(first, last):
            acc[c, SLOTS + j] += rows.sum_where(t.n, value, u, labels, np.int32(c + o.first_label))


@_fast
def _sum_mapped(acc, t, o, weight_map, b, v, counted):
    """The sums of the cross-entropy under the voxel weight map."""
    no_inline()
    value, u, labels = pointer(t, _SLOPE), pointer(t, U), label_pointer(t, LABELS)
    for c in range(acc.shape[0]):
        _load_map(t, weight_map, b, c, v, counted)
        rows_of_any.multiply(row(t, _SLOPE), row(t, _MAP), row(t, _OWN_L))
        acc[c, MAPPED + CE_POS] += rows.sum_where(t.n, value, u, labels, np.int32(c + o.first_label))


@_fast
def _store_losses(t, losses, b, v):
    """Writes the cross-entropy of each voxel."""
    no_inline()
    rows_of_any.clear_unlabelled(row(t, _SLOPE), row(t, _OWN_L), label_row(t, LABELS))
    rows_of_any.weigh_losses(row(t, _SLOPE), row(t, U))
    store_row(row(t, _SLOPE), losses, b, np.int64(0), v)


@_fast
def forward_labels(acc, walks, numbers, b, start, stop, tile, reals):
    """Adds the sums of voxels start to stop of sample b to acc ``[C, SLOTS + powers]``; returns the bad labels seen.

    Where the walks name a volume of losses, writes each voxel's cross-entropy into it.
    """
    no_inline()
    o, classes, bad_labels = options_of(numbers), acc.shape[0], 0
    logits, target, mask = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2)
    losses = walk_of(walks, 4)
    weight_map, mapped = walk_of(walks, 3), has(o.mapped_bits, CE_POS)
    own = o.powers > 0 or losses.code >= 0 or mapped
    buffer = tile_buffer(_E + 2 * classes, tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad_labels += state[1]
        if state[0] == EMPTY:
            if losses.code >= 0:
                rows_of_any.weigh_losses(row(t, _SLOPE), row(t, U))
                store_row(row(t, _SLOPE), losses, b, np.int64(0), v)
            continue
        count = sum_row(row(t, U))
        for c in range(classes):
            acc[c, COUNT] += count
        z = load_classes(t, _E + classes, classes, logits, b, v, state[0])
        exponentials(t, z, _E, classes)
        prefetch_classes(t, z, classes)
        first, last = _present(o, state, classes)
        one_label = last - first == 1 and state[1] == 0
        products = mask.code < 0 and t.n % rows.FOLD == 0
        if has(o.bits, NLL_POS) or (has(o.bits, CE_POS) and not products):
            rows.log_rows(t.n, pointer(t, _LOG_SUM), pointer(t, TOTAL))
        other_p, other_p2 = (acc[first, P], acc[first, P2]) if one_label else (0.0, 0.0)
        _sum_classes(acc, t, z, o)
        if own:
            _own_rows(t, z, o, classes, first, last)
        if o.bits != 0 and one_label:
            _sum_one_label(acc, t, o, first, count, other_p, other_p2)
        elif o.bits != 0:
            _sum_labels(acc, t, o, first, last)
            _sum_squares(acc, t, o, first, last)
        if has(o.bits, CE_POS):
            for c in range(first, last):
                _sum_cross_entropy(acc, t, z, o, c, products)
        if own:
            _sum_own(acc, t, o, numbers, reals, first, last)
        if mapped:
            _sum_mapped(acc, t, o, weight_map, b, v, state[0])
        if losses.code >= 0:
            _store_losses(t, losses, b, v)
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live


# Backward


@_fast
def _add_own_slopes(t, o, k, numbers, reals, first, last):
    """Adds to h and t the slopes by -log p of the terms with a power."""
    no_inline()
    slope, by_q, coefficient = pointer(t, _SLOPE), pointer(t, _SLOPE_Q), pointer(t, _COEFFICIENT)
    for j in range(o.powers):
        kind = power_kind(numbers, j) // 2
        power_slopes(row(t, _SLOPE), row(t, _SLOPE_Q), kind, reals[1 + j], row(t, _OWN_L), row(t, _OWN_Q), reals[0])
        rows.add_product(t.n, slope, by_q, pointer(t, _OWN_P))  # dq/dl = p
        set_zero(row(t, _COEFFICIENT))
        for c in range(first, last):
            label = np.int32(c + o.first_label)
            rows.fill_where(t.n, coefficient, k[c, SLOTS + j], label_pointer(t, LABELS), label)
        rows.add_product(t.n, pointer(t, _H), coefficient, slope)
        rows.add_product(t.n, pointer(t, _T), coefficient, slope)


@_fast
def _add_mapped_slopes(t, o, k, weight_map, b, v, counted):
    """Adds to h and t those of the cross-entropy under the voxel weight map."""
    no_inline()
    set_zero(row(t, _COEFFICIENT))
    for c in range(k.shape[0]):
        label = np.int32(c + o.first_label)
        _load_map(t, weight_map, b, c, v, counted)
        rows.scaled_where(
            t.n, pointer(t, _COEFFICIENT), pointer(t, _MAP), k[c, MAPPED + CE_POS], label_pointer(t, LABELS), label
        )
    rows_of_any.add(row(t, _H), row(t, _COEFFICIENT))
    rows_of_any.add(row(t, _T), row(t, _COEFFICIENT))


@_fast
def _simple_slopes(t, o, k, first, last):
    """h and t for p, p y and the cross-entropy."""
    no_inline()
    labels, classes = label_pointer(t, LABELS), k.shape[0]
    set_zero(row(t, _H))
    set_zero(row(t, _T))
    for c in range(classes):
        dot, h, e, r = pointer(t, _T), pointer(t, _H), pointer(t, _E + c), pointer(t, R)
        if first <= c < last:
            own_a, label = k[c, PY], np.int32(c + o.first_label)
            rows.subtract_own_dot(t.n, dot, h, e, r, labels, label, k[c, P], own_a, k[c, CE_POS])
        else:
            rows.subtract_dot(t.n, dot, e, r, k[c, P])


@_fast
def _slopes(t, z, o, k, numbers, reals, first, last):
    """h and t of the gradient."""
    no_inline()
    labels = label_pointer(t, LABELS)
    _simple_slopes(t, o, k, first, last)
    if o.powers > 0:
        _own_rows(t, z, o, k.shape[0], first, last)
        _add_own_slopes(t, o, k, numbers, reals, first, last)
    if has(o.bits, P2) or has(o.bits, P2Y):
        for c in range(k.shape[0]):
            e, label, own_a2 = pointer(t, _E + c), np.int32(c + o.first_label), k[c, P2Y]
            rows.subtract_squared_dot(t.n, pointer(t, _T), e, pointer(t, R), labels, label, k[c, P2], own_a2)
    if has(o.bits, NLL_POS):
        total = k.dtype.type(0)
        for c in range(k.shape[0]):
            total += k[c, NLL_POS]
        rows.add_constant(t.n, pointer(t, _T), total)


@_fast
def _gradients(t, o, k, results, first, last):
    """The gradient of all classes, without that of p^2 and of -log p of all classes."""
    no_inline()
    ru, slope, h, u, labels = pointer(t, RU), pointer(t, _T), pointer(t, _H), pointer(t, U), label_pointer(t, LABELS)
    classes = k.shape[0]
    for c in range(classes):
        out, e = class_pointer(t, results, c), pointer(t, _E + c)
        if first <= c < last:
            own_a, label = k[c, PY], np.int32(c + o.first_label)
            rows.own_gradient(t.n, out, e, ru, slope, k[c, P], own_a, h, u, labels, label)
        else:
            rows.gradient(t.n, out, e, ru, slope, k[c, P])


@_fast
def _write(t, o, k, gradient, b, v, first, last):
    no_inline()
    results = class_rows(t, _E + k.shape[0], gradient, b, v, not gradient.streamed)
    _gradients(t, o, k, results, first, last)
    for c in range(k.shape[0]):
        out = class_pointer(t, results, c)
        if has(o.bits, P2) or has(o.bits, P2Y):
            e, label, own_a2 = pointer(t, _E + c), np.int32(c + o.first_label), k[c, P2Y]
            labels = label_pointer(t, LABELS)
            rows.add_squared_gradient(t.n, out, e, pointer(t, R), pointer(t, RU), labels, label, k[c, P2], own_a2)
        if has(o.bits, NLL_POS):
            rows.subtract_weight(t.n, out, pointer(t, U), k[c, NLL_POS])
        if not results.in_place:
            store_row(class_row(t, results, c), gradient, b, c, v)


@_fast
def backward_labels(coefficients, walks, numbers, b, start, stop, tile, reals):
    """Writes the gradient of voxels start to stop of sample b; coefficients ``[C, SLOTS + powers]``."""
    no_inline()
    o, classes = options_of(numbers), coefficients.shape[0]
    logits, target, mask, gradient = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 4)
    weight_map, mapped = walk_of(walks, 3), has(o.mapped_bits, CE_POS)
    buffer = tile_buffer(_E + 2 * classes, tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        if state[0] == EMPTY:
            for c in range(classes):
                store_row(row(t, ZERO), gradient, b, c, v)
            continue
        z = load_classes(t, _E + classes, classes, logits, b, v, state[0])
        exponentials(t, z, _E, classes)
        prefetch_classes(t, z, classes)
        first, last = _present(o, state, classes)
        _slopes(t, z, o, coefficients, numbers, reals, first, last)
        if mapped:
            _add_mapped_slopes(t, o, coefficients, weight_map, b, v, state[0])
        _write(t, o, coefficients, gradient, b, v, first, last)
    if gradient.streamed:
        stream_fence()
    return buffer.size  # the last use of the buffer: until here it must live
