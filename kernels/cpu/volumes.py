"""Logits and targets of any layout as plain volumes (Numba), for stencils, whose neighbours lie in other tiles.

A chunk function handles voxels start to stop of one sample; the loop over chunks is parallel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from fastloss.terms import Plan

from . import rows as rows
from .math import INNER, SAFE, no_inline
from .memory import bare, label_row, load_row, row, walk
from .threads import pick, serial_and_parallel
from .tile import (
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
_ERRORS, _PROBABILITIES, _TARGET = range(3)  # tasks

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
def _chunk(out, weights, task, walks, numbers, b, c, start, stop, reals):
    """Into out ``[C, V]`` of every class w (p - y)^2, or p, with w into weights; or into out ``[1, V]`` y of class c:
    all are 0 where the voxel does not count. Returns the bad labels and the sum of w.

    One function for all tasks: most of what there is to compile, they share.
    """
    no_inline()
    out, weights, walks, numbers, reals = bare(out), bare(weights), bare(walks), bare(numbers), bare(reals)
    o, classes, bad, weight = options_of(numbers), out.shape[0], 0, 0.0
    logits, target, mask = walk_of(walks, 0), walk_of(walks, 1), walk_of(walks, 2)
    softmax = o.activation == SOFTMAX and task != _TARGET
    buffer = tile_buffer(_CLASSES + (2 * classes if softmax else 0), _TILE, reals)
    for v in range(start, stop, _TILE):
        t = tile_of(buffer, min(_TILE, stop - v), reals)
        state = load_weight(t, target, mask, o, numbers, b, v)
        bad += state[1]
        weight += rows.sum_row(row(t, U))
        if task == _PROBABILITIES:
            rows.copy(weights[v : v + t.n], row(t, U))
        if softmax and state[0] != EMPTY:
            _load_softmax(t, logits, o, classes, b, v, state[0])
        for k in range(classes):
            place = out[k, v : v + t.n]
            if task == _TARGET:
                _load_target(t, target, o, b, c, v, state[0])
                rows.copy(place, row(t, _Y))
            elif state[0] == EMPTY:
                rows.set_zero(place)
            else:
                _probability(t, logits, o, b, k, v, state[0])
                if task == _ERRORS:
                    _load_target(t, target, o, b, k, v, state[0])
                    _squared_error(place, row(t, _P), row(t, _Y), row(t, U))
                else:
                    if state[0] == SOME:
                        rows.clear_uncounted(row(t, _P), row(t, U))
                    rows.copy(place, row(t, _P))
    return bad + (0 if buffer.size else 1), weight  # the last use of the buffer: until here it must live


def _loop(out, weights, task, partial, walks, numbers, first, c, reals):  # type: ignore[no-untyped-def]
    voxels = out.shape[2]
    per_sample, bad = -(-voxels // CHUNK), 0
    for i in prange(partial.size):
        b, start = i // per_sample, i % per_sample * CHUNK
        stop = min(start + CHUNK, voxels)
        found, partial[i] = _chunk(out[b], weights[b], task, walks, numbers, first + b, c, start, stop, reals)
        bad += found
    return bad


_LOOP = serial_and_parallel(_loop)


def _run(
    v: Volumes, out: np.ndarray, task: int, weights: np.ndarray | None = None, first: int = 0, c: int = 0
) -> tuple[np.ndarray, int]:
    """Runs a task over all chunks of ``out`` ``[B, C, V]``: the sums of w ``[B]`` and the number of bad labels."""
    partial = np.zeros(out.shape[0] * -(-out.shape[2] // CHUNK))
    if weights is None:
        weights = np.empty((out.shape[0], 0), out.dtype)
    bad = pick(_LOOP, v.logits)(out, weights, task, partial, v.walks, v.numbers, first, c, v.reals)
    return partial.reshape(out.shape[0], -1).sum(1), bad


def errors(v: Volumes, out: np.ndarray) -> tuple[np.ndarray, int]:
    """Writes w (p - y)^2 into out ``[B, C, V]``; the sums of w ``[B]`` and the number of bad labels."""
    return _run(v, out, _ERRORS)


def probabilities(v: Volumes, out: np.ndarray, weights: np.ndarray, first: int = 0) -> tuple[np.ndarray, int]:
    """Writes p into out ``[B, C, V]`` and w into weights ``[B, V]``, of the samples from ``first`` on.

    Returns the sums of w and the number of bad labels.
    """
    return _run(v, out, _PROBABILITIES, weights, first)


def target_volume(v: Volumes, out: np.ndarray, b: int, c: int) -> None:
    """Writes y of class c of sample b into out ``[V]``, of the kernel's own type."""
    _run(v, out.reshape(1, 1, -1), _TARGET, first=b, c=c)
