"""What the machine codes of cpu_registers and cpu_channels have in common: how they differ from plan to plan, their
arguments, terms with a power, sums and tables; all as LLVM code on vectors of eight voxels.
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

from .cpu_lanes import BYTES, ONE, REAL, ZERO, Lanes, reals
from .cpu_powers import FOCAL, LOG_POWER, MISS, NORMAL
from .cpu_threads import ENTRY_ARGUMENTS, machine_code
from .cpu_tile import CE_NEG, CE_POS, COUNT, MAPPED, NLL_NEG, NLL_POS, P2, P2Y, PY, SLOTS, Y2, P, Y

SUMS, LOSSES, GRADIENT = range(3)  # what a code computes: sums; sums and each voxel's cross-entropy; the gradient
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
        return self.output == LOSSES or any(not power.complement for power in self.powers)


def variant(plan: Plan, classes: int, output: int) -> Variant:
    """Of a plan."""
    bits, powers = 0, []
    for term in plan.terms:
        if term.kind in KINDS:
            bits |= 1 << KINDS.index(term.kind) + MAPPED * term.mapped
        else:
            kind, whole = POWER_KINDS.index(term.kind), term.power in range(_MOST_POWER + 1)
            powers.append(Power(kind // 2, kind % 2 != 0, int(term.power) if whole else None, term.mapped))
    if output == GRADIENT:
        of_target = 1 << Y | 1 << Y2 | 1 << COUNT
        bits &= ~(of_target | of_target << MAPPED)
    return Variant(output, plan.activation, plan.dense, classes, bits, tuple(powers))


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


@cache  # for good: others keep nothing but the address
def code_of(v: Variant, emit: Emit) -> Any:
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
    target, output = "dense" if v.dense else "labels", ("sums", "losses", "gradient")[v.output]
    name = "_".join((output, v.activation, target, str(v.classes), f"{v.bits:x}", *powers))
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
        too_small = self.builder.fcmp_ordered("<", x, reals(NORMAL))
        return self.lanes.pick(too_small, ZERO, self.lanes.power(self._clamped(x, NORMAL), self._exponent(j, less)))

    def _exponent(self, j: int, less: int) -> Any:
        g = self.lanes.fill(self.lanes.load(self.reals, ir.Constant(BYTES, 4 * (1 + j)), REAL))
        return self.builder.fsub(g, reals(less)) if less else g

    def _clamped(self, x: Any, least: float) -> Any:
        return self.lanes.pick(self.builder.fcmp_ordered("<", x, reals(least)), reals(least), x)

    def value(self, j: int, l: Any, q: Any) -> Any:
        """The j-th term with a power without its target: q^g l, max(l, epsilon)^g or q^g."""
        kind = self.v.powers[j].kind
        if kind == LOG_POWER:
            return self._raise(self._clamped(l, EPSILON), j)
        return self.builder.fmul(self._raise(q, j), l) if kind == FOCAL else self._raise(q, j)

    def slopes(self, j: int, l: Any, q: Any) -> tuple[Any, Any]:
        """The slopes of the same by l and by q; None where there is none."""
        b, lanes, (kind, _, whole, _) = self.builder, self.lanes, self.v.powers[j]
        g = reals(whole) if whole is not None else self._exponent(j, 0)
        if kind == MISS:
            return None, b.fmul(g, self._raise(q, j, 1))
        if kind == LOG_POWER:
            if whole == 0:
                return None, None
            slope = b.fmul(g, self._raise(self._clamped(l, EPSILON), j, 1))
            return lanes.pick(b.fcmp_ordered("<", l, reals(EPSILON)), ZERO, slope), None
        by_l = self._raise(q, j)
        if whole is not None:
            return by_l, b.fmul(b.fmul(g, self._raise(q, j, 1)), l) if whole else None
        tiny = b.fcmp_ordered("<", q, reals(NORMAL))  # l / q tends to 1 as q vanishes
        ratio = lanes.pick(tiny, ONE, b.fdiv(l, lanes.pick(tiny, ONE, q)))
        return by_l, b.fmul(b.fmul(g, by_l), ratio)


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
        self.lanes, self.address, self.width = lanes, a.table, SLOTS + len(v.powers)

    def _offset(self, c: int, column: int, size: int) -> ir.Constant:
        return ir.Constant(BYTES, size * (c * self.width + column))

    def add(self, c: int, column: int, value: Any) -> None:
        builder, place = self.lanes.builder, (self.address, self._offset(c, column, 8))
        double = ir.DoubleType()
        total = builder.fadd(self.lanes.load(*place, double), builder.fpext(value, double))
        self.lanes.store(total, *place)

    def coefficients(self, v: Variant, column: int) -> list[Any]:
        offsets = [self._offset(c, column, 4) for c in range(v.classes)]
        return [self.lanes.fill(self.lanes.load(self.address, offset, REAL)) for offset in offsets]
