"""Losses as quotients of linear forms of sums, which a device finishes in one step. A leaf."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Quotient(NamedTuple):
    """A part of a loss, ``factor`` times a quotient of two linear forms of the sums, or the sum of one for each cell.

    As a ``table`` it is ``(above + smooth_above) / (below + smooth_below)`` of each sample and class (with ``batch`` of
    the samples' sums), from class ``first`` on, 0 where the divisor is, or ``below`` with a ``smooth_above``. Otherwise
    both forms are summed over samples and classes first, the lower one up to class ``last``; 0 where that is 0.
    """

    above: dict[str, float]  # by the names of terms
    below: dict[str, float]
    factor: float
    table: bool
    first: int = 0
    last: int = 0
    batch: bool = False
    smooth_above: float = 0.0
    smooth_below: float = 0.0
    weight: Tensor | None = None  # of the classes
    weigh_below: bool = False  # whether the weights multiply the lower form of a whole as well
