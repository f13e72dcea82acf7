"""Row primitives of the Numba back end: loops over one contiguous row of voxels, which LLVM vectorises.

A row holds a few hundred voxels of one class and lies in the L1 cache. ``z`` logits, ``p`` probabilities, ``y``
target, ``u`` voxel weight, ``l`` a row of -log p or -log(1 - p). No function here knows of strides or of losses.
"""

from __future__ import annotations

from numba import njit

from .math import INNER, SAFE, SUMS, fast_exp, fast_log, fast_log1p, negative_log_softmax, no_inline

_elementwise = njit(fastmath=SAFE, **INNER)
_reduction = njit(fastmath=SUMS, **INNER)


# Weights and labels


@_elementwise
def set_zero(row):
    no_inline()
    for i in range(row.size):
        row[i] = 0


@_elementwise
def set_one(row):
    no_inline()
    for i in range(row.size):
        row[i] = 1


@_elementwise
def copy(dst, src):
    no_inline()
    for i in range(dst.size):
        dst[i] = src[i]


@_elementwise
def count_zeros(u):
    no_inline()
    zeros = 0
    for i in range(u.size):
        zeros += 1 if u[i] == 0 else 0
    return zeros


@_elementwise
def clear_uncounted(row, u):
    """An uncounted voxel may hold anything, NaN included: replaced before it can spread."""
    no_inline()
    for i in range(row.size):
        row[i] = row[i] if u[i] != 0 else u[i]


@_elementwise
def label_range(labels):
    no_inline()
    low, high = labels[0], labels[0]
    for i in range(labels.size):
        low = min(low, labels[i])
        high = max(high, labels[i])
    return low, high


@_elementwise
def narrow(dst, src):
    no_inline()
    for i in range(dst.size):
        dst[i] = src[i]


@_elementwise
def ignore_label(labels, u, label):
    no_inline()
    for i in range(labels.size):
        hit = labels[i] == label
        u[i] = 0 if hit else u[i]
        labels[i] = -1 if hit else labels[i]


@_elementwise
def drop_invalid_labels(labels, u, label_count):
    """Labels that are no class become -1; how many of them were counted voxels, and the range of the others."""
    no_inline()
    bad = 0
    low, high = label_count, -1
    for i in range(labels.size):
        label = labels[i]
        valid = 0 <= label < label_count
        bad += 1 if (not valid) and u[i] != 0 else 0
        labels[i] = label if valid else -1
        low = min(low, label) if valid else low
        high = max(high, label) if valid else high
    return bad, low, high


@_elementwise
def one_hot(y, labels, label):
    no_inline()
    one = y.dtype.type(1)
    zero = y.dtype.type(0)
    for i in range(y.size):
        y[i] = one if labels[i] == label else zero


@_elementwise
def multiply(out, a, b):
    no_inline()
    for i in range(out.size):
        out[i] = a[i] * b[i]


# Activations


@_elementwise
def log_softmax(l, log_s, z, m):
    """-log p"""
    no_inline()
    for i in range(l.size):
        l[i] = negative_log_softmax(log_s[i], z[i], m[i])


@_elementwise
def add_below_max(rest, e, z, m):
    """Adds e where the class is not the largest: the sum without the largest, uncancelled."""
    no_inline()
    zero = e.dtype.type(0)
    for i in range(rest.size):
        rest[i] += e[i] if z[i] < m[i] else zero


@_elementwise
def softmax_complement(q, p, rest, inverse):
    """1 - p, without cancellation where p is close to 1."""
    no_inline()
    one, half = p.dtype.type(1), p.dtype.type(0.5)
    for i in range(q.size):
        q[i] = rest[i] * inverse[i] if p[i] > half else one - p[i]


@_elementwise
def complement(q, p):
    no_inline()
    one = p.dtype.type(1)
    for i in range(q.size):
        q[i] = one - p[i]


@_elementwise
def sigmoid_rows(p, q, z):
    """The sigmoid of z and of -z."""
    no_inline()
    one = z.dtype.type(1)
    for i in range(z.size):
        e = fast_exp(-abs(z[i]))
        large = one / (one + e)
        small = e * large
        p[i] = large if z[i] >= 0 else small
        q[i] = small if z[i] >= 0 else large


@_elementwise
def softplus_rows(positive, negative, z):
    """-log sigmoid(z) and -log sigmoid(-z)."""
    no_inline()
    zero = z.dtype.type(0)
    for i in range(z.size):
        x = z[i]
        tail = fast_log1p(fast_exp(-abs(x)))
        positive[i] = tail + (zero if x > 0 else -x)
        negative[i] = tail + (zero if x < 0 else x)


@_elementwise
def clamped_log(l, p, epsilon):
    """-log(max(p, epsilon))"""
    no_inline()
    for i in range(l.size):
        x = p[i]
        l[i] = -fast_log(epsilon if x < epsilon else x)


@_elementwise
def clamped_ratio(r, x, p, epsilon):
    """x / p, and 0 where p is clamped."""
    no_inline()
    zero = p.dtype.type(0)
    for i in range(r.size):
        r[i] = x[i] / p[i] if p[i] > epsilon else zero


# Sums of terms


@_reduction
def sum_row(u):
    no_inline()
    total = u.dtype.type(0)
    for i in range(u.size):
        total += u[i]
    return total


@_reduction
def sum_p(p, u):
    no_inline()
    total = p.dtype.type(0)
    for i in range(p.size):
        total += p[i] * u[i]
    return total


