"""The CPU back end of the Hausdorff losses: the chain of erosions, and sums over balls, class by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan

from ..balls import Fits, weigh_errors
from . import erosion
from .balls import balls_of
from .loops import Loop
from .volumes import Volumes, errors, probabilities, target_volume, volumes


def hausdorff_erosion(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, alpha: float, erosions: int, derivative: bool
) -> tuple[Tensor, Tensor, int]:
    """``[B, C, 2]`` (sum of the weighted erosions, sum of w), and the derivative of the first by w (p - y)^2."""
    batch, channels = logits.shape[:2]
    v = volumes(logits, target, mask, plan)
    error = np.empty((batch, channels, int(np.prod(v.grid))), v.real)
    sums = np.zeros((batch, channels, 2))
    bad = 0
    if error.size:
        weights, bad = errors(v, error)
        sums[:, :, 1] = weights[:, None]
        chain = _Erosions(v, alpha, erosions, logits.ndim - 2)
        for b in range(batch):
            for c in range(channels):
                sums[b, c, 0] = chain.run(error[b, c].reshape(v.grid), derivative)
    slope = torch.from_numpy(error).view(logits.shape) if derivative else torch.empty(0, dtype=v.dtype)
    return torch.from_numpy(sums), slope, bad


class _Step(NamedTuple):
    """An eroded volume: its values before normalisation, and what normalises them."""

    values: np.ndarray
    active: np.ndarray  # [planes, rows]
    scale: float
    largest: float
    shifted: bool  # the smallest value was not 0 and has been subtracted


class _Erosions:
    """The chain of erosions of one class; its memory serves one class after another."""

    def __init__(self, v: Volumes, alpha: float, erosions: int, axes: int):
        self.grid, self.dtype, self.logits = v.grid, v.real, v.logits
        self.bits = np.dtype(np.int64 if self.dtype == np.float64 else np.int32)
        self.coefficients = [0.0**alpha] + [float(k) ** alpha for k in range(1, erosions + 1)]
        self.share = 1 / (2 * axes + 1)
        self.pool: list[tuple[np.ndarray, np.ndarray]] = []
        self.gradient = np.empty(v.grid, self.dtype)
        self.everywhere, self.zeros = np.ones(v.grid[:2], np.bool_), np.zeros(v.grid[2], self.dtype)
        self.extremes = np.zeros((v.grid[0], 2), np.int64)
        self.sums = np.zeros((v.grid[0], 4))

    def run(self, error: np.ndarray, derivative: bool) -> float:
        """The sum over voxels and erosions; with ``derivative`` its derivative replaces the error."""
        first = self.coefficients[0]
        total = first * float(error.sum(dtype=np.float64)) if first else 0.0
        last = _Step(error, self.everywhere, 1.0, 1.0, False)
        steps: list[_Step] = []
        for coefficient in self.coefficients[1:]:
            step, value = self.erode(last, len(steps))
            if step is None:
                break
            total += coefficient * value
            steps.append(step)
            last = step
        if derivative:
            self.derive(steps, error)
        return total

    def erode(self, source: _Step, depth: int) -> tuple[_Step | None, float]:
        """The next volume and the sum of its normalised values; None if nothing is above the threshold."""
        if depth == len(self.pool):
            self.pool.append((np.empty(self.grid, self.dtype), np.empty(self.grid[:2], np.bool_)))
        values, active = self.pool[depth]
        factors = self.factors(self.share * source.scale, -0.5)
        results = (values, active, self.extremes, self.sums)
        self._call(erosion.ERODE, source.values, source.active, self.zeros, *results, factors)
        largest_bits, smallest_bits = self.extremes[:, 0].max(), self.extremes[:, 1].min()
        total = float(self.sums[:, erosion.SUM].sum())
        if largest_bits == 0 and total == 0:
            return None, 0.0
        largest, smallest = (float(self.bits.type(x).view(self.dtype)) for x in (largest_bits, smallest_bits))
        if largest == smallest:  # of one value: not normalised
            return _Step(values, active, 1.0, -1.0, False), total
        if smallest != 0:
            low = np.array([smallest], self.dtype)
            self._call(erosion.SHIFT, values, active, low)
            total -= smallest * values.size
            largest = float(self.dtype.type(largest) - low[0])
        scale = 1 / largest
        return _Step(values, active, scale, largest, smallest != 0), total * scale

    def factors(self, factor: float, offset: float) -> np.ndarray:
        """A factor as it is rounded and what that leaves, which would add up over the erosions; an offset."""
        rounded = self.dtype.type(factor)
        return np.array([rounded, factor - float(rounded), offset], self.dtype)

    def derive(self, steps: list[_Step], out: np.ndarray) -> None:
        """Writes the derivative of the sum by the error, from the last step to the first."""
        gradient = self.gradient
        gradient.fill(self.coefficients[len(steps)])
        for k in range(len(steps), 0, -1):
            step = steps[k - 1]
            self.through_normalisation(step, gradient)
            before, target = (steps[k - 2].active, gradient) if k > 1 else (self.everywhere, out)
            factors = self.factors(self.share, self.coefficients[k - 1])
            self._call(erosion.SPREAD, step.values, step.active, self.zeros, before, target, factors)
        if not steps:
            out.fill(self.coefficients[0])

    def through_normalisation(self, step: _Step, gradient: np.ndarray) -> None:
        """The values become the derivative by what the threshold was applied to; ties share that of the extremes."""
        values = step.values
        largest = np.array([step.largest], self.dtype).view(self.bits)
        at_largest = at_zero = 0.0
        if step.largest != -1.0:
            self._call(erosion.STATISTICS, values, step.active, gradient, self.sums, largest)
            total, dot, high, low = self.sums.sum(0)
            dot *= step.scale
            at_largest = -dot * step.scale / max(1.0, high)
            at_zero = (dot - total) * step.scale / max(1.0, low) if step.shifted else 0.0
        factors = np.array([step.scale, at_largest, at_zero], self.dtype)
        self._call(erosion.THRESHOLD, values, step.active, gradient, largest, factors, step.shifted)

    def _call(self, loop: Loop, *arguments: np.ndarray | int) -> None:
        loop(self.grid[0], self.logits, *arguments)


def hausdorff_conv(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    plan: Plan,
    alpha: float,
    radii: list[int],
    hard: bool,
    first: int,
) -> tuple[Tensor, Tensor, int]:
    """``[B, C, 2]`` (sum of the weighted squared error, sum of w), and what it is weighted by; the channels before
    ``first`` have 0."""
    batch, channels = logits.shape[:2]
    v = volumes(logits, target, mask, plan)
    field = np.zeros((batch, channels, int(np.prod(v.grid))), v.real)
    sums, space, bad = torch.zeros((batch, channels, 2), dtype=torch.float64), logits.shape[2:], 0
    p = torch.from_numpy(field).view(logits.shape)
    if field.size:
        weights, y = np.empty((batch, field.shape[2]), field.dtype), np.empty(field.shape[2], field.dtype)
        totals, bad = probabilities(v, field, weights)
        sums[..., 1] = torch.from_numpy(totals).unsqueeze(1)

        def truth(b: int, c: int) -> Tensor:
            target_volume(v, y, b, c)
            return torch.from_numpy(y).view(space)

        balls = (Fits if hard else balls_of)(radii, alpha, p[0, 0])
        weigh_errors(balls, p, truth, torch.from_numpy(weights).view(batch, *space), first, sums[..., 0])
    return sums, p, bad
