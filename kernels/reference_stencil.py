"""The losses on stencils in plain PyTorch, on any device: the readable back end, and the one of GPUs.

Every function takes checked tensors and a plan without terms. The last thing returned is the number of counted voxels
whose label is no class, or -1 where it was not counted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.terms import Plan

from .reference import _sum_dtype, _Voxels


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
) -> tuple[Tensor, Tensor, int]:
    """e where it is above the threshold, else 0, ``[B, C, *S]``; the sums of w over those voxels, ``[B, C]``."""
    v = _Voxels(logits, target, mask, plan)
    weight = v.weight.expand_as(v.p)
    p, y = (_standardised(x, weight, taps, stability) for x in (v.p, v.y))
    e = (y - p).abs() * weight
    largest = e.amax(v.spatial, keepdim=True) if e.numel() else e
    selected = e > threshold * largest
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
