"""Voxel terms for the Triton kernels; elementwise, so they fit tiles of any shape.

A voxel of weight 0 is made *neutral* before its terms are formed: ``p = y = 0`` and ``one = rest = 0``. Terms
must be zero there, so write ``one`` for the constant 1, ``rest`` for 1 - y, and choose 1 - p and the logarithms.

Adding a term is one branch in :func:`term_value` and one in :func:`term_derivative`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .math import EPSILON, power

VANISHED = tl.constexpr(1e-14)  # a probability below it equals minus the logarithm of its complement


@triton.jit
def term_value(KIND: tl.constexpr, POWER: tl.constexpr, parts, one, truth, DENSE: tl.constexpr):
    """A term's value; ``parts``: p, 1 - p, -log p and -log(1-p); ``truth``: :func:`compare`."""
    p, q, minus_log, minus_log_rest = parts
    y, hit, rest, miss = truth
    if KIND == "p":
        return p
    elif KIND == "py":
        return p * y
    elif KIND == "y":
        return y
    elif KIND == "count":
        return one
    elif KIND == "p2":
        return p * p
    elif KIND == "y2":
        return y * y
    elif KIND == "p2y":
        return p * p * y
    elif KIND == "nll_pos":
        return one * minus_log
    elif KIND == "nll_neg":
        return one * minus_log_rest
    elif KIND == "ce_pos":
        return choose(hit, y, minus_log, DENSE)
    elif KIND == "ce_neg":
        return choose(miss, rest, minus_log_rest, DENSE)
    elif KIND == "focal_pos":
        return choose(hit, y, power(q, POWER) * minus_log, DENSE)
    elif KIND == "focal_neg":
        return choose(miss, rest, power(p, POWER) * minus_log_rest, DENSE)
    elif KIND == "log_power_pos":
        return choose(hit, y, power(at_least_epsilon(minus_log), POWER), DENSE)
    elif KIND == "log_power_neg":
        return choose(miss, rest, power(at_least_epsilon(minus_log_rest), POWER), DENSE)
    elif KIND == "miss_pos":
        return choose(hit, y, power(q, POWER), DENSE)
    else:
        tl.static_assert(KIND == "miss_neg")
        return choose(miss, rest, power(p, POWER), DENSE)


@triton.jit
def term_derivative(KIND: tl.constexpr, POWER: tl.constexpr, parts, one, truth, DENSE: tl.constexpr):
    """A term's derivatives by p, -log p and -log(1-p), each ``(value,)``; ``()`` is zero.

    The logarithms are kept apart because theirs with respect to the logits stay finite when p is 0 or 1.
    """
    p, q, minus_log, minus_log_rest = parts
    y, hit, rest, miss = truth
    if KIND == "p":
        return (one,), (), ()
    elif KIND == "py":
        return (y,), (), ()
    elif KIND == "p_rest":  # p where y is 0: see gpu._with_target
        return (rest if DENSE else tl.where(hit, 0.0, 1.0).to(y.dtype),), (), ()
    elif KIND == "p2_rest":
        return (2 * p * (rest if DENSE else tl.where(hit, 0.0, 1.0).to(y.dtype)),), (), ()
    elif KIND == "p2":
        return (2 * p,), (), ()
    elif KIND == "p2y":
        return (2 * p * y,), (), ()
    elif KIND == "nll_pos":
        return (), (one,), ()
    elif KIND == "nll_neg":
        return (), (), (one,)
    elif KIND == "ce_pos":
        return (), (y,), ()
    elif KIND == "ce_neg":
        return (), (), (rest,)
    elif KIND == "focal_pos":
        by_q, by_log = focal_slopes(q, minus_log, hit, y, POWER, DENSE)
        return minus((), by_q), by_log, ()
    elif KIND == "focal_neg":
        by_p, by_log = focal_slopes(p, minus_log_rest, miss, rest, POWER, DENSE)
        return by_p, (), by_log
    elif KIND == "log_power_pos":
        return (), log_power_slope(minus_log, hit, y, POWER, DENSE), ()
    elif KIND == "log_power_neg":
        return (), (), log_power_slope(minus_log_rest, miss, rest, POWER, DENSE)
    elif KIND == "miss_pos":
        return minus((), power_slope(q, hit, y, POWER, DENSE)), (), ()
    elif KIND == "miss_neg":
        return power_slope(p, miss, rest, POWER, DENSE), (), ()
    else:
        tl.static_assert(KIND == "y" or KIND == "y2" or KIND == "count")
        return (), (), ()


@triton.jit
def choose(hit, y, value, DENSE: tl.constexpr):
    """y * value; selected, since the value may be infinite where y = 0."""
    return tl.where(hit, y * value if DENSE else value, 0.0)


