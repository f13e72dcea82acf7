"""Balls around every voxel, in plain PyTorch on any device: the Hausdorff loss by convolution.

Means over balls are Fourier transforms: for r = 18 in three axes a mean has 24405 terms, a transform a few hundred
operations a voxel. :mod:`kernels.cpu.balls` has sums that need fewer for small balls. Whether a ball lies within a hard
mask needs no ball: a distance tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Weighing(Protocol):
    """What the loss asks of balls, whoever makes the means."""

    def surplus_weights(self, p: Tensor, y: Tensor) -> Tensor:
        """What multiplies the squared error, ``[*S]``, from p and y of one class."""


def weigh_errors(
    balls: Weighing, p: Tensor, truth: Callable[[int, int], Tensor], weights: Tensor, first: int, sums: Tensor
) -> None:
    """Replaces p ``[B, C, *S]``, 0 where a voxel does not count, by what multiplies its squared error, and writes the
    sums of the weighted squared error ``[B, C]``; both are 0 for the channels before ``first``.

    Args:
        truth: y of a sample and class, ``[*S]``, like p.
        weights: w, ``[B, *S]``.
    """
    p[:, :first], sums[:, :first] = 0, 0
    for b in range(p.shape[0]):
        for c in range(first, p.shape[1]):
            y = truth(b, c)
            weight = balls.surplus_weights(p[b, c], y)
            sums[b, c] = (p[b, c] - y).square_().mul_(weights[b]).mul_(weight).sum(dtype=sums.dtype)
            p[b, c] = weight


class Balls:
    """The transforms of the balls of several radii, for volumes of one shape."""

    def __init__(self, radii: Sequence[int], alpha: float, like: Tensor):
        self.space = like.shape
        self.weights = [float(radius) ** alpha for radius in radii]
        self.reach = [min(max(radii), size - 1) for size in self.space]  # beyond it there is no voxel
        self.padded = padded_shape(radii, self.space)
        # voxel of a periodic axis -> how far it is from voxel 0, by which all that is symmetric is indexed
        places = [torch.arange(size, device=like.device) for size in self.padded]
        self.offsets = [torch.minimum(x, size - x) for x, size in zip(places, self.padded, strict=True)]
        self.transforms = [self._transform(radius, like) for radius in radii]

    def _transform(self, radius: int, like: Tensor) -> Tensor:
        """Of the ball around voxel 0, of sum 1 where nothing is cut off; real and symmetric, of each axis a half."""
        near = [torch.where(x <= far, x, radius + 1) for x, far in zip(self.offsets, self.reach, strict=True)]
        ball = (_squares(near) <= radius**2).to(like) / ball_size(radius, like.ndim)
        half = torch.fft.rfftn(ball).real
        return half[tuple(slice(size // 2 + 1) for size in self.padded)].clone()

    def surplus_weights(self, p: Tensor, y: Tensor) -> Tensor:
        """What multiplies the squared error, ``[*S]``, from p and y of one class.

        The complements are padded with ones: their mean over a ball is 1 less that of p or y padded with zeros.
        """
        of_p, of_y = torch.fft.rfftn(p, self.padded), torch.fft.rfftn(y, self.padded)
        weight = torch.zeros_like(p)
        for factor, half in zip(self.weights, self.transforms, strict=True):
            ball = half
            for axis, offset in enumerate(self.offsets[:-1]):
                ball = ball.index_select(axis, offset)
            p_surplus, y_surplus = self._mean(of_p, ball), self._mean(of_y, ball)
            false_positive = p_surplus.relu().sub_(y_surplus.clamp_max(0)).mul_(p)
            false_negative = y_surplus.relu_().sub_(p_surplus.clamp_max_(0)).mul_(y)
            weight.add_(false_positive.add_(false_negative), alpha=factor)
        return weight

    def _mean(self, transform: Tensor, ball: Tensor) -> Tensor:
        """The mean over the ball, less a half."""
        mean = torch.fft.irfftn(transform * ball, self.padded)
        return mean[tuple(slice(size) for size in self.space)] - 0.5


class Fits:
    """The same for hard masks, p and y above a half, and for f a half where the ball lies within the mask, else 0.

    A ball lies within a mask if and only if the nearest voxel on the other side is farther away than its radius.
    Outside the volume is background: one layer of it is enough, as the nearest voxel outside lies straight ahead.
    """

    def __init__(self, radii: Sequence[int], alpha: float, like: Tensor):
        ordered = sorted(radii)
        self.radii = torch.tensor(ordered, dtype=torch.float32, device=like.device)
        halves = torch.tensor([0.0] + [float(radius) ** alpha / 2 for radius in ordered], dtype=torch.float64)
        self.totals = halves.cumsum(0).to(like)  # by how many of the balls fit

    def surplus_weights(self, p: Tensor, y: Tensor) -> Tensor:
        """See :meth:`Balls.surplus_weights`."""
        (of_p, p_fits), (of_y, y_fits) = self._fits(p), self._fits(y)
        return p * torch.where(of_y, 0, y_fits).add(torch.where(of_p, p_fits, 0)) + y * torch.where(
            of_y, y_fits, 0
        ).add(torch.where(of_p, 0, p_fits))

    def _fits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mask, and the weight of the balls that lie on one side of it around each voxel."""
        from fastloss.distance import boundary_distance
        from fastloss.passes.backends import distances_in_triton

        mask = x > 0.5
        padded = F.pad(mask, [1] * (2 * x.ndim))
        distance = boundary_distance(padded if distances_in_triton(x.device) else padded.cpu()).to(x.device)
        inner = distance[tuple(slice(1, -1) for _ in x.shape)].contiguous()
        inner.masked_fill_(inner == 0, torch.inf)  # an empty mask, in which every ball fits
        return mask, self.totals[torch.searchsorted(self.radii, inner)]


def ball_size(radius: int, axes: int) -> int:
    """How many voxels a ball has."""
    return int((_squares([torch.arange(-radius, radius + 1)] * axes) <= radius**2).sum())


def padded_shape(radii: Sequence[int], space: Sequence[int]) -> list[int]:
    """Of the transforms: no ball reaches from one end of the volume to the other."""
    return [_fast_length(size + min(max(radii), size - 1)) for size in space]


def _squares(lines: list[Tensor]) -> Tensor:
    """The sum over the axes of the squares of one number each."""
    total = lines[0] ** 2
    for line in lines[1:]:
        total = total.unsqueeze(-1) + line**2
    return total


def _fast_length(size: int) -> int:
    """The next product of primes up to 13, for which transforms are fast."""
    while True:
        rest = size
        for prime in (2, 3, 5, 7, 11, 13):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
