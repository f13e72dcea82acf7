"""The CPU back end: launches the Numba pass over chunks of voxels, in parallel, bitwise repeatable.

Chunks are fixed by the shape alone and their partial sums are added in order, so that the result does not depend on
the number of threads. Importing this module imports Numba.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from fastloss.terms import Plan

from . import channels as by_channels
from . import registers
from .errors import errors_of_chunk
from .general import backward_general, forward_general
from .labels import backward_labels, forward_labels, serves
from .lanes import BFLOAT16, FLOAT16, LANES, MOST, cpu_features
from .math import INNER, no_inline
from .memory import TENSORS, array_at, in_huge_pages, walk
from .threads import Entry, call_entry, pick, serial_and_parallel
from .tile import SLOTS, coefficient_sources, columns, plan_numbers, plan_reals, with_target
from .variants import ERRORS, GRADIENT, LOSSES, SUMS

CHUNK = 16384  # voxels; a multiple of every tile
_fast = njit(**INNER)


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
    batch, channels, _ = _sizes(logits)
    sums = np.zeros((batch, channels, len(plan.terms)))
    bad = 0
    if logits.numel():
        p = _prepare(plan, channels, logits.dtype, logits.is_contiguous(), SUMS if losses is None else LOSSES)
        walks = _walks(logits, target, mask, weight_map, plan, losses)
        walks[4, 9] = 0  # what is written of the losses is soon read again
        bad = _sum(_FORWARD[p.route], logits, walks, p, sums)
    return torch.from_numpy(sums), bad


def write_errors(logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, errors: Tensor) -> int:
    """Fills ``errors`` ``[B, C, *S]`` with p, or -(1 - p) where y is 1; returns the number of bad labels."""
    if not logits.numel():
        return 0
    batch, channels, _ = _sizes(logits)
    walks = _walks(logits, target, mask, None, plan, errors)
    walks[4, 9] = 0
    p = _prepare(plan, channels, logits.dtype, logits.is_contiguous(), ERRORS)
    return _sum(_WRITE_ERRORS[p.route], logits, walks, p, np.zeros((batch, channels, 0)))


def backward(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    gradient = in_huge_pages(torch.empty_like(logits))
    if logits.numel():
        p = _prepare(plan, logits.shape[1], logits.dtype, logits.is_contiguous(), GRADIENT)
        walks = _walks(logits, target, mask, weight_map, plan, gradient)
        grad_sums = np.ascontiguousarray(grad_sums.detach().numpy())
        _differentiate(_BACKWARD[p.route], logits, walks, p, grad_sums)
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
    reals_at: int  # their address: ctypes takes long to ask
    tile: int


# The passes: of any plan; of labels; of what fits the registers; of channels that do not depend on one another
_GENERAL, _LABELS, _REGISTERS, _CHANNELS = range(4)


@lru_cache(maxsize=256)
def _prepare(plan: Plan, channels: int, dtype: torch.dtype, contiguous: bool, output: int) -> _Prepared:
    """Of logits of a dtype; ``output``: one of cpu_variants."""
    kind = _own_kind(dtype) if contiguous else ""
    reals = plan_reals(plan, np.float64 if dtype == torch.float64 else np.float32)
    route, code = _LABELS if serves(plan) and output != ERRORS else _GENERAL, 0
    if registers.serves(plan, channels, dtype):
        route, code = _REGISTERS, registers.code(plan, channels, output, kind)
    elif by_channels.serves(plan, channels, dtype, output):
        route, code = _CHANNELS, by_channels.code(plan, output, kind)
    numbers = plan_numbers(plan, channels, code, kind != "")
    width, found = SLOTS + reals.size - 1, columns(plan.terms)
    sources, tile = coefficient_sources(found, width), _tile(channels, route)
    return _Prepared(route, width, found, sources, numbers, reals, reals.ctypes.data, tile)


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
    parts = (walk(logits, True), walk(target, plan.dense), walk(mask, False), walk(weight_map, True))
    numbers = sum((*parts, walk(gradient, True)), ())
    return np.array(numbers, np.int64).reshape(TENSORS, -1)


# The loops over chunks


@_fast
def _memory(samples, classes, width):  # type: ignore[no-untyped-def]
    no_inline()  # a parallel loop would make one of its own of zeros
    return np.zeros((samples, classes, width))


@_fast
def _add_chunks(partial, chunks, columns, sums):  # type: ignore[no-untyped-def]
    """The sums of the terms, from those of the columns of each chunk, in order."""
    no_inline()
    samples, classes, terms = sums.shape
    for b in range(samples):
        for c in range(classes):
            for k in range(terms):
                for i in range(b * chunks, (b + 1) * chunks):
                    sums[b, c, k] += partial[i, c, columns[k]]


@_fast
def _run_chunk(code, table, i, chunks, classes, width, plan, voxels, tile):  # type: ignore[no-untyped-def]
    """Runs an entry over one of the chunks of all samples."""
    walks, numbers, count, reals, powers = plan
    b, start = i // chunks, i % chunks * CHUNK
    stop = min(start + CHUNK, voxels)
    return call_entry(code, (table, classes, width, walks, numbers, count, reals, powers, b, start, stop, tile))


def _sum_loop(code, walks, numbers, reals, powers, voxels, tile, columns, width, sums):  # type: ignore[no-untyped-def]
    samples, classes, _ = sums.shape
    chunks, bad = -(-voxels // CHUNK), 0
    partial = _memory(samples * chunks, classes, width)
    table, plan = partial.ctypes.data, (walks.ctypes.data, numbers.ctypes.data, numbers.size, reals, powers)
    for i in prange(samples * chunks):
        bad += _run_chunk(code, table + i * classes * width * 8, i, chunks, classes, width, plan, voxels, tile)
    _add_chunks(partial, chunks, columns, sums)
    return bad


def _gradient_loop(code, walks, numbers, reals, powers, voxels, tile, sources, single, grad_sums):  # type: ignore[no-untyped-def]
    (samples, classes, _), width = grad_sums.shape, sources.shape[1]
    chunks, bad = -(-voxels // CHUNK), 0
    coefficients = _memory(samples, classes, width)
    table, plan = coefficients.ctypes.data, (walks.ctypes.data, numbers.ctypes.data, numbers.size, reals, powers)
    row = classes * width * (4 if single else 8)
    if single:
        with_target(sources, grad_sums, array_at(table, (samples, classes, width), np.float32))
    else:
        with_target(sources, grad_sums, coefficients)
    for i in prange(samples * chunks):
        bad += _run_chunk(code, table + i // chunks * row, i, chunks, classes, width, plan, voxels, tile)
    return bad + (0 if coefficients.size else 1)  # the last use of the coefficients: until here they must live


_SUM, _GRADIENT = map(serial_and_parallel, (_sum_loop, _gradient_loop))
# These hand their tables on: one code serves both directions
_IN_REGISTERS = Entry(registers.chunk_in_registers, np.float64)
_BY_CHANNELS = Entry(by_channels.chunk_by_channels, np.float64)
# By route
_FORWARD = [Entry(forward_general, np.float64), Entry(forward_labels, np.float64), _IN_REGISTERS, _BY_CHANNELS]
_BACKWARD = [Entry(backward_general), Entry(backward_labels), _IN_REGISTERS, _BY_CHANNELS]
_WRITE_ERRORS = [Entry(errors_of_chunk, np.float64), None, _IN_REGISTERS, _BY_CHANNELS]


def _sum(entry: Entry, logits: Tensor, walks: np.ndarray, p: _Prepared, sums: np.ndarray) -> int:
    """Runs an entry over all chunks, and adds up what they found; returns the number of bad labels."""
    loop = pick(_SUM, logits.numel())
    return int(loop(*_common_arguments(entry, logits, walks, p), p.columns, p.width, sums))


def _differentiate(entry: Entry, logits: Tensor, walks: np.ndarray, p: _Prepared, grad_sums: np.ndarray) -> None:
    """Runs an entry over all chunks with the coefficients that belong to the gradient of the sums."""
    loop, single = pick(_GRADIENT, logits.numel()), p.reals.dtype == np.float32
    loop(*_common_arguments(entry, logits, walks, p), p.sources, single, grad_sums)


def _common_arguments(entry: Entry, logits: Tensor, walks: np.ndarray, p: _Prepared) -> tuple[Any, ...]:
    """Of both loops."""
    voxels = _sizes(logits)[2]
    tile = min(p.tile, -(-voxels // LANES) * LANES)
    return entry.address(p.reals.dtype.type), walks, p.numbers, p.reals_at, p.reals.size, voxels, tile
