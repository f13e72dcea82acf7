"""Voxel terms and activations for the Triton kernels; elementwise, so they fit tiles of any shape.

A voxel of weight 0 is made *neutral* before its terms are formed: ``p = y = 0`` and ``one = rest = 0``. Terms
must be zero there, so write ``one`` for the constant 1 and ``rest`` for 1 - y.

Adding a term is one branch in :func:`term_value` and one in :func:`term_derivative`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastloss import terms

EPSILON = tl.constexpr(terms.EPSILON)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def term_value(KIND: tl.constexpr, p, minus_log, minus_log_rest, one, truth, DENSE: tl.constexpr):
    """A term's value; ``minus_log`` is -log p, ``minus_log_rest`` -log(1-p); ``truth``: :func:`compare`."""
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
    elif KIND == "ce_pos":
        # Selected: -log p may be infinite where y = 0.
        return tl.where(hit, y * minus_log if DENSE else minus_log, 0.0)
    else:
        tl.static_assert(KIND == "ce_neg")
        return tl.where(miss, rest * minus_log_rest if DENSE else minus_log_rest, 0.0)


@triton.jit
def term_derivative(KIND: tl.constexpr, p, minus_log, minus_log_rest, one, truth):
    """A term's derivatives by ``p``, ``minus_log`` and ``minus_log_rest``, each ``(value,)``; ``()`` is zero.

    The logarithms are kept apart because theirs with respect to the logits stay finite when p is 0 or 1.
    """
    y, _, rest, _ = truth
    if KIND == "p":
        return (one,), (), ()
    elif KIND == "py":
        return (y,), (), ()
    elif KIND == "p2":
        return (2 * p,), (), ()
    elif KIND == "p2y":
        return (2 * p * y,), (), ()
    elif KIND == "ce_pos":
        return (), (y,), ()
    elif KIND == "ce_neg":
        return (), (), (rest,)
    else:
        tl.static_assert(KIND == "y" or KIND == "y2" or KIND == "count")
        return (), (), ()


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
def normalise(total):
    """log(total) and 1 / total, for the sum of a softmax (at least 1, or NaN)."""
    if total.dtype == tl.float64:
        log = tl.log(total)
    else:
        # total = 2^exponent (1 + m), 1 + m from sqrt(1/2) to sqrt(2); minimax polynomial of log(1 + m) / m.
        # A third cheaper than tl.log2, which also minds denormal and infinite arguments.
        bits = total.to(tl.int32, bitcast=True)
        exponent = (bits - 0x3F3504F3) >> 23
        m = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
        series = m * 0.08722294121980667 - 0.14366813004016876
        series = m * series + 0.14952275156974792
        series = m * series - 0.1656239777803421
        series = m * series + 0.19956833124160767
        series = m * series - 0.25002074241638184
        series = m * series + 0.3333418667316437
        series = m * series - 0.49999988079071045
        log = (m * series + 1.0) * m + exponent.to(tl.float32) * LN_2
    guess = tl.exp2(log * -LOG2_E)
    error = total * guess - 1.0  # one Newton step makes the reciprocal exact
    return log + 0.0 * error, guess - guess * error  # 0 * error carries NaN


@triton.jit
def log1p_unit(u, reciprocal):
    """log(1 + u) for u in [0, 1], of full relative accuracy; ``reciprocal`` is 1 / (1 + u)."""
    if u.dtype == tl.float64:
        return tl.log(1.0 + u) + (u - ((1.0 + u) - 1.0)) * reciprocal
    # Minimax polynomial of log1p(u) / u: relative error 5e-9 before rounding.
    series = u * -0.0032439809549254 + 0.0198512619733810
    series = u * series - 0.0569591596722603
    series = u * series + 0.1060361713171005
    series = u * series - 0.1530556976795197
    series = u * series + 0.1967593133449554
    series = u * series - 0.2495413273572922
    series = u * series + 0.3332996368408203
    series = u * series - 0.4999990165233612
    return u * (u * series + 1.0)


@triton.jit
def sigmoid(z):
    """p, 1 - p, -log p and -log(1-p) of a logit, each of full relative accuracy."""
    u = tl.exp2(-tl.abs(z) * LOG2_E)
    larger = 1.0 / (1.0 + u)
    softplus = log1p_unit(u, larger)
    positive = z >= 0
    p = tl.where(positive, larger, u * larger)
    q = tl.where(positive, u * larger, larger)
    return p, q, softplus + tl.where(positive, 0.0, -z), softplus + tl.where(positive, z, 0.0)


@triton.jit
def minus_log_clamped(p):
    """-log(max(p, EPSILON)); a select, not a maximum, so that NaN stays."""
    return -tl.log(tl.where(p < EPSILON, EPSILON, p))


@triton.jit
def probability(z, ACTIVATION: tl.constexpr):
    """p, 1 - p, -log p and -log(1-p) for the activations that treat each channel on its own."""
    if ACTIVATION == "sigmoid":
        return sigmoid(z)
    else:
        return z, 1.0 - z, minus_log_clamped(z), minus_log_clamped(1.0 - z)


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
def quiet(v, p):
    """v but for the channel that leads."""
    if len(v) == 0:
        return v
    else:
        return (tl.where(p > 0.5, 0.0, v[0]),)


@triton.jit
def through_rest(v, total, rest, p, q):
    """Derivative by the logit, for v = p d/dp of functions of log(1 - p): v q - p (the others' v).

    ``total`` sums v over the channels, ``rest`` over those that do not lead (p <= 1/2). The leading channel's
    v may be 10^7 times the others', so that their sum cannot be had as a difference.
    """
    if len(v) == 0:
        return v
    else:
        return (v[0] * q - p * tl.where(p > 0.5, rest[0], total[0] - v[0]),)


@triton.jit
def through_channel(by_p, by_log, by_log_rest, p, q, ACTIVATION: tl.constexpr):
    """Derivative by the logit, from those by p, -log p and -log(1-p): sigmoid or plain probabilities."""
    if ACTIVATION == "sigmoid":
        return minus(plus(times(p * q, by_p), times(p, by_log_rest)), times(q, by_log))
    else:
        return minus(plus(by_p, clamped_slope(by_log_rest, q)), clamped_slope(by_log, p))
