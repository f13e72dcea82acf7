"""A tile of the Numba back end: its rows, the plan as numbers, and what is loaded into it.

``SLOTS`` fixes a column for every kind of term; ``bits`` says which columns a pass needs, those from ``MAPPED`` on
hold the same terms under the voxel weight map. Terms with a power have columns of their own after them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fastloss.terms import ACTIVATIONS, EPSILON, KINDS, POWER_KINDS, Plan, Term, first_label, label_count

from . import label_rows as softmax
from . import rows as rows
from .lanes import LANES, MOST, softmax_in_registers
from .math import INNER, no_inline
from .memory import (
    UINT8,
    Tile,
    Walk,
    address,
    array_at,
    byte_address,
    class_pointer,
    class_rows,
    label_row,
    load_integers,
    load_row,
    pointer,
    row,
)

MAPPED = len(KINDS)
SLOTS = 2 * MAPPED
P, PY, Y, COUNT, P2, Y2, P2Y, CE_POS, CE_NEG, NLL_POS, NLL_NEG = range(MAPPED)
SOFTMAX, SIGMOID, NONE = map(ACTIVATIONS.index, ("softmax", "sigmoid", "none"))
EMPTY, ALL, SOME = range(3)
UNCOUNTED = np.float32(3.4028234663852886e38)  # in place of the error of a voxel that does not count
# Rows of a class that a pass may need: -log p, 1 - p, -log(1-p); whether slopes with 1 / (1-p) in them occur
NEEDS_LOG_P, NEEDS_Q, NEEDS_LOG_Q, NEEDS_STEEP = 1, 2, 4, 8
_POWER_NEEDS = {
    "focal_pos": NEEDS_LOG_P | NEEDS_Q,
    "focal_neg": NEEDS_Q | NEEDS_LOG_Q | NEEDS_STEEP,
    "log_power_pos": NEEDS_LOG_P,
    "log_power_neg": NEEDS_Q | NEEDS_LOG_Q | NEEDS_STEEP,
    "miss_pos": NEEDS_Q,
    "miss_neg": 0,
}

# The rows that both passes have: the voxel weight, a row of zeros, labels; under softmax the largest logit, the sum of
# the exponentials, its reciprocal, and that times the weight
U, ZERO, LABELS, LARGEST, TOTAL, R, RU = range(7)
FIRST_FREE = 7

_SKEW = 144  # numbers between rows
_OPTIONS = 10  # numbers of the plan before those of the terms with a power
_fast = njit(**INNER)
_inlined = njit(inline="always", **INNER)


class Options(NamedTuple):
    """The plan of a pass as numbers."""

    activation: int
    dense: int
    label_count: int
    first_label: int
    bits: int
    mapped_bits: int
    power_needs: int  # what the terms with a power need
    powers: int  # how many terms have one; their kinds and whether they are mapped are in the numbers after these
    code: int  # the address of the plan's own code, of cpu_registers or cpu_channels
    halves: int  # whether that code reads logits and writes gradients of 16 bits itself


def plan_numbers(plan: Plan, channels: int, code: int = 0, halves: bool = False) -> np.ndarray:
    """The fields of Options; kind and mapped of every term with a power; the ignored labels."""
    bits, mapped_bits = (
        sum(1 << KINDS.index(term.kind) for term in plan.terms if term.kind in KINDS and term.mapped == mapped)
        for mapped in (False, True)
    )
    with_power = [term for term in plan.terms if term.kind in POWER_KINDS]
    options = [ACTIVATIONS.index(plan.activation), int(plan.dense), label_count(channels), first_label(channels)]
    needs = 0
    for term in with_power:
        needs |= _POWER_NEEDS[term.kind]
    options += [bits, mapped_bits, needs, len(with_power), code, int(halves)]
    for term in with_power:
        options += [POWER_KINDS.index(term.kind), int(term.mapped)]
    return np.array([*options, *plan.ignore])


def plan_reals(plan: Plan, real: type) -> np.ndarray:
    """The clamp of the logarithms, then the powers; as an array it also carries the kernel's floating type."""
    return np.array([EPSILON, *(term.power for term in plan.terms if term.kind in POWER_KINDS)], real)


