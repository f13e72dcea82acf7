"""Machine code as in cpu_registers, for more classes than fit the registers.

A block of voxels goes through its classes in loops: their logits, which are copied together; their exponentials; and
what a class adds to its sums, or its gradient. What only the label's class has is picked out in such loops too, or of
many classes gathered and scattered voxel by voxel, which takes as long however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .lanes import BYTES, MOST, REAL, WHOLE, Lanes, blocks
from .tile import CE_POS, COUNT, P2, P2Y, PY, SLOTS, Y2, P, Y
from .variants import ERRORS, GRADIENT, LOSSES, SUMS, Arguments, Block, Sums, Table, Variant

CLASSES = 256  # the most: a label fits 8 bits, and what the functions keep of a block their stack
_PICKED = 8  # the most classes among which what the label's has is picked out
_CHAINS = 4  # tables that neighbouring voxels are scattered to: one would wait for the addition before
_SERVED = (P, PY, P2, P2Y, CE_POS, COUNT, Y, Y2)


def serves(v: Variant) -> bool:
    """Whether it has the code of a variant."""
    plain = v.bits == sum(1 << column for column in _SERVED if v.asks(column))
    return MOST < v.classes <= CLASSES and plain and not v.complement and not v.mapped


class _Memory:
    """Rows of numbers of 32 bits in the function's own memory, not cleared."""

    def __init__(self, lanes: Lanes, rows: int, columns: int):
        self.lanes, self.builder, self.rows, self.columns = lanes, lanes.builder, rows, columns
        with self.builder.goto_entry_block():  # cgutils would clear it by a store of all, which LLVM takes apart
            array = self.builder.alloca(ir.ArrayType(WHOLE, rows * columns))
        array.align = 64
        self._array = array
        self.address = self.builder.ptrtoint(array, BYTES)

    def clear(self) -> None:
        cgutils.memset(self.builder, self._array, ir.Constant(BYTES, 4 * self.rows * self.columns), 0)

    def place(self, row: Any, column: Any = 0) -> Any:
        """In bytes from the address."""
        b = self.builder
        row, column = (ir.Constant(BYTES, x) if isinstance(x, int) else x for x in (row, column))
        return b.mul(b.add(b.mul(row, ir.Constant(BYTES, self.columns)), column), ir.Constant(BYTES, 4))

    def load(self, row: Any) -> Any:
        return self.lanes.load(self.address, self.place(row))

    def store(self, row: Any, value: Any) -> None:
        self.lanes.store(value, self.address, self.place(row))

    def add(self, row: Any, value: Any) -> None:
        self.store(row, self.builder.fadd(self.load(row), value))

    def load_one(self, row: Any, column: Any, kind: ir.Type = REAL) -> Any:
        return self.lanes.load(self.address, self.place(row, column), kind)

    def store_one(self, row: Any, column: Any, value: Any) -> None:
        self.lanes.store(value, self.address, self.place(row, column))


@contextmanager
def _counted(builder: ir.IRBuilder, count: int) -> Iterator[Any]:
    with cgutils.for_range(builder, ir.Constant(BYTES, count)) as loop:
        yield loop.index


