"""Machine code for the sums and the gradient of one tile of labels under softmax, kept in vector registers.

For rows of up to four classes; the loop over tiles serves those of cpu_many too. A plan has code of its own, without
what it does not ask for; loops row by row (cpu_labels) take twice as long, for what they store and load again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit

from fastloss.terms import Plan

from . import many
from .lanes import (
    BYTES,
    LANES,
    MOST,
    REAL,
    Lanes,
    Softmax,
    blocks,
)
from .math import INNER, no_inline
from .memory import (
    address,
    class_row,
    class_rows,
    is_half,
    load_own_row,
    load_row,
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
    narrow_labels,
    options_of,
    plain_labels,
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
    Coefficients,
    Sums,
    Table,
    Variant,
    code_address,
    variant,
)

_FOLD = 32  # sums of exponentials of at most MOST whose product still has a logarithm: 4^32 = 2e19
_BITS = 8  # of the number of voxels of a class in a lane: rows have at most VECTOR * 255 voxels


def serves(plan: Plan, channels: int, dtype: torch.dtype) -> bool:
    """Whether a plan has a code of its own."""
    if channels < 2 or dtype == torch.float64 or plan.activation != "softmax" or plan.dense:
        return False
    return channels <= MOST or many.serves(variant(plan, channels, SUMS, ""))


def code(plan: Plan, channels: int, output: int, logits: str) -> int:
    """The address of the code of a plan which :func:`serves`; ``logits``: see :class:`Variant`."""
    return code_address(plan, channels, output, logits, many.EMITTERS if channels > MOST else _EMITTERS)


# The values and slopes of one block of voxels


class _Block(Block):
    """What a pass needs of a block of voxels; of each class where it is a list."""

    def __init__(self, lanes: Lanes, v: Variant, a: Arguments, offset: Any, weighted: bool):
        super().__init__(lanes, v, a, offset, weighted)
        b = self.builder
        self.soft = Softmax(lanes, v.classes, a.logits, a.logits_step, self.logits_offset, self.weight, v.logits)
        self.label = lanes.load_wholes(a.target, offset) if weighted else lanes.load_narrow(a.target, offset)
        self.mine = [b.icmp_signed("==", self.label, lanes.wholes(c)) for c in range(v.classes)]
        self.p = [lanes.mul(e, self.soft.r) for e in self.soft.e]
        if v.complement:
            self.q = [lanes.mul(self._without(self.soft.e, c), self.soft.r) for c in range(v.classes)]
            logarithms = [self.clamped_log(q) for q in self.q]
            self.m, self.inverse_q = ([pair[k] for pair in logarithms] for k in (0, 1))
        self.logarithm: Any = None
        if v.own:
            self.own_p = lanes.choose(self.mine, self.p)
            others = [lanes.pick(mine, lanes.zero, e) for mine, e in zip(self.mine, self.soft.e, strict=True)]
            self.own_q = lanes.mul(lanes.total(others), self.soft.r)
            self.own_l = lanes.choose(self.mine, [self.negative_log(c) for c in range(v.classes)])

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


# Sums


def _emit_sums(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes, classes = Lanes(builder, v.classes), range(v.classes)
    kept = Sums(lanes)
    mapped = [MAPPED + column for column in (*DIFFERENTIABLE, COUNT, Y, Y2)]
    columns = [column for column in (*DIFFERENTIABLE, *mapped) if v.asks(column)]
    columns += [SLOTS + j for j in range(len(v.powers))]
    trues = [column for column in (Y, Y2) if v.asks(column)]
    # Instead of a logarithm a voxel
    products = v.asks(CE_POS) and not (weighted or v.own or v.asks(NLL_POS))
    for c in classes:
        for column in (*columns, Y):
            kept.start((column, c), lanes.zero)
        kept.start(("product", c), lanes.one)
    kept.start("voxels", lanes.wholes(0))  # of each class: _BITS of every lane
    kept.start("weight", lanes.zero)

    def take_logarithms() -> None:
        for c in classes:
            kept.add((CE_POS, c), lanes.log(kept.get(("product", c))))
            kept.put(("product", c), lanes.one)

    with blocks(lanes, a.voxels) as (number, offset):
        block = _Block(lanes, v, a, offset, weighted)
        if weighted:
            kept.add("weight", block.weight)
        elif trues:
            shift = builder.mul(block.label, lanes.wholes(_BITS))
            kept.put("voxels", builder.add(kept.get("voxels"), builder.shl(lanes.wholes(1), shift)))
        for c, mine in enumerate(block.mine):
            if weighted and trues:
                kept.add((Y, c), lanes.pick(mine, block.weight))
            _add_shares(kept, v, block, c, False)
            if v.mapped:
                _add_shares(kept, v, block, c, True)
            if products:
                kept.put((CE_POS, c), builder.fsub(kept.get((CE_POS, c)), lanes.pick(mine, block.soft.below[c])))
                factor = lanes.pick(mine, block.soft.total, lanes.one)
                kept.put(("product", c), builder.fmul(kept.get(("product", c)), factor))
            elif v.asks(CE_POS):
                kept.add((CE_POS, c), lanes.pick(mine, block.weigh(block.negative_log(c))))
        if products:
            last = builder.and_(number, ir.Constant(number.type, _FOLD - 1))
            with builder.if_then(builder.icmp_unsigned("==", last, ir.Constant(number.type, _FOLD - 1)), False):
                take_logarithms()
        _add_powers(kept, v, block)
        if v.output == LOSSES:
            block.store_loss(block.own_l)
    if products:
        take_logarithms()
    table = Table(lanes, v, a)
    count = lanes.over_lanes(kept.get("weight")) if weighted else builder.sitofp(a.voxels, REAL)
    for c in classes:
        if trues and not weighted:
            voxels = builder.and_(builder.lshr(kept.get("voxels"), lanes.wholes(_BITS * c)), lanes.wholes(2**_BITS - 1))
            kept.put((Y, c), builder.sitofp(voxels, kept.get((Y, c)).type))
        for column in columns:
            table.add(c, column, lanes.over_lanes(kept.get((column, c))))
        for column in trues:
            table.add(c, column, lanes.over_lanes(kept.get((Y, c))))
        if v.asks(COUNT):
            table.add(c, COUNT, count)


def _add_shares(kept: Sums, v: Variant, block: _Block, c: int, mapped: bool) -> None:
    """The sums of a class, but for what of a pass without map is cheaper for all classes at once."""
    lanes, mine, first = block.lanes, block.mine[c], MAPPED * mapped

    def everywhere(value: Any) -> Any:
        return value

    def of_label(value: Any) -> Any:
        return lanes.pick(mine, value)

    def of_others(value: Any) -> Any:
        return lanes.pick(mine, lanes.zero, value)

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
        add(COUNT, lambda: lanes.one)
        add(Y, lambda: lanes.one, of_label)
        add(Y2, lambda: lanes.one, of_label)


def _add_powers(kept: Sums, v: Variant, block: _Block) -> None:
    lanes = block.lanes
    for j, power in enumerate(v.powers):
        own = None if power.complement else block.powers.value(j, block.own_l, block.own_q)
        for c, mine in enumerate(block.mine):
            if own is None:
                other = block.weigh(block.powers.value(j, block.m[c], block.p[c]), c, power.mapped)
                kept.add((SLOTS + j, c), lanes.pick(mine, lanes.zero, other))
            else:
                kept.add((SLOTS + j, c), lanes.pick(mine, block.weigh(own, c, power.mapped)))


# The gradient


def _emit_gradient(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    """With d_c the derivative by p of class c: p_c (d_c - sum over all classes of p d); what has 1 / (1 - p) in it goes
    apart, as f_c (1 - p_c) - p_c (sum over the other classes of f), f = p d; -log p adds h (p_c - y_c)."""
    lanes, classes = Lanes(builder, v.classes), range(v.classes)
    given = Table(lanes, v, a).coefficients()
    with blocks(lanes, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        k = block.under_map(given)
        slopes = [_slope(v, block, k, c) for c in classes]
        own, level = _own_slopes(v, block, k)
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
            block.store_gradient(block.weigh(value), builder.add(a.out, builder.mul(a.out_step, ir.Constant(BYTES, c))))


def _slope(v: Variant, block: _Block, k: Coefficients, c: int) -> Any:
    """The derivative by p of a class, without what has 1 / (1 - p) in it; None if there is none."""
    lanes, mine, parts = block.lanes, block.mine[c], []
    if P in k:
        parts.append(lanes.pick(mine, k[PY][c], k[P][c]))
    if P2 in k:
        half = lanes.mul(lanes.pick(mine, k[P2Y][c], k[P2][c]), block.p[c])
        parts.append(lanes.add(half, half))
    for j, power in enumerate(v.powers):
        if power.complement and (by_p := block.powers.slopes(j, block.m[c], block.p[c])[1]) is not None:
            parts.append(lanes.mul(lanes.pick(mine, lanes.zero, k[SLOTS + j][c]), by_p))
    return lanes.total(parts) if parts else None


def _own_slopes(v: Variant, block: _Block, k: Coefficients) -> tuple[list[Any], Any]:
    """The derivative by -log p of the voxel's own class: of each class where it is that, and of the voxel; empty and 0
    if there is none."""
    lanes = block.lanes
    cross_entropy = k.get(CE_POS, [])
    if all(power.complement for power in v.powers):
        own = [lanes.pick(mine, g) for mine, g in zip(block.mine, cross_entropy, strict=True)] if cross_entropy else []
        return own, lanes.total(own) if own else lanes.zero
    parts = [lanes.choose(block.mine, cross_entropy)] if cross_entropy else []
    parts += block.own_slopes(lambda j: lanes.choose(block.mine, k[SLOTS + j]), block.own_l, block.own_q, block.own_p)
    level = lanes.total(parts) if parts else lanes.zero
    return [lanes.pick(mine, level) for mine in block.mine], level


def _flows(v: Variant, block: _Block, k: Coefficients) -> list[Any]:
    """p d for what has 1 / (1 - p) in it, of each class; empty if there is none."""
    lanes, flows = block.lanes, []
    for c, mine in enumerate(block.mine):
        parts = [lanes.pick(mine, lanes.zero, k[CE_NEG][c])] if CE_NEG in k else []
        parts += [k[NLL_NEG][c]] if NLL_NEG in k else []
        for j, power in enumerate(v.powers):
            if power.complement and (by_m := block.powers.slopes(j, block.m[c], block.p[c])[0]) is not None:
                parts.append(lanes.mul(lanes.pick(mine, lanes.zero, k[SLOTS + j][c]), by_m))
        if not parts:
            return []
        flows.append(lanes.mul(lanes.mul(block.p[c], lanes.total(parts)), block.inverse_q[c]))
    return flows


# The errors


def _emit_errors(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    lanes = Lanes(builder, v.classes)
    with blocks(lanes, a.voxels) as (_, offset):
        block = _Block(lanes, v, a, offset, weighted)
        for c in range(v.classes):
            address = builder.add(a.out, builder.mul(a.out_step, ir.Constant(BYTES, c)))
            block.store_error(block.p[c], block.own_q, block.mine[c], address)


_EMITTERS = {SUMS: _emit_sums, LOSSES: _emit_sums, GRADIENT: _emit_gradient, ERRORS: _emit_errors}

# The pass over a chunk

_Z = FIRST_FREE  # rows of logits, then of results, then of the map, and one of labels of 8 bits
_fast = njit(**INNER)


@_fast
def chunk_in_registers(table, walks, numbers, b, start, stop, tile, reals):
    """Runs the plan's code over voxels start to stop of sample b; returns the bad labels seen."""
    no_inline()
    o, classes, bad_labels = options_of(numbers), table.shape[0], 0
    logits, target, mask, out = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2), walk_of(walks, 4)
    weight_map = walk_of(walks, 3)
    raw_out = o.halves != 0 and is_half(out)  # losses are not
    outputs = 0 if out.code < 0 else 1 if out.channel == 0 else classes  # losses have one channel
    buffer = tile_buffer(_Z + 3 * classes + 1, tile, reals)
    for v in range(start, stop, tile):
        t = tile_of(buffer, min(tile, stop - v), reals)
        whole = t.n % LANES == 0
        voxels, weighted = t.n, np.int64(0)
        labels = plain_labels(t.n, target, mask, o, numbers, b, v) if whole else np.int64(0)
        if labels == 0:
            state = load_weight(t, target, mask, o, numbers, b, v)
            bad_labels += state[1]
            if state[0] == EMPTY and outputs == 0:
                continue
            voxels, weighted = fill_up(t, mask, state)
            labels = address(t, LABELS) if weighted else narrow_labels(t, _Z + 3 * classes)
        z = own_rows(t, _Z, logits, b, v, whole, o.halves != 0)  # the code looks at no logit without weight
        for c in range(0 if z.in_place else classes):
            load_own_row(t, z.address + c * z.step, logits, b, c, v, o.halves != 0)
        results = own_rows(t, _Z + classes, out, b, v, whole, raw_out)
        m = class_rows(t, _Z + 2 * classes, weight_map, b, v, whole)
        if weight_map.code >= 0 and not m.in_place:
            for c in range(classes):
                load_row(class_row(t, m, c), weight_map, b, c, v)
        arguments = (
            np.int64(table.ctypes.data),
            z.address,
            z.step,
            labels,
            address(t, U),
            voxels,
            weighted,
            results.address,
            results.step,
            np.int64(reals.ctypes.data),
            m.address,
            m.step,
        )
        call_entry(o.code, arguments)
        if not results.in_place:
            for c in range(outputs):
                store_own_row(t, results.address + c * results.step, out, b, c, v, raw_out)
    if out.streamed:
        stream_fence()
    return bad_labels + (0 if buffer.size else 1)  # the last use of the buffer: until here it must live
