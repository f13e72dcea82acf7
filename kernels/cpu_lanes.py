"""Arithmetic on vectors of float32 voxels, and the softmax of up to four classes in them, as LLVM code.

LLVM's own vectoriser unrolls a loop over several classes until its registers run out, or refuses it. Rows are given by
address, in bytes; their length is a multiple of ``LANES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from . import cpu_math as constants


def cpu_features() -> str:
    """What Numba compiles for, as LLVM names it."""
    wanted = config.CPU_FEATURES
    if wanted is None:
        wanted = "" if config.CPU_NAME == "generic" else get_host_cpu_features()
    return str(wanted)


class _BFloat(ir.types.Type):
    """LLVM's type, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


LANES = 16 if "+avx512f" in cpu_features() else 8
MOST = 4  # classes
_AHEAD = 2048  # bytes from a logit to the one that is prefetched

BYTES = ir.IntType(64)
REAL, WHOLE = ir.FloatType(), ir.IntType(32)
REALS, WHOLES = ir.VectorType(REAL, LANES), ir.VectorType(WHOLE, LANES)
BFLOAT16, FLOAT16 = "bfloat16", "float16"  # of logits and gradients that lie contiguously; "" is float32
NARROW = ir.VectorType(ir.IntType(8), LANES)
SHORTS, HALVES = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(ir.HalfType(), LANES)
_FUSED = ("contract",)  # a multiplication and an addition become one instruction


def reals(x: float) -> ir.Constant:
    return ir.Constant(REALS, [float(x)] * LANES)


def wholes(x: int) -> ir.Constant:
    return ir.Constant(WHOLES, [int(x)] * LANES)


ZERO, ONE = reals(0), reals(1)


