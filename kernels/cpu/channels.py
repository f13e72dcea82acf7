"""Machine code for the sums and the gradient of one channel of a tile that does not depend on the others: sigmoid or
probabilities, labels or dense targets, in float32. See registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit

from fastloss.terms import Plan

from .lanes import BYTES, LANES, WHOLE, Lanes, blocks
from .math import INNER, no_inline
from .memory import (
    address,
    is_half,
    load_own_row,
    own_rows,
    store_own_row,
    stream_fence,
)
from .threads import call_entry
from .tile import (
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
    fill_up,
    load_weight,
    options_of,
    tile_buffer,
    tile_of,
    walk_of,
)
from .variants import (
    DIFFERENTIABLE,
    ERRORS,
    GRADIENT,
    LOSSES,
    SUMS,
    Arguments,
    Block,
    Sums,
    Table,
    Variant,
    code_address,
)


def serves(plan: Plan, channels: int, dtype: torch.dtype, output: int) -> bool:
    """Whether the channels of a plan are computed one by one."""
    if dtype == torch.float64 or plan.activation == "softmax":
        return False
    classes_of_a_voxel = plan.activation == "none" and channels > 1  # which have one cross-entropy
    return output != LOSSES or not classes_of_a_voxel


def code(plan: Plan, output: int, logits: str) -> int:
    """The address of the code of a plan which :func:`serves`; ``logits``: see :class:`Variant`."""
    return code_address(plan, 1, output, logits, _EMITTERS)


class _Block(Block):
    """What a pass needs of a block of voxels of a channel."""

    def __init__(self, lanes: Lanes, v: Variant, a: Arguments, offset: Any, weighted: bool):
        super().__init__(lanes, v, a, offset, weighted)
        b = self.builder
        if v.dense:
            self.y = self.load(a.target)
        else:
            label = lanes.fill(b.trunc(a.logits_step, WHOLE))
            self.y = lanes.pick(b.icmp_signed("==", lanes.load_wholes(a.target, offset), label), lanes.one)
        self.other = b.fsub(lanes.one, self.y)
        z = self.known(lanes.load_logits(a.logits, self.logits_offset, v.logits))
        (self._sigmoid if v.activation == "sigmoid" else self._probability)(z)

    def _sigmoid(self, z: Any) -> None:
        b, lanes = self.builder, self.lanes
        minus = b.fsub(lanes.reals(-0.0), z)
        e = lanes.exps([b.fsub(lanes.reals(-0.0), lanes.absolute(z))])[0]
        large = b.fdiv(lanes.one, b.fadd(lanes.one, e))
        small = b.fmul(e, large)
        positive = b.fcmp_ordered(">=", z, lanes.zero)
        self.p, self.q = lanes.pick(positive, large, small), lanes.pick(positive, small, large)
        tail = lanes.log1p(e)
        self.l = b.fadd(tail, lanes.pick(b.fcmp_ordered(">", z, lanes.zero), lanes.zero, minus))
        self.m = b.fadd(tail, lanes.pick(b.fcmp_ordered("<", z, lanes.zero), lanes.zero, z))
        self.by_p, self.by_l, self.by_m = b.fmul(self.p, self.q), b.fsub(lanes.zero, self.q), self.p

    def _probability(self, z: Any) -> None:
        b, one = self.builder, self.lanes.one
        self.p, self.q = z, b.fsub(one, z)
        (self.l, inverse_p), (self.m, self.by_m) = self.clamped_log(self.p), self.clamped_log(self.q)
        self.by_p, self.by_l = one, b.fsub(self.lanes.zero, inverse_p)

    def of_target(self, value: Any, complement: bool = False) -> Any:
        """y or 1 - y times a value, which may be infinite where that is 0."""
        b, lanes, share = self.builder, self.lanes, self.other if complement else self.y
        return lanes.pick(b.fcmp_unordered("!=", share, lanes.zero), b.fmul(share, value))

    def sides(self, complement: bool) -> tuple[Any, Any]:
        """-log p and 1 - p, or the same of the complement."""
        return (self.m, self.p) if complement else (self.l, self.q)


def _channel_table(builder: ir.IRBuilder, lanes: Lanes, v: Variant, a: Arguments, size: int) -> Table:
    """The row of the channel."""
    step = ir.Constant(BYTES, size * (SLOTS + len(v.powers)))
    return Table(lanes, v, a._replace(table=builder.add(a.table, builder.mul(a.out_step, step))))


def _emit_sums(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes = Lanes(builder, v.classes)
    kept = Sums(lanes)
    everything = (*DIFFERENTIABLE, COUNT, Y, Y2)
    columns = [first + column for first in (0, MAPPED) for column in everything if v.asks(first + column)]
    columns += [SLOTS + j for j in range(len(v.powers))]
    for column in columns:
        kept.start(column, lanes.zero)
    with blocks(lanes, a.voxels) as (_, offset):
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
            COUNT: lambda: lanes.one,
            Y: lambda: block.y,
            Y2: lambda: builder.fmul(block.y, block.y),
        }
        for column in columns:
            if column < SLOTS:
                kept.add(column, block.weigh(values[column % MAPPED](), mapped=column >= MAPPED))
        for j, power in enumerate(v.powers):
            value = block.powers.value(j, *block.sides(power.complement))
            kept.add(SLOTS + j, block.weigh(block.of_target(value, power.complement), mapped=power.mapped))
        if v.output == LOSSES:
            block.store_loss(builder.fadd(block.of_target(block.l), block.of_target(block.m, True)))
    table = _channel_table(builder, lanes, v, a, 8)
    for column in columns:
        table.add(0, column, lanes.over_lanes(kept.get(column)))


def _emit_gradient(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes = Lanes(builder, v.classes)
    given = _channel_table(builder, lanes, v, a, 4).coefficients()
    with blocks(lanes, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        k = {column: values[0] for column, values in block.under_map(given).items()}
        parts: list[Any] = []

        def mixed(other: int, own: int) -> Any:
            """The coefficient where y is 0, and that where it is 1."""
            return builder.fadd(builder.fmul(k[other], block.other), builder.fmul(k[own], block.y))

        if P in k:
            parts.append(builder.fmul(mixed(P, PY), block.by_p))
        if P2 in k:
            twice = builder.fmul(mixed(P2, P2Y), builder.fadd(block.p, block.p))
            parts.append(builder.fmul(twice, block.by_p))
        for column, share, slope in (
            (CE_POS, block.y, block.by_l),
            (CE_NEG, block.other, block.by_m),
            (NLL_POS, lanes.one, block.by_l),
            (NLL_NEG, lanes.one, block.by_m),
        ):
            if column in k:
                parts.append(builder.fmul(builder.fmul(k[column], share), slope))
        for j, power in enumerate(v.powers):
            parts += [builder.fmul(k[SLOTS + j], x) for x in _power_slopes(block, j, power.complement)]
        value = lanes.total(parts) if parts else lanes.zero
        block.store_gradient(block.weigh(value), a.out)


def _power_slopes(block: _Block, j: int, complement: bool) -> list[Any]:
    """The derivatives of the j-th term with a power by what the activation is differentiated by."""
    b = block.builder
    by_log, by_rest = block.powers.slopes(j, *block.sides(complement))
    slopes = []
    if by_log is not None:
        slopes.append(b.fmul(by_log, block.by_m if complement else block.by_l))
    if by_rest is not None:
        through = b.fmul(by_rest, block.by_p)
        slopes.append(through if complement else b.fsub(block.lanes.zero, through))
    return [block.of_target(slope, complement) for slope in slopes]


# The pass over a chunk

_Z, _Y, _OUT, _MAP = range(FIRST_FREE, FIRST_FREE + 4)
_fast = njit(**INNER)


@_fast
def _row_of(t, k, w, b, c, v, whole, raw):
    """The address of a channel's row: in place, or loaded into row k; ``raw``: see own_rows."""
    no_inline()
    place = own_rows(t, k, w, b, v, whole, raw)
    if place.in_place:
        return place.address + c * place.step
    load_own_row(t, place.address, w, b, c, v, raw)
    return place.address


