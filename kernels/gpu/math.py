"""Logarithms, powers and activations for the Triton kernels; elementwise, so they fit tiles of any shape."""

from __future__ import annotations

import triton
import triton.language as tl

from fastloss import terms

EPSILON = tl.constexpr(terms.EPSILON)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def natural_log(x, excess):
    """log(x) of a normal, finite x or NaN.

    ``excess``, ``(value,)`` or ``()``: x - 1 with digits that the difference lacks, for full relative accuracy near 1.
    """
    if x.dtype == tl.float64:
        log = tl.log(x) + lost_digits(x, excess)
    else:
        # x = 2^exponent (1 + m), 1 + m from sqrt(1/2) to sqrt(2); minimax polynomial of log(1 + m) / m.
        # A third cheaper than tl.log2, which also minds denormal and infinite arguments.
        bits = x.to(tl.int32, bitcast=True)
        exponent = (bits - 0x3F3504F3) >> 23
        m = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
        if len(excess) > 0:
            m = tl.where(exponent == 0, excess[0], m)
        series = m * 0.08722294121980667 - 0.14366813004016876
        series = m * series + 0.14952275156974792
        series = m * series - 0.1656239777803421
        series = m * series + 0.19956833124160767
        series = m * series - 0.25002074241638184
        series = m * series + 0.3333418667316437
        series = m * series - 0.49999988079071045
        log = (m * series + 1.0) * m + exponent.to(tl.float32) * LN_2 + 0.0 * x  # 0 * x carries NaN
    return log


@triton.jit
def lost_digits(x, excess):
    """What log(x) lacks because x was rounded."""
    if len(excess) == 0:
        return tl.zeros_like(x)
    else:
        return tl.where(x > 0.5, (excess[0] - (x - 1.0)) / x, 0.0)


@triton.jit
def normalise(total, rest):
    """log(total) and 1 / total, for the sum of a softmax: total = 1 + rest, or NaN; see :func:`natural_log`."""
    log = natural_log(total, rest)
    guess = tl.exp2(log * -LOG2_E)
    return log, guess - guess * (total * guess - 1.0)  # one Newton step makes the reciprocal exact


@triton.jit
def power(x, EXPONENT: tl.constexpr):
    """x^EXPONENT for x >= 0, with 0^0 = 1, and x > 0 for a negative exponent; NaN stays if the exponent is positive."""
    if EXPONENT == 0:
        return tl.zeros_like(x) + 1.0
    elif EXPONENT == 0.5:
        return tl.sqrt(x)
    elif EXPONENT == 1:
        return x
    elif EXPONENT == 2:
        return x * x
    elif EXPONENT == 3:
        return x * x * x
    elif x.dtype == tl.float64:
        return tl.exp2(EXPONENT * tl.log2(x))
    else:
        exact = tl.exp2(natural_log(x, ()) * (EXPONENT * LOG2_E))
        if EXPONENT > 0:
            return tl.where((x > 0.0) & (x < float("inf")), exact, x)
        else:
            return tl.where(x < float("inf"), exact, 0.0)


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
def minus_log_clamped(p, excess):
    """-log(max(p, EPSILON)), ``excess`` being p - 1; a select, not a maximum, so that NaN stays."""
    return -natural_log(tl.where(p < EPSILON, EPSILON, p), (excess,))


@triton.jit
def probability(z, ACTIVATION: tl.constexpr):
    """p, 1 - p, -log p and -log(1-p) for the activations that treat each channel on its own."""
    if ACTIVATION == "sigmoid":
        return sigmoid(z)
    else:
        q = tl.where(z > 1.0, 0.0, 1.0 - z)
        return z, q, minus_log_clamped(z, z - 1.0), minus_log_clamped(q, -z)
