"""The CPU back end of the losses on stencils: drives the Numba kernels class by class, planes in parallel.

Every function takes checked tensors and a plan without terms, and returns the number of counted voxels whose label is
no class last. Planes are fixed by the shape and their sums added in order: the result does not depend on the number
of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan, Term

from ..balls import Fits, weigh_errors
from . import erosion as erosion
from . import skeleton as skeleton
from . import structure as structure
from .balls import balls_of
from .loops import Loop
from .sums import backward as backward_of_sums
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
        factors = np.array([self.share * source.scale, -0.5], self.dtype)
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

    def derive(self, steps: list[_Step], out: np.ndarray) -> None:
        """Writes the derivative of the sum by the error, from the last step to the first."""
        gradient = self.gradient
        gradient.fill(self.coefficients[len(steps)])
        for k in range(len(steps), 0, -1):
            step = steps[k - 1]
            self.through_normalisation(step, gradient)
            before, target = (steps[k - 2].active, gradient) if k > 1 else (self.everywhere, out)
            factors = np.array([self.share, self.coefficients[k - 1]], self.dtype)
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


def structural_map(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    plan: Plan,
    taps: list[float],
    threshold: float,
    stability: float,
) -> tuple[Tensor, Tensor, int]:
    """e where it is above the threshold, else 0, ``[B, C, *S]``; the sums of w over those voxels, ``[B, C]``."""
    batch, channels = logits.shape[:2]
    v = volumes(logits, target, mask, plan)
    field = np.empty((batch, channels, int(np.prod(v.grid))), v.real)
    selected = np.zeros((batch, channels))
    bad = 0
    if field.size:
        weights = np.empty((1, field.shape[2]), field.dtype)
        work = _Structure(v, taps, threshold, stability)
        for b in range(batch):
            bad += probabilities(v, field[b : b + 1], weights, b)[1]
            for c in range(channels):
                selected[b, c] = work.run(b, c, field[b, c].reshape(v.grid), weights.reshape(v.grid))
    return torch.from_numpy(field).view(logits.shape), torch.from_numpy(selected), bad


class _Structure:
    """The difference of local structure of one class; its memory serves one class after another."""

    def __init__(self, v: Volumes, taps: list[float], threshold: float, stability: float):
        dtype, (planes, lines, length) = v.real, v.grid
        self.volumes, self.taps, self.threshold = v, np.array(taps, dtype), threshold
        self.stability = np.array([stability], dtype)
        self.target = np.empty(v.grid, dtype)
        self.fields = np.empty(structure.FIELDS * planes * lines * (length + len(taps) // 2), dtype)
        self.largest = np.empty(planes, np.int64 if dtype == np.float64 else np.int32)
        self.sums = np.empty(planes)

    def run(self, b: int, c: int, p: np.ndarray, w: np.ndarray) -> float:
        """Replaces p by what is selected; returns the sum of w over it."""
        v, y = self.volumes, self.target
        target_volume(v, y.reshape(-1), b, c)
        planes = v.grid[0]
        structure.STATISTICS(planes, v.logits, self.fields, p, y, w, self.taps, v.grid[1] > 1)
        structure.DIFFERENCES(planes, v.logits, self.fields, p, y, w, self.taps, self.stability, self.largest)
        limit = np.array([self.threshold * self.largest.max().view(p.dtype)], p.dtype)
        structure.SELECT(planes, v.logits, p, w, limit, self.sums)
        return float(self.sums.sum())


def cldice_sums(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, iterations: int, first: int
) -> tuple[Tensor, int]:
    """``[B, C, 7]``: the sums of w times p y, p, s_p y, s_p, s_y p, s_y and y with s the soft skeletons; zeros for the
    channels before ``first``."""
    batch, channels = logits.shape[:2]
    v = volumes(logits, target, mask, plan)
    sums, bad = np.zeros((batch, channels, 7)), 0
    if logits.numel():
        work = _Skeletons(v, iterations, False)
        p = np.empty((1, channels, int(np.prod(v.grid))), v.real)
        for b in range(batch):
            bad += probabilities(v, p, work.weights, b)[1]
            for c in range(first, channels):
                work.sums(b, c, p[0, c].reshape(v.grid), sums[b, c])
    return torch.from_numpy(sums), bad


def cldice_sums_backward(
    grad_sums: Tensor, logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, iterations: int, first: int
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    batch, channels = logits.shape[:2]
    v = volumes(logits, target, mask, plan)
    slope = np.empty((batch, channels, int(np.prod(v.grid))), v.real)
    coefficients = grad_sums.detach().numpy()
    if slope.size:
        work = _Skeletons(v, iterations, True)
        for b in range(batch):
            probabilities(v, slope[b : b + 1], work.weights, b)
            for c in range(channels):
                if coefficients[b, c].any():
                    work.derivative(b, c, slope[b, c].reshape(v.grid), coefficients[b, c])
                else:
                    slope[b, c].fill(0)
        del work
    counted = None if mask is None else mask != 0  # the weights are in the slope already
    by_p = torch.ones((batch, channels, 1), dtype=torch.float64)
    through = plan._replace(terms=(Term(p=1.0, mapped=True),))
    return backward_of_sums(by_p, logits, target, counted, torch.from_numpy(slope).view(logits.shape), through)


class _Skeletons:
    """Soft skeletons of one class; the memory serves one class after another."""

    def __init__(self, v: Volumes, iterations: int, derivative: bool):
        grid, self.dtype = v.grid, v.real
        self.volumes, self.steps, self.slabs = v, iterations + 1, -(-grid[0] // skeleton.SLAB)
        self.weights = np.empty((1, int(np.prod(grid))), self.dtype)
        self.w = self.weights.reshape(grid)
        self.target = np.empty(grid, self.dtype)
        self.no_codes, self.nothing = np.empty((0, 0, 0), np.uint8), np.empty((0, 0, 0), self.dtype)
        self.stack = np.empty((max(3, self.steps) if derivative else 3, *grid), self.dtype)
        self.rest = self.stack[0]
        self.codes = np.empty((self.steps if derivative else 0, *grid), np.uint8)
        self.partial = np.zeros((grid[0], 3))

    def call(self, loop: Loop, *arguments: np.ndarray | int) -> None:
        loop(self.volumes.grid[0], self.volumes.logits, *arguments)

    def rest_of(self, x: np.ndarray) -> np.ndarray:
        """1 - soft skeleton of x."""
        self.rest.fill(1)
        now, after = self.stack[-2], self.stack[-1]
        now[:] = x
        for _ in range(self.steps):
            self.call(skeleton.ERODE, now, after, self.no_codes)
            self.residue(now, after, self.rest, self.no_codes)
            now, after = after, now
        return self.rest

    def residue(self, *arguments: np.ndarray) -> None:
        skeleton.RESIDUE(self.slabs, self.volumes.logits, *arguments)

    def sums(self, b: int, c: int, p: np.ndarray, out: np.ndarray) -> None:
        """The sums of one class."""
        y, w = self.target, self.w
        target_volume(self.volumes, y.reshape(-1), b, c)
        of_p = self.totals(skeleton.SUMS_OF_SKELETON, self.rest_of(p), y, w)
        of_y = self.totals(skeleton.SUMS_OF_SKELETON, self.rest_of(y), p, w)
        overlap = self.totals(skeleton.OVERLAP, p, y, w)[0]
        out[:] = overlap, of_y[2], of_p[0], of_p[1], of_y[0], of_y[1], of_p[2]

    def totals(self, loop: Loop, *arguments: np.ndarray) -> np.ndarray:
        self.call(loop, *arguments, self.partial)
        return self.partial.sum(0)

    def scatter(self, out: np.ndarray, g: np.ndarray, codes: np.ndarray, offsets: np.ndarray, sign: float) -> None:
        """Adds g to where each voxel's value came from; the offsets are those of each value of a code."""
        factor = np.array([sign], self.dtype)
        for half in range(2):  # what is scattered reaches into the next slab
            slabs = (self.slabs + 1 - half) // 2
            skeleton.SCATTER(slabs, self.volumes.logits, out, g, codes, offsets, factor, half)

    def derivative(self, b: int, c: int, p: np.ndarray, by: np.ndarray) -> None:
        """Replaces p by the derivative by it, the weights included."""
        y, stack = self.target, self.stack
        target_volume(self.volumes, y.reshape(-1), b, c)
        steps = [p, *stack[: self.steps]]  # erosion after erosion; then residues, then derivatives by them
        for k, codes in enumerate(self.codes):
            self.call(skeleton.ERODE, steps[k], steps[k + 1], codes)
            self.residue(steps[k], steps[k + 1], self.nothing, codes)
        factors = np.array([by[skeleton.PRECISION], by[skeleton.SKELETON_P]], self.dtype)
        self.call(skeleton.DERIVATIVES, p, stack, self.steps, y, self.w, factors)
        steps[-1].fill(0)
        of_erosion, of_dilation = (f(self.volumes.grid) for f in (skeleton.erosion_offsets, skeleton.dilation_offsets))
        for k in range(self.steps, -1, -1):
            if k < self.steps:
                self.scatter(steps[k], steps[k + 1], self.codes[k], of_erosion, 1.0)
            if k > 0:
                self.scatter(steps[k], steps[k - 1], self.codes[k - 1], of_dilation, -1.0)
        factors = np.array([by[skeleton.SENSITIVITY], by[skeleton.PY], by[skeleton.P]], self.dtype)
        self.call(skeleton.CONSTANTS, p, self.rest_of(y), y, self.w, factors)


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
