"""Machine code for the gradient of the logits of a tile, from the coefficients of the sums.

With t = p by_p + steep_p - by_l and, apart, u = (p by_m - p steep_q) / q, the derivative by the logit of class k is

    t_k - p_k (sum of all t) + u_k q_k - p_k (sum of the others' u),

in which u, which may be 1 / epsilon, is never part of a difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir

from fastloss.terms import EPSILON

from .block import Block, Code
from .forms import OTHER, OWN, SQUARE, Group
from .lanes import BYTES, DOUBLE, counted
from .products import Factors, Slopes, add_up
from .sums_code import is_costly


def emit_gradient(code: Code) -> None:
    b = code.builder
    coefficients = _Coefficients(code)
    with b.if_then(b.icmp_signed("!=", code.arguments.first, ir.Constant(BYTES, 0)), False):
        coefficients.prepare()
    if code.few:
        coefficients.load()
    write = _channel if code.form.activation != "softmax" else _few if code.few else _many
    with counted(b, b.udiv(code.arguments.voxels, ir.Constant(BYTES, code.lanes.width))) as index:
        write(code, coefficients, index)


class _Coefficients:
    """Of the groups of products, [C, groups, 3] in the scratch memory; where y is 1 that of a product is the sum of those
    without and with y, taken in float64, since the two may cancel but for a small part."""

    def __init__(self, code: Code):
        self.code, self.groups = code, code.form.groups()
        self.loaded: dict[tuple[int, int], list[Any]] = {}

    def prepare(self) -> None:
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

    def load(self) -> None:
        """All, before the loop over the blocks."""
        for g in range(len(self.groups)):
            for which in (OWN, OTHER, SQUARE):
                each = range(self.code.form.classes)
                self.loaded[g, which] = [self.code.lanes.fill(self.scalar(c, g, which)) for c in each]

    def vector(self, c: Any, g: int, which: int) -> Any:
        return self.loaded[g, which][c] if self.loaded else self.code.lanes.fill(self.scalar(c, g, which))

    def of_label(self, block: Block, groups: list[int]) -> list[Any]:
        """Those of the label's class where y is 1."""
        wanted = [(lambda c, g=g: self.vector(c, g, OWN), lambda c, i, g=g: self.scalar(c, g, OWN)) for g in groups]
        return [load() for load in self.code.classes.of_label(block.label, wanted)]

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
        """Of groups for a class; selected where the share is 0, as a logarithm may be infinite there."""
        parts = []
        for g in groups:
            found = block.factors(c).slopes(self.groups[g].factors, self.of_class(block, c, g))
            parts.append(Slopes(*(self._select(block, c, self.groups[g], x) for x in found)))
        return add_up(self.code.lanes, parts)

    def _select(self, block: Block, c: Any, group: Group, value: Any) -> Any:
        """0 where all shares of the group are 0, if a factor may be infinite."""
        lanes = self.code.lanes
        if value is None or not (group.factors.l or group.factors.m) or group.asks("1"):
            return value
        if self.code.form.dense:
            y = block.y(c)
            if group.asks("r") and group.asks("y", "y2"):
                return value
            return lanes.pick(lanes.nonzero(self.code.builder.fsub(lanes.one, y) if group.asks("r") else y), value)
        if group.asks("r") and group.asks("y"):
            return value
        mine = block.mine(c)
        return lanes.pick(mine, value) if group.asks("y") else lanes.pick(mine, lanes.zero, value)


class _Parts:
    """Of a weighted sum of products, by the derivative by a logit: t, but for what is still to be multiplied with p, and
    u. None is zero."""

    def __init__(self, block: Block, factors: Factors, s: Slopes):
        self.lanes, self.builder, self.factors, self.by_p = block.lanes, block.builder, factors, s.by_p
        self.apart = self._less(s.steep_p, s.by_l)
        steep = None if s.steep_q is None else self._over("q", s.steep_q, self.lanes.tiny)
        by_m = None if s.by_m is None else self._over("q", s.by_m, EPSILON)
        u = self._less(by_m, steep)
        self.u = None if u is None else self.lanes.mul(factors.get("p"), u)

    def _less(self, a: Any, b: Any) -> Any:
        if b is None:
            return a
        return self.builder.fsub(self.lanes.zero, b) if a is None else self.lanes.sub(a, b)

    def _over(self, factor: str, value: Any, least: float) -> Any:
        """value / factor; 0 where that is less than the least."""
        x = self.factors.get(factor)
        inverse = self.builder.fdiv(self.lanes.one, self.lanes.at_least(x, least))
        inverse = self.lanes.pick(self.builder.fcmp_ordered(">", x, self.lanes.reals(least)), inverse)
        return self.lanes.mul(value, inverse)

    @property
    def t(self) -> Any:
        if self.by_p is None:
            return self.apart
        t = self.lanes.mul(self.factors.get("p"), self.by_p)
        return t if self.apart is None else self.lanes.add(t, self.apart)

    def by_probability(self) -> Any:
        """The derivative by p itself."""
        parts = [x for x in (self.by_p, self.u) if x is not None]
        return self.lanes.total(parts)


