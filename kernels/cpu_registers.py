"""Machine code for the sums and the gradient of one tile of labels under softmax, kept in vector registers.

For float32 rows of up to four classes. A plan has code of its own, without what it does not ask for; loops row by row
(cpu_labels) take twice as long, for what they store and load again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastloss.terms import EPSILON, KINDS, POWER_KINDS, Plan

from .cpu_lanes import (
    BYTES,
    LANES,
    MOST,
    ONE,
    REAL,
    WHOLES,
    ZERO,
    Lanes,
    Softmax,
    blocks,
    reals,
    wholes,
)
from .cpu_math import INNER, no_inline
from .cpu_memory import address, class_row, class_rows, label_row, load_row, row, store_row, stream_fence
from .cpu_powers import FOCAL, LOG_POWER, MISS, NORMAL
from .cpu_threads import ENTRY_ARGUMENTS, call_entry, machine_code
from .cpu_tile import (
    ALL,
    CE_NEG,
    CE_POS,
    COUNT,
    EMPTY,
    FIRST_FREE,
    LABELS,
    MAPPED,
    NLL_NEG,
    NLL_POS,
    P2,
    P2Y,
    PY,
    SLOTS,
    SOME,
    Y2,
    P,
    U,
    Y,
    load_classes,
    load_weight,
    options_of,
    tile_buffer,
    tile_of,
    walk_of,
)

SUMS, LOSSES, GRADIENT = range(3)  # what a code computes: sums; sums and each voxel's cross-entropy; the gradient
_FOLD = 32  # sums of exponentials of at most MOST whose product still has a logarithm: 4^32 = 2e19
_BITS = 8  # of the number of voxels of a class in a lane: rows have at most LANES * 255 voxels
_MOST_POWER = 4  # that multiplications make up
_DIFFERENTIABLE = (P, PY, P2, P2Y, CE_POS, CE_NEG, NLL_POS, NLL_NEG)


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
    classes: int
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


def serves(plan: Plan, channels: int, dtype: torch.dtype) -> bool:
    """Whether a plan fits the registers."""
    fits = 2 <= channels <= MOST and dtype != torch.float64
    return fits and plan.activation == "softmax" and not plan.dense


def variant(plan: Plan, channels: int, output: int) -> Variant:
    """That of a plan which :func:`serves`."""
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
    return Variant(output, channels, bits, tuple(powers))


@lru_cache(maxsize=1024)
def code_of(v: Variant) -> Any:
    """The code of a variant, compiled or loaded from the disk; its ``address`` is for :func:`call_entry`."""
    emit = _emit_gradient if v.output == GRADIENT else _emit_sums

    @intrinsic
    def emitted(typingctx, arguments):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            a = _Arguments(*cgutils.unpack_tuple(builder, args[0], ENTRY_ARGUMENTS))
            weighted = builder.icmp_signed("!=", a.weighted, ir.Constant(BYTES, 0))
            with builder.if_else(weighted) as (then, otherwise):
                with then:
                    emit(builder, v, True, a)
                with otherwise:
                    emit(builder, v, False, a)
            return context.get_dummy_value()

        return types.void(arguments), codegen

    powers = "_".join(f"{'m' * p.mapped}{p.kind}{'-' if p.complement else '+'}{p.whole}" for p in v.powers)
    name = f"{('sums', 'losses', 'gradient')[v.output]}_{v.classes}_{v.bits:x}_{powers}"
    return machine_code(_run, name, emitted=emitted)


class _Arguments(NamedTuple):
    """Of a code, all int64: addresses, and steps in bytes from class to class."""

    table: Any  # sums (float64) or coefficients, as a pass has them
    logits: Any
    logits_step: Any
    labels: Any
    weights: Any
    voxels: Any
    weighted: Any  # whether a weight is other than 1, or a label no class
    out: Any
    out_step: Any
    reals: Any
    map: Any
    map_step: Any


def emitted(arguments: Any) -> None:
    """What the clones of _run call."""
    raise NotImplementedError


def _run(table, logits, logits_step, labels, weights, voxels, weighted, out, out_step, reals, map, map_step):  # type: ignore[no-untyped-def]
    emitted((table, logits, logits_step, labels, weights, voxels, weighted, out, out_step, reals, map, map_step))
    return 0


# The values and slopes of one block of voxels


class _Block:
    """What a pass needs of a block of voxels; of each class where it is a list."""

    def __init__(self, lanes: Lanes, v: Variant, a: _Arguments, offset: Any, weighted: bool):
        b = self.builder = lanes.builder
        self.lanes, self.v, self.reals = lanes, v, a.reals
        self.weight = lanes.load(a.weights, offset) if weighted else None
        self.soft = Softmax(lanes, v.classes, a.logits, a.logits_step, offset, self.weight)
        self.label = lanes.load(a.labels, offset, WHOLES)
        self.mine = [b.icmp_signed("==", self.label, wholes(c)) for c in range(v.classes)]
        self.p = [lanes.mul(e, self.soft.r) for e in self.soft.e]
        if v.complement:
            self.q = [lanes.mul(self._without(self.soft.e, c), self.soft.r) for c in range(v.classes)]
            clamped = [lanes.pick(b.fcmp_ordered("<", q, reals(EPSILON)), reals(EPSILON), q) for q in self.q]
            self.m = [b.fsub(ZERO, lanes.log(q)) for q in clamped]
            self.inverse_q = [
                lanes.pick(b.fcmp_ordered(">", q, reals(EPSILON)), b.fdiv(ONE, x), ZERO)
                for q, x in zip(self.q, clamped, strict=True)
            ]
        self.map, self.mapped_weight = self._load_map(a, offset) if v.mapped else ([], [])
        self.logarithm: Any = None
        if v.own:
            self.own_p = lanes.choose(self.mine, self.p)
            others = [lanes.pick(mine, ZERO, e) for mine, e in zip(self.mine, self.soft.e, strict=True)]
            self.own_q = lanes.mul(lanes.total(others), self.soft.r)
            self.own_l = lanes.choose(self.mine, [self.negative_log(c) for c in range(v.classes)])

    def _load_map(self, a: _Arguments, offset: Any) -> tuple[list[Any], list[Any]]:
        """The voxel weight map of each class, and the weight of a voxel under it."""
        b, lanes = self.builder, self.lanes
        steps = [b.mul(a.map_step, ir.Constant(BYTES, c)) for c in range(self.v.classes)]
        values = [lanes.load(b.add(a.map, step), offset) for step in steps]
        if self.weight is not None:  # anything may stand where the weight is 0
            counted = b.fcmp_unordered("!=", self.weight, ZERO)
            values = [lanes.pick(counted, value) for value in values]
        return values, [self.weigh(value) for value in values]

    def _without(self, values: list[Any], c: int) -> Any:
        return self.lanes.total([x for k, x in enumerate(values) if k != c])

    def others_total(self, values: list[Any]) -> list[Any]:
        """For each class the sum over the other classes, uncancelled."""
        return [self._without(values, c) for c in range(len(values))]

    def negative_log(self, c: int) -> Any:
        """-log p of a class."""
        if self.logarithm is None:
            self.logarithm = self.lanes.log(self.soft.total)
        return self.builder.fsub(self.logarithm, self.soft.below[c])

    def square(self, c: int) -> Any:
        return self.builder.fmul(self.p[c], self.p[c])

    def weigh(self, value: Any, c: int = 0, mapped: bool = False) -> Any:
        weight = self.mapped_weight[c] if mapped else self.weight
        return value if weight is None else self.builder.fmul(value, weight)

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


# Sums


class _Sums:
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


def _emit_sums(builder: ir.IRBuilder, v: Variant, weighted: bool, a: _Arguments) -> None:
    lanes, classes = Lanes(builder), range(v.classes)
    kept = _Sums(lanes)
    mapped = [MAPPED + column for column in (*_DIFFERENTIABLE, COUNT, Y, Y2)]
    columns = [column for column in (*_DIFFERENTIABLE, *mapped) if v.asks(column)]
    columns += [SLOTS + j for j in range(len(v.powers))]
    trues = [column for column in (Y, Y2) if v.asks(column)]
    # Instead of a logarithm a voxel
    products = v.asks(CE_POS) and not (weighted or v.own or v.asks(NLL_POS))
    for c in classes:
        for column in (*columns, Y):
            kept.start((column, c), ZERO)
        kept.start(("product", c), ONE)
    kept.start("voxels", wholes(0))  # of each class: _BITS of every lane
    kept.start("weight", ZERO)

    def take_logarithms() -> None:
        for c in classes:
            kept.add((CE_POS, c), lanes.log(kept.get(("product", c))))
            kept.put(("product", c), ONE)

    with blocks(builder, a.voxels) as (number, offset):
        block = _Block(lanes, v, a, offset, weighted)
        if weighted:
            kept.add("weight", block.weight)
        elif trues:
            shift = builder.mul(block.label, wholes(_BITS))
            kept.put("voxels", builder.add(kept.get("voxels"), builder.shl(wholes(1), shift)))
        for c, mine in enumerate(block.mine):
            if weighted and trues:
                kept.add((Y, c), lanes.pick(mine, block.weight))
            _add_shares(kept, v, block, c, False)
            if v.mapped:
                _add_shares(kept, v, block, c, True)
            if products:
                kept.put((CE_POS, c), builder.fsub(kept.get((CE_POS, c)), lanes.pick(mine, block.soft.below[c])))
                factor = lanes.pick(mine, block.soft.total, ONE)
                kept.put(("product", c), builder.fmul(kept.get(("product", c)), factor))
            elif v.asks(CE_POS):
                kept.add((CE_POS, c), lanes.pick(mine, block.weigh(block.negative_log(c))))
        if products:
            last = builder.and_(number, ir.Constant(number.type, _FOLD - 1))
            with builder.if_then(builder.icmp_unsigned("==", last, ir.Constant(number.type, _FOLD - 1)), False):
                take_logarithms()
        _add_powers(kept, v, block)
        if v.output == LOSSES:
            _store_losses(block, a, offset)
    if products:
        take_logarithms()
    table = _Table(lanes, v, a)
    count = lanes.over_lanes(kept.get("weight")) if weighted else builder.sitofp(a.voxels, REAL)
    for c in classes:
        if trues and not weighted:
            voxels = builder.and_(builder.lshr(kept.get("voxels"), wholes(_BITS * c)), wholes(2**_BITS - 1))
            kept.put((Y, c), builder.sitofp(voxels, kept.get((Y, c)).type))
        for column in columns:
            table.add(c, column, lanes.over_lanes(kept.get((column, c))))
        for column in trues:
            table.add(c, column, lanes.over_lanes(kept.get((Y, c))))
        if v.asks(COUNT):
            table.add(c, COUNT, count)


def _add_shares(kept: _Sums, v: Variant, block: _Block, c: int, mapped: bool) -> None:
    """The sums of a class, but for what of a pass without map is cheaper for all classes at once."""
    lanes, mine, first = block.lanes, block.mine[c], MAPPED * mapped

    def everywhere(value: Any) -> Any:
        return value

    def of_label(value: Any) -> Any:
        return lanes.pick(mine, value)

    def of_others(value: Any) -> Any:
        return lanes.pick(mine, ZERO, value)

    def add(column: int, value: Callable[[], Any], share: Callable[[Any], Any] = everywhere) -> None:
        if v.asks(first + column):
            kept.add((first + column, c), share(block.weigh(value(), c, mapped)))

    add(P, lambda: block.p[c])
    add(PY, lambda: block.p[c], of_label)
    add(P2, lambda: block.square(c))
    add(P2Y, lambda: block.square(c), of_label)
    add(NLL_POS, lambda: block.negative_log(c))
    add(CE_NEG, lambda: block.m[c], of_others)
    add(NLL_NEG, lambda: block.m[c])
    if mapped:
        add(CE_POS, lambda: block.negative_log(c), of_label)
        add(COUNT, lambda: ONE)
        add(Y, lambda: ONE, of_label)
        add(Y2, lambda: ONE, of_label)


def _add_powers(kept: _Sums, v: Variant, block: _Block) -> None:
    lanes = block.lanes
    for j, power in enumerate(v.powers):
        own = None if power.complement else block.value(j, block.own_l, block.own_q)
        for c, mine in enumerate(block.mine):
            if own is None:
                other = block.weigh(block.value(j, block.m[c], block.p[c]), c, power.mapped)
                kept.add((SLOTS + j, c), lanes.pick(mine, ZERO, other))
            else:
                kept.add((SLOTS + j, c), lanes.pick(mine, block.weigh(own, c, power.mapped)))


def _store_losses(block: _Block, a: _Arguments, offset: Any) -> None:
    """The weighted cross-entropy, of positive sign (also of NaN, so that bits rank it); -1 where nothing counts."""
    builder, lanes = block.builder, block.lanes
    loss = lanes.absolute(block.weigh(block.own_l))
    if block.weight is not None:
        counted = builder.fcmp_unordered("!=", block.weight, ZERO)
        loss = lanes.pick(counted, loss, reals(-1))
    lanes.store(loss, a.out, offset)


class _Table:
    """The sums or coefficients of a pass."""

    def __init__(self, lanes: Lanes, v: Variant, a: _Arguments):
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


# The gradient


def _emit_gradient(builder: ir.IRBuilder, v: Variant, weighted: bool, a: _Arguments) -> None:
    """With d_c the derivative by p of class c: p_c (d_c - sum over all classes of p d); what has 1 / (1 - p) in it goes
    apart, as f_c (1 - p_c) - p_c (sum over the other classes of f), f = p d; -log p adds h (p_c - y_c)."""
    lanes, classes = Lanes(builder), range(v.classes)
    table = _Table(lanes, v, a)
    wanted = [first + column for first in (0, MAPPED) for column in _DIFFERENTIABLE]
    partners = {P: PY, PY: P, P2: P2Y, P2Y: P2}  # the coefficient where y is 1 is the sum of both
    asked = [i for i in wanted if v.asks(i, i - i % MAPPED + partners.get(i % MAPPED, i % MAPPED))]
    given = {i: table.coefficients(v, i) for i in [*asked, *(SLOTS + j for j in range(len(v.powers)))]}
    with blocks(builder, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        k = _under_map(v, block, given)
        slopes = [_slope(v, block, k, c) for c in classes]
        own = _own_slope(v, block, k)
        level = lanes.total(own) if own else ZERO
        if v.powers and own:
            level = own[0]
            own = [lanes.pick(mine, level) for mine in block.mine]
        for g in k.get(NLL_POS, ()):
            level = lanes.add(level, g)
        if slopes[0] is not None:
            dots = [lanes.mul(e, slope) for e, slope in zip(block.soft.e, slopes, strict=True)]
            level = lanes.sub(level, lanes.mul(block.soft.r, lanes.total(dots)))
        flows = _flows(v, block, k)
        others = block.others_total(flows) if flows else []
        for c in classes:
            factor = level if slopes[c] is None else lanes.add(slopes[c], level)
            if flows:
                factor = lanes.sub(factor, others[c])
            value = lanes.mul(block.p[c], factor)
            if flows:
                value = lanes.add(value, lanes.mul(flows[c], block.q[c]))
            if own:
                value = lanes.sub(value, own[c])
            if NLL_POS in k:
                value = lanes.sub(value, k[NLL_POS][c])
            lanes.store(block.weigh(value), builder.add(a.out, builder.mul(a.out_step, ir.Constant(BYTES, c))), offset)


Coefficients = dict[int, list[Any]]


def _under_map(v: Variant, block: _Block, given: Coefficients) -> Coefficients:
    """The coefficients of each class, with those of the terms under the voxel weight map of a block."""
    if not v.mapped:
        return given
    b = block.builder
    k = {i: values for i, values in given.items() if i < MAPPED or i >= SLOTS}
    for i, values in given.items():
        if MAPPED <= i < SLOTS or (i >= SLOTS and v.powers[i - SLOTS].mapped):
            scaled = [b.fmul(x, y) for x, y in zip(values, block.map, strict=True)]
            plain = k.get(i - MAPPED) if i < SLOTS else None
            k[i if i >= SLOTS else i - MAPPED] = (
                [b.fadd(x, y) for x, y in zip(plain, scaled, strict=True)] if plain else scaled
            )
    return k


def _slope(v: Variant, block: _Block, k: Coefficients, c: int) -> Any:
    """The derivative by p of a class, without what has 1 / (1 - p) in it; None if there is none."""
    lanes, mine, parts = block.lanes, block.mine[c], []
    if P in k:
        parts.append(lanes.pick(mine, k[PY][c], k[P][c]))
    if P2 in k:
        half = lanes.mul(lanes.pick(mine, k[P2Y][c], k[P2][c]), block.p[c])
        parts.append(lanes.add(half, half))
    for j, power in enumerate(v.powers):
        if power.complement and (by_p := block.slopes(j, block.m[c], block.p[c])[1]) is not None:
            parts.append(lanes.mul(lanes.pick(mine, ZERO, k[SLOTS + j][c]), by_p))
    return lanes.total(parts) if parts else None


def _own_slope(v: Variant, block: _Block, k: Coefficients) -> list[Any]:
    """The derivative by -log p of the voxel's own class: where it is, for each class; with terms that have a power,
    once."""
    lanes = block.lanes
    cross_entropy = k.get(CE_POS, [])
    if not any(not power.complement for power in v.powers):
        return [lanes.pick(mine, g) for mine, g in zip(block.mine, cross_entropy, strict=True)] if cross_entropy else []
    parts = [lanes.choose(block.mine, cross_entropy)] if cross_entropy else []
    for j, power in enumerate(v.powers):
        if not power.complement:
            by_l, by_q = block.slopes(j, block.own_l, block.own_q)
            both = [by_l] if by_l is not None else []
            both += [lanes.mul(by_q, block.own_p)] if by_q is not None else []  # d(1-p)/dl = p
            if both:
                parts.append(lanes.mul(lanes.choose(block.mine, k[SLOTS + j]), lanes.total(both)))
    return [lanes.total(parts)] if parts else []


def _flows(v: Variant, block: _Block, k: Coefficients) -> list[Any]:
    """p d for what has 1 / (1 - p) in it, of each class; empty if there is none."""
    lanes, flows = block.lanes, []
    for c, mine in enumerate(block.mine):
        parts = [lanes.pick(mine, ZERO, k[CE_NEG][c])] if CE_NEG in k else []
        parts += [k[NLL_NEG][c]] if NLL_NEG in k else []
        for j, power in enumerate(v.powers):
            if power.complement and (by_m := block.slopes(j, block.m[c], block.p[c])[0]) is not None:
                parts.append(lanes.mul(lanes.pick(mine, ZERO, k[SLOTS + j][c]), by_m))
        if not parts:
            return []
        flows.append(lanes.mul(lanes.mul(block.p[c], lanes.total(parts)), block.inverse_q[c]))
    return flows


# The pass over a chunk

_Z = FIRST_FREE  # rows of logits, then of results, then of the map
_fast = njit(**INNER)


@_fast
def _pad(t, n):
    """Voxels without weight, up to whole vectors."""
    no_inline()
    u, labels = row(t, U), label_row(t, LABELS)
    for i in range(n, t.n):
        u[i] = 0
        labels[i] = 0


@_fast
def chunk_in_registers(table, walks, numbers, b, start, stop, tile, reals):
    """Runs the plan's code over voxels start to stop of sample b; returns the bad labels seen."""
    no_inline()
    o, classes, bad_labels = options_of(numbers), table.shape[0], 0
    logits, target, mask, out = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 4)
    weight_map = walk_of(walks, 3)
    outputs = 0 if out.code < 0 else 1 if out.channel == 0 else classes  # losses have one channel
    buffer = tile_buffer(_Z + 3 * classes, tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad_labels += state[1]
        if state[0] == EMPTY and outputs == 0:
            continue
        whole = t.n % LANES == 0
        # the code looks at no logit without weight
        z = load_classes(t, _Z, classes, logits, b, v, ALL if whole else SOME)
        padded = tile_of(buffer, (t.n + LANES - 1) // LANES * LANES, reals)
        _pad(padded, t.n)
        results = class_rows(t, _Z + classes, out, b, v, whole)
        m = class_rows(t, _Z + 2 * classes, weight_map, b, v, whole)
        if weight_map.code >= 0 and not m.in_place:
            for c in range(classes):
                load_row(class_row(t, m, c), weight_map, b, c, v)
        arguments = (
            np.int64(table.ctypes.data),
            z.address,
            z.step,
            address(t, LABELS),
            address(t, U),
            np.int64(padded.n),
            np.int64(mask.code >= 0 or state[0] != ALL or state[1] != 0 or not whole),
            results.address,
            results.step,
            np.int64(reals.ctypes.data),
            m.address,
            m.step,
        )
        call_entry(o.code, arguments)
        if not results.in_place:
            for c in range(outputs):
                store_row(class_row(t, results, c), out, b, c, v)
    if out.streamed:
        stream_fence()
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live
