"""What a tensor holds and how it is walked voxel by voxel: shared by the CPU and the GPU kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastloss.terms import Plan


def spatial_layout(tensor: Tensor, first: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Sizes and strides (elements) of the axes from ``first`` on, as three axes, outermost first.

    A contiguous volume, or a channels_last one, or a slice of channels, is ``(1, 1, N), (0, 0, stride)``.
    """
    if tensor.is_contiguous():
        return (1, 1, math.prod(tensor.shape[first:])), (0, 0, 1)
    return three_axes(tensor.shape[first:], tensor.stride()[first:])


def three_axes(shape: Sequence[int], stride: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The same of 1 to 3 axes: neighbours that one stride can walk are merged."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, step in zip(shape, stride, strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == step * size:
            sizes[-1] *= size
            strides[-1] = step
        else:
            sizes.append(size)
            strides.append(step)
    if not sizes:
        sizes, strides = [1], [1]
    missing = 3 - len(sizes)
    n0, n1, n2 = [1] * missing + sizes
    s0, s1, s2 = [0] * missing + strides
    return (n0, n1, n2), (s0, s1, s2)


class Axis(NamedTuple):
    """What each output along an axis is made of."""

    low: Tensor  # int64: the one voxel
    high: Tensor  # and the other
    share: Tensor  # of the other, float32 or float64


def labels_within(plan: Plan, dtype: torch.dtype) -> tuple[int, ...]:
    """The ignored labels that a target of the dtype can hold: as a number of that dtype another would wrap."""
    if plan.dense:
        return ()
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return tuple(label for label in plan.ignore if low <= label <= high)
