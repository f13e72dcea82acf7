"""What the machine codes of cpu_registers and cpu_channels have in common: how they differ from plan to plan, their
arguments, terms with a power, sums and tables; all as LLVM code on vectors of voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastloss.terms import EPSILON, KINDS, POWER_KINDS, Plan

from .lanes import BYTES, REAL, Lanes
from .powers import FOCAL, LOG_POWER, MISS, NORMAL
from .threads import ENTRY_ARGUMENTS, machine_code
from .tile import CE_NEG, CE_POS, COUNT, MAPPED, NLL_NEG, NLL_POS, P2, P2Y, PY, SLOTS, UNCOUNTED, Y2, P, Y

# What a code computes: sums; sums and each voxel's cross-entropy; the gradient; each voxel's errors
SUMS, LOSSES, GRADIENT, ERRORS = range(4)
_MOST_POWER = 4  # that multiplications make up
DIFFERENTIABLE = (P, PY, P2, P2Y, CE_POS, CE_NEG, NLL_POS, NLL_NEG)


class Power(NamedTuple):
    """A term with a power: its kind without the side, whether of the complement, and the power if it is a small
    whole number; any other is read when the code runs."""

    kind: int
    complement: bool
    whole: int | None
    mapped: bool


class Variant(NamedTuple):
    """What makes one code differ from another."""

    output: int
    activation: str
    dense: bool
    classes: int  # 1 for channels that do not depend on one another
    bits: int  # columns of a pass, those under the voxel weight map included
    powers: tuple[Power, ...]
    logits: str  # "", or the type of less than 32 bits that they are read, and their gradient written, as

    def asks(self, *columns: int) -> bool:
        return any(self.bits >> column & 1 for column in columns)

    @property
    def complement(self) -> bool:
        logarithms = self.asks(*(first + column for first in (0, MAPPED) for column in (CE_NEG, NLL_NEG)))
        return logarithms or any(power.complement for power in self.powers)

    @property
    def mapped(self) -> bool:
        return self.bits >> MAPPED != 0 or any(power.mapped for power in self.powers)

    @property
    def own(self) -> bool:
        """Whether p, 1 - p and -log p of the voxel's own class are needed."""
        return self.output in (LOSSES, ERRORS) or any(not power.complement for power in self.powers)


