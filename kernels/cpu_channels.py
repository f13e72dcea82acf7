"""Machine code for the sums and the gradient of one channel of a tile that does not depend on the others: sigmoid or
probabilities, labels or dense targets, in float32. See cpu_registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit

from fastloss.terms import EPSILON, Plan

from .cpu_lanes import BYTES, LANES, ONE, WHOLE, WHOLES, ZERO, Lanes, blocks, reals
from .cpu_math import INNER, no_inline
from .cpu_memory import address, class_rows, load_row, row, store_row, stream_fence
from .cpu_registers import pad
from .cpu_threads import call_entry
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
    Y2,
    P,
    U,
    Y,
    load_weight,
    options_of,
    tile_buffer,
    tile_of,
    walk_of,
)
from .cpu_variants import (
    DIFFERENTIABLE,
    GRADIENT,
    LOSSES,
    Arguments,
    Powers,
    Sums,
    Table,
    Variant,
    code_of,
    variant,
)


def serves(plan: Plan, channels: int, dtype: torch.dtype, output: int) -> bool:
    """Whether the channels of a plan are computed one by one."""
    if dtype == torch.float64 or plan.activation == "softmax":
        return False
    classes_of_a_voxel = plan.activation == "none" and channels > 1  # which have one cross-entropy
    return output != LOSSES or not classes_of_a_voxel


def code(plan: Plan, output: int) -> int:
    """The address of the code of a plan which :func:`serves`."""
    emit = _emit_gradient if output == GRADIENT else _emit_sums
    found: int = code_of(variant(plan, 1, output), emit).address
    return found


class _Block:
    """What a pass needs of a block of voxels of a channel."""

    def __init__(self, lanes: Lanes, v: Variant, a: Arguments, offset: Any, weighted: bool):
        b = self.builder = lanes.builder
        self.lanes, self.v, self.powers = lanes, v, Powers(lanes, v, a.reals)
        self.weight = lanes.load(a.weights, offset) if weighted else None
        self.counted = b.fcmp_unordered("!=", self.weight, ZERO) if weighted else None
        if v.dense:
            self.y = self._load(a.target, offset)
        else:
            label = lanes.fill(b.trunc(a.logits_step, WHOLE))
            self.y = lanes.pick(b.icmp_signed("==", lanes.load(a.target, offset, WHOLES), label), ONE)
        self.other = b.fsub(ONE, self.y)
        self.map = self._load(a.map, offset) if v.mapped else None
        self.mapped_weight = self.weigh(self.map) if v.mapped else None
        z = self._load(a.logits, offset)
        (self._sigmoid if v.activation == "sigmoid" else self._probability)(z)

    def _load(self, place: Any, offset: Any) -> Any:
        value = self.lanes.load(place, offset)  # anything may stand where the weight is 0
        return value if self.counted is None else self.lanes.pick(self.counted, value)

    def _sigmoid(self, z: Any) -> None:
        b, lanes = self.builder, self.lanes
        minus = b.fsub(reals(-0.0), z)
        e = lanes.exps([b.fsub(reals(-0.0), lanes.absolute(z))])[0]
        large = b.fdiv(ONE, b.fadd(ONE, e))
        small = b.fmul(e, large)
        positive = b.fcmp_ordered(">=", z, ZERO)
        self.p, self.q = lanes.pick(positive, large, small), lanes.pick(positive, small, large)
        tail = lanes.log1p(e)
        self.l = b.fadd(tail, lanes.pick(b.fcmp_ordered(">", z, ZERO), ZERO, minus))
        self.m = b.fadd(tail, lanes.pick(b.fcmp_ordered("<", z, ZERO), ZERO, z))
        self.by_p, self.by_l, self.by_m = b.fmul(self.p, self.q), b.fsub(ZERO, self.q), self.p

    def _probability(self, z: Any) -> None:
        b, lanes = self.builder, self.lanes
        self.p, self.q = z, b.fsub(ONE, z)
        clamped = [lanes.pick(b.fcmp_ordered("<", x, reals(EPSILON)), reals(EPSILON), x) for x in (self.p, self.q)]
        self.l, self.m = (b.fsub(ZERO, lanes.log(x)) for x in clamped)
        inside = [b.fcmp_ordered(">", x, reals(EPSILON)) for x in (self.p, self.q)]
        by_log = [lanes.pick(i, b.fdiv(ONE, x)) for i, x in zip(inside, clamped, strict=True)]
        self.by_p, self.by_l, self.by_m = ONE, b.fsub(ZERO, by_log[0]), by_log[1]

    def weigh(self, value: Any, mapped: bool = False) -> Any:
        weight = self.mapped_weight if mapped else self.weight
        return value if weight is None else self.builder.fmul(value, weight)

    def of_target(self, value: Any, complement: bool = False) -> Any:
        """y or 1 - y times a value, which may be infinite where that is 0."""
        share = self.other if complement else self.y
        return self.lanes.pick(self.builder.fcmp_unordered("!=", share, ZERO), self.builder.fmul(share, value))

    def sides(self, complement: bool) -> tuple[Any, Any]:
        """-log p and 1 - p, or the same of the complement."""
        return (self.m, self.p) if complement else (self.l, self.q)


def _channel_table(builder: ir.IRBuilder, lanes: Lanes, v: Variant, a: Arguments, size: int) -> Table:
    """The row of the channel."""
    step = ir.Constant(BYTES, size * (SLOTS + len(v.powers)))
    return Table(lanes, v, a._replace(table=builder.add(a.table, builder.mul(a.out_step, step))))


def _emit_sums(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes = Lanes(builder)
    kept = Sums(lanes)
    everything = (*DIFFERENTIABLE, COUNT, Y, Y2)
    columns = [first + column for first in (0, MAPPED) for column in everything if v.asks(first + column)]
    columns += [SLOTS + j for j in range(len(v.powers))]
    for column in columns:
        kept.start(column, ZERO)
    with blocks(builder, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        values: dict[int, Callable[[], Any]] = {
            P: lambda: block.p,
            PY: lambda: builder.fmul(block.p, block.y),
            P2: lambda: builder.fmul(block.p, block.p),
            P2Y: lambda: builder.fmul(builder.fmul(block.p, block.p), block.y),
            CE_POS: lambda: block.of_target(block.l),
            CE_NEG: lambda: block.of_target(block.m, True),
            NLL_POS: lambda: block.l,
            NLL_NEG: lambda: block.m,
            COUNT: lambda: ONE,
            Y: lambda: block.y,
            Y2: lambda: builder.fmul(block.y, block.y),
        }
        for column in columns:
            if column < SLOTS:
                kept.add(column, block.weigh(values[column % MAPPED](), column >= MAPPED))
        for j, power in enumerate(v.powers):
            value = block.powers.value(j, *block.sides(power.complement))
            kept.add(SLOTS + j, block.weigh(block.of_target(value, power.complement), power.mapped))
        if v.output == LOSSES:
            loss = builder.fadd(block.of_target(block.l), block.of_target(block.m, True))
            loss = lanes.absolute(block.weigh(loss))
            if block.counted is not None:
                loss = lanes.pick(block.counted, loss, reals(-1))
            lanes.store(loss, a.out, offset)
    table = _channel_table(builder, lanes, v, a, 8)
    for column in columns:
        table.add(0, column, lanes.over_lanes(kept.get(column)))


def _emit_gradient(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes = Lanes(builder)
    table = _channel_table(builder, lanes, v, a, 4)
    k = [table.coefficients(v, column)[0] for column in range(SLOTS + len(v.powers))]
    partners = {PY: P, P: PY, P2Y: P2, P2: P2Y}  # the coefficient where y is 1 is the sum of both
    with blocks(builder, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        parts: list[Any] = []

        def coefficient(column: int) -> Any:
            """Of a term, with that of the same under the map; None for neither."""
            found = [column, MAPPED + column]
            asked = [v.asks(x, x - column + partners.get(column, column)) for x in found]
            plain = k[column] if asked[0] else None
            mapped = builder.fmul(block.map, k[MAPPED + column]) if asked[1] else None
            return builder.fadd(plain, mapped) if plain and mapped else plain or mapped

        def mixed(column: int) -> Any:
            """That of a column where y is 0, of its partner where it is 1; None for neither."""
            other, own = coefficient(column), coefficient(partners[column])
            if other is None:
                return None
            return builder.fadd(builder.fmul(other, block.other), builder.fmul(own, block.y))

        if (by_p := mixed(P)) is not None:
            parts.append(builder.fmul(by_p, block.by_p))
        if (by_p2 := mixed(P2)) is not None:
            twice = builder.fmul(by_p2, builder.fadd(block.p, block.p))
            parts.append(builder.fmul(twice, block.by_p))
        for column, share, slope in (
            (CE_POS, block.y, block.by_l),
            (CE_NEG, block.other, block.by_m),
            (NLL_POS, ONE, block.by_l),
            (NLL_NEG, ONE, block.by_m),
        ):
            if (g := coefficient(column)) is not None:
                parts.append(builder.fmul(builder.fmul(g, share), slope))
        for j, power in enumerate(v.powers):
            g = builder.fmul(k[SLOTS + j], block.map) if power.mapped else k[SLOTS + j]
            parts += [builder.fmul(g, x) for x in _power_slopes(block, j, power.complement)]
        value = lanes.total(parts) if parts else ZERO
        lanes.store(block.weigh(value), a.out, offset)


def _power_slopes(block: _Block, j: int, complement: bool) -> list[Any]:
    """The derivatives of the j-th term with a power by what the activation is differentiated by."""
    b = block.builder
    by_log, by_rest = block.powers.slopes(j, *block.sides(complement))
    slopes = []
    if by_log is not None:
        slopes.append(b.fmul(by_log, block.by_m if complement else block.by_l))
    if by_rest is not None:
        through = b.fmul(by_rest, block.by_p)
        slopes.append(through if complement else b.fsub(ZERO, through))
    return [block.of_target(slope, complement) for slope in slopes]


# The pass over a chunk

_Z, _Y, _OUT, _MAP = range(FIRST_FREE, FIRST_FREE + 4)
_fast = njit(**INNER)


@_fast
def _row_of(t, k, w, b, c, v, whole):
    """The address of a channel's row: in place, or loaded into row k."""
    no_inline()
    place = class_rows(t, k, w, b, v, whole)
    if place.in_place:
        return place.address + c * place.step
    load_row(row(t, k), w, b, c, v)
    return address(t, k)