def _channel(code: Code, coefficients: _Coefficients, index: Any) -> None:
    """Of a channel that does not depend on others."""
    b, lanes = code.builder, code.lanes
    block = Block(code, index)
    factors = block.factors(0)
    s = coefficients.slopes(block, 0, range(len(coefficients.groups)))
    p, q = factors.get("p"), factors.get("q")
    parts = []
    if code.form.activation == "sigmoid":
        scaled = ((s.by_p, lambda: b.fmul(p, q), 1), (s.steep_p, lambda: q, 1), (s.steep_q, lambda: p, -1))
        scaled = (*scaled, (s.by_l, lambda: q, -1), (s.by_m, lambda: p, 1))
        for value, factor, sign in scaled:
            if value is not None:
                part = b.fmul(value, factor())
                parts.append(part if sign > 0 else b.fsub(lanes.zero, part))
    else:
        over = _Parts(block, factors, Slopes())._over
        ratios = ((s.steep_p, "p", lanes.tiny, 1), (s.steep_q, "q", lanes.tiny, -1))
        ratios = (*ratios, (s.by_l, "p", EPSILON, -1), (s.by_m, "q", EPSILON, 1))
        parts += [s.by_p] if s.by_p is not None else []
        for value, factor, least, sign in ratios:
            if value is not None:
                part = over(factor, value, least)
                parts.append(part if sign > 0 else b.fsub(lanes.zero, part))
    value = lanes.total(parts) if parts else lanes.zero
    block.store(block.known(block.weigh(value)), 0, code.form.logits)


def _few(code: Code, coefficients: _Coefficients, index: Any) -> None:
    b, lanes, form = code.builder, code.lanes, code.form
    block, each = Block(code, index), range(form.classes)
    groups = list(enumerate(coefficients.groups))
    of_own = [g for g, group in groups if not form.dense and set(group.shares) == {"y"} and is_costly(group.factors)]
    of_each = [g for g, _ in groups if g not in of_own]
    own = _own(block, coefficients, of_own) if of_own else None
    parts = [_Parts(block, block.factors(c), coefficients.slopes(block, c, of_each)) for c in each]
    if own is not None:  # added where the class is the label's
        for c in each:
            for name in ("apart", "u"):
                value = own.t if name == "apart" else own.u
                if value is not None:
                    value, given = lanes.pick(block.mine(c), value), getattr(parts[c], name)
                    setattr(parts[c], name, value if given is None else lanes.add(given, value))
    level = lanes.zero
    if parts[0].apart is not None:
        level = lanes.sub(level, lanes.total([part.apart for part in parts]))
    if parts[0].by_p is not None:
        dots = [lanes.mul(block.e[c], parts[c].by_p) for c in each]
        level = lanes.sub(level, lanes.mul(block.r, lanes.total(dots)))
    for c, part in enumerate(parts):
        factor = level if part.by_p is None else lanes.add(part.by_p, level)
        if part.u is not None:
            factor = lanes.sub(factor, lanes.total([other.u for k, other in enumerate(parts) if k != c]))
        value = lanes.mul(part.factors.get("p"), factor)
        if part.u is not None:
            value = lanes.add(value, lanes.mul(part.u, part.factors.get("q")))
        if part.apart is not None:
            value = lanes.add(value, part.apart)
        block.store(block.weigh(value), c, form.logits)


def _own(block: Block, coefficients: _Coefficients, groups: list[int]) -> _Parts:
    """Of the label's class alone."""
    slopes = []
    for g, k in zip(groups, coefficients.of_label(block, groups), strict=True):
        factors = coefficients.groups[g].factors
        k = block.of_labelled(k)
        slopes.append(block.own.slopes(factors, block.builder.fmul(k, block.own_map()) if factors.mapped else k))
    return _Parts(block, block.own, add_up(block.lanes, slopes))


