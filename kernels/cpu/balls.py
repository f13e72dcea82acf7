"""Means over balls by sums (Numba): the Hausdorff loss by convolution, where balls are not too large.

A ball is a stack of discs, and of all discs of a plane, ordered by size, each is the one before and a ring. A ring's
voxels come in fours by symmetry, two of them in a row: the sums of the voxels k before and k behind serve all rings. A
block of rows walks through the planes and adds each disc to the balls that it is part of; a ball is complete as many
planes later as it reaches. Nothing of a volume's size is kept, blocks run in parallel, and a sum has a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..balls import Balls, ball_size, padded_shape
from .compiling import INNER, SAFE, distinct_rows, no_inline
from .loops import Loop, array, number, part

_elementwise = njit(fastmath=SAFE, **INNER)
_fast = njit(**INNER)
real = np.float32  # the clones of a loop have their own

ROWS, LENGTH = 16, 128  # of a block, at most: what it keeps stays near the second cache
FEWEST_ROWS = 4  # which a block takes where there are many threads
OF_USER, OF_TRANSFORM = 3.5, 160.0  # times of a ball's sum and of a voxel's transforms, in those of a ring's sum


class Discs(NamedTuple):
    """What the loop adds up: for disc d the ring ``ring[starts[d]:starts[d + 1]]`` joins the one before it, and the sum
    goes to ``users[first[d]:first[d + 1]]``."""

    starts: np.ndarray
    ring: np.ndarray  # (k, rows away)
    first: np.ndarray
    users: np.ndarray  # (ball, planes away)
    reach: np.ndarray  # planes of each ball, [balls]


def discs(radii: Sequence[int], grid: tuple[int, int, int]) -> Discs:
    """For balls of the radii in a volume of planes, rows and voxels."""
    planes, lines, length = grid
    by_size: dict[int, list[tuple[int, int]]] = {}
    for ball, radius in enumerate(radii):
        for away in range(min(radius, planes - 1) + 1):
            by_size.setdefault(radius**2 - away**2, []).append((ball, away))
    furthest = max(radii)
    k, row = np.meshgrid(*(np.arange(min(furthest, size - 1) + 1) for size in (length, lines)), indexing="ij")
    distance = (k**2 + row**2).ravel()
    order = np.argsort(distance, kind="stable")
    sizes = sorted(by_size)
    starts = np.searchsorted(distance[order], [-1, *sizes], side="right")
    users = [by_size[size] for size in sizes]
    fields = (
        starts,
        np.stack((k.ravel(), row.ravel()), 1)[order[: starts[-1]]],
        np.cumsum([0, *map(len, users)]),
        [user for group in users for user in group],
        [min(radius, planes - 1) for radius in radii],
    )
    return Discs(*(np.ascontiguousarray(field, np.int64) for field in fields))


class BallSums:
    """As :class:`kernels.balls.Balls`, for volumes of one shape."""

    def __init__(self, radii: Sequence[int], alpha: float, like: Tensor):
        self.grid = (*(1,) * (3 - like.ndim), *like.shape)
        self.discs = discs(radii, self.grid)
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        self.factors = np.array([[1 / ball_size(r, like.ndim), float(r) ** alpha] for r in radii], dtype)

    def surplus_weights(self, p: Tensor, y: Tensor) -> Tensor:
        """What multiplies the squared error, ``[*S]``, from p and y of one class."""
        weight, (_, lines, length) = torch.zeros_like(p), self.grid
        share = -(-lines * -(-length // LENGTH) // (2 * torch.get_num_threads()))
        down = -(-lines // min(ROWS, max(FEWEST_ROWS, share)))  # the sums are the same for all
        along = -(-length // LENGTH)
        volumes = (x.numpy().reshape(self.grid) for x in (p, y, weight))
        sizes = (-(-lines // down), -(-length // along), along)
        SURPLUS(down * along, p.numel(), *volumes, *self.discs, self.factors, *sizes)
        return weight


def balls_of(radii: Sequence[int], alpha: float, like: Tensor) -> BallSums | Balls:
    """By sums or by transforms, whichever takes less time for a volume of this shape."""
    sums = BallSums(radii, alpha, like)
    by_sums = 2 * len(sums.discs.ring) + OF_USER * len(sums.discs.users)
    padded = math.prod(padded_shape(radii, like.shape)) / max(1, like.numel())
    return sums if by_sums <= OF_TRANSFORM * padded * (len(radii) + 1) else Balls(radii, alpha, like)


@_elementwise
def _sum(out, a, b):
    distinct_rows()
    for i in range(out.size):
        out[i] = a[i] + b[i]


@_elementwise
def _set_zero(x):
    no_inline()
    for i in range(x.size):
        x[i] = 0


@_elementwise
def _add(total, a):
    no_inline()
    for i in range(total.size):
        total[i] += a[i]


@_elementwise
def _add_2(total, a, b):
    distinct_rows()
    for i in range(total.size):
        total[i] += a[i] + b[i]


@_elementwise
def _add_4(total, a, b, c, d):
    distinct_rows()
    for i in range(total.size):
        total[i] += (a[i] + b[i]) + (c[i] + d[i])


@_elementwise
def _add_8(total, a, b, c, d, e, f, g, h):
    distinct_rows()
    for i in range(total.size):
        total[i] += ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]))


@_elementwise
def _any(x):
    no_inline()
    found = False
    for i in range(x.size):
        found |= x[i] != 0
    return found


@_elementwise
def _weigh(weight, p, y, of_p, of_y, share, factor):
    """Adds what one ball contributes; ``of_p`` and ``of_y`` are sums over it."""
    distinct_rows()
    zero, half = p.dtype.type(0), p.dtype.type(0.5)
    for i in range(weight.size):
        a, b = of_p[i] * share - half, of_y[i] * share - half
        above_a, above_b = (zero if a <= zero else a), (zero if b <= zero else b)  # NaN stays
        below_a, below_b = (zero if a >= zero else a), (zero if b >= zero else b)
        weight[i] += factor * ((above_a - below_b) * p[i] + (above_b - below_a) * y[i])


@_fast
def _row_sums(sums, height, width, source, volume, z, top, left, above, before):
    """Of a plane's rows, from ``above`` rows before the block, and none outside the volume, ``[k, height, width]``.
    Returns whether there is anything but zeros."""
    no_inline()
    lines, length = volume.shape[1], volume.shape[2]
    first, last, found = max(left - before, 0), min(left + width + before, length), False
    for row in range(height):
        y = top + row - above
        inside = 0 <= y < lines
        own = part(volume, (z * lines + (y if inside else 0)) * length + first, last - first)
        if not inside or not _any(own):
            for k in range(before + 1):
                _set_zero(part(sums, (k * height + row) * width, width))
            continue
        found = True
        _set_zero(source)
        _add(part(source, first - left + before, last - first), own)
        for k in range(before + 1):
            out, behind = part(sums, (k * height + row) * width, width), part(source, before + k, width)
            if k == 0:
                _set_zero(out)
                _add(out, behind)
            else:
                _sum(out, part(source, before - k, width), behind)
    return found


@_fast
def _add_ring(total, flat, places, start, stop):
    """Adds the rows' sums at places start to stop."""
    no_inline()
    n, i = total.size, start
    while i < stop:
        left = stop - i
        a = part(flat, places[i], n)
        if left < 2:
            _add(total, a)
            break
        b = part(flat, places[i + 1], n)
        if left < 4:
            _add_2(total, a, b)
            i += 2
            continue
        c, d = part(flat, places[i + 2], n), part(flat, places[i + 3], n)
        if left < 8:
            _add_4(total, a, b, c, d)
            i += 4
            continue
        e, f = part(flat, places[i + 4], n), part(flat, places[i + 5], n)
        g, h = part(flat, places[i + 6], n), part(flat, places[i + 7], n)
        _add_8(total, a, b, c, d, e, f, g, h)
        i += 8


