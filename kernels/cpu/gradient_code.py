"""Machine code for the gradient of the logits of a tile, from the coefficients of the sums.

With t = p by_p + steep_p - by_l and, apart, u = (p by_m - p steep_q) / q, the derivative by the logit of class k is

    t_k - p_k (sum of all t) + u_k q_k - p_k (sum of the others' u),

in which u, which may be 1 / epsilon, is never part of a difference.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fastloss.terms import EPSILON

from .block import Block, Code
from .coefficients import Coefficients
from .forms import OTHER
from .lanes import BYTES, Lanes, counted
from .products import Factors, Slopes, add_up, is_costly


def emit_gradient(code: Code) -> None:
    b = code.builder
    coefficients = Coefficients(code)
    write = _channel if code.form.activation != "softmax" else _few if code.few else _many
    with counted(b, b.udiv(code.arguments.voxels, ir.Constant(BYTES, code.lanes.width))) as index:
        write(code, coefficients, index)


def _channel(code: Code, coefficients: Coefficients, index: Any) -> None:
    """Of a channel that does not depend on others."""
    b, lanes = code.builder, code.lanes
    block = Block(code, index)
    factors, tiny = block.factors(0), lanes.tiny
    get, inverse = factors.get, factors.inverse
    if code.form.activation == "sigmoid":
        by = (
            lambda: b.fmul(get("p"), get("q")),
            lambda: get("q"),
            lambda: get("p"),
            lambda: get("q"),
            lambda: get("p"),
        )
    else:
        inverses = (("p", tiny), ("q", tiny), ("p", EPSILON), ("q", EPSILON))
        by = (lambda: lanes.one, *(lambda x=x: inverse(*x) for x in inverses))
    total = _Total(lanes)
    slopes = coefficients.slopes(block, 0, range(len(coefficients.groups)))
    for slope, factor, less in zip(slopes, by, (False, False, True, True, False), strict=True):
        if slope is not None:
            total.add(b.fmul(slope, factor()), less)
    block.store(block.known(block.weigh(lanes.zero if total.value is None else total.value)), 0, code.form.logits)


class _Total:
    """A sum of what there is; None is zero."""

    def __init__(self, lanes: Lanes, value: Any = None):
        self.lanes, self.value = lanes, value

    def add(self, x: Any, less: bool = False) -> None:
        if x is None:
            return
        if self.value is None:
            self.value = self.lanes.builder.fsub(self.lanes.zero, x) if less else x
        else:
            self.value = (self.lanes.sub if less else self.lanes.add)(self.value, x)


class _Parts:
    """Of a weighted sum of products: by_p, what t has beside p by_p, and u. None is zero."""

    def __init__(self, block: Block, factors: Factors, s: Slopes):
        self.lanes, self.factors, self.by_p = block.lanes, factors, s.by_p
        apart, u = _Total(block.lanes, s.steep_p), _Total(block.lanes)
        apart.add(s.by_l, less=True)
        if s.by_m is not None:
            u.add(self.lanes.mul(s.by_m, factors.inverse("q", EPSILON)))
        if s.steep_q is not None:
            u.add(self.lanes.mul(s.steep_q, factors.inverse("q", self.lanes.tiny)), less=True)
        self.apart, self.u = apart.value, u.value
        if self.u is not None:
            self.u = self.lanes.mul(factors.get("p"), self.u)

    def t(self) -> Any:
        total = _Total(self.lanes, self.apart)
        if self.by_p is not None:
            total.add(self.lanes.mul(self.factors.get("p"), self.by_p))
        return total.value


def _own(block: Block, coefficients: Coefficients, groups: list[int]) -> _Parts | None:
    """Of the label's class alone; None without groups."""
    of_label = zip(groups, coefficients.of_label(block, groups), strict=True)
    slopes = [block.own.slopes(coefficients.groups[g].factors, k) for g, k in of_label]
    return _Parts(block, block.own, add_up(block.lanes, slopes)) if groups else None


def _few(code: Code, coefficients: Coefficients, index: Any) -> None:
    """Products that are costly, and have a share of the label's class alone, are computed for that."""
    lanes, form = code.lanes, code.form
    block, each = Block(code, index), range(form.classes)
    groups = list(enumerate(coefficients.groups))
    of_own = [g for g, group in groups if not form.dense and set(group.shares) == {"y"} and is_costly(group.factors)]
    of_each = [g for g, _ in groups if g not in of_own]
    own = _own(block, coefficients, of_own)
    parts = [_Parts(block, block.factors(c), coefficients.slopes(block, c, of_each)) for c in each]
    of_label = _Total(lanes)  # of which the class itself has q times as much, the others -p
    for part in () if own is None else (own.t(), own.u):
        of_label.add(part)
    level = _Total(lanes)  # the sum of all t, with the opposite sign
    if parts[0].apart is not None:
        level.add(lanes.total([part.apart for part in parts]), less=True)
    if parts[0].by_p is not None:
        dots = [lanes.mul(block.e[c], part.by_p) for c, part in enumerate(parts)]
        level.add(lanes.mul(block.r, lanes.total(dots)), less=True)
    for c, part in enumerate(parts):
        factor = _Total(lanes, part.by_p)
        factor.add(level.value)
        if part.u is not None:
            factor.add(lanes.total([other.u for k, other in enumerate(parts) if k != c]), less=True)
        value = _Total(lanes)
        if factor.value is not None:
            value.add(lanes.mul(part.factors.get("p"), factor.value))
        if part.u is not None:
            value.add(lanes.mul(part.u, part.factors.get("q")))
        value.add(part.apart)
        if of_label.value is not None:
            mine = lanes.mul(block.own.get("q"), of_label.value)
            others = lanes.builder.fsub(lanes.zero, lanes.mul(part.factors.get("p"), of_label.value))
            value.add(lanes.pick(block.mine(c), mine, others))
        block.store(block.known(block.weigh(lanes.zero if value.value is None else value.value)), c, form.logits)


