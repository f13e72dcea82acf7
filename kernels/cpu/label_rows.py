"""Row primitives of the passes for labels under softmax (see cpu_rows for what a row is), given by address.

``e`` the exponential of z - max, ``r`` 1 / (the sum of e over the classes), ``ru`` that times the weight. Rows come as
bare pointers, since an array is seven arguments. The loops are short, with few streams: the processor overlaps them
better than one loop that keeps everything of a voxel in registers.
"""

from __future__ import annotations

from numba import carray, njit

from .math import INNER, SAFE, SUMS, distinct_rows, fast_exp, fast_log, negative_log_softmax, no_inline

FOLD = 8  # sums of exponentials whose logarithms are taken as that of their product: below 1e38 for 50,000 classes

_elementwise = njit(fastmath=SAFE, **INNER)
_reduction = njit(fastmath=SUMS, **INNER)
_inlined = njit(inline="always", **INNER)


# The softmax


@_elementwise
def max_of_four(n, m, z0, z1, z2, z3):
    distinct_rows()
    m, z0, z1, z2, z3 = carray(m, n), carray(z0, n), carray(z1, n), carray(z2, n), carray(z3, n)
    for i in range(n):
        x = z0[i] if z0[i] > z1[i] else z1[i]
        y = z2[i] if z2[i] > z3[i] else z3[i]
        m[i] = x if x > y else y


@_elementwise
def max_of_two(n, m, z0, z1):
    """m may be one of the others."""
    no_inline()
    m, z0, z1 = carray(m, n), carray(z0, n), carray(z1, n)
    for i in range(n):
        m[i] = z0[i] if z0[i] > z1[i] else z1[i]


@_elementwise
def shifted_exp(n, e, z, m):
    distinct_rows()
    e, z, m = carray(e, n), carray(z, n), carray(m, n)
    for i in range(n):
        e[i] = fast_exp(z[i] - m[i])


@_elementwise
def add_row(n, total, e):
    distinct_rows()
    total, e = carray(total, n), carray(e, n)
    for i in range(n):
        total[i] += e[i]


@_elementwise
def reciprocals(n, r, ru, total, u):
    distinct_rows()
    r, ru, total, u = carray(r, n), carray(ru, n), carray(total, n), carray(u, n)
    one = total.dtype.type(1)
    for i in range(n):
        x = one / total[i]
        r[i] = x
        ru[i] = x * u[i]


@_elementwise
def log_rows(n, out, total):
    distinct_rows()
    out, total = carray(out, n), carray(total, n)
    for i in range(n):
        out[i] = fast_log(total[i])


@_elementwise
def normalise_of_four(n, total, r, ru, e0, e1, e2, e3, u):
    distinct_rows()
    total, r, ru, e0, e1, e2, e3, u = (
        carray(total, n),
        carray(r, n),
        carray(ru, n),
        carray(e0, n),
        carray(e1, n),
        carray(e2, n),
        carray(e3, n),
        carray(u, n),
    )
    one = total.dtype.type(1)
    for i in range(n):
        s = (e0[i] + e1[i]) + (e2[i] + e3[i])
        x = one / s
        total[i] = s
        r[i] = x
        ru[i] = x * u[i]


# Sums over all classes


@_reduction
def sum_p_of_four(n, e0, e1, e2, e3, ru):
    distinct_rows()
    e0, e1, e2, e3, ru = carray(e0, n), carray(e1, n), carray(e2, n), carray(e3, n), carray(ru, n)
    zero = ru.dtype.type(0)
    p0, p1, p2, p3 = zero, zero, zero, zero
    for i in range(n):
        p0 += e0[i] * ru[i]
        p1 += e1[i] * ru[i]
        p2 += e2[i] * ru[i]
        p3 += e3[i] * ru[i]
    return p0, p1, p2, p3


@_reduction
def sum_p(n, e, ru):
    distinct_rows()
    e, ru = carray(e, n), carray(ru, n)
    total = ru.dtype.type(0)
    for i in range(n):
        total += e[i] * ru[i]
    return total


@_reduction
def sum_p2(n, e, r, ru):
    distinct_rows()
    e, r, ru = carray(e, n), carray(r, n), carray(ru, n)
    total = ru.dtype.type(0)
    for i in range(n):
        total += e[i] * r[i] * (e[i] * ru[i])
    return total