def _many(code: Code, coefficients: _Coefficients, index: Any) -> None:
    b, lanes, form, classes = code.builder, code.lanes, code.form, code.classes
    groups = list(enumerate(coefficients.groups))
    own_groups = [g for g, group in groups if not form.dense and group.asks("1", "y")]
    each_groups = [g for g, group in groups if form.dense or group.asks("1", "r")]
    # Whole powers of p: their sums over the classes come with the exponentials
    powers = {}
    for g in each_groups:
        term = groups[g][1].factors
        if term.p in range(1, 5) and not is_costly(term) and not term.mapped and not form.dense:
            powers[g] = int(term.p)
    costly = [g for g in each_groups if g not in powers]
    dots = {power: classes.total() for power in set(powers.values())}

    def add_dots(c: Any, e: Any) -> None:
        for g, power in powers.items():
            k = lanes.mul(lanes.reals(power), coefficients.vector(c, g, OTHER))
            dots[power].add(k, code.functions.power(e, power))

    block = Block(code, index, others=True, each=add_dots)
    own = _own(block, coefficients, own_groups) if own_groups else None
    level = lanes.zero
    for power, dot in dots.items():
        level = lanes.sub(level, lanes.mul(code.functions.power(block.r, power), dot.get()))
    kept_t = kept_u = None
    if costly:
        kept_t, kept_u, flows = _keep_parts(block, coefficients, costly)
        level = lanes.sub(level, kept_t.total.get())
    own_t = own_u = None
    if own is not None:
        own_t, own_u = own.t, own.u
    if own_t is not None:
        own_t = block.of_labelled(own_t)
    own_value = lanes.mul(block.own.get("p"), level) if own is not None or not form.dense else None
    if own_t is not None:
        own_value = lanes.add(lanes.mul(own_t, block.own.get("q")), own_value)
        level = lanes.sub(level, own_t)
    if costly and kept_u is not None and own_value is not None:
        own_value = lanes.sub(own_value, lanes.mul(block.own.get("p"), flows.total.get()))
    if own_u is not None:
        own_u = block.of_labelled(own_u)
        own_value = lanes.add(own_value, lanes.mul(own_u, block.own.get("q")))
        level = lanes.sub(level, own_u)
    own_value = None if own_value is None else block.weigh(own_value)
    weighted_r = block.weigh(block.r)

    def write(c: Any) -> None:
        e = block.e.load(c)
        parts = [level]
        for g, power in powers.items():
            slope = lanes.mul(lanes.reals(power), coefficients.vector(c, g, OTHER))
            p = lanes.mul(e, block.r)
            parts.append(slope if power == 1 else lanes.mul(slope, code.functions.power(p, power - 1)))
        if kept_u is not None:
            u = kept_u.values.load(c)
            leads = b.fcmp_ordered(">", lanes.mul(e, block.r), lanes.reals(0.5))
            parts.append(b.fsub(lanes.zero, lanes.pick(leads, flows.quiet.get(), b.fsub(flows.total.get(), u))))
        value = lanes.mul(lanes.mul(e, weighted_r), lanes.total(parts))
        apart = [] if kept_t is None else [kept_t.values.load(c)]
        if kept_u is not None:
            apart.append(lanes.mul(u, block.factors(c).get("q")))
        if apart:
            value = lanes.add(value, block.weigh(lanes.total(apart)))
        if own_value is not None:
            value = lanes.pick(block.mine(c), own_value, value)
        block.store(value, c, form.logits)

    classes.each(write)


class _Row:
    """A value of each class, and their total; of flows also that of the classes that do not lead."""

    def __init__(self, block: Block, quiet: bool = False):
        self.values, self.total = block.classes.values(), block.classes.total()
        self.quiet = block.classes.total() if quiet else None


def _keep_parts(block: Block, coefficients: _Coefficients, groups: list[int]) -> tuple[_Row, _Row | None, Any]:
    """t and u of each class that is not the label's."""
    lanes, found = block.lanes, {}
    terms = [coefficients.groups[g].factors for g in groups]
    flowing = any(term.m or 0 < term.q < 1 for term in terms)
    t = _Row(block)
    u = _Row(block, quiet=True) if flowing else None

    def body(c: Any) -> None:
        parts = _Parts(block, block.factors(c), coefficients.slopes(block, c, groups))
        for row, value in ((t, parts.t), (u, parts.u)):
            if row is None:
                continue
            value = lanes.zero if value is None else value
            if block.others:
                value = lanes.pick(block.mine(c), lanes.zero, value)
            row.values.put(c, value)
            row.total.add(value)
            if row.quiet is not None:
                leads = block.builder.fcmp_ordered(">", block.factors(c).get("p"), lanes.reals(0.5))
                row.quiet.add(lanes.pick(leads, lanes.zero, value))

    block.classes.each(body)
    return t, u, u