def columns(terms: tuple[Term, ...]) -> np.ndarray:
    """The column of each term."""
    powers = iter(range(SLOTS, SLOTS + len(terms)))
    found = [next(powers) if t.kind in POWER_KINDS else KINDS.index(t.kind) + MAPPED * t.mapped for t in terms]
    return np.array(found, np.int64)


def coefficient_sources(columns: np.ndarray, width: int) -> np.ndarray:
    """For :func:`with_target`: two terms for each column, len(columns) for none."""
    none = len(columns)
    sources = np.full((2, width), none)
    sources[0, columns] = np.arange(none)
    for first in (0, MAPPED):
        sources[1, [first + PY, first + P2Y]] = sources[0, [first + P, first + P2]]
    return sources


@_fast
def with_target(sources, grad_sums, coefficients):
    """The coefficients by column; those of p y and p^2 y with those of p and p^2 added, as they apply where y is 1.

    Added here in float64, since the two may cancel but for a small part.
    """
    no_inline()
    samples, classes, terms = grad_sums.shape
    for b in range(samples):
        for c in range(classes):
            for k in range(sources.shape[1]):
                total = 0.0
                for source in sources[:, k]:
                    if source < terms:
                        total += grad_sums[b, c, source]
                coefficients[b, c, k] = total


@_inlined
def has(bits, column):
    return (bits >> column) & 1 != 0


@_inlined
def options_of(n):
    return Options(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9])


@_inlined
def power_kind(n, j):
    """Kind of the j-th term with a power."""
    return n[_OPTIONS + 2 * j]


@_inlined
def power_mapped(n, j):
    return n[_OPTIONS + 2 * j + 1] != 0


@_inlined
def ignored_labels(n):
    return n[_OPTIONS + 2 * n[7] :]


@_inlined
def walk_of(w, i):
    """Parallel loops take arrays only: a tensor is a row of numbers (logits, target, mask, map, gradient)."""
    return Walk(w[i, 0], w[i, 1], w[i, 2], w[i, 3], w[i, 4], w[i, 5], w[i, 6], w[i, 7], w[i, 8], w[i, 9])


@_fast
def tile_buffer(count, size, reals):
    """Memory for ``count`` rows of ``size`` voxels; the weights are 1 until something else is loaded.

    Rows lie an odd number of cache lines apart: at a power of two they would share the sets of the L1 cache.
    """
    no_inline()
    buffer = np.empty((count + 1, size + _SKEW), reals.dtype)
    t = tile_of(buffer, size, reals)
    rows.set_zero(row(t, ZERO))
    rows.set_one(row(t, U))
    return buffer


