"""The GPU back end of the losses on stencils: drives the Triton kernels, some classes of a sample at once.

Every function takes checked tensors and a plan without terms. Nothing waits for the device. The last thing returned is
-1: bad labels are not counted here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from fastloss.terms import Plan, Term, first_label

from ..balls import Balls, Fits, weigh_errors
from . import erosion, skeleton, structure
from . import sums as gpu
from .geometry import WARPS
from .ranked import voxel_weight
from .sums import backward as backward_of_sums
from .values import values_launch

BLOCK = 512  # voxels of a program
TOGETHER = 2**20  # voxels of all classes at once: what fills a device; more would only take memory


class Volumes:
    """One call's tensors, and how its volumes are walked."""

    def __init__(self, logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan):
        self.logits, self.target, self.mask, self.plan = logits, target, mask, plan
        self.batch, self.channels = logits.shape[:2]
        self.real, self.device = gpu._real(logits), logits.device
        space = tuple(logits.shape[2:])
        self.axes, self.voxels, self.grid = len(space), math.prod(space), (*(1,) * (3 - len(space)), *space)
        self.weights = voxel_weight(target, mask, plan).to(self.real).reshape(self.batch, self.voxels)
        if target.dtype in (torch.uint16, torch.uint32):  # which torch compares with no other dtype
            self.target = target.long()

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.real, device=self.device)

    def values(self, what: str, b: int | None = None) -> Tensor:
        """Probabilities (``"p"``) or weighted squared errors (``"squares"``), of a sample or all, ``[n, V]``."""
        samples = slice(None) if b is None else slice(b, b + 1)
        mask = None if self.mask is None else self.mask[samples]
        logits = self.logits[samples]
        out = self.empty(*logits.shape)
        values_launch(logits, self.target[samples], mask, self.plan, out, what)[0].run()
        return out.view(-1, self.voxels)

    def truth(self, b: int, classes: slice) -> Tensor:
        """y of some classes of a sample, 0 where a voxel does not count, ``[n, V]``."""
        if self.plan.dense:
            y = self.target[b, classes].to(self.real)
        else:
            labels = torch.arange(self.channels, device=self.device)[classes] + first_label(self.channels)
            y = (self.target[b] == labels.view(-1, *[1] * self.axes)).to(self.real)
        return torch.where(self.weights[b] != 0, y.reshape(-1, self.voxels), 0)

    def some(self, count: int, first: int = 0) -> Iterator[slice]:
        """The classes, or other volumes, that are handled at once."""
        step = max(1, TOGETHER // self.voxels)
        return (slice(start, min(start + step, count)) for start in range(first, count, step))

    def run(self, kernel: Any, x: Tensor, *args: Any, grid: bool = True, **constants: Any) -> None:
        """Runs a kernel on volumes ``x`` ``[n, V]``; ``grid``: it sees neighbours."""
        sizes = (self.voxels, *self.grid) if grid else (self.voxels,)
        constants |= {"AXES": self.axes} if grid and "AXIS" not in constants else {}
        options = {"BLOCK": BLOCK, "INDEX": tl.int32 if self.voxels < 2**31 - 2**16 else tl.int64}
        options |= {"num_warps": WARPS, "enable_fp_fusion": True}
        gpu.Launch(kernel, (self._programs, x.shape[0]), (x, *args, *sizes), {**constants, **options}).run()

    def partial(self, x: Tensor, columns: int) -> Tensor:
        """For the sums of each program."""
        return self.empty(x.shape[0], self._programs, columns)

    @property
    def _programs(self) -> int:
        return -(-self.voxels // BLOCK)


# Hausdorff loss by erosion


def hausdorff_erosion(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, alpha: float, erosions: int, derivative: bool
) -> tuple[Tensor, Tensor, int]:
    """``[B, C, 2]`` (sum of the weighted erosions, sum of w), and the derivative of the first by w (p - y)^2."""
    v = Volumes(logits, target, mask, plan)
    sums = torch.zeros((v.batch * v.channels, 2), dtype=torch.float64, device=v.device)
    slope = v.empty(0)
    if logits.numel():
        error = v.values("squares")
        sums[:, 1] = v.weights.sum(1, dtype=torch.float64).repeat_interleave(v.channels)
        coefficients = [0.0**alpha] + [float(k) ** alpha for k in range(1, erosions + 1)]
        for some in v.some(error.shape[0]):
            sums[some, 0] = _eroded(v, error[some], coefficients, derivative)
        slope = error.view(logits.shape) if derivative else slope
    elif derivative:
        slope = v.empty(*logits.shape)
    return sums.view(v.batch, v.channels, 2), slope, -1


def _eroded(v: Volumes, error: Tensor, coefficients: list[float], derivative: bool) -> Tensor:
    """The weighted sum of the erosions of each volume; with ``derivative`` its derivative replaces the error."""
    total = coefficients[0] * error.sum(1, dtype=torch.float64)
    low, scale = (torch.full_like(total, x, dtype=v.real) for x in (0.0, 1.0))
    source, spare, steps = error, [], []
    for coefficient in coefficients[1:]:
        out, partial = spare.pop() if spare else torch.empty_like(error), v.partial(error, 3)
        v.run(erosion.cross, source, torch.stack((low, *_share(v, scale)), 1), out, partial)
        if not derivative and source is not error:
            spare.append(source)
        high, low = partial[..., 0].amax(1), partial[..., 1].amin(1)
        level = high == low  # of one value: not normalised
        low, scale = torch.where(level, 0, low), torch.where(level, 1, 1 / (high - low).double())
        total += coefficient * (partial[..., 2].sum(1, dtype=torch.float64) - v.voxels * low.double()) * scale
        source = out
        if derivative:
            steps.append((out, low, scale.to(v.real), high, level))
    if derivative:
        _erosion_derivative(v, error, steps, coefficients)
    return total


def _share(v: Volumes, scale: Tensor) -> tuple[Tensor, Tensor]:
    """What makes a cross's sum the mean times scale; what its rounding left, which would add up over the erosions."""
    share = scale.double() / (2 * v.axes + 1)
    rounded = share.to(v.real)
    return rounded, (share - rounded).to(v.real)


def _erosion_derivative(v: Volumes, error: Tensor, steps: list[tuple[Tensor, ...]], coefficients: list[float]) -> None:
    """Writes the derivative of the sum into ``error``, from the last step to the first."""
    g, out = torch.full_like(error, coefficients[-1]), torch.empty_like(error)
    mean = _share(v, error.new_ones(error.shape[0]))
    while steps:
        x, low, scale, high, level = steps.pop()
        partial = v.partial(x, 4)
        v.run(erosion.cross_statistics, g, x, torch.stack((low, scale, high), 1), partial, grid=False)
        total, dot, at_high, at_low = partial.sum(1, dtype=torch.float64).unbind(-1)
        by_high = torch.where(level, 0, -dot * scale / at_high.clamp_min(1)).to(v.real)
        by_low = torch.where(level, 0, (dot - total) * scale / at_low.clamp_min(1)).to(v.real)
        coefficient = torch.full_like(scale, coefficients[len(steps)])
        factors = torch.stack((scale, high, low, by_high, by_low, coefficient, *mean), 1)
        v.run(erosion.cross_derivative, g, x, factors, out if steps else error)
        g, out = out, g


# Structural similarity


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
    v = Volumes(logits, target, mask, plan)
    selected = torch.zeros(logits.shape[:2], dtype=torch.float64, device=v.device)
    if not logits.numel():
        return v.empty(*logits.shape), selected, -1
    field = v.values("p").view(v.batch, v.channels, v.voxels)
    for b in range(v.batch):
        w = v.weights[b]
        for some in v.some(v.channels):
            e = field[b, some]
            of_p = _standardised(v, e, w, taps, stability)
            torch.sub(of_p, _standardised(v, v.truth(b, some), w, taps, stability), out=e)
            e.abs_().mul_(w)
            chosen = (e > threshold * e.amax(1, keepdim=True)) & (e > least * w)
            e.mul_(chosen)
            selected[b, some] = (chosen * w).sum(1, dtype=torch.float64)
    return field.view(logits.shape), selected, -1


def _standardised(v: Volumes, x: Tensor, weight: Tensor, taps: list[float], stability: float) -> Tensor:
    """(x - mean + C) / (deviation + C) under the window."""
    constants = {"TAPS": tuple(taps), "STABILITY": stability}
    mean, variance, w = x, x, weight
    out = torch.empty_like(x), torch.empty_like(x), torch.empty_like(weight)
    spare: tuple[Tensor, ...] = ()
    for axis in range(3 - v.axes, 3):
        first, last = axis == 3 - v.axes, axis == 2
        v.run(structure.window, x, mean, variance, w, *out, AXIS=axis, FIRST=first, LAST=last, **constants)
        if not last:
            free = spare or tuple(torch.empty_like(t) for t in out)
            spare = (mean, variance, w) if not first else ()
            (mean, variance, w), out = out, free
    return out[0]


# Soft clDice


def cldice_sums(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, iterations: int, first: int
) -> tuple[Tensor, int]:
    """``[B, C, 7]``: the sums of w times p y, p, s_p y, s_p, s_y p, s_y and y with s the soft skeletons; zeros for the
    channels before ``first``."""
    v = Volumes(logits, target, mask, plan)
    sums = torch.zeros((v.batch, v.channels, 7), dtype=torch.float64, device=v.device)
    for b in range(v.batch if logits.numel() else 0):
        p = v.values("p", b)
        for some in v.some(v.channels, first):
            y, own = v.truth(b, some), p[some]
            of_p = _skeleton_sums(v, own, y, b, iterations)
            of_y = _skeleton_sums(v, y, own, b, iterations)
            columns = (of_p[3], of_y[2], of_p[0], of_p[1], of_y[0], of_y[1], of_p[2])
            sums[b, some] = torch.stack(columns, -1)
    return sums, -1


def _skeleton_sums(v: Volumes, x: Tensor, other: Tensor, b: int, iterations: int) -> tuple[Tensor, ...]:
    """Of w times s y, s, y and x y, with s the skeleton of x, and y the other."""
    partial = v.partial(x, 4)
    rest = _rest(v, x, iterations)
    v.run(skeleton.skeleton_sums, rest, other, x, v.weights[b], partial, grid=False)
    return partial.sum(1, dtype=torch.float64).unbind(-1)


def _rest(v: Volumes, x: Tensor, iterations: int) -> Tensor:
    """1 less the skeleton."""
    rest, spare, no_codes = torch.ones_like(x), [torch.empty_like(x)], v.empty(1, dtype=torch.uint8)
    for k in range(iterations + 1):
        eroded = spare.pop()
        v.run(skeleton.erode, x, eroded, no_codes, CODES=False)
        v.run(skeleton.residue, x, eroded, rest, no_codes, CODES=False)
        spare.append(x if k else torch.empty_like(x))
        x = eroded
    return rest


def cldice_sums_backward(
    grad_sums: Tensor, logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, iterations: int, first: int
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    if not logits.numel():
        return torch.zeros_like(logits)
    v = Volumes(logits, target, mask, plan)
    slope = v.values("p").view(v.batch, v.channels, v.voxels)
    by = grad_sums.to(v.real)
    for b in range(v.batch):
        slope[b, :first] = 0
        for some in v.some(v.channels, first):
            _skeleton_derivative(v, slope[b, some], v.truth(b, some), v.weights[b], by[b, some], iterations)
    counted = None if mask is None else mask != 0  # the weights are in the slope already
    ones = torch.ones((v.batch, v.channels, 1), dtype=torch.float64, device=v.device)
    through = plan._replace(terms=(Term(p=1.0, mapped=True),))
    return backward_of_sums(ones, logits, target, counted, slope.view(logits.shape), through)


def _skeleton_derivative(v: Volumes, p: Tensor, y: Tensor, w: Tensor, by: Tensor, iterations: int) -> None:
    """Replaces p by the derivative by it, the weights included."""
    count = iterations + 1
    stack = v.empty(count, *p.shape)
    codes = v.empty(count, *p.shape, dtype=torch.uint8)
    steps = [p, *stack]  # erosion after erosion; then residues, then derivatives by them
    for k in range(count):
        v.run(skeleton.erode, steps[k], steps[k + 1], codes[k], CODES=True)
        v.run(skeleton.residue, steps[k], steps[k + 1], p, codes[k], CODES=True)
    by_pairs = by[:, 2:4].contiguous()
    v.run(skeleton.residue_derivatives, p, stack, y, w, by_pairs, count, grid=False)
    steps[-1].zero_()
    for k in range(count, -1, -1):
        if k < count:
            v.run(skeleton.gather, steps[k], steps[k + 1], codes[k], DILATION=False)
        if k > 0:
            v.run(skeleton.gather, steps[k], steps[k - 1], codes[k - 1], DILATION=True)
    del stack, codes, steps
    rest = _rest(v, y, iterations)
    v.run(skeleton.add_constants, p, rest, y, w, by[:, [4, 0, 1]].contiguous(), grid=False)


# Hausdorff loss by convolution


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
    ``first`` have 0. The convolutions are torch's Fourier transforms."""
    v = Volumes(logits, target, mask, plan)
    sums = torch.zeros((v.batch, v.channels, 2), dtype=torch.float64, device=v.device)
    if not logits.numel():
        return sums, v.empty(*logits.shape), -1
    sums[..., 1] = v.weights.sum(1, keepdim=True, dtype=torch.float64)
    field, space = v.values("p").view(logits.shape), logits.shape[2:]
    balls = (Fits if hard else Balls)(radii, alpha, field[0, 0])
    weights = v.weights.view(v.batch, *space)
    weigh_errors(balls, field, lambda b, c: v.truth(b, slice(c, c + 1)).view(space), weights, first, sums[..., 0])
    return sums, field, -1