@_reduction
def sum_nll(n, log_s, z, m, u):
    distinct_rows()
    log_s, z, m, u = carray(log_s, n), carray(z, n), carray(m, n), carray(u, n)
    total = u.dtype.type(0)
    for i in range(n):
        total += u[i] * negative_log_softmax(log_s[i], z[i], m[i])
    return total


# Sums over the voxels of a label


@_reduction
def sum_overlap(n, e, ru, u, labels, label):
    """Sums of p y and y."""
    distinct_rows()
    e, ru, u, labels = carray(e, n), carray(ru, n), carray(u, n), carray(labels, n)
    zero = u.dtype.type(0)
    py, y = zero, zero
    for i in range(n):
        hit = labels[i] == label
        py += e[i] * ru[i] if hit else zero
        y += u[i] if hit else zero
    return py, y


@_reduction
def sum_squared_overlap(n, e, r, ru, labels, label):
    """Sum of p^2 y."""
    distinct_rows()
    e, r, ru, labels = carray(e, n), carray(r, n), carray(ru, n), carray(labels, n)
    total, zero = ru.dtype.type(0), ru.dtype.type(0)
    for i in range(n):
        total += e[i] * r[i] * (e[i] * ru[i]) if labels[i] == label else zero
    return total


@_reduction
def sum_where(n, values, u, labels, label):
    distinct_rows()
    values, u, labels = carray(values, n), carray(u, n), carray(labels, n)
    total, zero = u.dtype.type(0), u.dtype.type(0)
    for i in range(n):
        total += u[i] * values[i] if labels[i] == label else zero
    return total


@_reduction
def sum_cross_entropy(n, log_s, z, m, u, labels, label):
    distinct_rows()
    log_s, z, m, u, labels = carray(log_s, n), carray(z, n), carray(m, n), carray(u, n), carray(labels, n)
    total, zero = u.dtype.type(0), u.dtype.type(0)
    for i in range(n):
        total += u[i] * negative_log_softmax(log_s[i], z[i], m[i]) if labels[i] == label else zero
    return total


@_reduction
def sum_log_products(n, total, labels, label):
    """Sum of the logarithms of ``total``, FOLD voxels a logarithm; for weights of 1, and rows of a multiple of FOLD."""
    distinct_rows()
    total, labels = carray(total, n), carray(labels, n)
    part = n // FOLD
    result, one = total.dtype.type(0), total.dtype.type(1)
    for i in range(part):
        a = total[i] if labels[i] == label else one
        b = total[i + part] if labels[i + part] == label else one
        c = total[i + 2 * part] if labels[i + 2 * part] == label else one
        d = total[i + 3 * part] if labels[i + 3 * part] == label else one
        e = total[i + 4 * part] if labels[i + 4 * part] == label else one
        f = total[i + 5 * part] if labels[i + 5 * part] == label else one
        g = total[i + 6 * part] if labels[i + 6 * part] == label else one
        h = total[i + 7 * part] if labels[i + 7 * part] == label else one
        result += fast_log(((a * b) * (c * d)) * ((e * f) * (g * h)))
    return result


@_reduction
def sum_below_max(n, z, m, labels, label):
    """Sum of max - z."""
    distinct_rows()
    z, m, labels = carray(z, n), carray(m, n), carray(labels, n)
    total, zero = z.dtype.type(0), z.dtype.type(0)
    for i in range(n):
        total += m[i] - z[i] if labels[i] == label else zero
    return total


# What the terms of a voxel's own class need: p, 1 - p and -log p


@_elementwise
def start_own(n, p, q, l):
    """The same before any class is added."""
    distinct_rows()
    p, q, l = carray(p, n), carray(q, n), carray(l, n)
    zero = p.dtype.type(0)
    for i in range(n):
        p[i] = zero
        q[i] = zero
        l[i] = zero


@_elementwise
def add_own(n, p, q, l, e, z, m, r, labels, label):
    """The same, for one class that occurs."""
    distinct_rows()
    p, q, l, e, z, m, r, labels = (
        carray(p, n),
        carray(q, n),
        carray(l, n),
        carray(e, n),
        carray(z, n),
        carray(m, n),
        carray(r, n),
        carray(labels, n),
    )
    for i in range(n):
        hit = labels[i] == label
        pi = e[i] * r[i]
        p[i] = pi if hit else p[i]
        q[i] = q[i] if hit else q[i] + pi
        l[i] = m[i] - z[i] if hit else l[i]