@_inlined
def tile_of(buffer, n, reals):
    """A tile of n voxels in a buffer, from the first cache line on."""
    address = buffer.ctypes.data
    return Tile((address + 63) // 64 * 64, buffer.shape[1], n, reals[0])


@_fast
def load_weight(t, target, mask, o, numbers, b, v):
    """Fills the weights and labels. Returns (EMPTY | ALL | SOME counted, bad labels, lowest, highest label)."""
    no_inline()
    u, labels, ignore = row(t, U), label_row(t, LABELS), ignored_labels(numbers)
    weighted = mask.code >= 0
    if weighted:
        load_row(u, mask, b, np.int64(0), v)
    bad, low, high = 0, 0, o.label_count - 1
    if not o.dense:
        load_integers(labels, target, b, np.int64(0), v)
        low, high = rows.label_range(labels)
        relabel = low < 0 or high >= o.label_count
        if ignore.size > 0 and not weighted:
            rows.set_one(u)  # of the voxels that an earlier tile ignored
        for i in range(ignore.size):
            if low <= ignore[i] <= high:
                rows.ignore_label(labels, u, np.int32(ignore[i]))
                weighted = relabel = True
        if relabel:
            bad, low, high = rows.drop_invalid_labels(labels, u, np.int32(o.label_count))
    zeros = rows.count_zeros(u) if weighted else 0
    return (EMPTY if zeros == t.n else ALL if zeros == 0 else SOME), bad, low, high


@_fast
def plain_labels(n, target, mask, o, numbers, b, v):
    """The address of n labels of 8 bits where they need nothing: in a row, all of them classes that count; else 0."""
    no_inline()
    none = np.int64(0)
    if mask.code >= 0 or target.code != UINT8 or target.stride2 != 1 or v % target.size2 + n > target.size2:
        return none
    place = byte_address(target, b, v)
    low, high = rows.label_range(array_at(place, (n,), np.uint8))
    if high >= o.label_count:
        return none
    ignore = ignored_labels(numbers)
    for i in range(ignore.size):
        if low <= ignore[i] <= high:
            return none
    return place


@_fast
def narrow_labels(t, k):
    """Copies the labels, which are classes, to row k as numbers of 8 bits; returns where that is."""
    no_inline()
    place = address(t, k)
    rows.narrow(array_at(place, (t.n,), np.uint8), label_row(t, LABELS))
    return place


@_fast
def fill_up(t, mask, state):
    """Adds voxels without weight up to whole vectors. Returns how many there are then, and whether any has a weight
    other than 1 or a label that is no class; ``state``: what load_weight returned."""
    no_inline()
    n = (t.n + LANES - 1) // LANES * LANES
    padded = Tile(t.base, t.pitch, n, t.like)
    u, labels = row(padded, U), label_row(padded, LABELS)
    for i in range(t.n, n):
        u[i] = 0
        labels[i] = 0
    return n, np.int64(mask.code >= 0 or state[0] != ALL or state[1] != 0 or n != t.n)


@_fast
def load_logits(t, k, logits, b, c, v, counted):
    no_inline()
    load_row(row(t, k), logits, b, c, v)
    if counted == SOME:
        rows.clear_uncounted(row(t, k), row(t, U))


@_fast
def load_classes(t, k, classes, logits, b, v, counted):
    """Where the logits of all classes are: in place if few and contiguous, else loaded into rows k, k + 1, ..."""
    no_inline()
    few = 8  # more rows in place would share the sets of the L1 cache
    z = class_rows(t, k, logits, b, v, counted == ALL and classes <= few)
    if not z.in_place:
        for c in range(classes):
            load_logits(t, k + c, logits, b, c, v, counted)
    return z


@_inlined
def row_of_four(t, k, classes, c):
    """Row k + c of a class, or a row of zeros for one of four that is not there."""
    return pointer(t, k + c if c < classes else ZERO)


@_inlined
def logits_of_four(t, z, classes, c):
    """The logits of class c, or those of class 0 again."""
    return class_pointer(t, z, c if c < classes else 0)


@_fast
def exponentials(t, z, e, classes):
    """The largest logit, the exponentials of z - max (rows from e on), their sum, and what normalises it."""
    no_inline()
    if row(t, e).itemsize == 4 and 2 <= classes <= MOST and t.n % LANES == 0:
        softmax_in_registers(
            np.int64(classes),
            z.address,
            z.step,
            address(t, e),
            np.int64(4 * t.pitch),
            address(t, LARGEST),
            address(t, TOTAL),
            address(t, R),
            address(t, RU),
            address(t, U),
            np.int64(t.n),
        )
        return
    m, total, r, ru, u = pointer(t, LARGEST), pointer(t, TOTAL), pointer(t, R), pointer(t, RU), pointer(t, U)
    softmax.max_of_four(
        t.n,
        m,
        logits_of_four(t, z, classes, 0),
        logits_of_four(t, z, classes, 1),
        logits_of_four(t, z, classes, 2),
        logits_of_four(t, z, classes, 3),
    )
    for c in range(np.int64(4), classes):
        softmax.max_of_two(t.n, m, m, class_pointer(t, z, c))
    for c in range(classes):
        softmax.shifted_exp(t.n, pointer(t, e + c), class_pointer(t, z, c), m)
    softmax.normalise_of_four(
        t.n,
        total,
        r,
        ru,
        row_of_four(t, e, classes, 0),
        row_of_four(t, e, classes, 1),
        row_of_four(t, e, classes, 2),
        row_of_four(t, e, classes, 3),
        u,
    )
    if classes > 4:
        for c in range(np.int64(4), classes):
            softmax.add_row(t.n, total, pointer(t, e + c))
        softmax.reciprocals(t.n, r, ru, total, u)