class _Code:
    """What sums and gradient have alike."""

    def __init__(self, builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments):
        self.builder, self.v, self.weighted, self.a = builder, v, weighted, a
        self.lanes = lanes = Lanes(builder, v.classes)
        self.table = Table(lanes, v, a)
        self.picks = v.classes <= _PICKED
        self.softmax = _Memory(lanes, v.classes + 1, lanes.width)  # one more for what is no class
        self.softmax.store(v.classes, lanes.zero)
        self.labels = _Memory(lanes, 1, lanes.width)

    @contextmanager
    def voxels(self, chains: int = 1) -> Iterator[list[tuple[Any, Any]]]:
        """The loop over the voxels of a block: numbers and labels of some at a time."""
        b = self.builder
        with _counted(b, self.lanes.width // chains) as index:
            first = b.mul(index, ir.Constant(BYTES, chains))
            numbers = [b.add(first, ir.Constant(BYTES, k)) for k in range(chains)]
            yield [(i, b.zext(self.labels.load_one(0, i, WHOLE), BYTES)) for i in numbers]


class _Block(Block):
    """A block of voxels: the exponentials of the classes, in the code's memory, and what the label's class has."""

    def __init__(self, code: _Code, offset: Any, each: Callable[[Any, Any], None], others: bool):
        """``others``: the exponentials are 0 where the class is the label's; ``each`` gets a class and its own."""
        lanes, v, a = code.lanes, code.v, code.a
        super().__init__(lanes, v, a, offset, code.weighted)
        self.code = code
        b, kept = self.builder, Sums(lanes)
        if code.weighted:
            label = lanes.load_wholes(a.target, offset)
            self.labelled = b.icmp_unsigned("<", label, lanes.wholes(v.classes))
            label = b.select(self.labelled, label, lanes.wholes(v.classes))
        else:
            self.labelled, label = None, lanes.load_narrow(a.target, offset)
        code.labels.store(0, label)
        self.label = label
        kept.start("largest", lanes.reals(-math.inf))
        with _counted(b, v.classes) as c:
            place = b.add(self.logits_offset, b.mul(c, a.logits_step))
            x = self.known(lanes.load_logits(a.logits, place, v.logits))
            code.softmax.store(c, x)
            kept.put("largest", lanes.larger(x, kept.get("largest")))
        largest = kept.get("largest")
        (own,) = self.of_label([(code.softmax.load, lambda label, i: code.softmax.load_one(label, i))])
        kept.start("total", lanes.zero)
        with _counted(b, v.classes) as c:
            (e,) = lanes.exps([b.fsub(code.softmax.load(c), largest)])
            if others:
                e = lanes.pick(self.is_label(c), lanes.zero, e)
            code.softmax.store(c, e)
            kept.add("total", e)
            each(c, e)
        total = kept.get("total")
        below = b.fsub(own(), largest)
        if code.weighted:
            below = lanes.pick(self.labelled, below)
        (own_e,) = lanes.exps([below])
        if code.weighted:
            own_e = lanes.pick(self.labelled, own_e)
        rest = total
        if others:
            total = lanes.add(total, own_e)
        self.r = b.fdiv(lanes.one, total)
        self.own_p = lanes.mul(own_e, self.r)
        if others:
            self.own_q = lanes.mul(rest, self.r)
        self._total, self._below = total, below

    def of_label(self, wanted: list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]]) -> list[Callable[[], Any]]:
        """What the label's class has of each: given of a class, as a vector, and of a label and voxel, as a number."""
        code, lanes, kept = self.code, self.lanes, Sums(self.lanes)
        if code.picks:
            for k in range(len(wanted)):
                kept.start(k, lanes.zero)
            with _counted(self.builder, self.v.classes) as c:
                mine = self.is_label(c)
                for k, (of_class, _) in enumerate(wanted):
                    kept.put(k, lanes.pick(mine, of_class(c), kept.get(k)))
            return [partial(kept.get, k) for k in range(len(wanted))]
        rows = _Memory(lanes, len(wanted), lanes.width)
        with code.voxels() as ((i, label),):
            for k, (_, of_voxel) in enumerate(wanted):
                rows.store_one(k, i, of_voxel(label, i))
        return [partial(rows.load, k) for k in range(len(wanted))]  # loaded at once they would wait for the stores

    def is_label(self, c: Any) -> Any:
        b = self.builder
        return b.icmp_signed("==", self.label, self.lanes.fill(b.trunc(c, WHOLE)))

    def own_l(self) -> Any:
        """-log p of the label's class."""
        loss = self.builder.fsub(self.lanes.log(self._total), self._below)
        return loss if self.labelled is None else self.lanes.pick(self.labelled, loss)