def _surplus(arguments, block):  # type: ignore[no-untyped-def]
    """Of the rows and voxels of a block, in all planes."""
    p, y, weight = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    starts, ring = array(arguments, 3, 1, np.int64), array(arguments, 4, 2, np.int64)
    first, users = array(arguments, 5, 1, np.int64), array(arguments, 6, 2, np.int64)
    reach, factors = array(arguments, 7, 1, np.int64), array(arguments, 8, 2, real)
    height, width, along = number(arguments, 9), number(arguments, 10), number(arguments, 11)
    top, left = block // along * height, block % along * width
    planes, lines, length = p.shape
    above, before, furthest = 0, 0, 0
    for i in range(ring.shape[0]):
        before, above = max(before, ring[i, 0]), max(above, ring[i, 1])
    balls, discs = reach.size, starts.size - 1
    whole_memory = np.empty(balls + 1 + discs + 1 + 2 * ring.shape[0], np.int64)
    slots = part(whole_memory, 0, balls + 1)  # where a ball's planes begin: as many as it reaches over
    bounds = part(whole_memory, balls + 1, discs + 1)
    places = part(whole_memory, balls + discs + 2, 2 * ring.shape[0])  # of the rows' sums, for one disc after another
    slots[0] = 0
    for ball in range(balls):
        slots[ball + 1] = slots[ball] + 2 * reach[ball] + 1
        furthest = max(furthest, reach[ball])
    rows, size, count = height + 2 * above, height * width, 0
    for disc in range(discs):
        bounds[disc] = count
        for i in range(starts[disc], starts[disc + 1]):
            k, away = ring[i, 0], ring[i, 1]
            for side in range(2 if away > 0 else 1):
                places[count] = (k * rows + above + (away if side == 0 else -away)) * width
                count += 1
    bounds[discs] = count
    of_sums, of_balls = (before + 1) * rows * width, slots[balls] * size
    memory = np.zeros(of_sums + width + 2 * before + size + 2 * of_balls, real)
    sums, source = part(memory, 0, of_sums), part(memory, of_sums, width + 2 * before)
    total = part(memory, of_sums + source.size, size)
    kept = part(memory, memory.size - 2 * of_balls, 2 * of_balls)
    for z in range(planes + furthest):
        for which in range(2 if z < planes else 0):
            if not _row_sums(sums, rows, width, source, p if which == 0 else y, z, top, left, above, before):
                continue
            _set_zero(total)
            for disc in range(discs):
                _add_ring(total, sums, places, bounds[disc], bounds[disc + 1])
                for i in range(first[disc], first[disc + 1]):
                    ball, away = users[i, 0], users[i, 1]
                    for side in range(2 if away > 0 else 1):
                        to = z + away if side == 0 else z - away
                        if 0 <= to < planes:
                            slot = slots[ball] + to % (slots[ball + 1] - slots[ball])
                            _add(part(kept, which * of_balls + slot * size, size), total)
        for ball in range(balls):
            done = z - reach[ball]
            if done < 0 or done >= planes:
                continue
            at = (slots[ball] + done % (slots[ball + 1] - slots[ball])) * size
            n = min(width, length - left)
            for row in range(min(height, lines - top)):
                place = (done * lines + top + row) * length + left
                own, of_p = part(weight, place, n), part(kept, at + row * width, n)
                of_y, own_p, own_y = part(kept, of_balls + at + row * width, n), part(p, place, n), part(y, place, n)
                _weigh(own, own_p, own_y, of_p, of_y, factors[ball, 0], factors[ball, 1])
            _set_zero(part(kept, at, size))
            _set_zero(part(kept, of_balls + at, size))
    return memory.size + whole_memory.size  # their last use: until here they must live


SURPLUS = Loop(_surplus)
