"""Arithmetic on vectors of voxels as LLVM code.

LLVM's own vectoriser unrolls a loop over several classes until its registers run out, or refuses it. Rows are given by
address, in bytes; their length is a multiple of the vectors' width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features

BYTES, WHOLE, DOUBLE = ir.IntType(64), ir.IntType(32), ir.DoubleType()
FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = "float16", "bfloat16", "float32", "float64"  # as logits and gradients lie
SIZES = {FLOAT16: 2, BFLOAT16: 2, FLOAT32: 4, FLOAT64: 8}
_FUSED = ("contract",)  # a multiplication and an addition become one instruction


def cpu_features() -> str:
    """What Numba compiles for, as LLVM names it."""
    wanted = config.CPU_FEATURES
    if wanted is None:
        wanted = "" if config.CPU_NAME == "generic" else get_host_cpu_features()
    return str(wanted)


REGISTER = 64 if "+avx512f" in cpu_features() else 32  # bytes
MOST_LANES = REGISTER  # the most voxels at a time: four registers of float32


class _BFloat(ir.types.Type):
    """LLVM's type, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


class Lanes:
    """Arithmetic on several registers of voxels at a time, in float32 or float64."""

    def __init__(self, builder: ir.IRBuilder, real: str, registers: int) -> None:
        self.builder, self.name, self.size = builder, real, SIZES[real]
        self.real: ir.Type = DOUBLE if real == FLOAT64 else ir.FloatType()
        self.whole = ir.IntType(8 * self.size)
        self.per_register = REGISTER // self.size
        self.width = registers * self.per_register
        self.of_reals, self.of_wholes = self.vector(self.real), self.vector(self.whole)
        self.zero, self.one = self.reals(0), self.reals(1)
        self.tiny = float(np.finfo(real).tiny)

    def vector(self, kind: ir.Type) -> ir.VectorType:
        return ir.VectorType(kind, self.width)

    def reals(self, x: float) -> ir.Constant:
        return ir.Constant(self.of_reals, [float(np.dtype(self.name).type(x))] * self.width)

    def wholes(self, x: int) -> ir.Constant:
        return ir.Constant(self.of_wholes, [int(x)] * self.width)

    # Memory

    def at(self, address: Any, offset: Any, kind: ir.Type) -> Any:
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def load(self, address: Any, offset: Any, kind: ir.Type | None = None, align: int = 4) -> Any:
        """Reals, or what another type says."""
        kind = kind or self.of_reals
        return self.builder.load(self.at(address, offset, kind), typ=kind, align=align)

    def store(self, value: Any, address: Any, offset: Any, align: int = 4) -> None:
        self.builder.store(value, self.at(address, offset, value.type), align=align)

    def load_labels(self, address: Any, block: Any, narrow: bool) -> Any:
        """Of a block of a row: numbers of 8 bits, or of 32."""
        kind = self.vector(ir.IntType(8 if narrow else 32))
        offset = self.builder.mul(block, ir.Constant(BYTES, self.width * (1 if narrow else 4)))
        labels = self.load(address, offset, kind, 1 if narrow else 4)
        if not narrow:
            return labels if self.size == 4 else self.builder.sext(labels, self.of_wholes)
        # Else LLVM would compare the 8 bits, and widen the result for each class
        wide = self.builder.bitcast(self.builder.zext(labels, self.of_wholes), self.of_reals)
        return self.builder.bitcast(self.call("llvm.arithmetic.fence", wide), self.of_wholes)

    def load_as(self, kind: str, address: Any, offset: Any) -> Any:
        """Reals that lie as numbers of a kind."""
        if kind == self.name:
            return self.load(address, offset)
        if kind == FLOAT16 and "+f16c" in cpu_features():
            return self.builder.fpext(self.load(address, offset, self.vector(ir.HalfType()), 2), self.of_reals)
        bits = self.builder.zext(self.load(address, offset, self.vector(ir.IntType(16)), 2), self.of_wholes)
        if kind == BFLOAT16:
            return self.builder.bitcast(self.builder.shl(bits, self.wholes(16)), self.of_reals)
        return self._from_half(bits)

    def store_as(self, kind: str, value: Any, address: Any, offset: Any) -> None:
        """The inverse, rounded to the nearest."""
        if kind == self.name:
            self.store(value, address, offset)
            return
        if kind == FLOAT16 and "+f16c" in cpu_features():
            narrow = self.builder.fptrunc(value, self.vector(ir.HalfType()))
        elif kind == BFLOAT16 and "+avx512bf16" in cpu_features():
            narrow = self.builder.fptrunc(value, self.vector(_BFloat()))
        else:
            bits = self._to_bfloat(value) if kind == BFLOAT16 else self._to_half(value)
            narrow = self.builder.trunc(bits, self.vector(ir.IntType(16)))
        self.store(narrow, address, offset, 2)

    # Without an instruction of the processor's LLVM would call a function for each number

    def _to_bfloat(self, value: Any) -> Any:
        """The upper half of the bits, rounded."""
        b, bits = self.builder, self.bits(value)
        odd = b.and_(b.lshr(bits, self.wholes(16)), self.wholes(1))
        rounded = b.add(b.add(bits, self.wholes(0x7FFF)), odd)
        ordered = b.fcmp_ordered("ord", value, value)
        return b.lshr(b.select(ordered, rounded, self.wholes(0x7FC00000)), self.wholes(16))

    def _from_half(self, half: Any) -> Any:
        b = self.builder
        bits = b.shl(b.and_(half, self.wholes(0x7FFF)), self.wholes(13))
        exponent = b.and_(bits, self.wholes(0x0F800000))
        least = b.bitcast(self.wholes(113 << 23), self.of_reals)
        subnormal = b.fsub(b.bitcast(b.add(bits, self.wholes(113 << 23)), self.of_reals), least)
        special = b.icmp_unsigned("==", exponent, self.wholes(0x0F800000))
        value = b.select(special, b.add(bits, self.wholes(224 << 23)), b.add(bits, self.wholes(112 << 23)))
        value = b.select(b.icmp_unsigned("==", exponent, self.wholes(0)), self.bits(subnormal), value)
        sign = b.shl(b.and_(half, self.wholes(0x8000)), self.wholes(16))
        return b.bitcast(b.or_(value, sign), self.of_reals)

    def _to_half(self, value: Any) -> Any:
        """To the nearest even, subnormal results included (Giesen's float_to_half_fast3_rtne)."""
        b, bits, magic = self.builder, self.bits(value), self.wholes(126 << 23)
        size = b.and_(bits, self.wholes(0x7FFFFFFF))
        small = b.fadd(b.bitcast(size, self.of_reals), b.bitcast(magic, self.of_reals))
        odd = b.and_(b.lshr(size, self.wholes(13)), self.wholes(1))
        normal = b.lshr(b.add(b.add(size, self.wholes(0xC8000FFF - 2**32)), odd), self.wholes(13))
        tiny = b.icmp_unsigned("<", size, self.wholes(113 << 23))
        half = b.select(tiny, b.sub(self.bits(small), magic), normal)
        half = b.select(b.icmp_unsigned(">=", size, self.wholes(143 << 23)), self.wholes(0x7C00), half)
        half = b.select(b.icmp_unsigned(">", size, self.wholes(255 << 23)), self.wholes(0x7E00), half)
        return b.or_(half, b.lshr(b.and_(bits, self.wholes(-(2**31))), self.wholes(16)))

    # Arithmetic

    def bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.of_wholes)

    def fill(self, scalar: Any) -> Any:
        vector = self.vector(scalar.type)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(WHOLE, 0))
        order = ir.Constant(self.vector(WHOLE), [0] * self.width)
        return self.builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), order)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=_FUSED)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FUSED)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, in one instruction where the processor has it."""
        return self.call("llvm.fmuladd", a, b, c)

    def call(self, name: str, *arguments: Any) -> Any:
        """One of LLVM's own functions of reals."""
        kind = ir.FunctionType(self.of_reals, [self.of_reals] * len(arguments))
        name = f"{name}.v{self.width}f{8 * self.size}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def less(self, a: Any, b: float) -> Any:
        return self.builder.fcmp_ordered("<", a, self.reals(b))

    def nonzero(self, x: Any) -> Any:
        return self.builder.fcmp_unordered("!=", x, self.zero)

    def pick(self, mask: Any, a: Any, b: Any = None) -> Any:
        """a where the mask holds, elsewhere b, or 0."""
        return self.builder.select(mask, a, self.zero if b is None else b)

    def absolute(self, x: Any) -> Any:
        mask = self.wholes(2 ** (8 * self.size - 1) - 1)
        return self.builder.bitcast(self.builder.and_(self.bits(x), mask), self.of_reals)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger, or b where one of them is NaN."""
        return self.pick(self.builder.fcmp_ordered(">", a, b), a, b)

    def at_least(self, x: Any, least: float) -> Any:
        """x, or the least where it is smaller; NaN stays."""
        return self.pick(self.less(x, least), self.reals(least), x)

    def total(self, values: list[Any]) -> Any:
        """Their sum, in pairs."""
        while len(values) > 1:
            pairs = [self.add(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[len(pairs) * 2 :]
        return values[0]

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
            order = ir.Constant(self.vector(WHOLE), [*range(width, 2 * width), *range(self.width - width)])
            vector = self.builder.fadd(vector, self.builder.shuffle_vector(vector, undefined, order))
        return self.builder.extract_element(vector, ir.Constant(WHOLE, 0))


@contextmanager
def counted(builder: ir.IRBuilder, count: Any) -> Iterator[Any]:
    """A loop: gives the index."""
    with cgutils.for_range(builder, ir.Constant(BYTES, count) if isinstance(count, int) else count) as loop:
        yield loop.index


def prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Asks for a cache line; past the end of a tensor this does nothing."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, WHOLE, WHOLE, WHOLE])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    builder.call(function, [builder.inttoptr(address, pointer), *(ir.Constant(WHOLE, x) for x in (0, 3, 1))])
