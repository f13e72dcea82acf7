"""Row primitives of the Numba back end: loops over one contiguous row of voxels, which LLVM vectorises.

A row holds a few hundred voxels of one class and lies in the L1 cache. ``z`` logits, ``p`` probabilities, ``y``
target, ``u`` voxel weight, ``l`` a row of -log p or -log(1 - p). No function here knows of strides or of losses.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .cpu_math import INNER, SAFE, SUMS, distinct_rows, fast_exp, fast_log, fast_log1p, negative_log_softmax, no_inline

_elementwise = njit(fastmath=SAFE, **INNER)
_part = njit(fastmath=SAFE, inline="always", **INNER)  # of a function that loops over the classes: no call each
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
def set_lowest(row):
    """A class that is not there: its exponential vanishes."""
    no_inline()
    for i in range(row.size):
        row[i] = -np.inf


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


@_part
def max_of_four(m, z0, z1, z2, z3):
    for i in range(m.size):
        x = z0[i] if z0[i] > z1[i] else z1[i]
        y = z2[i] if z2[i] > z3[i] else z3[i]
        m[i] = x if x > y else y


@_part
def row_max(m, z):
    for i in range(m.size):
        m[i] = z[i] if z[i] > m[i] else m[i]


@_part
def shifted_exp(z, m, e, s):
    """e is the exponential of z - max, added to s."""
    for i in range(z.size):
        v = fast_exp(z[i] - m[i])
        e[i] = v
        s[i] += v


@_part
def first_shifted_exp(z, m, e, s):
    for i in range(z.size):
        v = fast_exp(z[i] - m[i])
        e[i] = v
        s[i] = v


@_elementwise
def log_row(out, x):
    no_inline()
    for i in range(out.size):
        out[i] = fast_log(x[i])


@_elementwise
def reciprocal(x, times_u, u):
    """x becomes 1 / x; times_u the same times the weight."""
    no_inline()
    one = x.dtype.type(1)
    for i in range(x.size):
        r = one / x[i]
        x[i] = r
        times_u[i] = r * u[i]


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
def sum_label_overlap(e, inverse_u, u, labels, label):
    """Sums of p y and y, from an exponential that is not normalised."""
    no_inline()
    py, y = e.dtype.type(0), e.dtype.type(0)
    zero = e.dtype.type(0)
    for i in range(e.size):
        hit = labels[i] == label
        py += e[i] * inverse_u[i] if hit else zero
        y += u[i] if hit else zero
    return py, y


@_reduction
def sum_label_log(log_s, z, m, u, labels, label):
    """Sum of y (-log p)."""
    no_inline()
    total, zero = u.dtype.type(0), u.dtype.type(0)
    for i in range(u.size):
        total += u[i] * negative_log_softmax(log_s[i], z[i], m[i]) if labels[i] == label else zero
    return total


@_reduction
def sum_dense_overlap(e, inverse_u, u, y):
    no_inline()
    py, ys = e.dtype.type(0), e.dtype.type(0)
    for i in range(e.size):
        ys += y[i] * u[i]
        py += e[i] * inverse_u[i] * y[i]
    return py, ys


@_reduction
def sum_overlap(p, y, u):
    """Sums of p y and y."""
    no_inline()
    py, ys = p.dtype.type(0), p.dtype.type(0)
    for i in range(p.size):
        weighted = y[i] * u[i]
        ys += weighted
        py += p[i] * weighted
    return py, ys


@_reduction
def sum_squares(p, y, u):
    """Sums of p^2, y^2 and p^2 y."""
    no_inline()
    p2, y2, p2y = p.dtype.type(0), p.dtype.type(0), p.dtype.type(0)
    for i in range(p.size):
        square = p[i] * p[i] * u[i]
        p2 += square
        p2y += square * y[i]
        y2 += y[i] * y[i] * u[i]
    return p2, y2, p2y


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


# Softmax over up to four classes: everything of a voxel stays in registers


@_reduction
def sum_of_four(z0, z1, z2, z3, u, labels, label, own_p, own_z, total):
    """Sums of p of four classes, whose labels are ``label``, ``label + 1``, ...

    Writes for each voxel the weighted p of its label, that label's z - max, and the sum of the exponentials.
    """
    distinct_rows()
    zero, one = u.dtype.type(0), u.dtype.type(1)
    p0, p1, p2, p3 = zero, zero, zero, zero
    for i in range(u.size):
        x = z0[i] if z0[i] > z1[i] else z1[i]
        y = z2[i] if z2[i] > z3[i] else z3[i]
        m = x if x > y else y
        d0, d1, d2, d3 = z0[i] - m, z1[i] - m, z2[i] - m, z3[i] - m
        e0, e1, e2, e3 = fast_exp(d0), fast_exp(d1), fast_exp(d2), fast_exp(d3)
        s = (e0 + e1) + (e2 + e3)
        r = u[i] * (one / s)
        p0 += e0 * r
        p1 += e1 * r
        p2 += e2 * r
        p3 += e3 * r
        k = labels[i] - label
        e = (e0 if k == 0 else e1) if k < 2 else (e2 if k == 2 else e3)
        own_p[i] = e * r
        own_z[i] = (d0 if k == 0 else d1) if k < 2 else (d2 if k == 2 else d3)
        total[i] = s
    return p0, p1, p2, p3


@_elementwise
def own_log(l, total, own_z, u):
    """The weighted -log p of each voxel's label."""
    distinct_rows()
    for i in range(l.size):
        l[i] = u[i] * (fast_log(total[i]) - own_z[i])


