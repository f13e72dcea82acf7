"""The classes of a block of voxels: a few in registers, or many in loops over the function's own memory.

What is written for both is the same: bodies that are called for each class, values kept for each, totals over all, and
what the class of the voxel's label has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .functions import Functions
from .lanes import BYTES, WHOLE, Lanes, counted

FEW = 4  # the most classes in registers
_PICKED = 8  # the most classes in a loop among which what the label's has is picked out
CHAINS = 4  # tables that neighbouring voxels are scattered to: one would wait for the addition before


def registers(count: int) -> int:
    """Of voxels at a time: the processor would wait for the results of one, but of four classes two do not fit; many
    classes lie in as many pages, each to be looked up; of very many, few voxels fit the caches."""
    return 1 if count == FEW or count > 256 else 4 if count > 32 else 2


class Kept:
    """Values that live through loops: LLVM keeps them in registers, or next to them."""

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


class _List(dict[int, Any]):
    put = dict.__setitem__
    load = dict.__getitem__


class _ListTotal(list[Any]):
    def __init__(self, lanes: Lanes):
        super().__init__()
        self.lanes = lanes

    def add(self, value: Any, factor: Any = None) -> None:
        self.append(value if factor is None else self.lanes.mul(value, factor))

    def get(self) -> Any:
        return self.lanes.total(list(self))


class Few:
    """Classes by their numbers, values of each as they are."""

    def __init__(self, lanes: Lanes, count: int):
        self.lanes, self.count, self.first = lanes, count, True

    def each(self, body: Callable[[Any], None]) -> None:
        for c in range(self.count):
            body(c)

    def values(self) -> Any:
        """To be put, and loaded again, by class."""
        return _List()

    def total(self) -> Any:
        """To be added to, times a factor where one is given, and got."""
        return _ListTotal(self.lanes)

    def load(self, values: Any, of_class: Callable[[Any], Any]) -> Any:
        """Fills the values of each class; the largest."""
        for c in range(self.count):
            values.put(c, of_class(c))
        level = list(values.values())
        while len(level) > 1:
            pairs = [self.lanes.larger(x, y) for x, y in zip(level[::2], level[1::2], strict=False)]
            level = pairs + level[2 * len(pairs) :]
        return level[0]

    def exponentials(self, values: Any, largest: Any, each: Callable[[Any, Any], Any], into: Any) -> Any:
        """Of values less the largest, as ``each`` makes them of a class and its own; many: ``into`` memory, if any."""
        below = [self.lanes.builder.fsub(values[c], largest) for c in range(self.count)]
        return _List((c, each(c, e)) for c, e in enumerate(Functions(self.lanes).exps(below)))

    def is_class(self, label: Any, c: int) -> Any:
        return self.lanes.builder.icmp_signed("==", label, self.lanes.wholes(c))

    def of_label(self, label: Any, wanted: list[tuple[Callable[[Any], Any], Any]]) -> list[Callable[[], Any]]:
        """What the label's class has of each: a function of a class, and one of a label and a voxel (see Many)."""
        masks = [self.is_class(label, c) for c in range(self.count)]
        found = [self.lanes.choose(masks, [of_class(c) for c in range(self.count)]) for of_class, _ in wanted]
        return [lambda x=x: x for x in found]


class Memory:
    """Rows of numbers in the function's own memory, not cleared."""

    def __init__(self, lanes: Lanes, rows: int, columns: int, kind: ir.Type | None = None):
        self.lanes, self.builder, self.rows, self.columns = lanes, lanes.builder, rows, columns
        self.kind = kind or lanes.real
        self.size = 4 if self.kind == WHOLE else lanes.size
        with self.builder.goto_entry_block():  # cgutils would clear it by a store of all, which LLVM takes apart
            array = self.builder.alloca(ir.ArrayType(self.kind, rows * columns))
        array.align = 64
        self._array = array
        self.address = self.builder.ptrtoint(array, BYTES)

    def clear(self) -> None:
        cgutils.memset(self.builder, self._array, ir.Constant(BYTES, self.size * self.rows * self.columns), 0)

    def place(self, row: Any, column: Any = 0) -> Any:
        """In bytes from the address."""
        b = self.builder
        row, column = (ir.Constant(BYTES, x) if isinstance(x, int) else x for x in (row, column))
        return b.mul(b.add(b.mul(row, ir.Constant(BYTES, self.columns)), column), ir.Constant(BYTES, self.size))

    def load(self, row: Any) -> Any:
        return self.lanes.load(self.address, self.place(row))

    def put(self, row: Any, value: Any) -> None:
        self.lanes.store(value, self.address, self.place(row))

    def add(self, row: Any, value: Any) -> None:
        self.put(row, self.builder.fadd(self.load(row), value))

    def load_one(self, row: Any, column: Any) -> Any:
        return self.lanes.load(self.address, self.place(row, column), self.kind)

    def put_one(self, row: Any, column: Any, value: Any) -> None:
        self.lanes.store(value, self.address, self.place(row, column))


