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

from . import math as constants


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


VECTOR = 16 if "+avx512f" in cpu_features() else 8  # voxels in a register
LANES = 4 * VECTOR  # the most voxels at a time
MOST = 4  # classes
_LINE = 64  # bytes of a cache line
_AHEAD = 2048  # bytes from a logit to the one that is prefetched

BYTES = ir.IntType(64)
REAL, WHOLE = ir.FloatType(), ir.IntType(32)
HALF, SHORT, NARROW = ir.HalfType(), ir.IntType(16), ir.IntType(8)
BFLOAT16, FLOAT16 = "bfloat16", "float16"  # of logits and gradients that lie contiguously; "" is float32
_FUSED = ("contract",)  # a multiplication and an addition become one instruction


class Lanes:
    """Arithmetic on ``width`` voxels at a time: with few classes, each a chain of operations, the processor would wait
    for results of a single register; of four, two do not fit it; many lie in as many pages, each to be looked up."""

    def __init__(self, builder: ir.IRBuilder, classes: int) -> None:
        registers = 4 if classes > 32 else 1 if classes == MOST else 2
        self.builder, self.width = builder, registers * VECTOR
        self.of_reals, self.of_wholes = self._vector(REAL), self._vector(WHOLE)
        self.zero, self.one = self.reals(0), self.reals(1)

    def _vector(self, kind: ir.Type) -> ir.VectorType:
        return ir.VectorType(kind, self.width)

    def reals(self, x: float) -> ir.Constant:
        return ir.Constant(self.of_reals, [float(x)] * self.width)

    def wholes(self, x: int) -> ir.Constant:
        return ir.Constant(self.of_wholes, [int(x)] * self.width)

    def at(self, address: Any, offset: Any, kind: ir.Type) -> Any:
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def load(self, address: Any, offset: Any, kind: ir.Type | None = None) -> Any:
        """Reals, or a scalar of another type."""
        kind = kind or self.of_reals
        return self.builder.load(self.at(address, offset, kind), typ=kind, align=4)

    def store(self, value: Any, address: Any, offset: Any) -> None:
        self.builder.store(value, self.at(address, offset, value.type), align=4)

    def load_wholes(self, address: Any, offset: Any) -> Any:
        return self.load(address, offset, self.of_wholes)

    def load_narrow(self, address: Any, offset: Any) -> Any:
        """Numbers of 8 bits; the offset is of numbers of 32."""
        narrow = self._vector(NARROW)
        place = self.at(address, self.builder.lshr(offset, ir.Constant(BYTES, 2)), narrow)
        wide = self.builder.zext(self.builder.load(place, typ=narrow, align=1), self.of_wholes)
        # Else LLVM would compare the 8 bits, and widen the result for each class
        fenced = self._call("llvm.arithmetic.fence", self.builder.bitcast(wide, self.of_reals))
        return self.builder.bitcast(fenced, self.of_wholes)

    def load_logits(self, address: Any, offset: Any, kind: str) -> Any:
        """Of a type of 16 bits too."""
        if not kind:
            return self.load(address, offset)
        if kind == BFLOAT16:
            shorts = self._vector(SHORT)
            bits = self.builder.load(self.at(address, offset, shorts), typ=shorts, align=2)
            upper = self.builder.shl(self.builder.zext(bits, self.of_wholes), self.wholes(16))
            return self.builder.bitcast(upper, self.of_reals)
        kind_of_half = self._vector(HALF)
        halves = self.builder.load(self.at(address, offset, kind_of_half), typ=kind_of_half, align=2)
        return self.builder.fpext(halves, self.of_reals)

    def store_gradient(self, value: Any, address: Any, offset: Any, kind: str) -> None:
        """The inverse, rounded to the nearest."""
        if not kind:
            self.store(value, address, offset)
            return
        half = self._vector(HALF)
        narrow = self.builder.fptrunc(value, half) if kind == FLOAT16 else self._bfloat16(value)
        self.builder.store(narrow, self.at(address, offset, narrow.type), align=2)

    def _bfloat16(self, value: Any) -> Any:
        """The upper half of the bits, rounded."""
        if "+avx512bf16" in cpu_features():  # else LLVM would call a function for each number
            return self.builder.fptrunc(value, self._vector(_BFloat()))
        b, bits = self.builder, self.builder.bitcast(value, self.of_wholes)
        odd = b.and_(b.lshr(bits, self.wholes(16)), self.wholes(1))
        rounded = b.add(b.add(bits, self.wholes(0x7FFF)), odd)
        ordered = b.fcmp_ordered("ord", value, value)
        return b.trunc(
            b.lshr(b.select(ordered, rounded, self.wholes(0x7FC00000)), self.wholes(16)), self._vector(SHORT)
        )

    def fill(self, scalar: Any) -> Any:
        vector = self._vector(scalar.type)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(WHOLE, 0))
        return self.builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), self.wholes(0))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=_FUSED)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FUSED)

    def pick(self, mask: Any, a: Any, b: Any = None) -> Any:
        """a where the mask holds, elsewhere b, or 0."""
        return self.builder.select(mask, a, self.zero if b is None else b)

    def absolute(self, x: Any) -> Any:
        bits = self.builder.and_(self.builder.bitcast(x, self.of_wholes), self.wholes(0x7FFFFFFF))
        return self.builder.bitcast(bits, self.of_reals)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger, or b where one of them is NaN."""
        return self.pick(self.builder.fcmp_ordered(">", a, b), a, b)

    def at_least(self, x: Any, least: float) -> Any:
        """x, or the least where it is smaller; NaN stays."""
        return self.pick(self.builder.fcmp_ordered("<", x, self.reals(least)), self.reals(least), x)

    def total(self, values: list[Any]) -> Any:
        """Their sum, in pairs."""
        while len(values) > 1:
            pairs = [self.add(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[len(pairs) * 2 :]
        return values[0]

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, in one instruction where the processor has it."""
        return self._call("llvm.fmuladd", a, b, c)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Of one of LLVM's own functions of reals."""
        kind = ir.FunctionType(self.of_reals, [self.of_reals] * len(arguments))
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"{name}.v{self.width}f32")
        return self.builder.call(function, arguments)

    def polynomial(self, x: Any, *coefficients: float) -> Any:
        """From the lowest power on, of an even number: of the second order in x^2, with coefficients a + b x."""
        low, high = map(self.reals, coefficients[::2]), map(self.reals, coefficients[1::2])
        *terms, result = [self.fused(b, x, a) for a, b in zip(low, high, strict=True)]
        square = self.mul(x, x)
        for term in reversed(terms):
            result = self.fused(square, result, term)
        return result

    def exps(self, xs: list[Any]) -> list[Any]:
        """As cpu_math's, of several: step by step, as the processor looks only so far ahead for what it can begin."""
        b, c = self.builder, constants
        log2e, rounding = self.reals(c._LOG2E), self.reals(c._ROUND)
        xs = [self.at_least(x, c._LOWEST) for x in xs]
        shifted = [self.fused(x, log2e, rounding) for x in xs]
        back = [b.fsub(rounding, s) for s in shifted]
        r = [self.fused(x, log2e, y) for x, y in zip(xs, back, strict=True)]
        coefficients = (1.0, c._E1, c._E2, c._E3, c._E4, c._E5)
        if len(xs) * self.width < 3 * VECTOR:
            result = [self.polynomial(x, *coefficients) for x in r]
        else:  # so many steps that do not wait for one another hide the longer way of the fewest instructions
            result = [self.fused(x, self.reals(c._E5), self.reals(c._E4)) for x in r]
            for coefficient in reversed(coefficients[:4]):
                result = [self.fused(x, y, self.reals(coefficient)) for x, y in zip(r, result, strict=True)]
        exponents = [b.shl(b.bitcast(s, self.of_wholes), self.wholes(23)) for s in shifted]
        scaled = [b.add(b.bitcast(x, self.of_wholes), n) for x, n in zip(result, exponents, strict=True)]
        return [b.bitcast(x, self.of_reals) for x in scaled]

    def log(self, x: Any) -> Any:
        """As cpu_math's."""
        b, c = self.builder, constants
        bits = b.bitcast(x, self.of_wholes)
        exponent = b.ashr(b.sub(bits, self.wholes(0x3F3504F3)), self.wholes(23))
        m = b.fsub(b.bitcast(b.sub(bits, b.shl(exponent, self.wholes(23))), self.of_reals), self.one)
        q = self.polynomial(m, c._L0, c._L1, c._L2, c._L3, c._L4, c._L5, c._L6, c._L7)
        count = b.sitofp(exponent, self.of_reals)
        value = self.add(m, self.mul(self.mul(m, m), q))
        for part in (c._LN2_LOW, c._LN2_HIGH):
            value = self.add(value, self.mul(count, self.reals(part)))
        return b.fadd(value, b.fsub(x, x))

    def log1p(self, x: Any) -> Any:
        """As cpu_math's."""
        b, c = self.builder, constants
        large = b.fcmp_ordered(">", x, self.reals(c._SQRT_TWO_MINUS_ONE))
        reduced = self.pick(large, b.fmul(b.fsub(x, self.one), self.reals(0.5)), x)
        q = self.polynomial(reduced, c._L0, c._L1, c._L2, c._L3, c._L4, c._L5, c._L6, c._L7)
        value = self.add(reduced, self.mul(self.mul(reduced, reduced), q))
        return self.add(value, self.pick(large, self.reals(float(c._LN2_HIGH) + float(c._LN2_LOW))))

    def power(self, x: Any, g: Any) -> Any:
        """x^g for normal x > 0, as cpu_math's."""
        y, highest = self.builder.fmul(g, self.log(x)), self.reals(constants._HIGHEST)
        return self.exps([self.pick(self.builder.fcmp_ordered(">", y, highest), highest, y)])[0]

    def whole_power(self, x: Any, g: int) -> Any:
        """x^g by multiplications."""
        if g == 0:
            return self.one
        half = self.whole_power(x, g // 2)
        square = x if g == 1 else self.builder.fmul(half, half)
        return self.builder.fmul(square, x) if g > 1 and g % 2 else square

    def choose(self, masks: list[Any], values: list[Any]) -> Any:
        """The value whose mask holds, or 0."""
        chosen = self.zero
        for mask, value in zip(masks, values, strict=True):
            chosen = self.pick(mask, value, chosen)
        return chosen

    def over_lanes(self, vector: Any) -> Any:
        """The sum of its lanes, in an order of its own."""
        width, undefined = self.width, ir.Constant(self.of_reals, ir.Undefined)
        while width > 1:
            width //= 2
            order = [*range(width, 2 * width), *range(self.width - width)]
            vector = self.builder.fadd(
                vector, self.builder.shuffle_vector(vector, undefined, ir.Constant(self.of_wholes, order))
            )
        return self.builder.extract_element(vector, ir.Constant(WHOLE, 0))


@contextmanager
def blocks(lanes: Lanes, n: Any) -> Iterator[tuple[Any, Any]]:
    """The loop over the blocks of n voxels: gives the block's number and its offset in a row, in bytes."""
    builder, width = lanes.builder, lanes.width
    with cgutils.for_range(builder, builder.udiv(n, ir.Constant(n.type, width))) as loop:
        yield loop.index, builder.mul(loop.index, ir.Constant(BYTES, 4 * width))


class Softmax:
    """The exponentials of the voxels of one block, less the largest logit; and what normalises them."""

    def __init__(
        self, lanes: Lanes, classes: int, z: Any, step: Any, offset: Any, weight: Any = None, kind: str = ""
    ) -> None:
        b = lanes.builder
        offsets = [b.add(offset, b.mul(step, ir.Constant(BYTES, c))) for c in range(classes)]
        logits = [lanes.load_logits(z, o, kind) for o in offsets]
        for o in offsets:
            for line in range(0, lanes.width * (2 if kind else 4), _LINE):
                prefetch(b, b.add(b.add(z, o), ir.Constant(BYTES, _AHEAD + line)))
        if weight is not None:  # anything may stand where the weight is 0
            counted = b.fcmp_unordered("!=", weight, lanes.zero)
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
        self.r = b.fdiv(lanes.one, self.total)


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
        lanes = Lanes(builder, count)
        with blocks(lanes, n) as (_, offset):
            soft = Softmax(lanes, count, z, z_step, offset)
            for c, value in enumerate(soft.e):
                lanes.store(value, builder.add(e, builder.mul(e_step, ir.Constant(BYTES, c))), offset)
            lanes.store(soft.largest, largest, offset)
            lanes.store(soft.total, total, offset)
            lanes.store(soft.r, r, offset)
            lanes.store(lanes.mul(soft.r, lanes.load(u, offset)), ru, offset)

    return types.void(*(types.int64,) * 11), codegen
