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
from numba import njit, prange
from torch import Tensor

from ..balls import Balls, ball_size, padded_shape
from . import rows as rows
from .math import INNER, SAFE, distinct_rows, no_inline
from .memory import bare
from .threads import pick, serial_and_parallel

_elementwise = njit(fastmath=SAFE, **INNER)
_fast = njit(**INNER)

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
    return Discs(
        starts,
        np.stack((k.ravel(), row.ravel()), 1)[order[: starts[-1]]],
        np.cumsum([0, *map(len, users)]),
        np.array([user for group in users for user in group]),
        np.array([min(radius, planes - 1) for radius in radii]),
    )


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
        height = min(ROWS, max(FEWEST_ROWS, share))  # the sums are the same for all
        volumes = (x.numpy().reshape(self.grid) for x in (p, y, weight))
        pick(SURPLUS, p.numel())(*volumes, *self.discs, self.factors, height, LENGTH)
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
def _row_sums(sums, source, volume, z, top, left, above, before):
    """Of a plane's rows, from ``above`` rows before the block, and none outside the volume, ``[k, rows, voxels]``.
    Returns whether there is anything but zeros."""
    no_inline()
    lines, length = volume.shape[1], volume.shape[2]
    width, found = sums.shape[2], False
    for row in range(sums.shape[1]):
        y = top + row - above
        first, last = max(left - before, 0), min(left + width + before, length)
        if y < 0 or y >= lines or not _any(volume[z, y, first:last]):
            for k in range(sums.shape[0]):
                rows.set_zero(sums[k, row])
            continue
        found = True
        rows.set_zero(source)
        source[first - left + before : last - left + before] = volume[z, y, first:last]
        sums[0, row] = source[before : before + width]
        for k in range(1, sums.shape[0]):
            _sum(sums[k, row], source[before - k : before - k + width], source[before + k : before + k + width])
    return found


@_fast
def _add_ring(total, flat, places, start, stop):
    """Adds the rows' sums at places start to stop."""
    no_inline()
    n, i = total.size, start
    while i + 8 <= stop:
        _add_8(
            total,
            flat[places[i] : places[i] + n],
            flat[places[i + 1] : places[i + 1] + n],
            flat[places[i + 2] : places[i + 2] + n],
            flat[places[i + 3] : places[i + 3] + n],
            flat[places[i + 4] : places[i + 4] + n],
            flat[places[i + 5] : places[i + 5] + n],
            flat[places[i + 6] : places[i + 6] + n],
            flat[places[i + 7] : places[i + 7] + n],
        )
        i += 8
    if i + 4 <= stop:
        _add_4(
            total,
            flat[places[i] : places[i] + n],
            flat[places[i + 1] : places[i + 1] + n],
            flat[places[i + 2] : places[i + 2] + n],
            flat[places[i + 3] : places[i + 3] + n],
        )
        i += 4
    if i + 2 <= stop:
        _add_2(total, flat[places[i] : places[i] + n], flat[places[i + 1] : places[i + 1] + n])
        i += 2
    if i < stop:
        rows.add(total, flat[places[i] : places[i] + n])


@_fast
def _block(p, y, weight, starts, ring, first, users, reach, factors, height, width, top, left):
    """Rows ``top`` to ``top + height``, voxels ``left`` to ``left + width``, of all planes."""
    no_inline()
    planes, lines, length = p.shape
    above, before = 0, 0
    for i in range(ring.shape[0]):
        before, above = max(before, ring[i, 0]), max(above, ring[i, 1])
    sums_memory = np.empty((before + 1, height + 2 * above, width), p.dtype)
    source_memory, total_memory = np.empty(width + 2 * before, p.dtype), np.empty(height * width, p.dtype)
    balls = reach.size
    slots = np.zeros(balls + 1, np.int64)  # where a ball's planes begin: as many as it reaches over
    for ball in range(balls):
        slots[ball + 1] = slots[ball] + 2 * reach[ball] + 1
    ball_memory = np.zeros((2, slots[balls], height * width), p.dtype)
    place_memory = np.empty(2 * ring.shape[0], np.int64)  # of the rows' sums, for one disc after another
    bound_memory = np.empty(starts.size, np.int64)
    sums, source, total, kept = bare(sums_memory), bare(source_memory), bare(total_memory), bare(ball_memory)
    places, bounds = bare(place_memory), bare(bound_memory)
    count = 0
    for disc in range(starts.size):
        bounds[disc] = count
        if disc + 1 < starts.size:
            for i in range(starts[disc], starts[disc + 1]):
                k, away = ring[i, 0], ring[i, 1]
                places[count] = (k * sums.shape[1] + above + away) * width
                count += 1
                if away > 0:
                    places[count] = (k * sums.shape[1] + above - away) * width
                    count += 1
    flat = sums.reshape(-1)
    furthest = reach.max()
    for z in range(planes + furthest):
        for which in range(2 if z < planes else 0):
            volume = p if which == 0 else y
            if not _row_sums(sums, source, volume, z, top, left, above, before):
                continue
            rows.set_zero(total)
            for disc in range(starts.size - 1):
                _add_ring(total, flat, places, bounds[disc], bounds[disc + 1])
                for i in range(first[disc], first[disc + 1]):
                    ball, away = users[i, 0], users[i, 1]
                    depth = slots[ball + 1] - slots[ball]
                    if z + away < planes:
                        rows.add(kept[which, slots[ball] + (z + away) % depth], total)
                    if away > 0 and z - away >= 0:
                        rows.add(kept[which, slots[ball] + (z - away) % depth], total)
        for ball in range(balls):
            done = z - reach[ball]
            if done < 0 or done >= planes:
                continue
            slot = slots[ball] + done % (slots[ball + 1] - slots[ball])
            for row in range(min(height, lines - top)):
                a, n = row * width, min(width, length - left)
                _weigh(
                    weight[done, top + row, left : left + n],
                    p[done, top + row, left : left + n],
                    y[done, top + row, left : left + n],
                    kept[0, slot, a : a + n],
                    kept[1, slot, a : a + n],
                    factors[ball, 0],
                    factors[ball, 1],
                )
            rows.set_zero(kept[0, slot])
            rows.set_zero(kept[1, slot])
    # until here the arrays without an owner need theirs
    reals = sums_memory.size + source_memory.size + total_memory.size + ball_memory.size
    return reals + place_memory.size + bound_memory.size


def _surplus_loop(p, y, weight, starts, ring, first, users, reach, factors, height, width):  # type: ignore[no-untyped-def]
    down, along = -(-p.shape[1] // height), -(-p.shape[2] // width)
    height, width = -(-p.shape[1] // down), -(-p.shape[2] // along)
    for block in prange(down * along):
        top, left = np.int64(block) // along * height, np.int64(block) % along * width
        _block(p, y, weight, starts, ring, first, users, reach, factors, height, width, top, left)


SURPLUS = serial_and_parallel(_surplus_loop)
