"""The losses on stencils in plain PyTorch, on any device: the readable back end, and the one of GPUs.

Every function takes checked tensors and a plan without terms. The last thing returned is the number of counted voxels
whose label is no class, or -1 where it was not counted.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.terms import Plan, Term

from ..balls import Balls, Fits, weigh_errors
from .sums import _sum_dtype, _Voxels
from .sums import backward as backward_of_sums


def _total(x: Tensor) -> Tensor:
    """Sums over the voxels, ``[B, C]``."""
    return x.sum(tuple(range(2, x.ndim)), dtype=_sum_dtype(x))


def _stored(x: Tensor, logits: Tensor) -> Tensor:
    """A constant volume as it is kept for the backward pass."""
    return x.to(torch.float64 if logits.dtype == torch.float64 else torch.float32).contiguous()


# Hausdorff loss by erosion


def hausdorff_erosion(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, alpha: float, erosions: int, derivative: bool
) -> tuple[Tensor, Tensor, int]:
    """``[B, C, 2]`` (sum of the weighted erosions, sum of w), and the derivative of the first by w (p - y)^2."""
    v = _Voxels(logits, target, mask, plan)
    error = v.weight * (v.p - v.y) ** 2
    coefficients = [0.0**alpha] + [float(k) ** alpha for k in range(1, erosions + 1)]
    eroded, summed, steps = error, coefficients[0] * error, []
    for coefficient in coefficients[1:] if error.numel() else ():
        thresholded = (_cross(eroded) - 0.5).relu()
        eroded = _normalised(thresholded)
        summed = summed + coefficient * eroded
        steps.append(thresholded if derivative else None)
    slope = error.new_empty(0)
    if derivative:  # by hand, since autograd does not record within an operator
        slope = torch.full_like(error, coefficients[len(steps)])
        for coefficient, thresholded in zip(coefficients[-2::-1], steps[::-1], strict=False):
            slope = _through_normalisation(slope, thresholded) * (thresholded > 0)
            slope = coefficient + _cross(slope)  # the cross is its own transpose
    sums = torch.stack((_total(summed), _total(v.weight.expand_as(error))), -1)
    return sums, _stored(slope, logits), -1


def _cross(x: Tensor) -> Tensor:
    """The mean of a voxel and its face neighbours; outside the volume is 0."""
    total = x
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        padded = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [1, 1])
        total = total + padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size)
    return total / (2 * (x.ndim - 2) + 1)


def _normalised(x: Tensor) -> Tensor:
    """(x - min) / (max - min) in each channel of each sample, and x where they are equal."""
    if x.numel() == 0:
        return x
    space = tuple(range(2, x.ndim))
    high, low = x.amax(space, keepdim=True), x.amin(space, keepdim=True)
    level = high == low
    return torch.where(level, x, (x - low) / torch.where(level, 1, high - low))


def _through_normalisation(gradient: Tensor, x: Tensor) -> Tensor:
    """The derivative by x of a sum whose derivative by norm(x) is given; ties share that of the extremes."""
    space = tuple(range(2, x.ndim))
    high, low = x.amax(space, keepdim=True), x.amin(space, keepdim=True)
    level = high == low
    spread = torch.where(level, 1, high - low)
    total, dot = gradient.sum(space, keepdim=True), (gradient * (x - low) / spread).sum(space, keepdim=True)
    at_high, at_low = (x == high).to(x), (x == low).to(x)
    own = gradient - dot * at_high / at_high.sum(space, keepdim=True).clamp_min(1)
    own = own + (dot - total) * at_low / at_low.sum(space, keepdim=True).clamp_min(1)
    return torch.where(level, gradient, own / spread)


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
    v = _Voxels(logits, target, mask, plan)
    weight = v.weight.expand_as(v.p)
    p, y = (_standardised(x, weight, taps, stability) for x in (v.p, v.y))
    e = (y - p).abs() * weight
    largest = e.amax(v.spatial, keepdim=True) if e.numel() else e
    selected = (e > threshold * largest) & (e > least * weight)
    return _stored(e * selected, logits), _total(weight * selected), -1


def _standardised(x: Tensor, weight: Tensor, taps: list[float], stability: float) -> Tensor:
    """(x - mean + C) / (deviation + C) under the window, over the voxels that count.

    Axis by axis: the mean of the means, the mean of the variances plus the variance of the means.
    """
    mean, variance, w = x, torch.zeros_like(x), weight
    for axis in range(2, x.ndim):
        total = _windowed(w, axis, taps)
        safe = torch.where(total > 0, total, 1)
        outer = _windowed(w * mean, axis, taps) / safe
        spread = torch.zeros_like(x)
        for shift, tap in enumerate(taps, -(len(taps) // 2)):
            near, inside = _shifted(mean, axis, shift), _shifted(w, axis, shift)
            spread = spread + tap * inside * (_shifted(variance, axis, shift) + (near - outer) ** 2)
        mean, variance, w = outer, spread / safe, total
    return (x - mean + stability) / (variance.sqrt() + stability)


def _windowed(x: Tensor, axis: int, taps: list[float]) -> Tensor:
    """The weighted sum of a voxel and its neighbours along an axis."""
    total = torch.zeros_like(x)
    for shift, tap in enumerate(taps, -(len(taps) // 2)):
        total = total + tap * _shifted(x, axis, shift)
    return total


def _shifted(x: Tensor, axis: int, shift: int) -> Tensor:
    """x of the voxel ``shift`` further along the axis, 0 outside."""
    padding = [0, 0] * (x.ndim - 1 - axis) + [max(0, -shift), max(0, shift)]
    return F.pad(x, padding).narrow(axis, max(0, shift), x.shape[axis])


# Soft clDice


def cldice_sums(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, iterations: int, first: int
) -> tuple[Tensor, int]:
    """``[B, C, 7]``: the sums of w times p y, p, s_p y, s_p, s_y p, s_y and y with s the soft skeletons; zeros for the
    channels before ``first``."""
    v = _Voxels(logits, target, mask, plan)
    p, y = v.p * v.counted, v.y
    of_p, of_y = (1 - _rest(_residues(x, iterations)[0], x) for x in (p, y))
    columns = (p * y, p, of_p * y, of_p, of_y * p, of_y, y)
    sums = torch.stack([_total(v.weight * x) for x in columns], -1)
    sums[:, :first] = 0
    return sums, -1


def cldice_sums_backward(
    grad_sums: Tensor, logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, iterations: int, first: int
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    v = _Voxels(logits, target, mask, plan)
    p, y = v.p * v.counted, v.y
    by = grad_sums.to(v.real).reshape(*p.shape[:2], *[1] * len(v.spatial), 7).unbind(-1)
    residues, erosions, dilations = _residues(p, iterations)
    slopes, tail = [], v.weight * (by[2] * y + by[3])
    for k in range(len(residues) - 1, -1, -1):
        before = _rest(residues[:k], p)
        slopes.append(torch.where(residues[k] > 0, tail * before, 0))
        tail = tail * torch.where(before > 0, 1 - residues[k], 1)
    slopes.reverse()
    slope = _scattered(slopes[-1], dilations[-1])  # by the last eroded volume, with the other sign
    slope = -slope
    for k in range(len(residues) - 1, -1, -1):
        slope = slopes[k] + _scattered(slope, erosions[k])
        if k > 0:
            slope = slope - _scattered(slopes[k - 1], dilations[k - 1])
    of_y = 1 - _rest(_residues(y, iterations)[0], y)
    slope = slope + v.weight * (by[0] * y + by[1] + by[4] * of_y)
    counted = None if mask is None else mask != 0
    ones = torch.ones(*p.shape[:2], 1, dtype=grad_sums.dtype, device=p.device)
    return backward_of_sums(ones, logits, target, counted, slope, plan._replace(terms=(Term(p=1.0, mapped=True),)))


def _residues(x: Tensor, iterations: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """max(E_k - dilate(E_(k+1)), 0) of the erosions E_k of x; where erosions and dilations took their values."""
    residues, erosions, dilations = [], [], []
    for _ in range(iterations + 1):
        eroded, at = _extreme(-x, _faces(x))
        eroded = -eroded
        opened, where = _extreme(eroded, _cube(x))
        residues.append((x - opened).relu())
        erosions.append(at)
        dilations.append(where)
        x = eroded
    return residues, erosions, dilations


def _rest(residues: list[Tensor], like: Tensor) -> Tensor:
    """The product of 1 - residue: what is not skeleton."""
    rest = torch.ones_like(like)
    for residue in residues:
        rest = rest * (1 - residue)
    return rest


def _faces(x: Tensor) -> list[tuple[int, ...]]:
    """A voxel and its face neighbours, as offsets."""
    axes = x.ndim - 2
    unit = [tuple(sign * (a == axis) for a in range(axes)) for axis in range(axes) for sign in (-1, 1)]
    return [(0,) * axes, *unit]


def _cube(x: Tensor) -> list[tuple[int, ...]]:
    """A voxel and all its neighbours, as offsets."""
    return sorted(itertools.product((-1, 0, 1), repeat=x.ndim - 2), key=lambda offset: offset != (0,) * (x.ndim - 2))


def _extreme(x: Tensor, offsets: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """The largest of the voxels at the offsets within the volume, and its place in the flattened volume."""
    space = x.shape[2:]
    place = torch.arange(space.numel(), device=x.device).reshape(space).expand_as(x)
    value, index = x, place
    for offset in offsets[1:]:
        near, at = x, place
        inside = torch.ones(space, dtype=torch.bool, device=x.device)[None, None]
        for axis, shift in enumerate(offset, 2):
            near, at, inside = (_shifted(t, axis, shift) for t in (near, at, inside))
        larger = inside & (near > value)
        value, index = torch.where(larger, near, value), torch.where(larger, at, index)
    return value, index


def _scattered(x: Tensor, index: Tensor) -> Tensor:
    """Each value added to the voxel of its index."""
    return torch.zeros_like(x).flatten(2).scatter_add_(2, index.flatten(2), x.flatten(2)).reshape(x.shape)


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
    ``first`` have 0."""
    v = _Voxels(logits, target, mask, plan)
    field, y = v.p * v.counted, v.y
    total = _total(v.weight.expand_as(field))
    sums = torch.stack((torch.zeros_like(total), total), -1)
    if field.numel():
        balls = (Fits if hard else Balls)(radii, alpha, field[0, 0])
        weigh_errors(balls, field, lambda b, c: y[b, c], v.weight[:, 0], first, sums[..., 0])
    return sums, _stored(field, logits), -1