def variant(plan: Plan, classes: int, output: int, logits: str) -> Variant:
    """Of a plan."""
    bits, powers = 0, []
    for term in plan.terms if output != ERRORS else ():
        if term.kind in KINDS:
            bits |= 1 << KINDS.index(term.kind) + MAPPED * term.mapped
        else:
            kind, whole = POWER_KINDS.index(term.kind), term.power in range(_MOST_POWER + 1)
            powers.append(Power(kind // 2, kind % 2 != 0, int(term.power) if whole else None, term.mapped))
    if output == GRADIENT:
        of_target = 1 << Y | 1 << Y2 | 1 << COUNT
        bits &= ~(of_target | of_target << MAPPED)
    return Variant(output, plan.activation, plan.dense, classes, bits, tuple(powers), logits)


class Arguments(NamedTuple):
    """Of a code, all int64: addresses, and steps in bytes from class to class; of single channels the first step is
    the label and the second the number of the channel."""

    table: Any  # sums (float64) or coefficients, as a pass has them
    logits: Any
    logits_step: Any
    target: Any
    weights: Any
    voxels: Any
    weighted: Any  # whether a weight is other than 1, or a label no class
    out: Any
    out_step: Any
    reals: Any
    map: Any
    map_step: Any


Emit = Callable[[ir.IRBuilder, Variant, bool, Arguments], None]
Coefficients = dict[int, list[Any]]  # by column, of each class


def code_address(plan: Plan, classes: int, output: int, logits: str, emitters: dict[int, Emit]) -> int:
    """Of a plan's code for an output, written by that output's emitter."""
    address: int = _code(variant(plan, classes, output, logits), emitters[output]).address
    return address


@cache  # for good: others keep nothing but the address
def _code(v: Variant, emit: Emit) -> Any:
    """The code of a variant, compiled or loaded from the disk; its ``address`` is for :func:`call_entry`."""

    @intrinsic
    def emitted(typingctx, arguments):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            a = Arguments(*cgutils.unpack_tuple(builder, args[0], ENTRY_ARGUMENTS))
            weighted = builder.icmp_signed("!=", a.weighted, ir.Constant(BYTES, 0))
            with builder.if_else(weighted) as (then, otherwise):
                with then:
                    emit(builder, v, True, a)
                with otherwise:
                    emit(builder, v, False, a)
            return context.get_dummy_value()

        return types.void(arguments), codegen

    powers = (f"{'m' * p.mapped}{p.kind}{'-' if p.complement else '+'}{p.whole}" for p in v.powers)
    target, output = "dense" if v.dense else "labels", ("sums", "losses", "gradient", "errors")[v.output]
    logits = (v.logits,) if v.logits else ()
    name = "_".join((output, v.activation, target, str(v.classes), f"{v.bits:x}", *powers, *logits))
    return machine_code(_run, name, emitted=emitted)


def emitted(arguments: Any) -> None:
    """What the clones of _run call."""
    raise NotImplementedError


def _run(table, logits, logits_step, target, weights, voxels, weighted, out, out_step, reals, map, map_step):  # type: ignore[no-untyped-def]
    emitted((table, logits, logits_step, target, weights, voxels, weighted, out, out_step, reals, map, map_step))
    return 0


class Powers:
    """The terms with a power of a block of voxels."""

    def __init__(self, lanes: Lanes, v: Variant, reals: Any):
        self.builder, self.lanes, self.v, self.reals = lanes.builder, lanes, v, reals

    def _raise(self, x: Any, j: int, less: int = 0) -> Any:
        """x to the j-th power less a whole number, for x >= 0."""
        whole = self.v.powers[j].whole
        if whole is not None and whole >= less:
            return self.lanes.whole_power(x, whole - less)
        too_small = self.builder.fcmp_ordered("<", x, self.lanes.reals(NORMAL))
        return self.lanes.pick(
            too_small, self.lanes.zero, self.lanes.power(self.lanes.at_least(x, NORMAL), self._exponent(j, less))
        )

    def _exponent(self, j: int, less: int) -> Any:
        g = self.lanes.fill(self.lanes.load(self.reals, ir.Constant(BYTES, 4 * (1 + j)), REAL))
        return self.builder.fsub(g, self.lanes.reals(less)) if less else g

    def value(self, j: int, l: Any, q: Any) -> Any:
        """The j-th term with a power without its target: q^g l, max(l, epsilon)^g or q^g."""
        kind = self.v.powers[j].kind
        if kind == LOG_POWER:
            return self._raise(self.lanes.at_least(l, EPSILON), j)
        return self.builder.fmul(self._raise(q, j), l) if kind == FOCAL else self._raise(q, j)

    def slopes(self, j: int, l: Any, q: Any) -> tuple[Any, Any]:
        """The slopes of the same by l and by q; None where there is none."""
        b, lanes, (kind, _, whole, _) = self.builder, self.lanes, self.v.powers[j]
        g = self.lanes.reals(whole) if whole is not None else self._exponent(j, 0)
        if kind == MISS:
            return None, b.fmul(g, self._raise(q, j, 1))
        if kind == LOG_POWER:
            if whole == 0:
                return None, None
            slope = b.fmul(g, self._raise(lanes.at_least(l, EPSILON), j, 1))
            return lanes.pick(b.fcmp_ordered("<", l, self.lanes.reals(EPSILON)), self.lanes.zero, slope), None
        by_l = self._raise(q, j)
        if whole is not None:
            return by_l, b.fmul(b.fmul(g, self._raise(q, j, 1)), l) if whole else None
        tiny = b.fcmp_ordered("<", q, self.lanes.reals(NORMAL))  # l / q tends to 1 as q vanishes
        ratio = lanes.pick(tiny, self.lanes.one, b.fdiv(l, lanes.pick(tiny, self.lanes.one, q)))
        return by_l, b.fmul(b.fmul(g, by_l), ratio)


class Block:
    """What the passes need alike of a block of voxels."""

    def __init__(self, lanes: Lanes, v: Variant, a: Arguments, offset: Any, weighted: bool):
        self.builder, self.lanes, self.v, self.powers = lanes.builder, lanes, v, Powers(lanes, v, a.reals)
        self.arguments, self.offset = a, offset
        self.logits_offset = self.builder.lshr(offset, ir.Constant(BYTES, 1)) if v.logits else offset
        self.weight = lanes.load(a.weights, offset) if weighted else None
        self.counted = self.builder.fcmp_unordered("!=", self.weight, self.lanes.zero) if weighted else None
        steps = [self.builder.mul(a.map_step, ir.Constant(BYTES, c)) for c in range(v.classes)] if v.mapped else []
        self.map = [self.load(self.builder.add(a.map, step)) for step in steps]  # of each class
        self.mapped_weight = [self.weigh(value) for value in self.map]

    def load(self, address: Any) -> Any:
        """Of a row of reals."""
        return self.known(self.lanes.load(address, self.offset))

    def known(self, value: Any) -> Any:
        """0 where the weight is 0: anything may stand there."""
        return value if self.counted is None else self.lanes.pick(self.counted, value)

    def weigh(self, value: Any, c: int = 0, mapped: bool = False) -> Any:
        """The value times the voxel weight, under the map of a class too."""
        weight = self.mapped_weight[c] if mapped else self.weight
        return value if weight is None else self.builder.fmul(value, weight)

    def clamped_log(self, x: Any) -> tuple[Any, Any]:
        """-log(max(x, epsilon)), and 1 / x, or 0 where x is clamped."""
        b, lanes = self.builder, self.lanes
        clamped = lanes.at_least(x, EPSILON)
        inverse = lanes.pick(b.fcmp_ordered(">", x, lanes.reals(EPSILON)), b.fdiv(lanes.one, clamped))
        return b.fsub(lanes.zero, lanes.log(clamped)), inverse

    def own_slopes(self, coefficient: Callable[[int], Any], l: Any, q: Any, p: Any) -> list[Any]:
        """Of the terms with a power and with the label's class, the derivative by its -log p, times a coefficient."""
        lanes, found = self.lanes, []
        for j, power in enumerate(self.v.powers):
            if not power.complement:
                by_l, by_q = self.powers.slopes(j, l, q)
                parts = [by_l] if by_l is not None else []
                parts += [lanes.mul(by_q, p)] if by_q is not None else []  # d(1-p)/dl = p
                if parts:
                    found.append(lanes.mul(coefficient(j), lanes.total(parts)))
        return found

    def under_map(self, given: Coefficients) -> Coefficients:
        """The coefficients of each class, with those of the terms under the map."""
        if not self.v.mapped:
            return given
        b = self.builder
        k = {i: values for i, values in given.items() if i < MAPPED or i >= SLOTS}
        for i, values in given.items():
            if MAPPED <= i < SLOTS or (i >= SLOTS and self.v.powers[i - SLOTS].mapped):
                scaled = [b.fmul(x, y) for x, y in zip(values, self.map, strict=True)]
                plain = k.get(i - MAPPED) if i < SLOTS else None
                k[i if i >= SLOTS else i - MAPPED] = (
                    [b.fadd(x, y) for x, y in zip(plain, scaled, strict=True)] if plain else scaled
                )
        return k

    def store_gradient(self, value: Any, address: Any) -> None:
        self.lanes.store_gradient(value, address, self.logits_offset, self.v.logits)

    def store_loss(self, loss: Any) -> None:
        """The weighted cross-entropy, of positive sign (also of NaN, so that bits rank it); -1 where nothing counts."""
        loss = self.lanes.absolute(self.weigh(loss))
        if self.counted is not None:
            loss = self.lanes.pick(self.counted, loss, self.lanes.reals(-1))
        self.lanes.store(loss, self.arguments.out, self.offset)

    def store_error(self, p: Any, q: Any, true: Any, address: Any) -> None:
        """p, or -(1 - p) where the class is true; the sign tells also of 0 and NaN."""
        b, lanes = self.builder, self.lanes
        negative = b.or_(b.bitcast(q, lanes.of_wholes), lanes.wholes(-(2**31)))
        error = lanes.pick(true, b.bitcast(negative, lanes.of_reals), lanes.absolute(p))
        if self.counted is not None:
            error = lanes.pick(self.counted, error, lanes.reals(float(UNCOUNTED)))
        lanes.store(error, address, self.offset)


class Sums:
    """Accumulators that live through the loop: LLVM keeps them in registers, or next to them."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self.kept = lanes, {}  # type: ignore[var-annotated]

    def start(self, name: Any, value: ir.Constant) -> None:
        self.kept[name] = cgutils.alloca_once_value(self.lanes.builder, value)

    def get(self, name: Any) -> Any:
        return self.lanes.builder.load(self.kept[name])

    def put(self, name: Any, value: Any) -> None:
        self.lanes.builder.store(value, self.kept[name])

    def add(self, name: Any, value: Any) -> None:
        self.put(name, self.lanes.builder.fadd(self.get(name), value))


class Table:
    """The sums or coefficients of a pass."""

    def __init__(self, lanes: Lanes, v: Variant, a: Arguments):
        self.lanes, self.variant, self.address, self.width = lanes, v, a.table, SLOTS + len(v.powers)

    def _place(self, c: Any, column: int, size: int) -> tuple[Any, Any]:
        """Address and offset of a number of a class, which may be known only when the code runs."""
        b = self.lanes.builder
        row = b.mul(ir.Constant(BYTES, c) if isinstance(c, int) else c, ir.Constant(BYTES, size * self.width))
        return self.address, b.add(row, ir.Constant(BYTES, size * column))

    def add(self, c: Any, column: int, *values: Any) -> None:
        """To a class's sum."""
        builder, place, double = self.lanes.builder, self._place(c, column, 8), ir.DoubleType()
        total = self.lanes.load(*place, double)
        for value in values:
            total = builder.fadd(total, builder.fpext(value, double))
        self.lanes.store(total, *place)

    def coefficient(self, c: Any, column: int) -> Any:
        """Of a class, as a scalar."""
        return self.lanes.load(*self._place(c, column, 4), REAL)

    def coefficients(self) -> Coefficients:
        """Those of each class, of all terms that have any; that of p y or p^2 y is the sum with that of p or p^2, so
        that these come in pairs."""
        v, partners = self.variant, {P: PY, PY: P, P2: P2Y, P2Y: P2}
        pairs = [(first, i, partners.get(i, i)) for first in (0, MAPPED) for i in DIFFERENTIABLE]
        wanted = [first + i for first, i, partner in pairs if v.asks(first + i, first + partner)]
        return {i: self._read(i) for i in [*wanted, *(SLOTS + j for j in range(len(v.powers)))]}

    def _read(self, column: int) -> list[Any]:
        return [self.lanes.fill(self.coefficient(c, column)) for c in range(self.variant.classes)]