@triton.jit
def at_least_epsilon(x):
    """A select, not a maximum, so that NaN stays."""
    return tl.where(x < EPSILON, EPSILON, x)


@triton.jit
def power_slope(x, hit, y, POWER: tl.constexpr, DENSE: tl.constexpr):
    """Derivative of y x^POWER by x."""
    return (choose(hit, y, POWER * power(x, POWER - 1), DENSE),)


@triton.jit
def log_power_slope(log, hit, y, POWER: tl.constexpr, DENSE: tl.constexpr):
    """Derivative of y max(log, EPSILON)^POWER by log."""
    if POWER == 0:
        return ()
    else:
        return (tl.where(log <= EPSILON, 0.0, power_slope(log, hit, y, POWER, DENSE)[0]),)


@triton.jit
def focal_slopes(x, log, hit, y, POWER: tl.constexpr, DENSE: tl.constexpr):
    """Derivatives of y x^POWER log by x and by log, where log = -log(1 - x)."""
    by_log = choose(hit, y, power(x, POWER), DENSE)
    if POWER == 0:
        return (), (by_log,)
    elif POWER >= 1:
        return (choose(hit, y, POWER * power(x, POWER - 1) * log, DENSE),), (by_log,)
    else:  # x^(POWER - 1) is infinite at x = 0, where log / x tends to 1
        return (POWER * by_log * tl.where(hit & (x > VANISHED), log / x, 1.0),), (by_log,)


@triton.jit
def compare(channel, first_label: tl.constexpr, labels, counted, REAL: tl.constexpr):
    """The truth of one channel from labels: y, y != 0, 1 - y and 1 - y != 0 (all zero where not counted)."""
    hit = labels == channel + first_label
    miss = counted & (labels != channel + first_label)
    return tl.where(hit, 1.0, 0.0).to(REAL), hit, tl.where(miss, 1.0, 0.0).to(REAL), miss


@triton.jit
def soften(y, one):
    """The truth of one channel from a dense target."""
    rest = one - y
    return y, y != 0, rest, rest != 0


@triton.jit
def plus(a, b):
    """a + b of values that may be absent: ``()`` is zero."""
    if len(a) == 0:
        return b
    elif len(b) == 0:
        return a
    else:
        return (a[0] + b[0],)


@triton.jit
def minus(a, b):
    """a - b of values that may be absent."""
    if len(b) == 0:
        return a
    elif len(a) == 0:
        return (-b[0],)
    else:
        return (a[0] - b[0],)


@triton.jit
def times(a, b):
    """The value a times b, which may be absent."""
    if len(b) == 0:
        return b
    else:
        return (a * b[0],)


@triton.jit
def clamped_slope(by_log, p):
    """Derivative by p of by_log * log(max(p, EPSILON))."""
    if len(by_log) == 0:
        return by_log
    else:
        return (tl.where(p > EPSILON, by_log[0] / p, 0.0),)


@triton.jit
def uncoupled(slopes, p, q):
    """What a channel of a softmax adds: p d/dp of its terms, and (apart) of those that are functions of 1 - p.

    A steep slope b by -log p would lose its digits in the difference p b - b; as a function of 1 - p it keeps them.
    """
    by_p, by_log, by_log_rest, steep = slopes
    return minus(times(p, by_p), by_log), minus(times(p, clamped_slope(by_log_rest, q)), steep)


@triton.jit
def quiet(v, p):
    """v but for the channel that leads."""
    if len(v) == 0:
        return v
    else:
        return (tl.where(p > 0.5, 0.0, v[0]),)


@triton.jit
def through_softmax(v, rest, totals, p, q):
    """Derivative by the logit: v - p (the sum of v), and for functions of 1 - p: v q - p (the others' v).

    ``totals`` sums v, ``rest`` and ``rest`` of the channels that do not lead (p <= 1/2). The leading channel's
    ``rest`` may be 10^7 times the others', so that their sum cannot be had as a difference.
    """
    total, rest_total, rest_quiet = totals
    slope = minus(v, times(p, total))
    if len(rest) == 0:
        return slope
    else:
        others = tl.where(p > 0.5, rest_quiet[0], rest_total[0] - rest[0])
        return plus(slope, (rest[0] * q - p * others,))


@triton.jit
def through_channel(slopes, p, q, ACTIVATION: tl.constexpr):
    """Derivative by the logit for sigmoid or plain probabilities."""
    by_p, by_log, by_log_rest, steep = slopes
    by_log = plus(by_log, steep)
    if ACTIVATION == "sigmoid":
        return minus(plus(times(p * q, by_p), times(p, by_log_rest)), times(q, by_log))
    else:
        return minus(plus(by_p, clamped_slope(by_log_rest, q)), clamped_slope(by_log, p))
