"""Logits and targets of any layout as plain volumes (Numba), for stencils, whose neighbours lie in other tiles.

A chunk function handles voxels start to stop of one sample; the loops over chunks are parallel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from fastloss.terms import Plan

from . import cpu_rows as rows
from .cpu_math import INNER, SAFE, no_inline
from .cpu_memory import bare, label_row, load_row, row, walk
from .cpu_threads import pick, serial_and_parallel
from .cpu_tile import (
    EMPTY,
    FIRST_FREE,
    LABELS,
    SIGMOID,
    SOFTMAX,
    SOME,
    R,
    U,
    exponentials,
    load_classes,
    load_logits,
    load_weight,
    options_of,
    plan_numbers,
    plan_reals,
    tile_buffer,
    tile_of,
    walk_of,
)

CHUNK = 16384
_TILE = 256
# Rows: probability, target, the sigmoid of -z, logits; then for every class of a softmax exponentials and logits
_P, _Y, _Q, _Z = range(FIRST_FREE, FIRST_FREE + 4)
_CLASSES = FIRST_FREE + 4

_fast = njit(**INNER)
_elementwise = njit(fastmath=SAFE, **INNER)


class Volumes(NamedTuple):
    """One call's tensors and plan as the loops take them."""

    walks: np.ndarray
    numbers: np.ndarray
    reals: np.ndarray
    dtype: torch.dtype  # float32, or float64 for float64 logits
    grid: tuple[int, int, int]  # the volume as planes, rows, voxels
    logits: int  # how many there are


def volumes(logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan) -> Volumes:
    """What :func:`errors`, :func:`probabilities` and :func:`target_volume` take."""
    walks = np.array([walk(logits, True), walk(target, plan.dense), walk(mask, False)])
    double = logits.dtype == torch.float64
    reals = plan_reals(plan, np.float64 if double else np.float32)
    dtype = torch.float64 if double else torch.float32
    return Volumes(walks, plan_numbers(plan, logits.shape[1]), reals, dtype, grid_of(logits), logits.numel())


def grid_of(logits: Tensor) -> tuple[int, int, int]:
    """The spatial sizes as planes, rows and voxels of a row; an image's rows are planes, to be shared among threads."""
    space = tuple(logits.shape[2:])
    planes, lines, length = ((1, 1, *space), (space[0], 1, space[-1]), space)[len(space) - 1]
    return planes, lines, length


@_elementwise
def _squared_error(out, p, y, u):
    no_inline()
    for i in range(out.size):
        d = p[i] - y[i]
        out[i] = u[i] * (d * d)


@_fast
def _load_softmax(t, logits, o, classes, b, v, counted):
    no_inline()
    if o.activation == SOFTMAX:
        z = load_classes(t, _CLASSES + classes, classes, logits, b, v, counted)
        exponentials(t, z, np.int64(_CLASSES), classes)


@_fast
def _probability(t, logits, o, b, c, v, counted):
    """Fills the row of p: a number also where the voxel does not count."""
    no_inline()
    if o.activation == SOFTMAX:
        rows.multiply(row(t, _P), row(t, _CLASSES + c), row(t, R))
    elif o.activation == SIGMOID:
        load_logits(t, np.int64(_Z), logits, b, c, v, counted)
        rows.sigmoid_rows(row(t, _P), row(t, _Q), row(t, _Z))
    else:
        load_logits(t, np.int64(_P), logits, b, c, v, counted)


@_fast
def _load_target(t, target, o, b, c, v, counted):
    """Fills the row of y: 0 where the voxel does not count."""
    no_inline()
    y = row(t, _Y)
    if o.dense:
        load_row(y, target, b, c, v)
    else:
        rows.one_hot(y, label_row(t, LABELS), np.int32(c + o.first_label))
    if counted != 0:
        rows.clear_uncounted(y, row(t, U))


