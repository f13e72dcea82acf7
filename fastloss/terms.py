"""The vocabulary of voxel terms: what a fused pass can sum. A leaf: imports nothing of the package.

Every term is one voxel quantity of a class channel, multiplied by the voxel's weight ``w`` and summed over the
voxels of each (sample, class). It is a product of powers,

    share * p^a * q^b * l^c * m^f * e^g * d^h,    exponents >= 0,

with ``p`` the probability after the activation, ``q = 1 - p``, ``l = -log p``, ``m = -log(1 - p)``, ``e = exp(-p)``,
``d = |p - y|``, ``y`` the target (0 / 1 for labels) and a share of 1, ``y``, ``r = 1 - y`` or ``y^2``. It is written as
that: ``"y*p^0.7"``, ``"p*l"``, ``"r*p*m"``, ``"d"``. A sum of products is several terms of a formula. Many have names:

==================== =================== =========================================
name                 product             symbol in the literature
==================== =================== =========================================
``p``                p                   predicted volume
``py``               y*p                 intersection (soft true positives)
``y``                y                   true volume
``count``            1                   number of voxels
``p2``               p^2                 squared prediction
``y2``               y^2                 squared target (``y`` for labels)
``p2y``              y*p^2               squared intersection
``ce_pos``           y*l                 cross-entropy of the foreground
``ce_neg``           r*m                 cross-entropy of the complement
``nll_pos``          l                   cross-entropy if all were foreground (label smoothing)
``nll_neg``          m                   the same for the complement
``focal_pos(g)``     y*q^g*l             focal loss of the foreground
``focal_neg(g)``     r*p^g*m             focal loss of the complement
``log_power_pos(g)`` y*l^g               logarithmic loss
``log_power_neg(g)`` r*m^g
``miss_pos(g)``      y*q^g               polynomial of the error
``miss_neg(g)``      r*p^g
==================== =================== =========================================

with g a number of at least 0; :func:`term_name` writes the name of a term with a power. ``map*PRODUCT`` is the same
quantity multiplied by the voxel weight map of the call.

Limits: a product whose share is 0 is 0, whatever the rest; ``0^0`` is 1; ``l^c`` with c other than 0 and 1 is
``max(l, 1e-7)^c``, constant below, and ``m^f`` likewise. Under softmax ``m``, and for plain probabilities ``l`` and
``m``, are logarithms of what is at least 1e-7. For plain probabilities the derivative of ``p^a``, a < 1, is infinite
at 0 unless a factor ``m`` vanishes there as well (``q^b`` needs ``l``): such a term is an error, and so is ``d`` to a
power below 1. The derivative of ``d`` is the sign of ``p - y``: 0 where both are equal, but for y = 0 and 1, where it
is the one-sided one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

FACTORS = ("p", "q", "l", "m", "e", "d")
ACTIVATIONS = ("softmax", "sigmoid", "none")
MAP_PREFIX = "map*"
EPSILON = 1e-7
VALIDATE_NOTHING, VALIDATE_LABELS, VALIDATE_ALL = range(3)


class Term(NamedTuple):
    """One voxel quantity: the exponents of a product, and whether the voxel weight map multiplies it."""

    share: str = "1"
    p: float = 0.0
    q: float = 0.0
    l: float = 0.0
    m: float = 0.0
    e: float = 0.0
    d: float = 0.0
    mapped: bool = False

    @property
    def constant(self) -> bool:
        """Whether it is one of the target alone: its derivative with respect to the logits is zero."""
        return not any(getattr(self, factor) for factor in FACTORS)


NAMES = {
    "p": Term("1", p=1.0),
    "py": Term("y", p=1.0),
    "y": Term("y"),
    "count": Term(),
    "p2": Term("1", p=2.0),
    "y2": Term("y2"),
    "p2y": Term("y", p=2.0),
    "ce_pos": Term("y", l=1.0),
    "ce_neg": Term("r", m=1.0),
    "nll_pos": Term("1", l=1.0),
    "nll_neg": Term("1", m=1.0),
}
# A name with a power: the product, and the factor whose exponent the power is
NAMES_WITH_POWER = {
    "focal_pos": (Term("y", l=1.0), "q"),
    "focal_neg": (Term("r", m=1.0), "p"),
    "log_power_pos": (Term("y"), "l"),
    "log_power_neg": (Term("r"), "m"),
    "miss_pos": (Term("y"), "q"),
    "miss_neg": (Term("r"), "p"),
}
_WITH_POWER = re.compile(rf"({'|'.join(NAMES_WITH_POWER)})\(([^()]*)\)")


class Plan(NamedTuple):
    """Everything but the tensors that a back end needs to know of one pass."""

    terms: tuple[Term, ...]
    activation: str
    ignore: tuple[int, ...]
    dense: bool

    @property
    def mapped(self) -> bool:
        return any(term.mapped for term in self.terms)


def is_constant(name: str) -> bool:
    """Whether a term is one of the target alone."""
    return parse_term(name).constant


def first_label(classes: int) -> int:
    """The label of channel 0: a single channel is the foreground, label 1; otherwise channel c is label c."""
    return 1 if classes == 1 else 0


def label_count(classes: int) -> int:
    """How many labels are valid: one a channel; with a single channel, background and foreground."""
    return 2 if classes == 1 else classes


def term_name(kind: str, power: float) -> str:
    """The one name of a term with a power: ``term_name("focal_pos", 2)`` is ``"focal_pos(2.0)"``."""
    return f"{kind}({float(power)!r})"


def parse_term(name: str) -> Term:
    """``"py"``, ``"focal_pos(2.0)"``, ``"y*p^0.7"`` or ``"map*py"`` as a :class:`Term`.

    Raises:
        ValueError: for what is no term, with what is.
    """
    if not isinstance(name, str):
        raise _unknown(name)
    return _parse(name)


@lru_cache(maxsize=1024)
def _parse(name: str) -> Term:
    product = name.removeprefix(MAP_PREFIX)
    mapped = product != name
    if product in NAMES:
        return NAMES[product]._replace(mapped=mapped)
    if found := _WITH_POWER.fullmatch(product):
        term, factor = NAMES_WITH_POWER[found[1]]
        powers: dict[str, Any] = {factor: _power(name, found[2])}
        return term._replace(mapped=mapped, **powers)
    return _parse_product(name, product)._replace(mapped=mapped)


def _parse_product(name: str, product: str) -> Term:
    """Factors in any order, each with or without an exponent; those of the same factor are added."""
    powers: dict[str, Any] = dict.fromkeys((*FACTORS, "y", "r"), 0.0)
    for part in product.replace(" ", "").split("*"):
        factor, caret, power = part.partition("^")
        if factor not in powers and part != "1":
            raise _unknown(name)
        if part != "1":
            powers[factor] += _power(name, power) if caret else 1.0
    shares = {(0, 0): "1", (1, 0): "y", (2, 0): "y2", (0, 1): "r"}
    share = shares.get((powers.pop("y"), powers.pop("r")))
    if share is None:
        raise ValueError(f"terms: {name!r} has no known share of the target, expected none, y, r (for 1 - y) or y^2")
    return Term(share, **powers)


def _power(name: str, text: str) -> float:
    try:
        power = float(text)
    except ValueError:
        power = math.nan
    if not (math.isfinite(power) and power >= 0):
        raise ValueError(f"terms: {name!r} has the power {text!r}, expected a finite number of at least 0")
    return power


def _unknown(name: object) -> ValueError:
    known = ", ".join((*NAMES, *(f"{kind}(POWER)" for kind in NAMES_WITH_POWER)))
    factors = ", ".join(FACTORS)
    return ValueError(
        f"terms: unknown term {name!r}, expected one of {known}, or a product of y, r, y^2 and powers of {factors} "
        f"such as 'y*p^0.7' or 'p*l', each with or without '{MAP_PREFIX}' in front"
    )


def check_terms(names: Sequence[str], activation: str) -> tuple[Term, ...]:
    """The terms of some names, all of them known and with a finite derivative under an activation.

    Raises:
        TypeError, ValueError: naming the term.
    """
    if not isinstance(names, (tuple, list)):  # of a text the letters would be terms
        raise TypeError(f"terms: got {names!r}, expected a tuple of terms, such as ('p', 'py', 'y')")
    terms = tuple(map(parse_term, names))
    for name, term in zip(names, terms, strict=True):
        if 0 < term.d < 1:
            raise ValueError(
                f"terms: the derivative of {name!r} is infinite where p is y, expected d to a power of 0 or at least 1"
            )
        for power, factor, other, log in ((term.p, "p", "m", term.m), (term.q, "q", "l", term.l)):
            if activation == "none" and 0 < power < 1 and log != 1:
                raise ValueError(
                    f"terms: the derivative of {name!r} is infinite for plain probabilities, expected {factor} to a "
                    f"power of 0, at least 1, or beside a factor {other}; or an activation of softmax or sigmoid"
                )
    return terms


@lru_cache(maxsize=1024)
def make_plan(terms: tuple[str, ...], activation: str, ignore: tuple[int, ...], dense: bool) -> Plan:
    """The plan of a pass; cached, since every step of a training run asks for the same one."""
    return Plan(check_terms(terms, activation), activation, ignore, dense)
