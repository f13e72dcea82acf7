"""A block of voxels: their weights and truth, the activation of their logits, and the shares of a term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from fastloss.terms import EPSILON

from .classes import FEW, Few, Many, registers
from .forms import ERRORS, LOSSES, SQUARES, SUMS, TOTALS, VALUES, Arguments, Form
from .functions import Functions
from .lanes import BYTES, SIZES, Lanes, prefetch
from .products import Factors, Makers

_LINE = 64  # bytes of a cache line
_AHEAD = 2048  # bytes from a logit to the one that is prefetched


class Code:
    """What the blocks of a code have in common."""

    def __init__(self, builder: ir.IRBuilder, form: Form, weighted: bool, arguments: Arguments):
        self.builder, self.form, self.weighted, self.arguments = builder, form, weighted, arguments
        self.lanes = Lanes(builder, form.real, registers(form.classes))
        self.few = form.classes <= FEW
        self.functions = Functions(self.lanes)
        self.classes: Any = (Few if self.few else Many)(self.lanes, form.classes)

    def row(self, address: Any, step: Any, c: Any) -> Any:
        """The address of a class's row."""
        return self.builder.add(address, self.builder.mul(step, ir.Constant(BYTES, c) if isinstance(c, int) else c))


class Block:
    """One block; of each class where a method takes one."""

    def __init__(self, code: Code, index: Any, others: bool = False, each: Callable[[Any, Any], None] | None = None):
        """``others``: of many classes, leave the label's own out of what is done for each, its exponential being 0;
        ``each`` gets a class and its exponential as it is made."""
        self.code, self.lanes, self.builder = code, code.lanes, code.builder
        self.form, self.arguments, self.classes = code.form, code.arguments, code.classes
        b, lanes, form, a = self.builder, self.lanes, self.form, self.arguments
        self.offset = b.mul(index, ir.Constant(BYTES, lanes.width * lanes.size))
        self.logits_offset = b.mul(index, ir.Constant(BYTES, lanes.width * SIZES[form.logits]))
        self.others = others and not code.few and not form.dense and form.activation == "softmax"
        self.weight = lanes.load(a.weights, self.offset) if code.weighted else None
        self.counted = lanes.nonzero(self.weight) if code.weighted else None
        self._factors: dict[Any, Factors] = {}  # by class: its number, or the index of a loop
        self._own: Factors | None = None
        if not form.dense:
            self._load_labels(index)
        if form.activation == "softmax":
            self._softmax(each or (lambda c, e: None))
        elif form.classes > 1:
            self._probabilities()

    def _load_labels(self, index: Any) -> None:
        b, lanes, form = self.builder, self.lanes, self.form
        label = lanes.load_labels(self.arguments.target, index, form.narrow)
        self.labelled = None
        if form.classes > 1 and self.code.weighted:
            self.labelled = b.icmp_unsigned("<", label, lanes.wholes(form.classes))
        self.label = label
        if form.classes > 1 and not self.code.few:
            known = label if self.labelled is None else b.select(self.labelled, label, lanes.wholes(0))
            self.classes.keep_labels(known)
        if form.classes == 1:
            number = self.arguments.label
            number = number if lanes.whole == BYTES else b.trunc(number, lanes.whole)
            self._single = b.icmp_signed("==", label, lanes.fill(number))

    # Activations

    def _logit(self, c: Any) -> Any:
        code, a = self.code, self.arguments
        address = code.row(a.logits, a.logits_step, c)
        if code.few:
            for line in range(0, self.lanes.width * SIZES[self.form.logits], _LINE):
                ahead = ir.Constant(BYTES, _AHEAD + line)
                prefetch(self.builder, self.builder.add(self.builder.add(address, self.logits_offset), ahead))
        return self.known(self.lanes.load_as(self.form.logits, address, self.logits_offset))

    def _softmax(self, each: Callable[[Any, Any], None]) -> None:
        b, lanes, classes = self.builder, self.lanes, self.classes
        self.z = classes.values()
        self.largest = classes.load(self.z, self._logit)
        total = classes.total()
        if self.others:
            (own,) = self.of_label([self.z])
        rest = leaders = None
        if not self.code.few and self._asks("q", "m"):
            rest, leaders = classes.total(), classes.total()

        def body(c: Any, e: Any) -> Any:
            if rest is not None:  # of all but those that lead
                rest.add(lanes.pick(self._leads(c), lanes.zero, e))
                leaders.add(lanes.pick(self._leads(c), lanes.one))
            if self.others:
                e = lanes.pick(self.mine(c), lanes.zero, e)
            total.add(e)
            each(c, e)
            return e

        into = self.z  # in place of the logits, where no factor of each class needs those
        if self.form.output in (SUMS, LOSSES, VALUES, TOTALS) and not self._asks("p", "q", "m", "e", "d"):
            into = None
        elif self._asks("q", "l", "m"):
            into = classes.values()
        self.e = classes.exponentials(self.z, self.largest, body, into)
        self.total = total.get()
        if rest is not None:
            self.rest = lanes.add(rest.get(), b.fsub(leaders.get(), lanes.one))
        if self.others:
            below = self.of_labelled(b.fsub(own(), self.largest))
            own_e = self.of_labelled(self.code.functions.exp(below))
            others_total, self.total = self.total, lanes.add(self.total, own_e)
        self.r = b.fdiv(lanes.one, self.total)
        self._log_total: Any = None
        if self.others:
            self._own = Factors(
                lanes,
                p=lambda: lanes.mul(own_e, self.r),
                q=lambda: lanes.mul(others_total, self.r),
                l=lambda: self.of_labelled(b.fsub(self.log_total(), below)),
                m=lambda: self.clamped_log(self.own.get("q"), self.own.get("p")),
                **self._distance_of_own(),
            )

    def _asks(self, *factors: str) -> bool:
        """Whether one of the factors is wanted of each class, not of the label's alone."""
        if self.form.dense and {ERRORS: "q", LOSSES: "l"}.get(self.form.output) in factors:
            return True
        if self.form.output == SQUARES and "q" in factors:
            return True
        if self.form.dense and "q" in factors:
            factors = (*factors, "d")
        terms = [term for term in self.form.terms if term.share != "y" or not self.others]
        return any(getattr(term, factor) for term in terms for factor in factors)

    def _leads(self, c: Any) -> Any:
        return self.builder.fcmp_ordered("==", self.z.load(c), self.largest)

    def log_total(self) -> Any:
        if self._log_total is None:
            self._log_total = self.code.functions.log(self.total)
        return self._log_total

    def below(self, c: Any) -> Any:
        """The logit less the largest."""
        return self.builder.fsub(self.z.load(c), self.largest)

    def _softmax_q(self, c: Any, p: Any) -> Any:
        """1 - p without a difference where p is nearly 1: from the other classes."""
        lanes = self.lanes
        if self.code.few:
            return lanes.mul(lanes.total([e for k, e in self.e.items() if k != c]), self.r)
        return lanes.pick(self._leads(c), lanes.mul(self.rest, self.r), self.builder.fsub(lanes.one, p))

    def _probabilities(self) -> None:
        """The values of classes that are not made to add up to 1."""
        self.z = self.classes.values()
        self.classes.each(lambda c: self.z.put(c, self._logit(c)))

    def factors(self, c: Any) -> Factors:
        """p, q, l and m of a class."""
        if c not in self._factors:
            self._factors[c] = self._make_factors(c)
        return self._factors[c]

    def _make_factors(self, c: Any) -> Factors:
        b, lanes = self.builder, self.lanes
        if self.form.activation == "softmax":
            found = Factors(
                lanes,
                p=lambda: lanes.mul(self.e.load(c), self.r),
                q=lambda: self._softmax_q(c, found.get("p")),
                l=lambda: b.fsub(self.log_total(), self.below(c)),
                m=lambda: self.clamped_log(found.get("q"), found.get("p")),
                **self._distance(c),
            )
            return found
        z = self._logit(c) if self.form.classes == 1 else self.z.load(c)
        return (self._sigmoid if self.form.activation == "sigmoid" else self._plain)(z, self._distance(c))

    def _plain(self, p: Any, distance: Makers) -> Factors:
        found = Factors(
            self.lanes,
            p=lambda: p,
            q=lambda: self.builder.fsub(self.lanes.one, p),
            l=lambda: self.clamped_log(p, found.get("q")),
            m=lambda: self.clamped_log(found.get("q"), found.get("p")),
            **distance,
        )
        return found

    def _sigmoid(self, z: Any, distance: Makers) -> Factors:
        b, lanes = self.builder, self.lanes
        functions = self.code.functions
        minus = b.fsub(lanes.reals(-0.0), z)
        e = functions.exp(b.fsub(lanes.reals(-0.0), lanes.absolute(z)))
        large = b.fdiv(lanes.one, b.fadd(lanes.one, e))
        small = b.fmul(e, large)
        positive = b.fcmp_ordered(">=", z, lanes.zero)
        tail: list[Any] = []

        def log(mask: Any, value: Any) -> Any:
            if not tail:
                tail.append(functions.log1p(e))
            return b.fadd(tail[0], lanes.pick(mask, lanes.zero, value))

        return Factors(
            lanes,
            p=lambda: lanes.pick(positive, large, small),
            q=lambda: lanes.pick(positive, small, large),
            l=lambda: log(b.fcmp_ordered(">", z, lanes.zero), minus),
            m=lambda: log(b.fcmp_ordered("<", z, lanes.zero), z),
            **distance,
        )

    def _distance(self, c: Any) -> Makers:
        """What makes d = |p - y| of a class, and its slope by p."""
        b, lanes = self.builder, self.lanes
        if not self.form.dense:
            get = lambda factor: self.factors(c).get(factor)  # noqa: E731
            if self.others:
                return {"d": lambda: get("p"), "side": lambda: lanes.one}
            return {
                "d": lambda: lanes.pick(self.mine(c), get("q"), get("p")),
                "side": lambda: lanes.pick(self.mine(c), lanes.reals(-1), lanes.one),
            }

        def side() -> Any:
            y, p = self.y(c), self.factors(c).get("p")
            above = b.or_(b.fcmp_ordered(">", p, y), b.fcmp_ordered("<=", y, lanes.zero))
            below = b.or_(b.fcmp_ordered("<", p, y), b.fcmp_ordered(">=", y, lanes.one))
            return lanes.pick(above, lanes.one, lanes.pick(below, lanes.reals(-1)))

        def distance() -> Any:
            """Between the smaller ones of p and q, which have more digits."""
            y, p, q = self.y(c), self.factors(c).get("p"), self.factors(c).get("q")
            of_q = b.fsub(q, b.fsub(lanes.one, y))
            return lanes.absolute(lanes.pick(b.fcmp_ordered(">", y, lanes.reals(0.5)), of_q, b.fsub(p, y)))

        return {"d": distance, "side": side}

    def _distance_of_own(self) -> Makers:
        """The same of the label's class."""
        return {"d": lambda: self.own.get("q"), "side": lambda: self.lanes.reals(-1)}

    def clamped_log(self, x: Any, rest: Any) -> Any:
        """-log(max(x, epsilon)); ``rest``: 1 - x, which has more digits where x is nearly 1."""
        b, zero = self.builder, self.lanes.zero
        clamped = self.lanes.at_least(x, EPSILON)
        return b.fsub(zero, self.code.functions.log(clamped, b.fsub(zero, rest)))

    # Truth

    @property
    def own(self) -> Factors:
        """The factors of the class of the label; p = l = m = 0 and q = 1 where it is no class."""
        if self._own is None:
            self._own = self._choose_own()
        return self._own

    def _choose_own(self) -> Factors:
        lanes = self.lanes
        if self.form.activation != "softmax":
            (p,) = self.of_label([self.z])
            plain = self._plain(self.of_labelled(p()), {})
            return Factors(
                lanes,
                p=lambda: plain.get("p"),
                q=lambda: plain.get("q"),
                l=lambda: self.of_labelled(plain.get("l")),
                m=lambda: plain.get("m"),
                **self._distance_of_own(),
            )
        each = range(self.form.classes)

        def of_others() -> Any:
            return lanes.total([lanes.pick(self.mine(c), lanes.zero, self.e[c]) for c in each])

        found = Factors(
            lanes,
            p=lambda: lanes.choose([self.mine(c) for c in each], [self.factors(c).get("p") for c in each]),
            q=lambda: lanes.mul(of_others(), self.r),
            l=lambda: lanes.choose([self.mine(c) for c in each], [self.factors(c).get("l") for c in each]),
            m=lambda: self.clamped_log(found.get("q"), found.get("p")),
            **self._distance_of_own(),
        )
        return found

    def of_labelled(self, value: Any) -> Any:
        """0 where the label is no class."""
        return value if self.labelled is None else self.lanes.pick(self.labelled, value)

    def of_label(self, rows: list[Any]) -> list[Callable[[], Any]]:
        """What the label's class has of values of each."""
        return self.classes.of_label(
            self.label, [(row.load, lambda label, i, row=row: row.load_one(label, i)) for row in rows]
        )

    def mine(self, c: Any) -> Any:
        """Whether the class is that of the label."""
        return self._single if self.form.classes == 1 else self.classes.is_class(self.label, c)

    def y(self, c: Any) -> Any:
        """Of a dense target."""
        return self.load(self.code.row(self.arguments.target, self.arguments.target_step, c))

    def of_share(self, share: str, c: Any, value: Any) -> Any:
        """The share of the target times a value (1 if None), which may be infinite where the share is 0."""
        b, lanes = self.builder, self.lanes
        value = lanes.one if value is None else value
        if share == "1":
            return value
        if self.form.dense:
            y = self.y(c)
            value = b.fmul(b.fsub(lanes.one, y) if share == "r" else b.fmul(y, y) if share == "y2" else y, value)
        return lanes.pick(self.has_share(share, c), value)

    def has_share(self, share: str, c: Any) -> Any:
        """Whether a share of the target other than 1 is not 0."""
        b, lanes = self.builder, self.lanes
        if self.form.dense:
            return lanes.nonzero(b.fsub(lanes.one, self.y(c)) if share == "r" else self.y(c))
        return b.not_(self.mine(c)) if share == "r" else self.mine(c)

    # Weights

    def load(self, address: Any) -> Any:
        """Of a row of reals."""
        return self.known(self.lanes.load(address, self.offset))

    def known(self, value: Any) -> Any:
        """0 where the weight is 0: anything may stand there."""
        return value if self.counted is None else self.lanes.pick(self.counted, value)

    def weigh(self, value: Any, weight: Any = None) -> Any:
        """The value times the voxel weight, and another."""
        for factor in (self.weight, weight):
            value = value if factor is None else self.builder.fmul(value, factor)
        return value

    def map(self, c: Any) -> Any:
        """The voxel weight map of a class."""
        return self.load(self.code.row(self.arguments.map, self.arguments.map_step, c))

    def own_map(self) -> Any:
        """That of the label's class."""

        def of_voxel(label: Any, i: Any) -> Any:
            row = self.builder.add(self.code.row(self.arguments.map, self.arguments.map_step, label), self.offset)
            place = self.builder.mul(i, ir.Constant(BYTES, self.lanes.size))
            return self.lanes.load(row, place, self.lanes.real)

        (value,) = self.classes.of_label(self.label, [(self.map, of_voxel)])
        return self.known(value())

    # Results

    def store(self, value: Any, c: Any = 0, kind: str = "") -> None:
        """To the row of a class, as a number of a kind."""
        a = self.arguments
        offset = self.logits_offset if kind else self.offset
        self.lanes.store_as(kind or self.lanes.name, value, self.code.row(a.out, a.out_step, c), offset)
