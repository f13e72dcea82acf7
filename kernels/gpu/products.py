"""Products of powers for the Triton kernels; elementwise, so they fit tiles of any shape.

A term is a compile-time constant, a :class:`Product`: an exponent of 0 leaves no instruction.

A voxel of weight 0 is *neutral*: ``p = y = 0`` and ``one = rest = 0``, everything else is finite. So every product is
0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from fastloss.terms import Term

from .math import EPSILON, LOG2_E, power

TINY_SINGLE = tl.constexpr(1.1754943508222875e-38)  # the least normal numbers
TINY_DOUBLE = tl.constexpr(2.2250738585072014e-308)


@dataclass(frozen=True)
class Product:
    """A :class:`fastloss.terms.Term`, and the index of its coefficient in backward where y is 1, else its own.

    No tuple, whose names some versions of Triton forget.
    """

    share: str = "1"
    p: float = 0.0
    q: float = 0.0
    l: float = 0.0
    m: float = 0.0
    e: float = 0.0
    d: float = 0.0
    mapped: bool = False
    of_target: int = 0


def as_products(terms: tuple[Term, ...]) -> tuple[Product, ...]:
    return tuple(Product(**term._asdict(), of_target=k) for k, term in enumerate(terms))


@triton.jit
def product(
    SHARE: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, L: tl.constexpr, M: tl.constexpr, E: tl.constexpr,
    D: tl.constexpr, parts, one, truth, DENSE: tl.constexpr,
):  # fmt: skip
    """share * p^P q^Q l^L m^M e^E d^D, 0 where the share is; ``parts``: p, q, l and m; ``truth``: :func:`compare`."""
    p, q, minus_log, minus_log_rest = parts
    y, hit, rest, miss = truth
    x = power(p, P) * power(q, Q) * power(clamped(minus_log, L), L) * power(clamped(minus_log_rest, M), M)
    if E > 0:  # a factor that is a function of p
        x *= tl.exp2(p * (-E * LOG2_E))
    if D > 0:
        x *= power(tl.abs(p - y) if DENSE else tl.where(hit, q, p), D)
    # Of labels y * x fuses with its sum, but takes y, which Dice needs anyhow, and what sums errors does not.
    MULTIPLY: tl.constexpr = L == 0 and M == 0 and (DENSE or Q == 0)
    if SHARE == "1":
        return x if P > 0 else one * x
    elif SHARE == "r":
        return choose(miss, rest, x, MULTIPLY, DENSE)
    elif SHARE == "y2" and DENSE:
        return choose(hit, y * y, x, MULTIPLY, DENSE)
    else:
        return choose(hit, y, x, MULTIPLY, DENSE)


@triton.jit
def product_value(TERMS: tl.constexpr, K: tl.constexpr, parts, one, truth, DENSE: tl.constexpr):
    """The value of one of the terms."""
    S: tl.constexpr = TERMS[K].share
    P: tl.constexpr = TERMS[K].p
    Q: tl.constexpr = TERMS[K].q
    L: tl.constexpr = TERMS[K].l
    M: tl.constexpr = TERMS[K].m
    E: tl.constexpr = TERMS[K].e
    D: tl.constexpr = TERMS[K].d
    return product(S, P, Q, L, M, E, D, parts, one, truth, DENSE)


@triton.jit
def choose(hit, y, x, MULTIPLY: tl.constexpr, DENSE: tl.constexpr):
    """y * x; but selected where x may be infinite, since y may be 0 there."""
    if MULTIPLY:
        return y * x
    else:
        return tl.where(hit, y * x if DENSE else x, 0.0)


@triton.jit
def either(truth, at_target, elsewhere, DENSE: tl.constexpr):
    """y * at_target + (1 - y) * elsewhere."""
    y, hit, rest, _miss = truth
    return y * at_target + rest * elsewhere if DENSE else tl.where(hit, at_target, elsewhere)


@triton.jit
def clamped(log, EXPONENT: tl.constexpr):
    """What is raised to a power: a logarithm of at least EPSILON but for the powers 0 and 1; NaN stays.

    A power below 0 is one of a slope, which is 0 where the logarithm is clamped.
    """
    return log if EXPONENT <= 0 or EXPONENT == 1 else tl.where(log <= EPSILON, EPSILON, log)


@triton.jit
def product_slopes(TERMS: tl.constexpr, K: tl.constexpr, parts, one, truth, DENSE: tl.constexpr):
    """Derivatives of a product, each ``(value,)`` or, for zero, ``()``; they are apart to stay finite at p = 0 and 1.

    By p; by p and by q times p and q for powers of them below 1 (steep); by l and by m; and again by l for powers of it
    below 1, which grows without bound as p nears 1.
    """
    S: tl.constexpr = TERMS[K].share
    P: tl.constexpr = TERMS[K].p
    Q: tl.constexpr = TERMS[K].q
    L: tl.constexpr = TERMS[K].l
    M: tl.constexpr = TERMS[K].m
    E: tl.constexpr = TERMS[K].e
    D: tl.constexpr = TERMS[K].d
    by_p = ()
    steep_p = ()
    steep_q = ()
    by_log = ()
    by_log_rest = ()
    steep_log = ()
    if P >= 1:
        by_p = (P * product(S, P - 1, Q, L, M, E, D, parts, one, truth, DENSE),)
    elif P > 0:
        steep_p = (P * product(S, P, Q, L, M, E, D, parts, one, truth, DENSE),)
    if Q >= 1:
        by_p = minus(by_p, (Q * product(S, P, Q - 1, L, M, E, D, parts, one, truth, DENSE),))
    elif Q > 0:
        steep_q = (Q * product(S, P, Q, L, M, E, D, parts, one, truth, DENSE),)
    if E > 0:
        by_p = minus(by_p, (E * product(S, P, Q, L, M, E, D, parts, one, truth, DENSE),))
    if D > 0:
        lowered = product(S, P, Q, L, M, E, D - 1, parts, one, truth, DENSE)
        by_p = plus(by_p, (D * lowered * side(parts[0], truth, DENSE),))
    if L >= 1:
        by_log = slope_by_log(L, parts[2], product(S, P, Q, L - 1, M, E, D, parts, one, truth, DENSE))
    elif L > 0:
        steep_log = slope_by_log(L, parts[2], product(S, P, Q, L - 1, M, E, D, parts, one, truth, DENSE))
    if M > 0:
        by_log_rest = slope_by_log(M, parts[3], product(S, P, Q, L, M - 1, E, D, parts, one, truth, DENSE))
    return by_p, steep_p, steep_q, by_log, by_log_rest, steep_log


@triton.jit
def side(p, truth, DENSE: tl.constexpr):
    """The slope of d = |p - y| by p: at y = 0 and 1 that of the side on which p lies."""
    y, hit, _rest, miss = truth
    if DENSE:
        below = tl.where((p < y) | ~miss, -1.0, 0.0)
        return tl.where((p > y) | ~hit, 1.0, below).to(p.dtype)
    else:
        return tl.where(hit, -1.0, 1.0).to(p.dtype)


@triton.jit
def slope_by_log(EXPONENT: tl.constexpr, log, lowered):
    """The derivative by a logarithm: EXPONENT times the product with one power of it less, 0 where it is clamped."""
    if EXPONENT == 1:
        return (lowered,)
    else:
        return (tl.where(log <= EPSILON, 0.0, EXPONENT * lowered),)


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
def ratio(a, x, LEAST: tl.constexpr):
    """a / x, 0 where x is at most LEAST."""
    if len(a) == 0:
        return a
    else:
        return (tl.where(x > LEAST, a[0] / x, 0.0),)


@triton.jit
def vanishing(a, x):
    """a / x, 0 where x vanishes: a vanishes like x there, times a power above 0."""
    return ratio(a, x, TINY_DOUBLE if x.dtype == tl.float64 else TINY_SINGLE)


@triton.jit
def uncoupled(slopes, p, q):
    """What a channel of a softmax adds: p d/dp of its terms, and (apart) of those that are functions of 1 - p.

    A steep slope b by l would lose its digits in the difference p b - b; as a function of 1 - p it keeps them.
    """
    by_p, steep_p, steep_q, by_log, by_log_rest, steep_log = slopes
    by_q = minus(ratio(by_log_rest, q, EPSILON), vanishing(steep_q, q))
    return minus(plus(times(p, by_p), steep_p), by_log), minus(times(p, by_q), steep_log)


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
    by_p, steep_p, steep_q, by_log, by_log_rest, steep_log = slopes
    by_log = plus(by_log, steep_log)
    if ACTIVATION == "sigmoid":
        slope = plus(times(p * q, by_p), times(p, minus(by_log_rest, steep_q)))
        return plus(slope, times(q, minus(steep_p, by_log)))
    else:
        slope = minus(plus(by_p, ratio(by_log_rest, q, EPSILON)), ratio(by_log, p, EPSILON))
        return minus(plus(slope, vanishing(steep_p, p)), vanishing(steep_q, q))