@_reduction
def sum_overlap(p, y, u):
    """Sums of p, p y and y; p as p y and p (1 - y), so that the first two have the same bits where y is 1 everywhere,
    in whatever order LLVM adds."""
    no_inline()
    one, py, other, ys = p.dtype.type(1), p.dtype.type(0), p.dtype.type(0), p.dtype.type(0)
    for i in range(p.size):
        weighted = p[i] * u[i]
        ys += y[i] * u[i]
        py += weighted * y[i]
        other += weighted * (one - y[i])
    return py + other, py, ys


@_reduction
def sum_squares(p, y, u):
    """Sums of p^2, y^2 and p^2 y; p^2 likewise."""
    no_inline()
    one, p2y, other, y2 = p.dtype.type(1), p.dtype.type(0), p.dtype.type(0), p.dtype.type(0)
    for i in range(p.size):
        square = p[i] * p[i] * u[i]
        p2y += square * y[i]
        other += square * (one - y[i])
        y2 += y[i] * y[i] * u[i]
    return p2y + other, y2, p2y


@_reduction
def sum_log(l, y, u):
    """Sum of y l; a voxel with y = 0 counts nothing even where l is infinite."""
    no_inline()
    total = l.dtype.type(0)
    zero = l.dtype.type(0)
    for i in range(l.size):
        total += y[i] * u[i] * l[i] if y[i] != 0 else zero
    return total


@_reduction
def sum_log_complement(l, y, u):
    """Sum of (1 - y) l."""
    no_inline()
    total = l.dtype.type(0)
    zero, one = l.dtype.type(0), l.dtype.type(1)
    for i in range(l.size):
        total += (one - y[i]) * u[i] * l[i] if y[i] != 1 else zero
    return total


# Losses of single voxels


@_elementwise
def add_log_of_class(loss, l, y):
    """Adds y l."""
    no_inline()
    zero = l.dtype.type(0)
    for i in range(loss.size):
        loss[i] += y[i] * l[i] if y[i] != 0 else zero


@_elementwise
def add_log_of_complement(loss, l, y):
    """Adds (1 - y) l."""
    no_inline()
    zero, one = l.dtype.type(0), l.dtype.type(1)
    for i in range(loss.size):
        loss[i] += (one - y[i]) * l[i] if y[i] != 1 else zero


@_elementwise
def clear_unlabelled(out, l, labels):
    """l where a voxel has a class."""
    no_inline()
    zero = l.dtype.type(0)
    for i in range(out.size):
        out[i] = l[i] if labels[i] >= 0 else zero


@_elementwise
def weigh_losses(loss, u):
    """The loss times its weight, of positive sign (also of NaN, so that bits rank it); -1 where nothing counts."""
    no_inline()
    uncounted = -loss.dtype.type(1)
    for i in range(loss.size):
        loss[i] = abs(loss[i] * u[i]) if u[i] != 0 else uncounted


# Derivatives: any terms. j is the derivative of p by what the activation is differentiated by: log p for softmax
# (j = p), z for sigmoid (j = p q), p itself without an activation (j = 1)


@_elementwise
def add_polynomial_derivative(d, p, j, y, u, a, own_a, a2, own_a2):
    """Of a p + a2 p^2 where y is 0, of own_a p + own_a2 p^2 where it is 1."""
    no_inline()
    one, two = p.dtype.type(1), p.dtype.type(2)
    for i in range(d.size):
        other = one - y[i]
        d[i] += u[i] * j[i] * ((a * other + own_a * y[i]) + two * p[i] * (a2 * other + own_a2 * y[i]))


@_elementwise
def add_log_derivative(d, j_over_p, y, u, g):
    """Of g y (-log p)."""
    no_inline()
    for i in range(d.size):
        d[i] -= u[i] * y[i] * g * j_over_p[i]


@_elementwise
def add_log_complement_derivative(d, j_over_q, y, u, g):
    """Of g (1 - y) (-log q)."""
    no_inline()
    one = y.dtype.type(1)
    for i in range(d.size):
        d[i] += u[i] * (one - y[i]) * g * j_over_q[i]


@_elementwise
def add_weighted(d, j_over_p, u, g):
    """Of g (-log p), or of its complement."""
    no_inline()
    for i in range(d.size):
        d[i] += u[i] * g * j_over_p[i]


@_elementwise
def add_power_derivative(d, slope, j, y, u, g):
    """Of g y f, with f's slope."""
    no_inline()
    for i in range(d.size):
        d[i] += u[i] * y[i] * g * (slope[i] * j[i])


@_elementwise
def add(total, d):
    no_inline()
    for i in range(total.size):
        total[i] += d[i]


@_elementwise
def add_steep(total, largest, d, p):
    """A derivative with 1 / (1 - p) in it goes apart where p is close to 1: there p d would cancel d."""
    no_inline()
    zero, half = p.dtype.type(0), p.dtype.type(0.5)
    for i in range(total.size):
        total[i] += zero if p[i] > half else d[i]
        largest[i] += d[i] if p[i] > half else zero


@_elementwise
def softmax_gradient(out, d, p, total):
    no_inline()
    for i in range(out.size):
        out[i] = d[i] - p[i] * total[i]


@_elementwise
def add_steep_gradient(out, steep, largest, p, q):
    no_inline()
    half = p.dtype.type(0.5)
    for i in range(out.size):
        out[i] += steep[i] * q[i] if p[i] > half else steep[i] - p[i] * largest[i]
