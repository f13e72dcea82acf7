"""Machine code that writes the weighted sum of a plan's products for each voxel, or for each voxel and class."""

from __future__ import annotations

from functools import reduce
from typing import Any

from llvmlite import ir

from .block import Block, Code
from .coefficients import Coefficients
from .forms import TOTALS
from .lanes import BYTES, counted


def emit_voxels(code: Code) -> None:
    b = code.builder
    coefficients = Coefficients(code)
    with counted(b, b.udiv(code.arguments.voxels, ir.Constant(BYTES, code.lanes.width))) as index:
        _Voxels(code, coefficients, index).write()


class _Voxels:
    """A block's values. Under labels what a share of y alone concerns is computed once, for the label's class; of many
    classes that class is apart, its exponential being 0."""

    def __init__(self, code: Code, coefficients: Coefficients, index: Any):
        self.code, self.coefficients, self.block = code, coefficients, Block(code, index, others=True)
        groups = list(enumerate(coefficients.groups))
        labels = not code.form.dense and code.form.classes > 1
        if self.block.others:
            of_own = [g for g, group in groups if group.asks("1", "y")]
            self.of_each = [g for g, group in groups if group.asks("1", "r")]
        else:
            of_own = [g for g, group in groups if labels and set(group.shares) == {"y"}]
            self.of_each = [g for g, _ in groups if g not in of_own]
        of_label = zip(of_own, coefficients.of_label(self.block, of_own), strict=True)
        self.own = self._add([self._of_own(g, k) for g, k in of_label])

    def _of_own(self, g: int, k: Any) -> Any:
        value = self.block.own.value(self.coefficients.groups[g].factors)
        return k if value is None else self.code.builder.fmul(k, value)

    def _add(self, values: list[Any]) -> Any:
        """Their sum; None if there are none."""
        return reduce(self.code.builder.fadd, values) if values else None

    def _of_each(self, c: Any) -> Any:
        """What a class has but for what the label's class alone has."""
        value = self._add([self.coefficients.value(self.block, c, g) for g in self.of_each])
        if value is None or not self.block.others:
            return value
        return self.code.lanes.pick(self.block.mine(c), self.code.lanes.zero, value)

    def write(self) -> None:
        block, classes = self.block, self.code.classes
        if self.code.form.output == TOTALS:
            total = classes.total()
            if self.of_each:
                classes.each(lambda c: total.add(self._of_each(c)))
            parts = [total.get()] if self.of_each else []
            value = self._add(parts if self.own is None else [*parts, self.own])
            block.store(self._with_those_before(block.known(block.weigh(value))))
        else:
            classes.each(lambda c: block.store(block.known(block.weigh(self._of_class(c))), c))

    def _of_class(self, c: Any) -> Any:
        mine = [] if self.own is None else [self.code.lanes.pick(self.block.mine(c), self.own)]
        each = self._of_each(c)
        return self._add(mine if each is None else [each, *mine])

    def _with_those_before(self, value: Any) -> Any:
        """Channels on their own come one by one: to the first, those that follow are added."""
        b, lanes, a = self.code.builder, self.code.lanes, self.code.arguments
        if self.code.form.activation == "softmax":
            return value
        before = lanes.load(self.code.row(a.out, a.out_step, 0), self.block.offset)
        adds = b.icmp_signed("!=", a.adds, ir.Constant(BYTES, 0))
        return b.fadd(value, b.select(adds, before, lanes.zero))
