"""The CPU back end: launches the Numba pass over chunks of voxels, in parallel, bitwise repeatable.

Chunks are fixed by the shape alone and their partial sums are added in order, so that the result does not depend on
the number of threads. Importing this module imports Numba.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from fastloss.terms import Plan

from .cpu_errors import errors_of_chunk
from .cpu_general import backward_general, forward_general
from .cpu_labels import backward_labels, forward_labels, serves
from .cpu_memory import walk
from .cpu_threads import compile_loop, pick
from .cpu_tile import SLOTS, columns, plan_numbers, plan_reals, with_target

CHUNK = 16384  # voxels; a multiple of every tile


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms."""
    return forward_with_bad_labels(logits, target, mask, weight_map, plan)[0]


def forward_with_bad_labels(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    losses: Tensor | None = None,
) -> tuple[Tensor, int]:
    """As :func:`forward`; also the number of counted voxels whose label is no class.

    ``losses`` ``[B, C or 1, *S]``, of the kernel's own type, gets the weighted cross-entropy of each voxel (for
    channels that are no classes of one voxel, of each of them); -1 where a voxel does not count.
    """
    batch, channels, voxels = _sizes(logits)
    sums = np.zeros((batch, channels, len(plan.terms)))
    bad = 0
    if logits.numel():
        p = _prepare(plan, channels, logits.dtype)
        partial = np.zeros((batch * -(-voxels // CHUNK), channels, p.width))
        walks = _walks(logits, target, mask, weight_map, plan, losses)
        walks[4, 9] = 0  # what is written of the losses is soon read again
        bad = pick(_FORWARD[p.labels], logits.numel())(
            sums, p.columns, partial, voxels, walks, p.numbers, p.tile, p.reals
        )
    return torch.from_numpy(sums), bad


def write_errors(logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, errors: Tensor) -> int:
    """Fills ``errors`` ``[B, C, *S]`` with p, or -(1 - p) where y is 1; returns the number of bad labels."""
    _, channels, voxels = _sizes(logits)
    p = _prepare(plan, channels, logits.dtype)
    partial = np.zeros((logits.shape[0] * -(-voxels // CHUNK), channels, 0))
    walks = _walks(logits, target, mask, None, plan, errors)
    walks[4, 9] = 0
    nothing = np.zeros((logits.shape[0], channels, 0))
    return pick(_ERRORS, logits.numel())(nothing, p.columns, partial, voxels, walks, p.numbers, p.tile, p.reals)


def backward(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    gradient = torch.empty_like(logits)
    _, channels, voxels = _sizes(logits)
    if logits.numel():
        p = _prepare(plan, channels, logits.dtype)
        coefficients = with_target(p.columns, grad_sums.detach().numpy(), p.width).astype(p.reals.dtype)
        walks = _walks(logits, target, mask, weight_map, plan, gradient)
        pick(_BACKWARD[p.labels], logits.numel())(coefficients, voxels, walks, p.numbers, p.tile, p.reals)
    return gradient


def _sizes(logits: Tensor) -> tuple[int, int, int]:
    batch, channels = logits.shape[:2]
    return batch, channels, logits.numel() // max(1, batch * channels)


class _Prepared(NamedTuple):
    """What the kernels need of a plan beside the tensors."""

    labels: bool  # whether the pass for labels serves
    width: int  # columns of sums
    columns: np.ndarray
    numbers: np.ndarray
    reals: np.ndarray
    tile: int


@lru_cache(maxsize=256)
def _prepare(plan: Plan, channels: int, dtype: torch.dtype) -> _Prepared:
    reals = plan_reals(plan, np.float64 if dtype == torch.float64 else np.float32)
    numbers = plan_numbers(plan, channels)
    return _Prepared(serves(plan), SLOTS + reals.size - 1, columns(plan.terms), numbers, reals, _tile(channels))


def _tile(channels: int) -> int:
    """Voxels of a tile: two rows a class should stay in the L1, or failing that the L2 cache."""
    return 512 if channels <= 4 else 256 if channels <= 32 else 128


def _walks(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    gradient: Tensor | None,
) -> np.ndarray:
    if not plan.mapped:
        weight_map = None
    walks = (walk(logits, True), walk(target, plan.dense), walk(mask, False), walk(weight_map, True))
    return np.array([*walks, walk(gradient, True)])


# The loops over chunks: each is compiled for each pass, serial and parallel

run_chunk: Callable[..., Any] = forward_general  # the clones of compile_loop have their own


def _forward_loop(sums, columns, partial, voxels, walks, numbers, tile, reals):  # type: ignore[no-untyped-def]
    per_sample = -(-voxels // CHUNK)
    bad = 0
    for i in prange(partial.shape[0]):
        b, start = i // per_sample, i % per_sample * CHUNK
        stop = min(start + CHUNK, voxels)
        bad += run_chunk(partial[i], walks, numbers, b, start, stop, tile, reals)
    for i in range(partial.shape[0]):
        for c in range(sums.shape[1]):
            for k in range(columns.size):
                sums[i // per_sample, c, k] += partial[i, c, columns[k]]
    return bad


def _backward_loop(coefficients, voxels, walks, numbers, tile, reals):  # type: ignore[no-untyped-def]
    per_sample = -(-voxels // CHUNK)
    for i in prange(coefficients.shape[0] * per_sample):
        b, start = i // per_sample, i % per_sample * CHUNK
        stop = min(start + CHUNK, voxels)
        run_chunk(coefficients[b], walks, numbers, b, start, stop, tile, reals)


# By whether the pass for labels serves, then by whether to run in parallel
_FORWARD = [
    [compile_loop(_forward_loop, chunk, parallel) for parallel in (False, True)]
    for chunk in (forward_general, forward_labels)
]
_BACKWARD = [
    [compile_loop(_backward_loop, chunk, parallel) for parallel in (False, True)]
    for chunk in (backward_general, backward_labels)
]

_ERRORS = [compile_loop(_forward_loop, errors_of_chunk, parallel) for parallel in (False, True)]
