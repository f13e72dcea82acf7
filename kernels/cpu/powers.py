"""Terms with a power, one row at a time (Numba): y x^g l and its kin, and their slopes.

``l`` is -log p and ``q`` 1 - p; for the complement's terms ``l`` is -log(1 - p) and ``q`` is p.
"""

from __future__ import annotations

from numba import njit

from fastloss.terms import POWER_KINDS

from .math import INNER, SAFE, fast_power, no_inline

FOCAL, LOG_POWER, MISS = range(3)  # POWER_KINDS without their sides, see kind_of
assert [kind.rsplit("_", 1)[0] for kind in POWER_KINDS[::2]] == ["focal", "log_power", "miss"]
NORMAL = 1.2e-38  # the least number of float32 that fast_power takes

_elementwise = njit(fastmath=SAFE, **INNER)
_fast = njit(**INNER)


@_elementwise
def _constant(out, x, value):
    no_inline()
    for i in range(out.size):
        out[i] = value + (x[i] - x[i])  # NaN goes on


@_elementwise
def _scaled(out, x, factor):
    no_inline()
    for i in range(out.size):
        out[i] = factor * x[i]


@_elementwise
def _square(out, x, factor):
    no_inline()
    for i in range(out.size):
        out[i] = factor * x[i] * x[i]


@_elementwise
def _any_power(out, x, g, factor):
    no_inline()
    zero, least = x.dtype.type(0), x.dtype.type(NORMAL)
    for i in range(out.size):
        value = factor * fast_power(least if x[i] < least else x[i], g)
        out[i] = zero if x[i] < least else value


@_fast
def _raise(out, x, g, factor):
    """factor x^g for x >= 0 and g >= 0, with 0^0 = 1."""
    no_inline()
    if g == 0:
        _constant(out, x, factor)
    elif g == 1:
        _scaled(out, x, factor)
    elif g == 2:
        _square(out, x, factor)
    else:
        _any_power(out, x, g, factor)


@_elementwise
def _times(out, l):
    no_inline()
    for i in range(out.size):
        out[i] *= l[i]


@_elementwise
def _log_power(out, l, g, epsilon):
    no_inline()
    for i in range(out.size):
        out[i] = fast_power(epsilon if l[i] < epsilon else l[i], g)


@_elementwise
def _log_power_slope(out, l, g, epsilon):
    """g l^(g - 1), and 0 where l is clamped."""
    no_inline()
    zero, less = l.dtype.type(0), g - l.dtype.type(1)
    for i in range(out.size):
        slope = g * fast_power(epsilon if l[i] < epsilon else l[i], less)
        out[i] = zero if l[i] < epsilon else slope


@_elementwise
def _times_ratio(out, power, l, q, g):
    """g q^(g - 1) l, from q^g: l / q tends to 1 as q vanishes."""
    no_inline()
    one, least = l.dtype.type(1), l.dtype.type(NORMAL)
    for i in range(out.size):
        ratio = l[i] / (one if q[i] < least else q[i])
        out[i] = g * power[i] * (one if q[i] < least else ratio)


@_fast
def power_values(out, kind, g, l, q, epsilon):
    """The term without its target: q^g l, max(l, epsilon)^g or q^g."""
    no_inline()
    if kind == LOG_POWER:
        _log_power(out, l, g, epsilon)
    else:
        _raise(out, q, g, l.dtype.type(1))
        if kind == FOCAL:
            _times(out, l)


@_fast
def power_slopes(by_l, by_q, kind, g, l, q, epsilon):
    """The slopes of the same by l, and by q; zero where there is none."""
    no_inline()
    if kind == LOG_POWER:
        _log_power_slope(by_l, l, g, epsilon)
        _constant(by_q, l, l.dtype.type(0))
    elif kind == FOCAL:
        _raise(by_l, q, g, l.dtype.type(1))
        _times_ratio(by_q, by_l, l, q, g)
    else:
        _constant(by_l, q, l.dtype.type(0))
        _raise(by_q, q, g - 1, g)
