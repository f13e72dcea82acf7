"""Softmax, sums and gradient of up to four classes for one tile of float32 labels' passes, kept in vector registers.

Written as LLVM code on vectors of eight voxels: LLVM's own vectoriser unrolls such a loop until its registers run out,
or refuses it. Loops row by row (cpu_label_rows) take twice as long, for what they store and load again. Rows are given
by address, in bytes; their length is a multiple of ``LANES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import cpu_math as constants

LANES = 8
MOST = 4  # classes
# What a pass computes: p, p y and y; -y log p; p^2 and p^2 y; whether voxels have weights
OVERLAP, CROSS_ENTROPY, SQUARES, WEIGHTED = 1, 2, 4, 8
# Sums of exponentials of at most MOST whose product still has a logarithm: 4^32 = 2e19
_FOLD = 32
_COMBINATIONS = tuple(terms | weighted for terms in (1, 2, 3, 5, 7) for weighted in (0, WEIGHTED))
_BITS = 8  # of the number of voxels of a class in a lane
MOST_VOXELS = LANES * (2**_BITS - 1)
_AHEAD = 2048  # bytes from a logit to the one that is prefetched

_BYTES = ir.IntType(64)
_REAL, _WHOLE = ir.FloatType(), ir.IntType(32)
_REALS, _WHOLES = ir.VectorType(_REAL, LANES), ir.VectorType(_WHOLE, LANES)
_FUSED = ("contract",)  # a multiplication and an addition become one instruction


def _reals(x: float) -> ir.Constant:
    return ir.Constant(_REALS, [float(x)] * LANES)


def _wholes(x: int) -> ir.Constant:
    return ir.Constant(_WHOLES, [int(x)] * LANES)


_ZERO, _ONE = _reals(0), _reals(1)


class _Lanes:
    """Arithmetic on eight voxels at a time."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def at(self, address: Any, offset: Any, kind: ir.Type) -> Any:
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def load(self, address: Any, offset: Any, kind: ir.Type = _REALS) -> Any:
        return self.builder.load(self.at(address, offset, kind), typ=kind, align=4)

    def store(self, value: Any, address: Any, offset: Any) -> None:
        self.builder.store(value, self.at(address, offset, value.type), align=4)

    def fill(self, scalar: Any) -> Any:
        vector = ir.VectorType(scalar.type, LANES)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_WHOLE, 0))
        return self.builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), _wholes(0))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=_FUSED)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FUSED)

    def pick(self, mask: Any, a: Any, b: Any = _ZERO) -> Any:
        return self.builder.select(mask, a, b)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger, or b where one of them is NaN."""
        return self.pick(self.builder.fcmp_ordered(">", a, b), a, b)

    def total(self, values: list[Any]) -> Any:
        """Their sum, in pairs."""
        while len(values) > 1:
            pairs = [self.add(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[len(pairs) * 2 :]
        return values[0]

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, in one instruction where the processor has it."""
        kind = ir.FunctionType(_REALS, [_REALS] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return self.builder.call(function, [a, b, c])

    def polynomial(self, x: Any, *coefficients: float) -> Any:
        """From the lowest power on, of an even number: of the second order in x^2, with coefficients a + b x."""
        low, high = map(_reals, coefficients[::2]), map(_reals, coefficients[1::2])
        *terms, result = [self.fused(b, x, a) for a, b in zip(low, high, strict=True)]
        square = self.mul(x, x)
        for term in reversed(terms):
            result = self.fused(square, result, term)
        return result

    def exps(self, xs: list[Any]) -> list[Any]:
        """As cpu_math's, of several: step by step, as the processor looks only so far ahead for what it can begin."""
        b, c = self.builder, constants
        lowest, log2e, rounding = _reals(c._LOWEST), _reals(c._LOG2E), _reals(c._ROUND)
        xs = [self.pick(b.fcmp_ordered("<", x, lowest), lowest, x) for x in xs]
        shifted = [self.fused(x, log2e, rounding) for x in xs]
        back = [b.fsub(rounding, s) for s in shifted]
        r = [self.fused(x, log2e, y) for x, y in zip(xs, back, strict=True)]
        squares = [b.fmul(x, x) for x in r]
        result: list[Any] = []
        for low, high in ((c._E4, c._E5), (c._E2, c._E3), (1.0, c._E1)):
            pairs = [self.fused(x, _reals(high), _reals(low)) for x in r]
            result = [self.fused(*x) for x in zip(squares, result, pairs, strict=True)] if result else pairs
        exponents = [b.shl(b.bitcast(s, _WHOLES), _wholes(23)) for s in shifted]
        return [b.bitcast(b.add(b.bitcast(x, _WHOLES), n), _REALS) for x, n in zip(result, exponents, strict=True)]

    def log(self, x: Any) -> Any:
        """As cpu_math's."""
        b, c = self.builder, constants
        bits = b.bitcast(x, _WHOLES)
        exponent = b.ashr(b.sub(bits, _wholes(0x3F3504F3)), _wholes(23))
        m = b.fsub(b.bitcast(b.sub(bits, b.shl(exponent, _wholes(23))), _REALS), _ONE)
        q = self.polynomial(m, c._L0, c._L1, c._L2, c._L3, c._L4, c._L5, c._L6, c._L7)
        count = b.sitofp(exponent, _REALS)
        value = self.add(m, self.mul(self.mul(m, m), q))
        value = self.add(self.add(value, self.mul(count, _reals(c._LN2_LOW))), self.mul(count, _reals(c._LN2_HIGH)))
        return b.fadd(value, b.fsub(x, x))

    def over_lanes(self, vector: Any) -> Any:
        """The sum of its lanes, in an order of its own."""
        width, undefined = LANES, ir.Constant(_REALS, ir.Undefined)
        while width > 1:
            width //= 2
            order = [*range(width, 2 * width), *range(LANES - width)]
            vector = self.builder.fadd(
                vector, self.builder.shuffle_vector(vector, undefined, ir.Constant(_WHOLES, order))
            )
        return self.builder.extract_element(vector, ir.Constant(_WHOLE, 0))


@contextmanager
def _blocks(builder: ir.IRBuilder, n: Any) -> Iterator[tuple[Any, Any]]:
    """The loop over the blocks of n voxels: gives the block's number and its offset in a row, in bytes."""
    with cgutils.for_range(builder, builder.udiv(n, ir.Constant(n.type, LANES))) as loop:
        yield loop.index, builder.mul(loop.index, ir.Constant(_BYTES, 4 * LANES))


class _Softmax:
    """The exponentials of the voxels of one block, less the largest logit; and what normalises them."""

    def __init__(self, lanes: _Lanes, classes: int, z: Any, step: Any, offset: Any, weight: Any = None) -> None:
        b = lanes.builder
        self.offsets = [b.add(offset, b.mul(step, ir.Constant(_BYTES, c))) for c in range(classes)]
        logits = [lanes.load(z, o) for o in self.offsets]
        for o in self.offsets:
            _prefetch(b, b.add(b.add(z, o), ir.Constant(_BYTES, _AHEAD)))
        if weight is not None:  # anything may stand where the weight is 0
            counted = b.fcmp_unordered("!=", weight, _ZERO)
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
        self.r = b.fdiv(_ONE, self.total)


def _prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Asks for a cache line; past the end of a tensor this does nothing."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _WHOLE, _WHOLE, _WHOLE])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    builder.call(function, [builder.inttoptr(address, pointer), *(ir.Constant(_WHOLE, x) for x in (0, 3, 1))])


def _labels_of(lanes: _Lanes, labels: Any, offset: Any, classes: int) -> tuple[Any, list[Any]]:
    """The class of each voxel, and of each class its voxels."""
    found = lanes.load(labels, offset, _WHOLES)
    return found, [lanes.builder.icmp_signed("==", found, _wholes(c)) for c in range(classes)]


def _by_classes(builder: ir.IRBuilder, classes: Any, emit: Callable[[int], None]) -> None:
    """Code for each number of classes."""
    for count in range(2, MOST + 1):
        with builder.if_then(builder.icmp_signed("==", classes, ir.Constant(classes.type, count))):
            emit(count)


def _by_terms(builder: ir.IRBuilder, classes: Any, terms: Any, emit: Callable[[int, int], None]) -> None:
    """Code for each number of classes and each combination of terms."""

    def for_classes(count: int) -> None:
        for wanted in _COMBINATIONS:
            with builder.if_then(builder.icmp_signed("==", terms, ir.Constant(terms.type, wanted))):
                emit(count, wanted)

    _by_classes(builder, classes, for_classes)


@intrinsic
def softmax_in_registers(typingctx, classes, z, z_step, e, e_step, largest, total, r, ru, u, n):  # type: ignore[no-untyped-def]
    """Rows of the exponentials, of the largest logit, of the exponentials' sum, its reciprocal, and that times u."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        classes, *rest = args
        _by_classes(builder, classes, lambda count: emit(builder, count, *rest))
        return context.get_dummy_value()

    def emit(builder, count, z, z_step, e, e_step, largest, total, r, ru, u, n):  # type: ignore[no-untyped-def]
        lanes = _Lanes(builder)
        with _blocks(builder, n) as (_, offset):
            soft = _Softmax(lanes, count, z, z_step, offset)
            for c, value in enumerate(soft.e):
                lanes.store(value, builder.add(e, builder.mul(e_step, ir.Constant(_BYTES, c))), offset)
            lanes.store(soft.largest, largest, offset)
            lanes.store(soft.total, total, offset)
            lanes.store(soft.r, r, offset)
            lanes.store(lanes.mul(soft.r, lanes.load(u, offset)), ru, offset)

    return types.void(*(types.int64,) * 11), codegen


class _Sums:
    """Accumulators that live through the loop: LLVM keeps them in registers, or next to them."""

    def __init__(self, lanes: _Lanes) -> None:
        self.lanes, self.kept = lanes, {}  # type: ignore[var-annotated]

    def start(self, name: Any, value: ir.Constant) -> None:
        self.kept[name] = cgutils.alloca_once_value(self.lanes.builder, value)

    def get(self, name: Any) -> Any:
        return self.lanes.builder.load(self.kept[name])

    def put(self, name: Any, value: Any) -> None:
        self.lanes.builder.store(value, self.kept[name])

    def add(self, name: Any, value: Any) -> None:
        self.put(name, self.lanes.builder.fadd(self.get(name), value))


@intrinsic
def sums_in_registers(typingctx, classes, terms, sums, z, z_step, labels, u, n):  # type: ignore[no-untyped-def]
    """Writes the sums of each class one after another: p, p y, y, -y log p, p^2, p^2 y; those not asked for are 0."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        classes, terms, *rest = args
        _by_terms(builder, classes, terms, lambda count, wanted: emit(builder, count, wanted, *rest))
        return context.get_dummy_value()

    def emit(builder, count, wanted, sums, z, z_step, labels, u, n):  # type: ignore[no-untyped-def]
        lanes = _Lanes(builder)
        kept = _Sums(lanes)
        kept.start("voxels", _wholes(0))  # of each class: eight bits of every lane
        products = wanted & (CROSS_ENTROPY | WEIGHTED) == CROSS_ENTROPY  # instead of a logarithm a voxel
        for c in range(count):
            for name in ("p", "py", "y", "ce", "p2", "p2y"):
                kept.start((name, c), _ZERO)
            kept.start(("product", c), _ONE)

        def take_logarithms():  # type: ignore[no-untyped-def]
            for c in range(count):
                kept.add(("ce", c), lanes.log(kept.get(("product", c))))
                kept.put(("product", c), _ONE)

        with _blocks(builder, n) as (block, offset):
            weight = lanes.load(u, offset) if wanted & WEIGHTED else None
            soft = _Softmax(lanes, count, z, z_step, offset, weight)
            label, hits = _labels_of(lanes, labels, offset, count)
            if weight is None:
                shift = builder.mul(label, _wholes(_BITS))
                kept.put("voxels", builder.add(kept.get("voxels"), builder.shl(_wholes(1), shift)))
            elif wanted & CROSS_ENTROPY:
                logarithm = lanes.log(soft.total)
            for c, mine in enumerate(hits):
                if weight is not None:
                    kept.add(("y", c), lanes.pick(mine, weight))
                if wanted & (OVERLAP | SQUARES):
                    p = lanes.mul(soft.e[c], soft.r)
                    weighted = p if weight is None else builder.fmul(p, weight)
                    kept.add(("p", c), weighted)
                    kept.add(("py", c), lanes.pick(mine, weighted))
                if wanted & SQUARES:
                    square = builder.fmul(p, weighted)
                    kept.add(("p2", c), square)
                    kept.add(("p2y", c), lanes.pick(mine, square))
                if wanted & CROSS_ENTROPY and weight is not None:
                    kept.add(("ce", c), lanes.pick(mine, builder.fmul(weight, builder.fsub(logarithm, soft.below[c]))))
                elif wanted & CROSS_ENTROPY:
                    kept.put(("ce", c), builder.fsub(kept.get(("ce", c)), lanes.pick(mine, soft.below[c])))
                    factor = lanes.pick(mine, soft.total, _ONE)
                    kept.put(("product", c), builder.fmul(kept.get(("product", c)), factor))
            if products:
                last = builder.and_(block, ir.Constant(block.type, _FOLD - 1))
                with builder.if_then(builder.icmp_unsigned("==", last, ir.Constant(block.type, _FOLD - 1)), False):
                    take_logarithms()
        if products:
            take_logarithms()
        if not wanted & WEIGHTED:
            for c in range(count):
                voxels = builder.and_(builder.lshr(kept.get("voxels"), _wholes(_BITS * c)), _wholes(2**_BITS - 1))
                kept.put(("y", c), builder.sitofp(voxels, _REALS))
        for c in range(count):
            for k, name in enumerate(("p", "py", "y", "ce", "p2", "p2y")):
                lanes.store(lanes.over_lanes(kept.get((name, c))), sums, ir.Constant(_BYTES, 4 * (6 * c + k)))

    return types.void(*(types.int64,) * 8), codegen


@intrinsic
def gradient_in_registers(typingctx, classes, terms, out, out_step, z, z_step, labels, u, numbers, n):  # type: ignore[no-untyped-def]
    """The gradient; numbers are, class after class, the coefficients of p, of p where y is 1, of -y log p, of p^2, and
    of p^2 where y is 1."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        classes, terms, *rest = args
        _by_terms(builder, classes, terms, lambda count, wanted: emit(builder, count, wanted, *rest))
        return context.get_dummy_value()

    def emit(builder, count, wanted, out, out_step, z, z_step, labels, u, numbers, n):  # type: ignore[no-untyped-def]
        lanes = _Lanes(builder)
        table = [
            [lanes.fill(lanes.load(numbers, ir.Constant(_BYTES, 4 * (5 * c + k)), _REAL)) for k in range(5)]
            for c in range(count)
        ]
        with _blocks(builder, n) as (_, offset):
            weight = lanes.load(u, offset) if wanted & WEIGHTED else None
            soft = _Softmax(lanes, count, z, z_step, offset, weight)
            slopes, own, dots = [], [], []
            for c, mine in enumerate(_labels_of(lanes, labels, offset, count)[1]):
                a, own_a, g, a2, own_a2 = table[c]
                slope = lanes.pick(mine, own_a, a) if wanted & OVERLAP else _ZERO
                if wanted & SQUARES:
                    twice = lanes.mul(lanes.pick(mine, own_a2, a2), lanes.mul(soft.e[c], soft.r))
                    slope = lanes.add(slope, lanes.add(twice, twice))
                slopes.append(slope)
                own.append(lanes.pick(mine, g) if wanted & CROSS_ENTROPY else _ZERO)
                dots.append(lanes.mul(soft.e[c], slope))
            level = lanes.total(own) if wanted & CROSS_ENTROPY else _ZERO
            if wanted & (OVERLAP | SQUARES):
                level = lanes.sub(level, lanes.mul(soft.r, lanes.total(dots)))
            for c in range(count):
                factor = lanes.add(slopes[c], level) if wanted & (OVERLAP | SQUARES) else level
                value = lanes.mul(lanes.mul(soft.e[c], soft.r), factor)
                if wanted & CROSS_ENTROPY:
                    value = lanes.sub(value, own[c])
                if weight is not None:
                    value = lanes.mul(value, weight)
                lanes.store(value, builder.add(out, builder.mul(out_step, ir.Constant(_BYTES, c))), offset)

    return types.void(*(types.int64,) * 10), codegen