@_reduction
def sum_own(own_p, l, u, labels, label):
    """Sums of p y, y and y (-log p) of one class."""
    distinct_rows()
    zero = u.dtype.type(0)
    py, y, log_p = zero, zero, zero
    for i in range(u.size):
        hit = labels[i] == label
        py += own_p[i] if hit else zero
        y += u[i] if hit else zero
        log_p += l[i] if hit else zero
    return py, y, log_p


@_elementwise
def gradient_of_four(out0, out1, out2, out3, z0, z1, z2, z3, u, labels, label, a, b, g):
    """Derivative of a p + b p y + g y (-log p); a, b and g have a coefficient a class."""
    distinct_rows()
    zero, one = u.dtype.type(0), u.dtype.type(1)
    a0, a1, a2, a3 = a
    b0, b1, b2, b3 = b
    g0, g1, g2, g3 = g
    for i in range(u.size):
        x = z0[i] if z0[i] > z1[i] else z1[i]
        y = z2[i] if z2[i] > z3[i] else z3[i]
        m = x if x > y else y
        e0, e1, e2, e3 = fast_exp(z0[i] - m), fast_exp(z1[i] - m), fast_exp(z2[i] - m), fast_exp(z3[i] - m)
        r = one / ((e0 + e1) + (e2 + e3))
        k = labels[i] - label
        d0 = a0 + b0 if k == 0 else a0
        d1 = a1 + b1 if k == 1 else a1
        d2 = a2 + b2 if k == 2 else a2
        d3 = a3 + b3 if k == 3 else a3
        h0 = g0 if k == 0 else zero
        h1 = g1 if k == 1 else zero
        h2 = g2 if k == 2 else zero
        h3 = g3 if k == 3 else zero
        dot = ((e0 * d0 + e1 * d1) + (e2 * d2 + e3 * d3)) * r - ((h0 + h1) + (h2 + h3))
        w = u[i]
        r = r * w
        out0[i] = e0 * r * (d0 - dot) - w * h0
        out1[i] = e1 * r * (d1 - dot) - w * h1
        out2[i] = e2 * r * (d2 - dot) - w * h2
        out3[i] = e3 * r * (d3 - dot) - w * h3


# Derivatives: the short way for p, p y and the cross-entropy of softmax


@_part
def dot_of_four(dot, e0, e1, e2, e3, a0, a1, a2, a3):
    for i in range(dot.size):
        dot[i] += (e0[i] * a0 + e1[i] * a1) + (e2[i] * a2 + e3[i] * a3)


@_part
def dot_absent(dot, e, a):
    """dot += e a, as if no voxel of the row had the class."""
    for i in range(e.size):
        dot[i] += e[i] * a


@_part
def dot_label(dot, hits, e, labels, label, b, g):
    """What the voxels of a label add to that: dot += e b; hits += g."""
    zero = dot.dtype.type(0)
    for i in range(e.size):
        hit = labels[i] == label
        dot[i] += e[i] * b if hit else zero
        hits[i] += g if hit else zero


@_part
def dot_dense(dot, hits, e, y, b, g):
    for i in range(e.size):
        dot[i] += e[i] * y[i] * b
        hits[i] += y[i] * g


@_elementwise
def finish_dot(dot, inverse, hits):
    """The sum over the classes of p (a + y b) - y g."""
    no_inline()
    for i in range(dot.size):
        dot[i] = dot[i] * inverse[i] - hits[i]


@_part
def gradient_absent(out, e, inverse_u, dot, a):
    for i in range(out.size):
        out[i] = e[i] * inverse_u[i] * (a - dot[i])


@_part
def gradient_label(out, e, inverse_u, dot, u, labels, label, a, b, g):
    zero = out.dtype.type(0)
    for i in range(out.size):
        hit = labels[i] == label
        out[i] = e[i] * inverse_u[i] * ((a + b if hit else a) - dot[i]) - (u[i] * g if hit else zero)


@_part
def gradient_dense(out, e, inverse_u, dot, u, y, a, b, g):
    for i in range(out.size):
        out[i] = e[i] * inverse_u[i] * (a + y[i] * b - dot[i]) - u[i] * y[i] * g


# Derivatives: any terms. j is the derivative of p by what the activation is differentiated by: log p for softmax
# (j = p), z for sigmoid (j = p q), p itself without an activation (j = 1)


@_elementwise
def add_polynomial_derivative(d, p, j, y, u, a, b, a2, b2):
    """Of a p + b p y + a2 p^2 + b2 p^2 y."""
    no_inline()
    two = p.dtype.type(2)
    for i in range(d.size):
        d[i] += u[i] * j[i] * (a + y[i] * b + two * p[i] * (a2 + y[i] * b2))


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