def _many(code: Code, coefficients: Coefficients, index: Any) -> None:
    """What the label's class has is apart, its exponential being 0 where there is something for each class."""
    lanes, form, classes = code.lanes, code.form, code.classes
    groups = list(enumerate(coefficients.groups))
    of_own = [g for g, group in groups if not form.dense and group.asks("1", "y")]
    of_each = [g for g, group in groups if form.dense or group.asks("1", "r")]
    powers = _Powers(code, coefficients, of_each)
    block = Block(code, index, others=True, each=powers.add)
    own = _own(block, coefficients, of_own)
    t, u = _each_parts(block, coefficients, [g for g in of_each if g not in powers.groups])
    level = _Total(lanes)  # of all classes but the label's, with the opposite sign
    powers.add_to(level, block.r)
    level.add(None if t is None else t.total.get(), less=True)
    own_value = None
    if not form.dense:
        of_label = _Total(lanes, level.value)
        of_label.add(None if u is None else u.total.get(), less=True)
        value = _Total(lanes)
        if of_label.value is not None:
            value.add(lanes.mul(block.own.get("p"), of_label.value))
        for part in () if own is None else (own.t(), own.u):
            if part is not None:
                value.add(lanes.mul(block.of_labelled(part), block.own.get("q")))
                level.add(block.of_labelled(part), less=True)
        own_value = lanes.zero if value.value is None else block.weigh(value.value)
    weighted_r = block.weigh(block.r)

    def write(c: Any) -> None:
        e = block.e.load(c)
        p = lanes.mul(e, block.r)
        factor, apart = _Total(lanes, level.value), _Total(lanes)
        powers.add_slopes(factor, c, p)
        if t is not None:
            apart.add(t.values.load(c))
        if u is not None:
            mine = u.values.load(c)
            leads = code.builder.fcmp_ordered(">", p, lanes.reals(0.5))
            others = lanes.pick(leads, u.quiet.get(), code.builder.fsub(u.total.get(), mine))
            factor.add(others, less=True)
            apart.add(lanes.mul(mine, block.factors(c).get("q")))
        value = lanes.zero if factor.value is None else lanes.mul(lanes.mul(e, weighted_r), factor.value)
        if apart.value is not None:
            value = lanes.add(value, block.weigh(apart.value))
        if own_value is not None:
            value = lanes.pick(block.mine(c), own_value, value)
        block.store(block.known(value), c, form.logits)

    classes.each(write)


class _Powers:
    """Whole powers of p: their sums over the classes come with the exponentials."""

    def __init__(self, code: Code, coefficients: Coefficients, groups: list[int]):
        self.code, self.coefficients, self.lanes = code, coefficients, code.lanes
        self.groups = {}
        for g in groups if not code.form.dense else ():
            term = coefficients.groups[g].factors
            if term.p and not is_costly(term) and not term.mapped:
                self.groups[g] = int(term.p)
        self.dots = {power: code.classes.total() for power in set(self.groups.values())}

    def _coefficient(self, c: Any, g: int) -> Any:
        """That of p^power, as it is in the derivative."""
        return self.lanes.mul(self.lanes.reals(self.groups[g]), self.coefficients.vector(c, g, OTHER))

    def add(self, c: Any, e: Any) -> None:
        """What a class has, from its exponential."""
        for g, power in self.groups.items():
            self.dots[power].add(self._coefficient(c, g), self.code.functions.power(e, power))

    def add_to(self, level: _Total, r: Any) -> None:
        for power, dot in self.dots.items():
            level.add(self.lanes.mul(self.code.functions.power(r, power), dot.get()), less=True)

    def add_slopes(self, factor: _Total, c: Any, p: Any) -> None:
        """The derivative by p of a class."""
        for g, power in self.groups.items():
            k = self._coefficient(c, g)
            factor.add(k if power == 1 else self.lanes.mul(k, self.code.functions.power(p, power - 1)))


class _Row:
    """A value of each class and their total; also that of the classes that do not lead."""

    def __init__(self, block: Block):
        self.values, self.total, self.quiet = block.classes.values(), block.classes.total(), block.classes.total()


def _each_parts(block: Block, coefficients: Coefficients, groups: list[int]) -> tuple[_Row | None, _Row | None]:
    """t and u of each class that is not the label's; None if there are none."""
    lanes = block.lanes
    terms = [coefficients.groups[g].factors for g in groups]
    t = _Row(block) if groups else None
    u = _Row(block) if any(term.m or 0 < term.q < 1 for term in terms) else None

    def body(c: Any) -> None:
        parts = _Parts(block, block.factors(c), coefficients.slopes(block, c, groups))
        for row, value in ((t, parts.t()), (u, parts.u)):
            if row is not None:
                value = lanes.zero if value is None else value
                value = lanes.pick(block.mine(c), lanes.zero, value) if block.others else value
                leads = block.builder.fcmp_ordered(">", block.factors(c).get("p"), lanes.reals(0.5))
                row.values.put(c, value)
                row.total.add(value)
                row.quiet.add(lanes.pick(leads, lanes.zero, value))

    if groups:
        block.classes.each(body)
    return t, u
