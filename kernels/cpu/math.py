"""exp, log and log1p that LLVM can vectorise (Cephes polynomials in float32, libm in float64), for Numba code.

Numba's wheel has no vector math library, so that ``math.exp`` is a call an element. The polynomials are within
2 units in the last place, pass NaN on, and cover only the ranges that the kernels need.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# No nnan / ninf: NaN has to come through. No reassoc: it would cancel the rounding constant.
SAFE = {"contract", "nsz", "arcp"}
# For sums over a row: without reassoc they stay scalar.
SUMS = SAFE | {"reassoc"}
# Functions that only other kernels call: the wrappers for Python would double the time to compile.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@intrinsic
def no_inline(typingctx):
    """Called in a function's body, keeps it a function of its own: less to compile, and vector code that
    does not depend on where it is called from."""

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def distinct_rows(typingctx):
    """Called in a function's body, promises that its arrays do not overlap: LLVM refuses to vectorise a loop over
    many rows that it would first have to compare with one another."""

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        for argument in builder.function.args[2:]:  # after the return value and the exception
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return types.void(), codegen


f32, i32 = np.float32, np.int32
_ROUND = f32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits
_LOG2E, _LN2_HIGH, _LN2_LOW = f32(1.44269504088896341), f32(0.693359375), f32(-2.12194440e-4)
_LOWEST = f32(-87.33654)  # 126 ln 2: below it exp would be subnormal
_ONE, _HALF, _ZERO = f32(1.0), f32(0.5), f32(0.0)
# 2^r on [-1/2, 1/2], minimax with relative error 9e-8, and exactly 1 at 0
_E1, _E2, _E3 = f32(0.6931469776102404), f32(0.24022242097333288), f32(0.05550733824222229)
_E4, _E5 = f32(0.009671512353553582), f32(0.0013264694325645695)
# (log(1 + m) - m) / m^2, 1 + m from sqrt(1/2) to sqrt(2)
_L0, _L1, _L2 = f32(-0.49999988079071045), f32(0.3333418667316437), f32(-0.25002074241638184)
_L3, _L4, _L5 = f32(0.19956833124160767), f32(-0.1656239777803421), f32(0.14952275156974792)
_L6, _L7 = f32(-0.14366813004016876), f32(0.08722294121980667)
_SQRT_TWO_MINUS_ONE = f32(0.41421356)
_HIGHEST = f32(88.0)


def _exp32(x):
    x = _LOWEST if x < _LOWEST else x
    shifted = x * _LOG2E + _ROUND
    r = x * _LOG2E - (shifted - _ROUND)
    # in pairs (Estrin): the processor waits for the longest chain of operations, not for their number
    square = r * r
    q = (_E1 * r + _ONE) + square * ((_E3 * r + _E2) + square * (_E5 * r + _E4))
    return i32(f32(q).view(i32) + i32(f32(shifted).view(i32) << i32(23))).view(f32)


def _log1p_polynomial(x):
    """log(1 + x) for x in [sqrt(1/2) - 1, sqrt(2) - 1]."""


def _log1p_polynomial32(x):
    square = x * x
    low = (_L1 * x + _L0) + square * (_L3 * x + _L2)
    high = (_L5 * x + _L4) + square * (_L7 * x + _L6)
    return x + square * (low + square * square * high)


def _log32(x):
    # x = 2^exponent (1 + m), 1 + m from sqrt(1/2) to sqrt(2)
    bits = f32(x).view(i32)
    exponent = i32(i32(bits - i32(0x3F3504F3)) >> i32(23))
    m = i32(bits - i32(exponent << i32(23))).view(f32) - _ONE
    value = _log1p_polynomial(m) + f32(exponent) * _LN2_LOW + f32(exponent) * _LN2_HIGH
    return value + (x - x)  # NaN and inf have no meaning in the bit arithmetic


def _log1p32(x):
    large = x > _SQRT_TWO_MINUS_ONE
    reduced = (x - _ONE) * _HALF if large else x
    offset = _LN2_HIGH + _LN2_LOW if large else _ZERO
    return _log1p_polynomial(reduced) + offset


def fast_exp(x):
    """e^x for x <= 88 (float32: at least 2^-126)."""
    return math.exp(x)


def fast_log(x):
    """log(x) for normal x > 0."""
    return math.log(x)


def fast_log1p(x):
    """log(1 + x) for 0 <= x <= 1."""
    return math.log1p(x)


def fast_power(x, g):
    """x^g for normal x > 0, at most 1e38."""
    return x**g


def _power32(x, g):
    y = g * fast_log(x)
    return fast_exp(_HIGHEST if y > _HIGHEST else y)


def negative_log_softmax(log_s, z, m):
    """log(s) - (z - m), in this order also inside a sum: log(s) + m would lose log(s) beside large logits."""
    return log_s - (z - m)


_OPTIONS = {"fastmath": SAFE}


@overload(negative_log_softmax, jit_options=_OPTIONS)
def _overload_negative_log_softmax(log_s, z, m):
    return lambda log_s, z, m: log_s - (z - m)


@overload(_log1p_polynomial, jit_options=_OPTIONS)
def _overload_polynomial(x):
    return _log1p_polynomial32


@overload(fast_exp, jit_options=_OPTIONS)
def _overload_exp(x):
    return _exp32 if x == types.float32 else lambda x: math.exp(x)


@overload(fast_log, jit_options=_OPTIONS)
def _overload_log(x):
    return _log32 if x == types.float32 else lambda x: math.log(x)


@overload(fast_log1p, jit_options=_OPTIONS)
def _overload_log1p(x):
    return _log1p32 if x == types.float32 else lambda x: math.log1p(x)


@overload(fast_power, jit_options=_OPTIONS)
def _overload_power(x, g):
    return _power32 if x == types.float32 else lambda x, g: x**g
