"""Machine code that sums the terms of a plan over the voxels of a tile, and writes what an output has of each voxel."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fastloss.terms import Term

from .block import Block, Code
from .classes import CHAINS, FEW, Kept, Memory
from .forms import ERRORS, HINGES, LOSSES, PROBABILITIES, SQUARES, SUMS, TARGETS, UNCOUNTED, WEIGHTS
from .lanes import BYTES, DOUBLE, counted
from .products import is_costly

_FOLD = 32  # sums of exponentials of at most FEW classes whose product still has a logarithm: 4^32 = 2e19


def emit_sums(code: Code) -> None:
    """Adds to the sums in the table."""
    b, lanes, form = code.builder, code.lanes, code.form
    sums = (_FewSums if code.few else _ManySums)(code)
    blocks = b.udiv(code.arguments.voxels, ir.Constant(BYTES, lanes.width))
    with counted(b, blocks) as index:
        block = Block(code, index, others=form.output in (SUMS, LOSSES, ERRORS))
        sums.add(block, index)
        if form.output != SUMS:
            _write(block)
    sums.finish()


class _Table:
    """The sums of a chunk."""

    def __init__(self, code: Code):
        self.code = code

    def add(self, c: Any, k: int, *values: Any) -> None:
        """Reals, to the sum of a term."""
        b, lanes, terms = self.code.builder, self.code.lanes, len(self.code.form.terms)
        c = ir.Constant(BYTES, c) if isinstance(c, int) else c
        place = b.mul(b.add(b.mul(c, ir.Constant(BYTES, terms)), ir.Constant(BYTES, k)), ir.Constant(BYTES, 8))
        total = lanes.load(self.code.arguments.table, place, DOUBLE)
        for value in values:
            total = b.fadd(total, value if lanes.real == DOUBLE else b.fpext(value, DOUBLE))
        lanes.store(total, self.code.arguments.table, place)


class _Sums:
    def __init__(self, code: Code):
        self.code, self.form, self.lanes, self.builder = code, code.form, code.lanes, code.builder
        self.terms = list(enumerate(self.form.terms))
        self.table, self.kept = _Table(code), Kept(code.lanes)
        self.counts = [k for k, term in self.terms if term == Term()]
        self.kept.start("weight", self.lanes.zero)

    def count(self) -> Any:
        """Of the voxels: their weight."""
        if self.code.weighted:
            return self.lanes.over_lanes(self.kept.get("weight"))
        return self.builder.sitofp(self.code.arguments.voxels, self.lanes.real)


class _FewSums(_Sums):
    """A register for each sum."""

    def __init__(self, code: Code):
        super().__init__(code)
        form, lanes = self.form, self.lanes
        labels = not form.dense and form.classes > 1
        self.trues = [k for k, term in self.terms if labels and not code.weighted and term == Term("y")]
        # Instead of a logarithm a voxel: -log p is log(sum of exponentials) less a logit
        cross_entropy = [k for k, term in self.terms if term == Term("y", l=1.0)]
        others = form.output == LOSSES or any(term.l for k, term in self.terms if k not in cross_entropy)
        folds = labels and form.activation == "softmax" and not code.weighted and not others
        self.folded = cross_entropy if folds else []
        special = {*self.counts, *self.trues, *self.folded}
        self.own = [k for k, term in self.terms if labels and term.share == "y" and is_costly(term)]
        self.own = [k for k in self.own if k not in special]
        self.each = [k for k, _ in self.terms if k not in special and k not in self.own]
        for c in range(form.classes):
            for k in (*self.own, *self.each, *self.folded):
                self.kept.start((k, c), lanes.zero)
            self.kept.start(("product", c), lanes.one)
        self.bits = 8 * lanes.size // FEW  # of the voxels of a class in a lane: at most 128 or, of doubles, 256
        self.kept.start("voxels", lanes.wholes(0))  # of each class

    def add(self, block: Block, index: Any) -> None:
        b, lanes, form, kept = self.builder, self.lanes, self.form, self.kept
        if self.code.weighted:
            kept.add("weight", block.weight)
        if self.trues:
            shift = b.mul(block.label, lanes.wholes(self.bits))
            kept.put("voxels", b.add(kept.get("voxels"), b.shl(lanes.wholes(1), shift)))
        own = {k: block.weigh(block.own.value(form.terms[k])) for k in self.own}
        for c in range(form.classes):
            for k in self.each:
                term = form.terms[k]
                value = block.of_share(term.share, c, block.factors(c).value(term) if not term.constant else None)
                kept.add((k, c), block.weigh(value, block.map(c) if term.mapped else None))
            for k, value in own.items():
                mapped = b.fmul(value, block.map(c)) if form.terms[k].mapped else value
                kept.add((k, c), lanes.pick(block.mine(c), mapped))
            for k in self.folded:
                kept.put((k, c), b.fsub(kept.get((k, c)), lanes.pick(block.mine(c), block.below(c))))
            if self.folded:
                factor = lanes.pick(block.mine(c), block.total, lanes.one)
                kept.put(("product", c), b.fmul(kept.get(("product", c)), factor))
        if self.folded:
            last = ir.Constant(BYTES, _FOLD - 1)
            with b.if_then(b.icmp_unsigned("==", b.and_(index, last), last), False):
                self._take_logarithms()

    def _take_logarithms(self) -> None:
        for c in range(self.form.classes):
            logarithm = self.code.functions.log(self.kept.get(("product", c)))
            for k in self.folded:
                self.kept.add((k, c), logarithm)
            self.kept.put(("product", c), self.lanes.one)

    def finish(self) -> None:
        b, lanes = self.builder, self.lanes
        if self.folded:
            self._take_logarithms()
        count = self.count() if self.counts else None
        for c in range(self.form.classes):
            for k in self.counts:
                self.table.add(c, k, count)
            for k in self.trues:
                voxels = b.lshr(self.kept.get("voxels"), lanes.wholes(self.bits * c))
                voxels = b.and_(voxels, lanes.wholes(2**self.bits - 1))
                self.table.add(c, k, lanes.over_lanes(b.sitofp(voxels, lanes.of_reals)))
            for k in (*self.own, *self.each, *self.folded):
                self.table.add(c, k, lanes.over_lanes(self.kept.get((k, c))))


class _ManySums(_Sums):
    """A row of memory for each sum of a class. Of labels what the label's class adds is apart, and scattered: so the
    sum of p is never less than that of y p, to the last bit."""

    def __init__(self, code: Code):
        super().__init__(code)
        form, lanes, classes = self.form, self.lanes, code.classes
        terms = [(k, term) for k, term in self.terms if k not in self.counts]
        self.each = [k for k, term in terms if form.dense or term.share != "y"]
        self.sums = {k: Memory(lanes, form.classes, lanes.width) for k in self.each}
        self.own: dict[Term, list[int]] = {}  # terms by their factors
        for k, term in terms if not form.dense else ():
            if term.share != "r":
                self.own.setdefault(term._replace(share="1"), []).append(k)
        if classes.picks:
            self.owns = [Memory(lanes, form.classes, lanes.width) for _ in self.own]
        else:
            self.owns = [Memory(lanes, CHAINS * form.classes, max(1, len(self.own)))] if self.own else []
            self.rows = Memory(lanes, max(1, len(self.own)), lanes.width)
        for memory in (*self.sums.values(), *self.owns):
            memory.clear()

    def add(self, block: Block, index: Any) -> None:
        lanes, form, classes = self.lanes, self.form, self.code.classes
        if self.code.weighted:
            self.kept.add("weight", block.weight)
        own = []
        for term in self.own:
            value = lanes.one if term.constant else block.own.value(term)
            own.append(block.of_labelled(block.weigh(value, block.own_map() if term.mapped else None)))

        def body(c: Any) -> None:
            for k in self.each:
                term = form.terms[k]
                value = None if term.constant else block.factors(c).value(term)
                if form.dense:
                    value = block.of_share(term.share, c, value)
                elif not term.p or not block.others:  # else 0 already
                    value = block.of_share("r", c, value)
                self.sums[k].add(c, block.weigh(value, block.map(c) if term.mapped else None))
            if classes.picks:
                for memory, value in zip(self.owns, own, strict=True):
                    memory.add(c, lanes.pick(block.mine(c), value))

        if self.each or (classes.picks and own):
            classes.each(body)
        if own and not classes.picks:
            self._scatter(own)

    def _scatter(self, own: list[Any]) -> None:
        b, classes = self.builder, self.code.classes
        for j, value in enumerate(own):
            self.rows.put(j, value)
        with classes.voxels(CHAINS) as found:
            for chain, (i, label) in enumerate(found):
                row = b.add(label, ir.Constant(BYTES, chain * self.form.classes))
                for j in range(len(own)):
                    total = b.fadd(self.owns[0].load_one(row, j), self.rows.load_one(j, i))
                    self.owns[0].put_one(row, j, total)

    def finish(self) -> None:
        b, lanes, form, classes = self.builder, self.lanes, self.form, self.code.classes
        count = self.count() if self.counts else None

        def body(c: Any) -> None:
            for j, ks in enumerate(self.own.values()):
                if classes.picks:
                    parts = [lanes.over_lanes(self.owns[j].load(c))]
                else:
                    rows = [b.add(c, ir.Constant(BYTES, chain * form.classes)) for chain in range(CHAINS)]
                    parts = [self.owns[0].load_one(row, j) for row in rows]
                for k in ks:
                    self.table.add(c, k, *parts)
            for k in self.each:
                self.table.add(c, k, lanes.over_lanes(self.sums[k].load(c)))
            for k in self.counts:
                self.table.add(c, k, count)

        classes.each(body)


def _write(block: Block) -> None:
    """What an output has of each voxel."""
    form, lanes = block.form, block.lanes
    if form.output == LOSSES:
        block.store(_loss(block))
    elif form.output == WEIGHTS:
        block.store(lanes.one if block.weight is None else block.weight)
    else:
        block.classes.each(lambda c: block.store(_value(block, c), c))


def _value(block: Block, c: Any) -> Any:
    """Of a voxel and class."""
    form, b = block.form, block.builder
    if form.output == TARGETS:
        return block.known(block.of_share("y", c, None))
    p = block.factors(c).get("p")
    if form.output == PROBABILITIES:
        return block.known(p)
    if form.output == SQUARES:
        d = block.factors(c).get("d")
        return block.weigh(b.fmul(d, d))
    return _error(block, c, p)


def _error(block: Block, c: Any, p: Any) -> Any:
    """p, or -(1 - p) where the class is true; of a hinge max(1 + p, 0), or -max(1 - p, 0). The sign tells also of 0 and
    NaN."""
    form, lanes, b = block.form, block.lanes, block.builder
    true = lanes.nonzero(block.y(c)) if form.dense else block.mine(c)
    q = (block.factors(c) if form.dense or form.classes == 1 else block.own).get("q")
    if form.output == HINGES:
        p, q = (lanes.at_least(x, 0) for x in (b.fadd(lanes.one, p), q))
    negative = b.or_(lanes.bits(q), lanes.wholes(-(2 ** (8 * lanes.size - 1))))
    error = lanes.pick(true, b.bitcast(negative, lanes.of_reals), lanes.absolute(p))
    return error if block.counted is None else lanes.pick(block.counted, error, lanes.reals(UNCOUNTED))


def _loss(block: Block) -> Any:
    """The weighted cross-entropy, of positive sign (also of NaN, so that bits rank it); -1 where nothing counts."""
    form, lanes, b = block.form, block.lanes, block.builder
    if form.classes == 1:
        factors = block.factors(0)
        parts = [block.of_share(share, 0, factors.get(log)) for share, log in (("y", "l"), ("r", "m"))]
        loss = b.fadd(*parts)
    elif form.dense:
        total = block.classes.total()
        block.classes.each(lambda c: total.add(block.of_share("y", c, block.factors(c).get("l"))))
        loss = total.get()
    else:
        loss = block.own.get("l")
    loss = lanes.absolute(block.weigh(loss))
    return loss if block.counted is None else lanes.pick(block.counted, loss, lanes.reals(-1))
