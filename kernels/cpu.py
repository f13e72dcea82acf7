"""The CPU back end: launches the Numba pass over chunks of voxels, in parallel, bitwise repeatable.

Chunks are fixed by the shape alone and their partial sums are added in order, so that the result does not depend on
the number of threads. Importing this module imports Numba.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from fastloss import terms
from fastloss.terms import ACTIVATIONS, KINDS, Plan, first_label, label_count

from .cpu_memory import walk
from .cpu_pass import (
    MAPPED,
    SLOTS,
    backward_chunk,
    backward_chunk_of_four,
    epsilon_array,
    forward_chunk,
    forward_chunk_of_four,
    suits_four,
)

CHUNK = 16384  # voxels; a multiple of every tile
_SERIAL_BELOW = 32768  # logits: a parallel region would cost more than it saves
_log = logging.getLogger("fastloss")


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms."""
    return forward_with_bad_labels(logits, target, mask, weight_map, plan)[0]


def forward_with_bad_labels(
    logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan
) -> tuple[Tensor, int]:
    """As :func:`forward`; also the number of counted voxels whose label is no class."""
    batch, channels, voxels, _ = _sizes(logits)
    sums = np.zeros((batch, channels, len(plan.terms)))
    bad = 0
    if logits.numel():
        columns = np.array([_column(term) for term in plan.terms])
        partial = np.zeros((batch * -(-voxels // CHUNK), channels, SLOTS))
        run = _pick(_FORWARD, plan, logits)
        bad = run(sums, columns, partial, voxels, *_arguments(logits, target, mask, weight_map, plan))
    return torch.from_numpy(sums), bad


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
    batch, channels, voxels, real = _sizes(logits)
    if not logits.numel():
        return gradient
    coefficients = np.zeros((batch, channels, SLOTS), real)
    coefficients[..., [_column(term) for term in plan.terms]] = grad_sums.detach().numpy()
    run = _pick(_BACKWARD, plan, logits)
    run(coefficients, voxels, *_arguments(logits, target, mask, weight_map, plan, gradient))
    return gradient


def _column(term: Any) -> int:
    return KINDS.index(term.kind) + (MAPPED if term.mapped else 0)


def _sizes(logits: Tensor) -> tuple[int, int, int, type]:
    batch, channels = logits.shape[:2]
    real = np.float64 if logits.dtype == torch.float64 else np.float32
    return batch, channels, logits.numel() // max(1, batch * channels), real


def _arguments(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    gradient: Tensor | None = None,
) -> tuple[Any, ...]:
    channels, real = logits.shape[1], _sizes(logits)[3]
    walks = np.array(
        [
            walk(logits, True),
            walk(target, plan.dense),
            walk(mask, False),
            walk(weight_map, True),
            walk(gradient, True),
        ]
    )
    return walks, _numbers(plan, channels), _tile(channels), _EPSILON[real]


@lru_cache(maxsize=256)
def _numbers(plan: Plan, channels: int) -> np.ndarray:
    """The fields of Options, in its order."""
    bits, mapped_bits = (
        sum(1 << KINDS.index(term.kind) for term in plan.terms if term.mapped == mapped) for mapped in (False, True)
    )
    activation = ACTIVATIONS.index(plan.activation)
    labels = (label_count(channels), first_label(channels))
    return np.array([activation, plan.dense, *labels, bits, mapped_bits, *plan.ignore])


def _tile(channels: int) -> int:
    """Voxels of a tile: two rows a class should stay in the L1, or failing that the L2 cache."""
    return 512 if channels <= 4 else 256 if channels <= 32 else 128


# The loops over chunks: each is compiled twice, serial and parallel


def _forward_loop(sums, columns, partial, voxels, walks, numbers, tile, epsilon):  # type: ignore[no-untyped-def]
    per_sample = -(-voxels // CHUNK)
    bad = 0
    for i in prange(partial.shape[0]):
        b, start = i // per_sample, i % per_sample * CHUNK
        stop = min(start + CHUNK, voxels)
        bad += forward_chunk(partial[i], walks, numbers, b, start, stop, tile, epsilon)
    for i in range(partial.shape[0]):
        for c in range(sums.shape[1]):
            for k in range(columns.size):
                sums[i // per_sample, c, k] += partial[i, c, columns[k]]
    return bad


def _backward_loop(coefficients, voxels, walks, numbers, tile, epsilon):  # type: ignore[no-untyped-def]
    per_sample = -(-voxels // CHUNK)
    for i in prange(coefficients.shape[0] * per_sample):
        b, start = i // per_sample, i % per_sample * CHUNK
        stop = min(start + CHUNK, voxels)
        backward_chunk(coefficients[b], walks, numbers, b, start, stop, tile, epsilon)


def _source_digest() -> str:
    """Numba's cache looks at one file only: the digest of all kernel sources keeps it from going stale."""
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("cpu*.py")), Path(terms.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _compile(loop: Callable[..., Any], chunk: Callable[..., Any], parallel: bool) -> Callable[..., Any]:
    """A clone of the loop over a chunk function; of its own name, since Numba's cache key ignores the jit flags."""
    chunk_name = next(name for name in loop.__code__.co_names if name.endswith("_chunk"))
    name = f"{chunk.__name__}_{'parallel' if parallel else 'serial'}"
    clone = types.FunctionType(loop.__code__, {**loop.__globals__, chunk_name: chunk}, name)
    clone.__qualname__ = f"{name}_{_source_digest()}"
    flags = {"parallel": parallel, "nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **flags)(clone)
    except RuntimeError as error:
        _log.warning("fastloss: no writable place for compiled kernels, compiling in each process (%s)", error)
        return njit(**flags)(clone)


_EPSILON = {real: epsilon_array(real) for real in (np.float32, np.float64)}
# By whether the kernels for up to four classes serve, then by whether to run in parallel
_FORWARD = [
    [_compile(_forward_loop, chunk, parallel) for parallel in (False, True)]
    for chunk in (forward_chunk, forward_chunk_of_four)
]
_BACKWARD = [
    [_compile(_backward_loop, chunk, parallel) for parallel in (False, True)]
    for chunk in (backward_chunk, backward_chunk_of_four)
]


# Threads


class _Threads:
    """What is known of parallel kernels in this process."""

    used = False  # a parallel kernel has run here: a forked child must not enter one
    forked = False
    unsafe_layer = threading.Lock()  # Numba's workqueue layer aborts when two threads enter it


def _after_fork() -> None:
    _Threads.forked = _Threads.forked or _Threads.used
    _Threads.unsafe_layer = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _pick(kernels: list[list[Callable[..., Any]]], plan: Plan, logits: Tensor) -> Callable[..., Any]:
    serial, parallel = kernels[suits_four(plan, logits.shape[1])]
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads == 1 or _Threads.forked or logits.numel() < _SERIAL_BELOW:
        return serial

    def run(*arguments: Any) -> Any:
        if numba.get_num_threads() != threads:
            numba.set_num_threads(threads)
        if _Threads.used and numba.threading_layer() != "workqueue":
            return parallel(*arguments)
        with _Threads.unsafe_layer:
            result = parallel(*arguments)
            _Threads.used = True
            return result

    return run