@_fast
def chunk_by_channels(table, walks, numbers, b, start, stop, tile, reals):
    """Runs the plan's code over voxels start to stop of sample b; returns the bad labels seen."""
    no_inline()
    o, classes, bad_labels = options_of(numbers), table.shape[0], 0
    logits, target, mask, out = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 4)
    weight_map = walk_of(walks, 3)
    buffer = tile_buffer(_MAP + 1, tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad_labels += state[1]
        if state[0] == EMPTY and out.code < 0:
            continue
        whole = t.n % LANES == 0
        padded = tile_of(buffer, (t.n + LANES - 1) // LANES * LANES, reals)
        pad(padded, t.n)
        weighted = np.int64(mask.code >= 0 or state[0] != ALL or state[1] != 0 or not whole)
        for c in range(classes):
            z = _row_of(t, _Z, logits, b, c, v, whole)
            y = _row_of(t, _Y, target, b, c, v, whole) if o.dense else address(t, LABELS)
            m = _row_of(t, _MAP, weight_map, b, c, v, whole) if weight_map.code >= 0 else np.int64(0)
            place = class_rows(t, _OUT, out, b, v, whole)
            result = place.address + c * place.step if place.in_place else address(t, _OUT)
            arguments = (
                np.int64(table.ctypes.data),
                z,
                np.int64(c + o.first_label),
                y,
                address(t, U),
                np.int64(padded.n),
                weighted,
                result,
                np.int64(c),
                np.int64(reals.ctypes.data),
                m,
                np.int64(0),
            )
            call_entry(o.code, arguments)
            if out.code >= 0 and not place.in_place:
                store_row(row(t, _OUT), out, b, c, v)
    if out.streamed:
        stream_fence()
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live
