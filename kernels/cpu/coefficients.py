"""The coefficients of the terms in what a tile's code writes, by class and by what is true of a voxel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir

from .block import Block, Code
from .forms import OTHER, OWN, SQUARE, Group
from .lanes import BYTES, DOUBLE, counted
from .products import Slopes, add_up, is_costly


class Coefficients:
    """Of the groups of products, [C, groups, 3] in the scratch memory.

    Where y is 1 that of a product is the sum of those without and with y, taken in float64, since the two may cancel
    but for a small part.
    """

    def __init__(self, code: Code):
        self.code, self.groups = code, code.form.groups()
        self.loaded: dict[tuple[int, int], list[Any]] = {}
        b = code.builder
        with b.if_then(b.icmp_signed("!=", code.arguments.first, ir.Constant(BYTES, 0)), False):
            self._prepare()
        if code.few:
            self._load()

    def _prepare(self) -> None:
        code, b, lanes = self.code, self.code.builder, self.code.lanes
        with counted(b, code.form.classes) as c:
            row = b.mul(c, ir.Constant(BYTES, 8 * len(code.form.terms)))
            for g, group in enumerate(self.groups):
                for which in (OWN, OTHER, SQUARE):
                    total: Any = ir.Constant(DOUBLE, 0)
                    for k in group.of(which):
                        given = lanes.load(code.arguments.table, b.add(row, ir.Constant(BYTES, 8 * k)), DOUBLE)
                        total = b.fadd(total, given)
                    value = total if lanes.real == DOUBLE else b.fptrunc(total, lanes.real)
                    lanes.store(value, code.arguments.scratch, self._place(c, g, which))

    def _place(self, c: Any, g: int, which: int) -> Any:
        b, size = self.code.builder, self.code.lanes.size
        c = ir.Constant(BYTES, c) if isinstance(c, int) else c
        row = b.mul(c, ir.Constant(BYTES, 3 * size * len(self.groups)))
        return b.add(row, ir.Constant(BYTES, size * (3 * g + which)))

    def scalar(self, c: Any, g: int, which: int) -> Any:
        return self.code.lanes.load(self.code.arguments.scratch, self._place(c, g, which), self.code.lanes.real)

    def _load(self) -> None:
        """All, before the loop over the blocks."""
        for g in range(len(self.groups)):
            for which in (OWN, OTHER, SQUARE):
                each = range(self.code.form.classes)
                self.loaded[g, which] = [self.code.lanes.fill(self.scalar(c, g, which)) for c in each]

    def vector(self, c: Any, g: int, which: int) -> Any:
        return self.loaded[g, which][c] if self.loaded else self.code.lanes.fill(self.scalar(c, g, which))

    def of_label(self, block: Block, groups: list[int]) -> list[Any]:
        """Those of the label's class where y is 1, times the map; 0 where the label is no class."""
        if not groups:
            return []
        wanted = [(lambda c, g=g: self.vector(c, g, OWN), lambda c, i, g=g: self.scalar(c, g, OWN)) for g in groups]
        found = [block.of_labelled(load()) for load in self.code.classes.of_label(block.label, wanted)]
        pairs = zip(groups, found, strict=True)
        return [self.code.builder.fmul(k, block.own_map()) if self.groups[g].factors.mapped else k for g, k in pairs]

    def of_class(self, block: Block, c: Any, g: int) -> Any:
        """For the truth of each voxel, times the map."""
        b, lanes, group = self.code.builder, self.code.lanes, self.groups[g]
        own, other = (self.vector(c, g, which) for which in (OWN, OTHER))
        if not group.asks("y", "r", "y2"):
            k = own
        elif not self.code.form.dense:
            k = other if block.others else lanes.pick(block.mine(c), own, other)
        else:
            y = block.y(c)
            k = b.fmul(own, y)
            if group.asks("1", "r"):
                k = b.fadd(b.fmul(other, b.fsub(lanes.one, y)), k)
            if group.asks("y2"):
                k = b.fadd(k, b.fmul(self.vector(c, g, SQUARE), b.fmul(y, y)))
        return b.fmul(k, block.map(c)) if group.factors.mapped else k

    def slopes(self, block: Block, c: Any, groups: Iterable[int]) -> Slopes:
        """Of groups for a class."""
        parts = []
        for g in groups:
            found = block.factors(c).slopes(self.groups[g].factors, self.of_class(block, c, g))
            if is_costly(self.groups[g].factors):  # the slope of a logarithm alone is finite
                found = Slopes(*(self._select(block, c, self.groups[g], x) for x in found))
            parts.append(found)
        return add_up(self.code.lanes, parts)

    def value(self, block: Block, c: Any, g: int) -> Any:
        """The products of a group for a class, times their coefficients."""
        k, value = self.of_class(block, c, g), block.factors(c).value(self.groups[g].factors)
        return self._select(block, c, self.groups[g], k if value is None else self.code.builder.fmul(k, value))

    def _select(self, block: Block, c: Any, group: Group, value: Any) -> Any:
        """0 where the shares of the group are 0: a logarithm may be infinite there."""
        infinite = group.factors.l or group.factors.m
        everywhere = group.asks("1") or (group.asks("r") and group.asks("y", "y2"))
        if value is None or not infinite or everywhere:
            return value
        return self.code.lanes.pick(block.has_share("r" if group.asks("r") else "y", c), value)
