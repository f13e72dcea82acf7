"""The vocabulary of voxel terms: what a fused pass can sum. A leaf: imports nothing of the package.

Every term is one voxel quantity of a class channel, multiplied by the voxel's weight ``w`` and summed over the
voxels of each (sample, class). ``p`` is the probability after the activation, ``y`` the target (0 / 1 for labels).

========== ===================== =========================================
name       quantity              symbol in the literature
========== ===================== =========================================
``p``      p                     predicted volume
``py``     p y                   intersection (soft true positives)
``y``      y                     true volume
``count``  1                     number of voxels
``p2``     p^2                   squared prediction
``y2``     y^2                   squared target (``y`` for labels)
``p2y``    p^2 y                 squared intersection
``ce_pos`` y (-log p)            cross-entropy of the foreground
``ce_neg`` (1 - y) (-log(1-p))   cross-entropy of the complement
========== ===================== =========================================

``map*NAME`` is the same quantity multiplied by the voxel weight map of the call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

KINDS = ("p", "py", "y", "count", "p2", "y2", "p2y", "ce_pos", "ce_neg")
# Terms of the target alone: their derivative with respect to the logits is zero.
CONSTANT_KINDS = frozenset({"y", "count", "y2"})
ACTIVATIONS = ("softmax", "sigmoid", "none")
MAP_PREFIX = "map*"
EPSILON = 1e-7
VALIDATE_NOTHING, VALIDATE_LABELS, VALIDATE_ALL = range(3)


class Term(NamedTuple):
    """One voxel quantity; ``mapped`` says that the voxel weight map multiplies it."""

    kind: str
    mapped: bool = False


class Plan(NamedTuple):
    """Everything but the tensors that a back end needs to know of one pass."""

    terms: tuple[Term, ...]
    activation: str
    ignore: tuple[int, ...]
    dense: bool

    @property
    def mapped(self) -> bool:
        return any(term.mapped for term in self.terms)


def first_label(classes: int) -> int:
    """The label of channel 0: a single channel is the foreground, label 1; otherwise channel c is label c."""
    return 1 if classes == 1 else 0


def label_count(classes: int) -> int:
    """How many labels are valid: one a channel; with a single channel, background and foreground."""
    return 2 if classes == 1 else classes


def parse_term(name: str) -> Term:
    """``"py"`` or ``"map*py"`` as a :class:`Term`; raises ValueError for a name that is no term."""
    kind = name.removeprefix(MAP_PREFIX) if isinstance(name, str) else name
    if kind not in KINDS:
        raise ValueError(
            f"terms: unknown term {name!r}, expected one of {', '.join(KINDS)}, each with or without '{MAP_PREFIX}'"
        )
    return Term(kind, kind != name)


@lru_cache(maxsize=1024)
def make_plan(terms: tuple[str, ...], activation: str, ignore: tuple[int, ...], dense: bool) -> Plan:
    """The plan of a pass; cached, since every step of a training run asks for the same one."""
    return Plan(tuple(map(parse_term, terms)), activation, ignore, dense)