@_elementwise
def add_other(n, q, e, r):
    """The same, for one that does not."""
    distinct_rows()
    q, e, r = carray(q, n), carray(e, n), carray(r, n)
    for i in range(n):
        q[i] += e[i] * r[i]


@_elementwise
def add_log(n, l, total):
    """-log p, from max - z."""
    distinct_rows()
    l, total = carray(l, n), carray(total, n)
    for i in range(n):
        l[i] += fast_log(total[i])


@_elementwise
def fill_where(n, out, value, labels, label):
    distinct_rows()
    out, labels = carray(out, n), carray(labels, n)
    for i in range(n):
        out[i] = value if labels[i] == label else out[i]


@_elementwise
def scaled_where(n, out, x, factor, labels, label):
    distinct_rows()
    out, x, labels = carray(out, n), carray(x, n), carray(labels, n)
    for i in range(n):
        out[i] = x[i] * factor if labels[i] == label else out[i]


@_elementwise
def add_product(n, out, x, y):
    distinct_rows()
    out, x, y = carray(out, n), carray(x, n), carray(y, n)
    for i in range(n):
        out[i] += x[i] * y[i]


# The gradient. With a = the coefficient of p (for the own class with that of p y added: the two may cancel), h = the
# derivative by -log p of what else depends on the own class, and t = h - sum over the classes of p a: it is
# p (a + t) u, less h u for the own class


@_elementwise
def subtract_dot(n, t, e, r, a):
    distinct_rows()
    t, e, r = carray(t, n), carray(e, n), carray(r, n)
    for i in range(n):
        t[i] -= e[i] * r[i] * a


@_elementwise
def subtract_squared_dot(n, t, e, r, labels, label, a2, own_a2):
    """What a2 p^2 + (own_a2 - a2) p^2 y adds."""
    distinct_rows()
    t, e, r, labels = carray(t, n), carray(e, n), carray(r, n), carray(labels, n)
    two, own_two = a2 + a2, own_a2 + own_a2
    for i in range(n):
        p = e[i] * r[i]
        t[i] -= p * ((own_two if labels[i] == label else two) * p)


@_elementwise
def subtract_own_dot(n, t, h, e, r, labels, label, a, own_a, g):
    """The same for a class that occurs, with g y (-log p)."""
    distinct_rows()
    t, h, e, r, labels = carray(t, n), carray(h, n), carray(e, n), carray(r, n), carray(labels, n)
    zero = h.dtype.type(0)
    for i in range(n):
        hit = labels[i] == label
        slope = g if hit else zero
        h[i] += slope
        t[i] += slope - e[i] * r[i] * (own_a if hit else a)


@_elementwise
def add_constant(n, t, g):
    distinct_rows()
    t = carray(t, n)
    for i in range(n):
        t[i] += g


@_elementwise
def gradient(n, out, e, ru, t, a):
    distinct_rows()
    out, e, ru, t = carray(out, n), carray(e, n), carray(ru, n), carray(t, n)
    for i in range(n):
        out[i] = e[i] * ru[i] * (a + t[i])


@_elementwise
def own_gradient(n, out, e, ru, t, a, own_a, h, u, labels, label):
    distinct_rows()
    out, e, ru, t, h, u, labels = (
        carray(out, n),
        carray(e, n),
        carray(ru, n),
        carray(t, n),
        carray(h, n),
        carray(u, n),
        carray(labels, n),
    )
    zero = h.dtype.type(0)
    for i in range(n):
        hit = labels[i] == label
        out[i] = e[i] * ru[i] * ((own_a if hit else a) + t[i]) - (h[i] * u[i] if hit else zero)


@_elementwise
def add_squared_gradient(n, out, e, r, ru, labels, label, a2, own_a2):
    distinct_rows()
    out, e, r, ru, labels = carray(out, n), carray(e, n), carray(r, n), carray(ru, n), carray(labels, n)
    two, own_two = a2 + a2, own_a2 + own_a2
    for i in range(n):
        out[i] += e[i] * ru[i] * ((own_two if labels[i] == label else two) * (e[i] * r[i]))


@_elementwise
def subtract_weight(n, out, u, g):
    distinct_rows()
    out, u = carray(out, n), carray(u, n)
    for i in range(n):
        out[i] -= u[i] * g
