"""exp, log and powers of vectors of voxels, as LLVM code: Numba's wheel has no vector math library.

Polynomials within 2 units in the last place; NaN passes, and only the ranges that the kernels need are covered.
"""

from __future__ import annotations

import math
from typing import Any

from .lanes import FLOAT32, Lanes

# float32: 2^r on [-1/2, 1/2], minimax with relative error 9e-8, and exactly 1 at 0
_EXP2 = (1.0, 0.6931469776102404, 0.24022242097333288, 0.05550733824222229, 0.009671512353553582, 0.0013264694325645695)
# float32: (log(1 + m) - m) / m^2, 1 + m from sqrt(1/2) to sqrt(2)
_LOG1P = (
    *(-0.49999988079071045, 0.3333418667316437, -0.25002074241638184, 0.19956833124160767),
    *(-0.1656239777803421, 0.14952275156974792, -0.14366813004016876, 0.08722294121980667),
)
_EXP = [1 / math.factorial(k) for k in range(14)]  # float64, on [-ln 2 / 2, ln 2 / 2]
_ARTANH = [2 / (2 * k + 1) for k in range(1, 13)]  # float64: log((1 + s) / (1 - s)) = 2 s + s^3 (2/3 + 2/5 s^2 ...)


class Functions:
    """Of the lanes."""

    def __init__(self, lanes: Lanes):
        self.lanes, self.single = lanes, lanes.name == FLOAT32
        self.mantissa = 23 if self.single else 52
        # The products of the first with exponents are exact
        self.ln2_high = 0.693359375 if self.single else 6.93147180369123816490e-01
        self.ln2_low = -2.12194440e-4 if self.single else 1.90821492927058770002e-10
        self.lowest = -87.33654 if self.single else -708.39  # below it the exponential would be subnormal
        self.highest = 88.0 if self.single else 709.0

    def polynomial(self, x: Any, coefficients: Any) -> Any:
        """From the lowest power on, of an even number: of the second order in x^2, with coefficients a + b x."""
        lanes = self.lanes
        low, high = map(lanes.reals, coefficients[::2]), map(lanes.reals, coefficients[1::2])
        *terms, result = [lanes.fused(b, x, a) for a, b in zip(low, high, strict=True)]
        square = lanes.mul(x, x)
        for term in reversed(terms):
            result = lanes.fused(square, result, term)
        return result

    def horner(self, xs: list[Any], coefficients: Any) -> list[Any]:
        """Of several: step by step, as the processor looks only so far ahead for what it can begin."""
        lanes = self.lanes
        *rest, last = coefficients
        results = [lanes.reals(last)] * len(xs)
        for coefficient in reversed(rest):
            results = [lanes.fused(x, y, lanes.reals(coefficient)) for x, y in zip(xs, results, strict=True)]
        return results

    def exp(self, x: Any) -> Any:
        return self.exps([x])[0]

    def exps(self, xs: list[Any]) -> list[Any]:
        """e^x of each, for x <= 88 (float64: 709); at least the smallest normal number."""
        b, lanes = self.lanes.builder, self.lanes
        rounding = lanes.reals(1.5 * 2.0**self.mantissa)  # adding it leaves the nearest integer in the low bits
        log2e = lanes.reals(1.44269504088896341)
        xs = [lanes.at_least(x, self.lowest) for x in xs]
        shifted = [lanes.fused(x, log2e, rounding) for x in xs]
        if self.single:
            rest = [lanes.fused(x, log2e, b.fsub(rounding, s)) for x, s in zip(xs, shifted, strict=True)]
            coefficients: Any = _EXP2
        else:
            back = [b.fsub(rounding, s) for s in shifted]
            rest = [lanes.fused(n, lanes.reals(self.ln2_high), x) for x, n in zip(xs, back, strict=True)]
            rest = [lanes.fused(n, lanes.reals(self.ln2_low), x) for x, n in zip(rest, back, strict=True)]
            coefficients = _EXP
        if len(xs) * lanes.width < 3 * lanes.per_register:
            results = [self.polynomial(x, coefficients) for x in rest]
        else:  # so many steps that do not wait for one another hide the longer way of the fewest instructions
            results = self.horner(rest, coefficients)
        exponents = [b.shl(lanes.bits(s), lanes.wholes(self.mantissa)) for s in shifted]
        scaled = [b.add(lanes.bits(x), n) for x, n in zip(results, exponents, strict=True)]
        return [b.bitcast(x, lanes.of_reals) for x in scaled]

    def _log_near_one(self, m: Any) -> Any:
        """log(1 + m), 1 + m from sqrt(1/2) to sqrt(2)."""
        lanes = self.lanes
        if self.single:
            return lanes.add(m, lanes.mul(lanes.mul(m, m), self.polynomial(m, _LOG1P)))
        s = lanes.builder.fdiv(m, lanes.builder.fadd(m, lanes.reals(2)))
        square = lanes.mul(s, s)
        series = lanes.mul(lanes.mul(s, square), self.polynomial(square, _ARTANH))
        return lanes.add(lanes.add(s, s), series)

    def log(self, x: Any, less_one: Any = None) -> Any:
        """Of normal x > 0; ``less_one``: x - 1, where it is known with more digits."""
        b, lanes = self.lanes.builder, self.lanes
        bits, half = lanes.bits(x), 0x3F3504F3 if self.single else 0x3FE6A09E667F3BCD  # sqrt(1/2)
        exponent = b.ashr(b.sub(bits, lanes.wholes(half)), lanes.wholes(self.mantissa))
        near_one = b.sub(bits, b.shl(exponent, lanes.wholes(self.mantissa)))
        m = b.fsub(b.bitcast(near_one, lanes.of_reals), lanes.one)
        if less_one is not None:
            m = b.select(b.icmp_signed("==", exponent, lanes.wholes(0)), less_one, m)
        value = self._log_near_one(m)
        count = b.sitofp(exponent, lanes.of_reals)
        for part in (self.ln2_low, self.ln2_high):
            value = lanes.add(value, lanes.mul(count, lanes.reals(part)))
        return b.fadd(value, b.fsub(x, x))  # NaN and inf have no meaning in the bit arithmetic

    def log1p(self, x: Any) -> Any:
        """log(1 + x) for x from 0 to 1."""
        b, lanes = self.lanes.builder, self.lanes
        large = b.fcmp_ordered(">", x, lanes.reals(0.41421356))
        reduced = lanes.pick(large, b.fmul(b.fsub(x, lanes.one), lanes.reals(0.5)), x)
        return lanes.add(self._log_near_one(reduced), lanes.pick(large, lanes.reals(math.log(2))))

    def power(self, x: Any, g: float) -> Any:
        """x^g for x >= 0, by multiplications if g is a small whole number; 0 where x is less than any normal number."""
        b, lanes = self.lanes.builder, self.lanes
        if g in range(5):
            return self._whole_power(x, int(g))
        y = b.fmul(lanes.reals(g), self.log(lanes.at_least(x, lanes.tiny)))
        highest = lanes.reals(self.highest)
        result = self.exp(lanes.pick(b.fcmp_ordered(">", y, highest), highest, y))
        return lanes.pick(lanes.less(x, lanes.tiny), lanes.zero, result)

    def _whole_power(self, x: Any, g: int) -> Any:
        if g == 0:
            return self.lanes.one
        half = self._whole_power(x, g // 2)
        square = x if g == 1 else self.lanes.builder.fmul(half, half)
        return self.lanes.builder.fmul(square, x) if g > 1 and g % 2 else square
