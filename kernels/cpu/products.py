"""The one rule for the value of a product of powers, and the one for its slopes, on vectors of voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fastloss.terms import EPSILON, FACTORS, Term

from .functions import Functions
from .lanes import Lanes

# Factors that are functions of p: their values, and the derivatives of their logarithms
_OF_P: dict[str, tuple[Callable[[Functions, Any], Any], Callable[[Functions, Any], Any]]] = {
    "e": (lambda f, p: f.exp(f.lanes.builder.fsub(f.lanes.zero, p)), lambda f, p: f.lanes.reals(-1)),
}


def is_costly(term: Term) -> bool:
    """Whether it is more than a whole power of p, or a logarithm: then it is computed of the label's class alone."""
    factors = {factor: getattr(term, factor) for factor in FACTORS if getattr(term, factor)}
    whole_power_of_p = set(factors) <= {"p"} and term.p in range(5)
    return factors != {"l": 1} and not whole_power_of_p


class Slopes(NamedTuple):
    """The derivatives of a weighted sum of products, apart: only so are they finite at p = 0 and 1. None is zero."""

    by_p: Any = None  # that of powers of p and q, but for
    steep_p: Any = None  # p times that of p to a power below 1, and
    steep_q: Any = None  # q times that of q to a power below 1
    by_l: Any = None
    by_m: Any = None


Makers = dict[str, Callable[[], Any]]


class Factors:
    """p, q = 1 - p, l = -log p, m = -log(1 - p), d = |p - y| and its slope by p, the side, of a block of voxels, each
    made when first asked for."""

    def __init__(self, lanes: Lanes, **makers: Callable[[], Any]):
        self.lanes, self.functions, self._makers = lanes, Functions(lanes), makers
        for name, (value, _) in _OF_P.items():
            self._makers[name] = lambda value=value: value(self.functions, self.get("p"))
        self._made: dict[tuple[str, float], Any] = {}

    def get(self, factor: str) -> Any:
        return self.power(factor, 1.0)

    def power(self, factor: str, power: float) -> Any:
        """Of a logarithm to a power other than 1, that of what is at least epsilon."""
        if (factor, power) not in self._made:
            if power == 1:
                self._made[factor, power] = self._makers[factor]()
            else:
                x = self.get(factor)
                x = self.lanes.at_least(x, EPSILON) if factor in "lm" else x
                self._made[factor, power] = self.functions.power(x, power)
        return self._made[factor, power]

    def inverse(self, factor: str, least: float) -> Any:
        """1 / factor, or 0 where that is not more than the least."""
        lanes, x = self.lanes, self.get(factor)
        inverse = lanes.builder.fdiv(lanes.one, lanes.at_least(x, least))
        return lanes.pick(lanes.builder.fcmp_ordered(">", x, lanes.reals(least)), inverse)

    def value(self, term: Term, **powers: float) -> Any:
        """The product of the factors without its share, some of them to other powers; None for 1."""
        result = None
        for factor in FACTORS:
            power = powers.get(factor, getattr(term, factor))
            if power:
                x = self.power(factor, power)
                result = x if result is None else self.lanes.builder.fmul(result, x)
        return result

    def slopes(self, term: Term, k: Any) -> Slopes:
        """Of k times a product without its share."""
        steep_p = steep_q = None
        by_p = [
            self.lanes.mul(
                self._scaled(getattr(term, factor), self.value(term), k), slope(self.functions, self.get("p"))
            )
            for factor, (_, slope) in _OF_P.items()
            if getattr(term, factor)
        ]
        if term.d:
            slope = self._scaled(term.d, self.value(term, d=term.d - 1), k)
            by_p.append(self.lanes.builder.fmul(slope, self.get("side")))
        if term.p >= 1:
            by_p.append(self._scaled(term.p, self.value(term, p=term.p - 1), k))
        elif term.p:
            steep_p = self._scaled(term.p, self.value(term), k)
        if term.q >= 1:
            by_p.append(self._scaled(-term.q, self.value(term, q=term.q - 1), k))
        elif term.q:
            steep_q = self._scaled(term.q, self.value(term), k)
        total = self.lanes.total(by_p) if by_p else None
        return Slopes(total, steep_p, steep_q, self._by_log(term, "l", k), self._by_log(term, "m", k))

    def _by_log(self, term: Term, factor: str, k: Any) -> Any:
        power = getattr(term, factor)
        if not power:
            return None
        slope = self._scaled(power, self.value(term, **{factor: power - 1 if power >= 1 else 0.0}), k)
        if power < 1:
            clamped = self.lanes.at_least(self.get(factor), EPSILON)
            slope = self.lanes.builder.fmul(slope, self.functions.power(clamped, power - 1))
        if power == 1:
            return slope
        constant = self.lanes.builder.fcmp_ordered("<=", self.get(factor), self.lanes.reals(EPSILON))
        return self.lanes.pick(constant, self.lanes.zero, slope)

    def _scaled(self, factor: float, value: Any, k: Any) -> Any:
        """factor times value (1 if None) times k."""
        scaled = k if factor == 1 else self.lanes.mul(self.lanes.reals(factor), k)
        return scaled if value is None else self.lanes.mul(scaled, value)


def add_up(lanes: Lanes, parts: Iterable[Slopes]) -> Slopes:
    """Their sum."""
    columns = zip(*parts, strict=True)
    found = ([x for x in column if x is not None] for column in columns)
    totals = [lanes.total(values) if values else None for values in found]
    return Slopes(*totals) if totals else Slopes()