def _emit_sums(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    code = _Code(builder, v, weighted, a)
    lanes, width = code.lanes, code.lanes.width
    partners = {column: own for column, own in ((P, PY), (P2, P2Y)) if v.asks(column)}
    of_label = [column for column in (PY, P2Y, CE_POS) if v.asks(column) or column in partners.values()]
    of_label += [SLOTS + j for j in range(len(v.powers))]
    if v.asks(Y, Y2):
        of_label.append(Y)
    sums = {column: _Memory(lanes, v.classes, width) for column in partners}  # of voxels of other labels
    picked = {column: _Memory(lanes, v.classes, width) for column in of_label if code.picks}
    scattered = None if code.picks else _Memory(lanes, _CHAINS * (v.classes + 1), max(1, len(of_label)))
    rows = None if code.picks else _Memory(lanes, max(1, len(of_label)), width)
    for memory in (*sums.values(), *picked.values(), scattered):
        if memory is not None:
            memory.clear()
    kept = Sums(lanes)
    kept.start("weight", lanes.zero)
    with blocks(lanes, a.voxels) as (_, offset):
        block = _Block(code, offset, lambda c, e: None, v.own or bool(partners))
        if weighted:
            kept.add("weight", block.weight)
        own_l = block.own_l() if v.own or v.asks(CE_POS) else None
        own = {PY: block.own_p, P2Y: lanes.mul(block.own_p, block.own_p), CE_POS: own_l, Y: lanes.one}
        for j in range(len(v.powers)):
            own[SLOTS + j] = block.powers.value(j, own_l, block.own_q)
        values = {column: block.weigh(own[column]) for column in of_label}
        if sums or picked:
            with _counted(builder, v.classes) as c:
                p, mine = lanes.mul(code.softmax.load(c), block.r), block.is_label(c)
                for column, memory in sums.items():
                    memory.add(c, block.weigh(p if column == P else lanes.mul(p, p)))
                for column, memory in picked.items():
                    memory.add(c, lanes.pick(mine, values[column]))
        if not code.picks:
            for k, value in enumerate(values.values()):
                rows.store(k, value)
            with code.voxels(_CHAINS) as found:
                for chain, (i, label) in enumerate(found):
                    row = builder.add(label, ir.Constant(BYTES, chain * (v.classes + 1)))
                    for k in range(len(of_label)):
                        scattered.store_one(row, k, builder.fadd(scattered.load_one(row, k), rows.load_one(k, i)))
        if v.output == LOSSES:
            block.store_loss(own_l)
    count = lanes.over_lanes(kept.get("weight")) if weighted else builder.sitofp(a.voxels, REAL)
    with _counted(builder, v.classes) as c:
        parts: dict[int, list[Any]] = {}
        for k, column in enumerate(of_label):
            if code.picks:
                parts[column] = [lanes.over_lanes(picked[column].load(c))]
            else:
                chains = [builder.add(c, ir.Constant(BYTES, chain * (v.classes + 1))) for chain in range(_CHAINS)]
                parts[column] = [scattered.load_one(row, k) for row in chains]
        for column, own_column in partners.items():  # no less than the label's part, to the last bit
            code.table.add(c, column, *parts[own_column], lanes.over_lanes(sums[column].load(c)))
        for column in (PY, P2Y, CE_POS, *range(SLOTS, SLOTS + len(v.powers))):
            if column >= SLOTS or v.asks(column):
                code.table.add(c, column, *parts[column])
        for column in (Y, Y2):
            if v.asks(column):
                code.table.add(c, column, *parts[Y])
        if v.asks(COUNT):
            code.table.add(c, COUNT, count)


def _emit_gradient(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    """As in cpu_registers: p_c (d_c - sum over all classes of p d), with d_c the derivative by p of class c; -log p of
    the label's class adds h (p_c - y_c)."""
    code = _Code(builder, v, weighted, a)
    lanes = code.lanes
    first, second = v.asks(P, PY), v.asks(P2, P2Y)
    two = lanes.reals(2)

    def coefficients(column: int) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
        def of_voxel(label: Any, i: Any) -> Any:
            if weighted:  # what is no class may have the numbers of any
                is_class = builder.icmp_unsigned("<", label, ir.Constant(BYTES, v.classes))
                label = builder.select(is_class, label, ir.Constant(BYTES, 0))
            return code.table.coefficient(label, column)

        return (lambda c: of_class(c, column)), of_voxel

    def of_class(c: Any, column: int) -> Any:
        return lanes.fill(code.table.coefficient(c, column))

    with blocks(lanes, a.voxels) as (_, offset):
        dots = Sums(lanes)
        for name in ("first", "second"):
            dots.start(name, lanes.zero)

        def each(c: Any, e: Any) -> None:
            if first:
                dots.put("first", lanes.fused(e, of_class(c, P), dots.get("first")))
            if second:
                square = lanes.mul(e, e)
                dots.put("second", lanes.fused(square, of_class(c, P2), dots.get("second")))

        block = _Block(code, offset, each, v.own or first or second)
        wanted = [column for column, asked in ((PY, first), (P2Y, second), (CE_POS, v.asks(CE_POS))) if asked]
        wanted += [SLOTS + j for j in range(len(v.powers))]
        found = block.of_label([coefficients(column) for column in wanted])
        k = {column: load() for column, load in zip(wanted, found, strict=True)}
        r, own_p = block.r, block.own_p
        own = [k[CE_POS]] if CE_POS in k else []
        own_l = block.own_l() if v.powers else None
        own += block.own_slopes(lambda j: k[SLOTS + j], own_l, block.own_q, own_p) if v.powers else []
        level = lanes.total(own) if own else lanes.zero
        if block.labelled is not None:
            level = lanes.pick(block.labelled, level)
        own_level = level
        slopes = []
        if first:
            slopes.append(k[PY])
            level = lanes.sub(level, lanes.mul(r, dots.get("first")))
        if second:
            slopes.append(lanes.mul(two, lanes.mul(k[P2Y], own_p)))
            level = lanes.sub(level, lanes.mul(two, lanes.mul(lanes.mul(r, r), dots.get("second"))))
        own_value = level
        if slopes:
            slope = lanes.total(slopes)
            if block.labelled is not None:
                slope = lanes.pick(block.labelled, slope)
            level = lanes.sub(level, lanes.mul(own_p, slope))
            own_value = lanes.add(slope, level)
        own_value = block.weigh(lanes.sub(lanes.mul(own_p, own_value), own_level))
        weighted_r = block.weigh(r)
        with _counted(builder, v.classes) as c:
            e = code.softmax.load(c)
            parts = [level]
            if first:
                parts.append(of_class(c, P))
            if second:
                half = lanes.mul(of_class(c, P2), lanes.mul(e, r))
                parts.append(lanes.mul(two, half))
            value = lanes.mul(lanes.mul(e, weighted_r), lanes.total(parts))
            value = lanes.pick(block.is_label(c), own_value, value)
            block.store_gradient(value, builder.add(a.out, builder.mul(c, a.out_step)))


def _emit_errors(builder: ir.IRBuilder, v: Variant, weighted: bool, a: Arguments) -> None:
    code = _Code(builder, v, weighted, a)
    lanes = code.lanes
    with blocks(lanes, a.voxels) as (_, offset):
        block = _Block(code, offset, lambda c, e: None, True)
        with _counted(builder, v.classes) as c:
            p = lanes.mul(code.softmax.load(c), block.r)
            block.store_error(p, block.own_q, block.is_label(c), builder.add(a.out, builder.mul(c, a.out_step)))


EMITTERS = {SUMS: _emit_sums, LOSSES: _emit_sums, GRADIENT: _emit_gradient, ERRORS: _emit_errors}
