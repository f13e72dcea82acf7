"""The vocabulary of voxel terms: what a fused pass can sum. A leaf: imports nothing of the package.

Every term is one voxel quantity of a class channel, multiplied by the voxel's weight ``w`` and summed over the
voxels of each (sample, class). ``p`` is the probability after the activation, ``y`` the target (0 / 1 for labels).

==================== ===================== =========================================
name                 quantity              symbol in the literature
==================== ===================== =========================================
``p``                p                     predicted volume
``py``               p y                   intersection (soft true positives)
``y``                y                     true volume
``count``            1                     number of voxels
``p2``               p^2                   squared prediction
``y2``               y^2                   squared target (``y`` for labels)
``p2y``              p^2 y                 squared intersection
``ce_pos``           y l                   cross-entropy of the foreground
``ce_neg``           (1 - y) m             cross-entropy of the complement
``nll_pos``          l                     cross-entropy if all were foreground (label smoothing)
``nll_neg``          m                     the same for the complement
``focal_pos(g)``     y (1-p)^g l           focal loss of the foreground
``focal_neg(g)``     (1 - y) p^g m         focal loss of the complement
``log_power_pos(g)`` y max(l, 1e-7)^g      logarithmic loss
``log_power_neg(g)`` (1 - y) max(m, 1e-7)^g
``miss_pos(g)``      y (1-p)^g             polynomial of the error, g >= 1
``miss_neg(g)``      (1 - y) p^g
==================== ===================== =========================================

with l = -log p, m = -log(1-p) and g a number of at least 0; :func:`term_name` writes the name of a term with a power.
``map*NAME`` is the same quantity multiplied by the voxel weight map of the call.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

KINDS = ("p", "py", "y", "count", "p2", "y2", "p2y", "ce_pos", "ce_neg", "nll_pos", "nll_neg")
POWER_KINDS = ("focal_pos", "focal_neg", "log_power_pos", "log_power_neg", "miss_pos", "miss_neg")
# Terms of the target alone: their derivative with respect to the logits is zero.
CONSTANT_KINDS = frozenset({"y", "count", "y2"})
ACTIVATIONS = ("softmax", "sigmoid", "none")
MAP_PREFIX = "map*"
EPSILON = 1e-7
VALIDATE_NOTHING, VALIDATE_LABELS, VALIDATE_ALL = range(3)


_WITH_POWER = re.compile(rf"({'|'.join(POWER_KINDS)})\(([^()]*)\)")


class Term(NamedTuple):
    """One voxel quantity; ``mapped``: the voxel weight map multiplies it; ``power``: that of a power kind, or 0."""

    kind: str
    mapped: bool = False
    power: float = 0.0


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
    return name.removeprefix(MAP_PREFIX) in CONSTANT_KINDS


def first_label(classes: int) -> int:
    """The label of channel 0: a single channel is the foreground, label 1; otherwise channel c is label c."""
    return 1 if classes == 1 else 0


def label_count(classes: int) -> int:
    """How many labels are valid: one a channel; with a single channel, background and foreground."""
    return 2 if classes == 1 else classes


def term_name(kind: str, power: float) -> str:
    """The one name of a term with a power: ``term_name("focal_pos", 2)`` is ``"focal_pos(2.0)"``."""
    return f"{kind}({float(power)!r})"


@lru_cache(maxsize=1024)
def parse_term(name: str) -> Term:
    """``"py"``, ``"focal_pos(2.0)"`` or ``"map*py"`` as a :class:`Term`; ValueError for a name that is no term."""
    kind = name.removeprefix(MAP_PREFIX) if isinstance(name, str) else name
    mapped = kind != name
    if kind in KINDS:
        return Term(kind, mapped)
    found = _WITH_POWER.fullmatch(kind) if isinstance(kind, str) else None
    if not found:
        powers = ", ".join(f"{kind}(POWER)" for kind in POWER_KINDS)
        raise ValueError(
            f"terms: unknown term {name!r}, expected one of {', '.join(KINDS)}, {powers}, each with or without "
            f"'{MAP_PREFIX}'"
        )
    return Term(found[1], mapped, _power(name, *found.groups()))


def _power(name: str, kind: str, text: str) -> float:
    least = 1.0 if kind.startswith("miss") else 0.0  # below 1 the derivative is infinite where there is no error
    try:
        power = float(text)
    except ValueError:
        power = math.nan
    if not (math.isfinite(power) and power >= least):
        raise ValueError(f"terms: {name!r} has the power {text!r}, expected a finite number of at least {least:g}")
    return power


@lru_cache(maxsize=1024)
def make_plan(terms: tuple[str, ...], activation: str, ignore: tuple[int, ...], dense: bool) -> Plan:
    """The plan of a pass; cached, since every step of a training run asks for the same one."""
    return Plan(tuple(map(parse_term, terms)), activation, ignore, dense)