def _emit_errors(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes = Lanes(builder, v.classes)
    with blocks(lanes, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        block.store_error(block.p, block.q, builder.fcmp_unordered("!=", block.y, lanes.zero), a.out)


_EMITTERS = {SUMS: _emit_sums, LOSSES: _emit_sums, GRADIENT: _emit_gradient, ERRORS: _emit_errors}


@_fast
def chunk_by_channels(table, walks, numbers, b, start, stop, tile, reals):
    """Runs the plan's code over voxels start to stop of sample b; returns the bad labels seen."""
    no_inline()
    o, classes, bad_labels = options_of(numbers), table.shape[0], 0
    logits, target, mask, out = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 4)
    weight_map = walk_of(walks, 3)
    raw_out = o.halves != 0 and is_half(out)  # losses are not
    buffer = tile_buffer(_MAP + 1, tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad_labels += state[1]
        if state[0] == EMPTY and out.code < 0:
            continue
        whole = t.n % LANES == 0
        voxels, weighted = fill_up(t, mask, state)
        for c in range(classes):
            z = _row_of(t, _Z, logits, b, c, v, whole, o.halves != 0)
            y = _row_of(t, _Y, target, b, c, v, whole, False) if o.dense else address(t, LABELS)
            m = _row_of(t, _MAP, weight_map, b, c, v, whole, False) if weight_map.code >= 0 else np.int64(0)
            place = own_rows(t, _OUT, out, b, v, whole, raw_out)
            result = place.address + (c * place.step if place.in_place else 0)
            arguments = (
                np.int64(table.ctypes.data),
                z,
                np.int64(c + o.first_label),
                y,
                address(t, U),
                voxels,
                weighted,
                result,
                np.int64(c),
                np.int64(reals.ctypes.data),
                m,
                np.int64(0),
            )
            call_entry(o.code, arguments)
            if out.code >= 0 and not place.in_place:
                store_own_row(t, result, out, b, c, v, raw_out)
    if out.streamed:
        stream_fence()
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live