class _LoopTotal:
    def __init__(self, lanes: Lanes):
        self.lanes, self.kept = lanes, Kept(lanes)
        self.kept.start(0, lanes.zero)
        self.kept.put(0, lanes.zero)  # a total is that of one block

    def add(self, value: Any, factor: Any = None) -> None:
        if factor is None:
            self.kept.add(0, value)
        else:
            self.kept.put(0, self.lanes.fused(value, factor, self.kept.get(0)))

    def get(self) -> Any:
        return self.kept.get(0)


class Many:
    """Classes by the index of a loop, values of each in memory."""

    def __init__(self, lanes: Lanes, count: int):
        self.lanes, self.builder, self.count = lanes, lanes.builder, count
        self.picks = count <= _PICKED
        self.labels = Memory(lanes, 1, lanes.width, WHOLE)

    def each(self, body: Callable[[Any], None]) -> None:
        with counted(self.builder, self.count) as c:
            body(c)

    def values(self) -> Memory:
        return Memory(self.lanes, self.count, self.lanes.width)

    def total(self) -> _LoopTotal:
        return _LoopTotal(self.lanes)

    def load(self, values: Memory, of_class: Callable[[Any], Any]) -> Any:
        kept = Kept(self.lanes)
        kept.start(0, self.lanes.zero)
        kept.put(0, self.lanes.reals(-math.inf))

        def body(c: Any) -> None:
            value = of_class(c)
            values.put(c, value)
            kept.put(0, self.lanes.larger(value, kept.get(0)))

        self.each(body)
        return kept.get(0)

    def exponentials(
        self, values: Memory, largest: Any, each: Callable[[Any, Any], Any], into: Memory | None
    ) -> Memory | None:
        functions = Functions(self.lanes)

        def body(c: Any) -> None:
            found = each(c, functions.exp(self.builder.fsub(values.load(c), largest)))
            if into is not None:
                into.put(c, found)

        self.each(body)
        return into

    def is_class(self, label: Any, c: Any) -> Any:
        number = c if self.lanes.whole == BYTES else self.builder.trunc(c, self.lanes.whole)
        return self.builder.icmp_signed("==", label, self.lanes.fill(number))

    def keep_labels(self, label: Any) -> None:
        """Those of a block, classes all of them, for :meth:`voxels`."""
        narrow = label if self.lanes.whole == WHOLE else self.builder.trunc(label, self.lanes.vector(WHOLE))
        self.lanes.store(narrow, self.labels.address, ir.Constant(BYTES, 0))

    @contextmanager
    def voxels(self, chains: int = 1) -> Iterator[list[tuple[Any, Any]]]:
        """The loop over the voxels of a block: numbers and labels of some at a time."""
        b = self.builder
        with counted(b, self.lanes.width // chains) as index:
            first = b.mul(index, ir.Constant(BYTES, chains))
            numbers = [b.add(first, ir.Constant(BYTES, k)) for k in range(chains)]
            yield [(i, b.zext(self.labels.load_one(0, i), BYTES)) for i in numbers]

    def of_label(self, label: Any, wanted: list[tuple[Callable[[Any], Any], Any]]) -> list[Callable[[], Any]]:
        """What the label's class has of each: given of a class, as a vector, and of a label and voxel, as a number.

        Of more than a few classes it is gathered voxel by voxel, which takes as long however many there are.
        """
        lanes = self.lanes
        if self.picks:
            kept = Kept(lanes)
            for k in range(len(wanted)):
                kept.start(k, lanes.zero)
                kept.put(k, lanes.zero)

            def body(c: Any) -> None:
                mine = self.is_class(label, c)
                for k, (of_class, _) in enumerate(wanted):
                    kept.put(k, lanes.pick(mine, of_class(c), kept.get(k)))

            self.each(body)
            return [lambda k=k: kept.get(k) for k in range(len(wanted))]
        rows = Memory(lanes, max(1, len(wanted)), lanes.width)
        with self.voxels() as ((i, number),):
            for k, (_, of_voxel) in enumerate(wanted):
                rows.put_one(k, i, of_voxel(number, i))
        return [lambda k=k: rows.load(k) for k in range(len(wanted))]  # loaded at once they would wait for the stores