@_fast
def _errors_chunk(out, walks, numbers, b, start, stop, reals):
    """w (p - y)^2 of every class into out ``[C, V]``; returns the bad labels and the sum of w."""
    no_inline()
    out, walks, numbers, reals = bare(out), bare(walks), bare(numbers), bare(reals)
    o, classes, bad, weight = options_of(numbers), out.shape[0], 0, 0.0
    logits, target, mask = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2)
    buffer = tile_buffer(_CLASSES + (2 * classes if o.activation == SOFTMAX else 0), _TILE, reals)
    for v in range(start, stop, _TILE):
        t = tile_of(buffer, min(_TILE, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad += state[1]
        weight += rows.sum_row(row(t, U))
        if state[0] != EMPTY:
            _load_softmax(t, logits, o, classes, b, v, state[0])
        for c in range(classes):
            if state[0] == EMPTY:
                rows.set_zero(out[c, v : v + t.n])
                continue
            _probability(t, logits, o, b, c, v, state[0])
            _load_target(t, target, o, b, c, v, state[0])
            _squared_error(out[c, v : v + t.n], row(t, _P), row(t, _Y), row(t, U))
    return bad + (0 if buffer.size else 1), weight  # the last use of the buffer: until here it must live


@_fast
def _probabilities_chunk(out, weights, walks, numbers, b, start, stop, reals):
    """p of every class, 0 where the voxel does not count, and w; returns the bad labels and the sum of w."""
    no_inline()
    out, weights, walks, numbers, reals = bare(out), bare(weights), bare(walks), bare(numbers), bare(reals)
    o, classes, bad, weight = options_of(numbers), out.shape[0], 0, 0.0
    logits, target, mask = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2)
    buffer = tile_buffer(_CLASSES + (2 * classes if o.activation == SOFTMAX else 0), _TILE, reals)
    for v in range(start, stop, _TILE):
        t = tile_of(buffer, min(_TILE, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad += state[1]
        weight += rows.sum_row(row(t, U))
        rows.copy(weights[v : v + t.n], row(t, U))
        if state[0] != EMPTY:
            _load_softmax(t, logits, o, classes, b, v, state[0])
        for c in range(classes):
            if state[0] == EMPTY:
                rows.set_zero(out[c, v : v + t.n])
                continue
            _probability(t, logits, o, b, c, v, state[0])
            if state[0] == SOME:
                rows.clear_uncounted(row(t, _P), row(t, U))
            rows.copy(out[c, v : v + t.n], row(t, _P))
    return bad + (0 if buffer.size else 1), weight


@_fast
def _target_chunk(out, walks, numbers, b, c, start, stop, reals):
    """y of class c into out ``[V]``, 0 where the voxel does not count."""
    no_inline()
    out, walks, numbers, reals = bare(out), bare(walks), bare(numbers), bare(reals)
    o = options_of(numbers)
    target, mask = walk_of(walks, 1), walk_of(walks, 2)
    buffer = tile_buffer(_CLASSES, _TILE, reals)
    for v in range(start, stop, _TILE):
        t = tile_of(buffer, min(_TILE, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        _load_target(t, target, o, b, c, v, state[0])
        rows.copy(out[v : v + t.n], row(t, _Y))
    return buffer.size


def _errors_loop(out, partial, walks, numbers, reals):  # type: ignore[no-untyped-def]
    voxels = out.shape[2]
    per_sample, bad = -(-voxels // CHUNK), 0
    for i in prange(partial.size):
        b, start = i // per_sample, i % per_sample * CHUNK
        found, partial[i] = _errors_chunk(out[b], walks, numbers, b, start, min(start + CHUNK, voxels), reals)
        bad += found
    return bad


def _probabilities_loop(out, weights, partial, walks, numbers, first, reals):  # type: ignore[no-untyped-def]
    voxels = out.shape[2]
    per_sample, bad = -(-voxels // CHUNK), 0
    for i in prange(partial.size):
        b, start = i // per_sample, i % per_sample * CHUNK
        stop = min(start + CHUNK, voxels)
        found, partial[i] = _probabilities_chunk(out[b], weights[b], walks, numbers, first + b, start, stop, reals)
        bad += found
    return bad


def _target_loop(out, walks, numbers, b, c, reals):  # type: ignore[no-untyped-def]
    for i in prange(-(-out.size // CHUNK)):
        start = i * CHUNK
        _target_chunk(out, walks, numbers, b, c, start, min(start + CHUNK, out.size), reals)


_ERRORS, _PROBABILITIES, _TARGET = map(serial_and_parallel, (_errors_loop, _probabilities_loop, _target_loop))


def _partial(out: np.ndarray) -> np.ndarray:
    return np.zeros(out.shape[0] * -(-out.shape[2] // CHUNK))


def errors(v: Volumes, out: np.ndarray) -> tuple[np.ndarray, int]:
    """Writes w (p - y)^2 into out ``[B, C, V]``; the sums of w ``[B]`` and the number of bad labels."""
    partial = _partial(out)
    bad = pick(_ERRORS, v.logits)(out, partial, v.walks, v.numbers, v.reals)
    return partial.reshape(out.shape[0], -1).sum(1), bad


def probabilities(v: Volumes, out: np.ndarray, weights: np.ndarray, first: int = 0) -> tuple[np.ndarray, int]:
    """Writes p into out ``[B, C, V]`` and w into weights ``[B, V]``, of the samples from ``first`` on.

    Returns the sums of w and the number of bad labels.
    """
    partial = _partial(out)
    bad = pick(_PROBABILITIES, v.logits)(out, weights, partial, v.walks, v.numbers, first, v.reals)
    return partial.reshape(out.shape[0], -1).sum(1), bad


def target_volume(v: Volumes, out: np.ndarray, b: int, c: int) -> Any:
    """Writes y of class c of sample b into out ``[V]``, whatever its dtype."""
    pick(_TARGET, v.logits)(out, v.walks, v.numbers, b, c, v.reals)
