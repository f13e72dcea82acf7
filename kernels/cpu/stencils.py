"""The CPU back end of the losses on stencils: drives the Numba kernels class by class, planes in parallel. Those of
Hausdorff are in :mod:`.hausdorff`.

Every function takes checked tensors and a plan without terms, and returns the number of counted voxels whose label is
no class last. Planes are fixed by the shape and their sums added in order: the result does not depend on the number
of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan, Term

from . import skeleton, structure
from .hausdorff import hausdorff_conv, hausdorff_erosion
from .loops import Loop
from .sums import backward as backward_of_sums
from .volumes import Volumes, probabilities, target_volume, volumes

__all__ = ["cldice_sums", "cldice_sums_backward", "hausdorff_conv", "hausdorff_erosion", "structural_map"]


def structural_map(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    plan: Plan,
    taps: list[float],
    threshold: float,
    stability: float,
    least: float,
) -> tuple[Tensor, Tensor, int]:
    """e where it is above ``threshold`` times the largest and ``least`` times w, else 0, ``[B, C, *S]``; the sums of w
    over those voxels, ``[B, C]``."""
    batch, channels = logits.shape[:2]
    v = volumes(logits, target, mask, plan)
    field = np.empty((batch, channels, int(np.prod(v.grid))), v.real)
    selected = np.zeros((batch, channels))
    bad = 0
    if field.size:
        weights = np.empty((1, field.shape[2]), field.dtype)
        work = _Structure(v, taps, threshold, stability, least)
        for b in range(batch):
            bad += probabilities(v, field[b : b + 1], weights, b)[1]
            for c in range(channels):
                selected[b, c] = work.run(b, c, field[b, c].reshape(v.grid), weights.reshape(v.grid))
    return torch.from_numpy(field).view(logits.shape), torch.from_numpy(selected), bad


class _Structure:
    """The difference of local structure of one class; its memory serves one class after another."""

    def __init__(self, v: Volumes, taps: list[float], threshold: float, stability: float, least: float):
        dtype, (planes, lines, length) = v.real, v.grid
        self.volumes, self.taps, self.threshold, self.least = v, np.array(taps, dtype), threshold, least
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
        limits = np.array([self.threshold * self.largest.max().view(p.dtype), self.least], p.dtype)
        structure.SELECT(planes, v.logits, p, w, limits, self.sums)
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