class Lanes:
    """Arithmetic on ``LANES`` voxels at a time."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def at(self, address: Any, offset: Any, kind: ir.Type) -> Any:
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def load(self, address: Any, offset: Any, kind: ir.Type = REALS) -> Any:
        return self.builder.load(self.at(address, offset, kind), typ=kind, align=4)

    def store(self, value: Any, address: Any, offset: Any) -> None:
        self.builder.store(value, self.at(address, offset, value.type), align=4)

    def load_narrow(self, address: Any, offset: Any) -> Any:
        """Numbers of 8 bits; the offset is of numbers of 32."""
        place = self.at(address, self.builder.lshr(offset, ir.Constant(BYTES, 2)), NARROW)
        return self.builder.zext(self.builder.load(place, typ=NARROW, align=1), WHOLES)

    def load_logits(self, address: Any, offset: Any, kind: str) -> Any:
        """Of a type of 16 bits too."""
        if not kind:
            return self.load(address, offset)
        if kind == BFLOAT16:
            bits = self.builder.load(self.at(address, offset, SHORTS), typ=SHORTS, align=2)
            return self.builder.bitcast(self.builder.shl(self.builder.zext(bits, WHOLES), wholes(16)), REALS)
        halves = self.builder.load(self.at(address, offset, HALVES), typ=HALVES, align=2)
        return self.builder.fpext(halves, REALS)

    def store_gradient(self, value: Any, address: Any, offset: Any, kind: str) -> None:
        """The inverse, rounded to the nearest."""
        if not kind:
            self.store(value, address, offset)
            return
        narrow = self.builder.fptrunc(value, HALVES) if kind == FLOAT16 else self._bfloat16(value)
        self.builder.store(narrow, self.at(address, offset, narrow.type), align=2)

    def _bfloat16(self, value: Any) -> Any:
        """The upper half of the bits, rounded."""
        if "+avx512bf16" in cpu_features():  # else LLVM would call a function for each number
            return self.builder.fptrunc(value, ir.VectorType(_BFloat(), LANES))
        b, bits = self.builder, self.builder.bitcast(value, WHOLES)
        odd = b.and_(b.lshr(bits, wholes(16)), wholes(1))
        rounded = b.add(b.add(bits, wholes(0x7FFF)), odd)
        ordered = b.fcmp_ordered("ord", value, value)
        return b.trunc(b.lshr(b.select(ordered, rounded, wholes(0x7FC00000)), wholes(16)), SHORTS)

    def fill(self, scalar: Any) -> Any:
        vector = ir.VectorType(scalar.type, LANES)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(WHOLE, 0))
        return self.builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), wholes(0))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=_FUSED)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FUSED)

    def pick(self, mask: Any, a: Any, b: Any = ZERO) -> Any:
        return self.builder.select(mask, a, b)

    def absolute(self, x: Any) -> Any:
        bits = self.builder.and_(self.builder.bitcast(x, WHOLES), wholes(0x7FFFFFFF))
        return self.builder.bitcast(bits, REALS)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger, or b where one of them is NaN."""
        return self.pick(self.builder.fcmp_ordered(">", a, b), a, b)

    def at_least(self, x: Any, least: float) -> Any:
        """x, or the least where it is smaller; NaN stays."""
        return self.pick(self.builder.fcmp_ordered("<", x, reals(least)), reals(least), x)

    def total(self, values: list[Any]) -> Any:
        """Their sum, in pairs."""
        while len(values) > 1:
            pairs = [self.add(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[len(pairs) * 2 :]
        return values[0]

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, in one instruction where the processor has it."""
        kind = ir.FunctionType(REALS, [REALS] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return self.builder.call(function, [a, b, c])

    def polynomial(self, x: Any, *coefficients: float) -> Any:
        """From the lowest power on, of an even number: of the second order in x^2, with coefficients a + b x."""
        low, high = map(reals, coefficients[::2]), map(reals, coefficients[1::2])
        *terms, result = [self.fused(b, x, a) for a, b in zip(low, high, strict=True)]
        square = self.mul(x, x)
        for term in reversed(terms):
            result = self.fused(square, result, term)
        return result

    def exps(self, xs: list[Any]) -> list[Any]:
        """As cpu_math's, of several: step by step, as the processor looks only so far ahead for what it can begin."""
        b, c = self.builder, constants
        log2e, rounding = reals(c._LOG2E), reals(c._ROUND)
        xs = [self.at_least(x, c._LOWEST) for x in xs]
        shifted = [self.fused(x, log2e, rounding) for x in xs]
        back = [b.fsub(rounding, s) for s in shifted]
        r = [self.fused(x, log2e, y) for x, y in zip(xs, back, strict=True)]
        squares = [b.fmul(x, x) for x in r]
        result: list[Any] = []
        for low, high in ((c._E4, c._E5), (c._E2, c._E3), (1.0, c._E1)):
            pairs = [self.fused(x, reals(high), reals(low)) for x in r]
            result = [self.fused(*x) for x in zip(squares, result, pairs, strict=True)] if result else pairs
        exponents = [b.shl(b.bitcast(s, WHOLES), wholes(23)) for s in shifted]
        return [b.bitcast(b.add(b.bitcast(x, WHOLES), n), REALS) for x, n in zip(result, exponents, strict=True)]

    def log(self, x: Any) -> Any:
        """As cpu_math's."""
        b, c = self.builder, constants
        bits = b.bitcast(x, WHOLES)
        exponent = b.ashr(b.sub(bits, wholes(0x3F3504F3)), wholes(23))
        m = b.fsub(b.bitcast(b.sub(bits, b.shl(exponent, wholes(23))), REALS), ONE)
        q = self.polynomial(m, c._L0, c._L1, c._L2, c._L3, c._L4, c._L5, c._L6, c._L7)
        count = b.sitofp(exponent, REALS)
        value = self.add(m, self.mul(self.mul(m, m), q))
        value = self.add(self.add(value, self.mul(count, reals(c._LN2_LOW))), self.mul(count, reals(c._LN2_HIGH)))
        return b.fadd(value, b.fsub(x, x))

    def log1p(self, x: Any) -> Any:
        """As cpu_math's."""
        b, c = self.builder, constants
        large = b.fcmp_ordered(">", x, reals(c._SQRT_TWO_MINUS_ONE))
        reduced = self.pick(large, b.fmul(b.fsub(x, ONE), reals(0.5)), x)
        q = self.polynomial(reduced, c._L0, c._L1, c._L2, c._L3, c._L4, c._L5, c._L6, c._L7)
        value = self.add(reduced, self.mul(self.mul(reduced, reduced), q))
        return self.add(value, self.pick(large, reals(float(c._LN2_HIGH) + float(c._LN2_LOW))))

    def power(self, x: Any, g: Any) -> Any:
        """x^g for normal x > 0, as cpu_math's."""
        y, highest = self.builder.fmul(g, self.log(x)), reals(constants._HIGHEST)
        return self.exps([self.pick(self.builder.fcmp_ordered(">", y, highest), highest, y)])[0]

    def whole_power(self, x: Any, g: int) -> Any:
        """x^g by multiplications."""
        if g == 0:
            return ONE
        half = self.whole_power(x, g // 2)
        square = x if g == 1 else self.builder.fmul(half, half)
        return self.builder.fmul(square, x) if g > 1 and g % 2 else square

    def choose(self, masks: list[Any], values: list[Any]) -> Any:
        """The value whose mask holds, or 0."""
        chosen = ZERO
        for mask, value in zip(masks, values, strict=True):
            chosen = self.pick(mask, value, chosen)
        return chosen

    def over_lanes(self, vector: Any) -> Any:
        """The sum of its lanes, in an order of its own."""
        width, undefined = LANES, ir.Constant(REALS, ir.Undefined)
        while width > 1:
            width //= 2
            order = [*range(width, 2 * width), *range(LANES - width)]
            vector = self.builder.fadd(
                vector, self.builder.shuffle_vector(vector, undefined, ir.Constant(WHOLES, order))
            )
        return self.builder.extract_element(vector, ir.Constant(WHOLE, 0))


@contextmanager
def blocks(builder: ir.IRBuilder, n: Any) -> Iterator[tuple[Any, Any]]:
    """The loop over the blocks of n voxels: gives the block's number and its offset in a row, in bytes."""
    with cgutils.for_range(builder, builder.udiv(n, ir.Constant(n.type, LANES))) as loop:
        yield loop.index, builder.mul(loop.index, ir.Constant(BYTES, 4 * LANES))


class Softmax:
    """The exponentials of the voxels of one block, less the largest logit; and what normalises them."""

    def __init__(
        self, lanes: Lanes, classes: int, z: Any, step: Any, offset: Any, weight: Any = None, kind: str = ""
    ) -> None:
        b = lanes.builder
        offsets = [b.add(offset, b.mul(step, ir.Constant(BYTES, c))) for c in range(classes)]
        logits = [lanes.load_logits(z, o, kind) for o in offsets]
        for o in offsets:
            prefetch(b, b.add(b.add(z, o), ir.Constant(BYTES, _AHEAD)))
        if weight is not None:  # anything may stand where the weight is 0
            counted = b.fcmp_unordered("!=", weight, ZERO)
            logits = [lanes.pick(counted, x) for x in logits]
        largest = [*logits]
        while len(largest) > 1:
            largest = [lanes.larger(x, y) for x, y in zip(largest[::2], largest[1::2], strict=False)] + (
                largest[-1:] if len(largest) % 2 else []
            )
        self.largest = largest[0]
        self.below = [b.fsub(x, self.largest) for x in logits]
        self.e = lanes.exps(self.below)
        self.total = lanes.total(self.e)
        self.r = b.fdiv(ONE, self.total)


def prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Asks for a cache line; past the end of a tensor this does nothing."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, WHOLE, WHOLE, WHOLE])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    builder.call(function, [builder.inttoptr(address, pointer), *(ir.Constant(WHOLE, x) for x in (0, 3, 1))])


def _by_classes(builder: ir.IRBuilder, classes: Any, emit: Callable[[int], None]) -> None:
    """Code for each number of classes."""
    for count in range(2, MOST + 1):
        with builder.if_then(builder.icmp_signed("==", classes, ir.Constant(classes.type, count))):
            emit(count)


@intrinsic
def softmax_in_registers(typingctx, classes, z, z_step, e, e_step, largest, total, r, ru, u, n):  # type: ignore[no-untyped-def]
    """Rows of the exponentials, of the largest logit, of the exponentials' sum, its reciprocal, and that times u."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        classes, *rest = args
        _by_classes(builder, classes, lambda count: emit(builder, count, *rest))
        return context.get_dummy_value()

    def emit(builder, count, z, z_step, e, e_step, largest, total, r, ru, u, n):  # type: ignore[no-untyped-def]
        lanes = Lanes(builder)
        with blocks(builder, n) as (_, offset):
            soft = Softmax(lanes, count, z, z_step, offset)
            for c, value in enumerate(soft.e):
                lanes.store(value, builder.add(e, builder.mul(e_step, ir.Constant(BYTES, c))), offset)
            lanes.store(soft.largest, largest, offset)
            lanes.store(soft.total, total, offset)
            lanes.store(soft.r, r, offset)
            lanes.store(lanes.mul(soft.r, lanes.load(u, offset)), ru, offset)

    return types.void(*(types.int64,) * 11), codegen
