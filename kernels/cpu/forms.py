"""What makes one machine code differ from another, and what it is called with."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from fastloss.terms import Plan, Term

# What a code computes: sums; sums and each voxel's cross-entropy; the gradient; of each voxel and class the signed
# error p or -(1 - p), p, w (p - y)^2, or y; w of each voxel; the weighted sum of the terms of each voxel and class, and
# that of all classes of a voxel; of each voxel and class the signed hinge of the logit, max(1 + p, 0) or -max(1 - p, 0)
SUMS, LOSSES, GRADIENT, ERRORS, PROBABILITIES, SQUARES, TARGETS, WEIGHTS, VALUES, TOTALS, HINGES = range(11)
WITH_COEFFICIENTS = (GRADIENT, VALUES, TOTALS)  # one for each term, in place of sums
UNCOUNTED = 3.4028234663852886e38  # in place of the error of a voxel that does not count
OWN, OTHER, SQUARE = range(3)  # coefficients: where y is 1, where it is 0, and of y^2


class Group(NamedTuple):
    """The terms of a plan with the same factors, by share: their numbers."""

    factors: Term
    shares: dict[str, list[int]]

    def asks(self, *shares: str) -> bool:
        return any(share in self.shares for share in shares)

    def of(self, which: int) -> list[int]:
        """The terms that add to one of the coefficients."""
        shares = {OWN: ("1", "y"), OTHER: ("1", "r"), SQUARE: ("y2",)}[which]
        return [k for share in shares for k in self.shares.get(share, ())]


class Form(NamedTuple):
    """What makes one code differ from another."""

    output: int
    activation: str
    dense: bool
    classes: int  # that depend on one another: of a softmax, or of which a voxel has one loss; else 1
    narrow: bool  # labels are numbers of 8 bits
    terms: tuple[Term, ...]
    real: str
    logits: str  # the type that they are read, and their gradient written, as

    @property
    def mapped(self) -> bool:
        return any(term.mapped for term in self.terms)

    def groups(self) -> list[Group]:
        """Of the terms that have a derivative, or of all where their values are wanted."""
        found: dict[Term, dict[str, list[int]]] = {}
        for k, term in enumerate(self.terms):
            if not term.constant or self.output != GRADIENT:
                found.setdefault(term._replace(share="1"), {}).setdefault(term.share, []).append(k)
        return [Group(*item) for item in found.items()]

    @property
    def name(self) -> str:
        return "plan_" + hashlib.sha256(repr(self).encode()).hexdigest()[:20]


def form_of(plan: Plan, channels: int, labels: int, output: int, real: str, logits: str) -> Form:
    """Of a plan, and a number of labels; of labels y^2 is y."""
    exclusive = plan.activation == "softmax" or (output == LOSSES and plan.activation == "none")
    terms = plan.terms
    if not plan.dense:
        terms = tuple(term._replace(share="y") if term.share == "y2" else term for term in terms)
    narrow = not plan.dense and labels <= 255  # which is no class
    return Form(output, plan.activation, plan.dense, channels if exclusive else 1, narrow, terms, real, logits)


class Arguments(NamedTuple):
    """Of a code, all int64: addresses, steps in bytes from class to class, and numbers."""

    table: Any  # sums of a chunk, or the coefficients of the terms: float64 [C, K]
    scratch: Any  # for the coefficients
    first: Any  # whether this is the first tile of the chunk, and they are to be made
    logits: Any
    logits_step: Any
    target: Any  # labels, or rows of a dense target
    target_step: Any
    weights: Any
    weighted: Any  # whether a weight is other than 1, or a label no class
    voxels: Any
    label: Any  # of a single class
    map: Any
    map_step: Any
    out: Any
    out_step: Any
    adds: Any  # whether what is written of all channels, one by one, has those before in it already
