"""The CPU back end: launches the Numba pass over chunks of voxels, in parallel, bitwise repeatable.

Chunks are fixed by the shape alone and their partial sums are added in order, so that the result does not depend on
the number of threads. Importing this module imports Numba.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from fastloss.terms import Plan

from . import cpu_channels, cpu_registers
from .cpu_errors import errors_of_chunk
from .cpu_general import backward_general, forward_general
from .cpu_labels import backward_labels, forward_labels, serves
from .cpu_lanes import BFLOAT16, FLOAT16, LANES, MOST, cpu_features
from .cpu_memory import walk
from .cpu_threads import Entry, call_entry, pick, serial_and_parallel
from .cpu_tile import SLOTS, coefficient_sources, columns, plan_numbers, plan_reals, with_target
from .cpu_variants import GRADIENT, LOSSES, SUMS

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
    if not logits.numel():
        return torch.zeros((batch, channels, len(plan.terms)), dtype=torch.float64), 0
    p = _prepare(plan, channels, logits.dtype, logits.is_contiguous(), SUMS if losses is None else LOSSES)
    partial = np.zeros((batch, -(-voxels // CHUNK), channels, p.width))
    walks = _walks(logits, target, mask, weight_map, plan, losses)
    walks[4, 9] = 0  # what is written of the losses is soon read again
    bad = _run(_FORWARD[p.route], logits, partial, partial.strides[:2], walks, p)
    return torch.from_numpy(partial.sum(1).take(p.columns, -1)), bad


def write_errors(logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, errors: Tensor) -> int:
    """Fills ``errors`` ``[B, C, *S]`` with p, or -(1 - p) where y is 1; returns the number of bad labels."""
    if not logits.numel():
        return 0
    walks = _walks(logits, target, mask, None, plan, errors)
    walks[4, 9] = 0
    nothing = np.zeros((logits.shape[1], 0))
    return _run(_ERRORS, logits, nothing, (0, 0), walks, _prepare(plan, logits.shape[1], logits.dtype, False, None))


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
    if logits.numel():
        p = _prepare(plan, logits.shape[1], logits.dtype, logits.is_contiguous(), GRADIENT)
        coefficients = with_target(p.sources, grad_sums.detach().numpy()).astype(p.reals.dtype)
        walks = _walks(logits, target, mask, weight_map, plan, gradient)
        _run(_BACKWARD[p.route], logits, coefficients, (coefficients.strides[0], 0), walks, p)
    return gradient


def _sizes(logits: Tensor) -> tuple[int, int, int]:
    batch, channels = logits.shape[:2]
    return batch, channels, logits.numel() // max(1, batch * channels)


class _Prepared(NamedTuple):
    """What the kernels need of a plan beside the tensors."""

    route: int  # which pass serves
    width: int  # columns of sums
    columns: np.ndarray
    sources: np.ndarray
    numbers: np.ndarray
    reals: np.ndarray
    tile: int
    addresses: tuple[int, int]  # of the numbers and the reals: ctypes takes long to ask


# The passes: of any plan; of labels; of what fits the registers; of channels that do not depend on one another
_GENERAL, _LABELS, _REGISTERS, _CHANNELS = range(4)


@lru_cache(maxsize=256)
def _prepare(plan: Plan, channels: int, dtype: torch.dtype, contiguous: bool, output: int | None) -> _Prepared:
    """Of logits of a dtype; ``output``: one of cpu_variants; None for what only the general pass does."""
    kind = _own_kind(dtype) if contiguous else ""
    reals = plan_reals(plan, np.float64 if dtype == torch.float64 else np.float32)
    route, code = _LABELS if serves(plan) else _GENERAL, 0
    if output is None:
        route = _GENERAL
    elif cpu_registers.serves(plan, channels, dtype):
        route, code = _REGISTERS, cpu_registers.code(plan, channels, output, kind)
    elif cpu_channels.serves(plan, channels, dtype, output):
        route, code = _CHANNELS, cpu_channels.code(plan, output, kind)
    numbers = plan_numbers(plan, channels, code, kind != "")
    width, found = SLOTS + reals.size - 1, columns(plan.terms)
    addresses = (numbers.ctypes.data, reals.ctypes.data)
    sources, tile = coefficient_sources(found, width), _tile(channels, route)
    return _Prepared(route, width, found, sources, numbers, reals, tile, addresses)


def _own_kind(dtype: torch.dtype) -> str:
    """As which type a code of a plan's own reads logits and writes gradients; "" for float32, and what becomes it."""
    if dtype == torch.float16:  # without the processor's conversion LLVM would call a function for each number
        return FLOAT16 if "+f16c" in cpu_features() else ""
    return BFLOAT16 if dtype == torch.bfloat16 else ""


def _tile(channels: int, route: int) -> int:
    """Voxels of a tile: two rows a class should stay in the L1, or failing that the L2 cache; a code of a plan's own
    keeps the classes in registers, and adds its sums up at the end of a tile."""
    if route == _CHANNELS or (route == _REGISTERS and channels <= MOST):
        return 32 * LANES
    if route == _REGISTERS:
        return 256
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


# The loop over chunks


def _chunk_loop(code, chunks, samples, voxels, table, steps, arguments):  # type: ignore[no-untyped-def]
    classes, width, walks, numbers, count, reals, powers, tile = arguments
    bad = 0
    for i in prange(samples * chunks):
        b, start = i // chunks, i % chunks * CHUNK
        place = table + b * steps[0] + i % chunks * steps[1]
        stop = min(start + CHUNK, voxels)
        bad += call_entry(code, (place, classes, width, walks, numbers, count, reals, powers, b, start, stop, tile))
    return bad


_LOOP = serial_and_parallel(_chunk_loop)
# These hand their tables on: one code serves both directions
_IN_REGISTERS = Entry(cpu_registers.chunk_in_registers, np.float64)
_BY_CHANNELS = Entry(cpu_channels.chunk_by_channels, np.float64)
# By route
_FORWARD = [Entry(forward_general, np.float64), Entry(forward_labels, np.float64), _IN_REGISTERS, _BY_CHANNELS]
_BACKWARD = [Entry(backward_general), Entry(backward_labels), _IN_REGISTERS, _BY_CHANNELS]
_ERRORS = Entry(errors_of_chunk, np.float64)


def _run(
    entry: Entry, logits: Tensor, table: np.ndarray, steps: tuple[int, ...], walks: np.ndarray, p: _Prepared
) -> int:
    """Runs an entry over all chunks; the steps, in bytes, are those of a table from sample to sample and chunk to
    chunk. Returns the sum of what the entry returned."""
    batch, _, voxels = _sizes(logits)
    classes, width = table.shape[-2:]
    arguments = (
        classes,
        width,
        walks.ctypes.data,
        p.addresses[0],
        p.numbers.size,
        p.addresses[1],
        p.reals.size,
        min(p.tile, -(-voxels // LANES) * LANES),
    )
    code = entry.address(p.reals.dtype.type)
    loop = pick(_LOOP, logits.numel())
    return int(loop(code, -(-voxels // CHUNK), batch, voxels, table.ctypes.data, steps, arguments))
