"""The CPU back end of the sums: runs a plan's code over chunks of voxels, in parallel, bitwise repeatable.

Chunks are fixed by the shape alone and their sums are added in order, so that the result does not depend on the number
of threads. Importing this module imports Numba.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan, Term, first_label, label_count

from ..layout import labels_within
from .chunk import CHUNK, Pass, chunk_code
from .classes import FEW, registers
from .codes import plan_code
from .forms import GRADIENT, LOSSES, SUMS, TOTALS, WEIGHTS, WITH_COEFFICIENTS, form_of
from .lanes import MOST_LANES, REGISTER
from .rows import convert_code, copy_code, labels_code
from .tensors import Layout, Walk, real_of
from .threads import made_once, run

_FEW_TILE, _MANY_TILE = 32 * MOST_LANES, 256  # voxels
_LOGITS, _TARGET, _MASK, _MAP, _OUT = range(5)
_ADDRESSES = [len(Pass._fields) + k * len(Walk._fields) for k in range(5)]  # of the tensors, among the arguments
_SKEW = 136  # numbers between rows: at a power of two they would share the sets of the L1 cache


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms."""
    return forward_with_bad_labels(logits, target, mask, weight_map, plan)[0]


def forward_with_bad_labels(
    logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan
) -> tuple[Tensor, int]:
    """As :func:`forward`; also the number of counted voxels whose label is no class."""
    return write_voxels(SUMS, logits, target, mask, plan, None, weight_map)


def write_voxels(
    output: int,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    plan: Plan,
    out: Tensor | None,
    weight_map: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Fills ``out`` ``[B, C or 1, *S]``, of reals, with what an output has of each voxel; the sums, and how many bad
    labels there are."""
    batch, channels = logits.shape[:2]
    size, terms = logits.numel(), len(plan.terms)
    if not size:
        return torch.zeros((batch, channels, terms), dtype=torch.float64, device="cpu"), 0
    chunks = -(-size // (batch * channels) // CHUNK)
    sums = np.zeros((batch, chunks, channels, terms))
    bad = run_plan(output, logits, target, mask, weight_map, plan, out, sums)
    return torch.from_numpy(sums.sum(1) if chunks > 1 else sums[:, 0]), bad


def write_target(
    output: int, target: Tensor, mask: Tensor | None, plan: Plan, out: Tensor, c: int, channels: int
) -> None:
    """Fills ``out`` ``[B, 1, *S]`` with what an output has of each voxel without logits, for one of the channels."""
    plan = plan._replace(terms=(), activation="none")
    target = target[:, c : c + 1] if plan.dense else target
    table = np.zeros(0)
    run_plan(output, None, target, mask, None, plan, out, table, c + first_label(channels), label_count(channels))


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
        table = np.ascontiguousarray(grad_sums.detach().numpy())
        table, plan = _without_cancelling(table, plan)
        run_plan(GRADIENT, logits, target, mask, weight_map, plan, gradient, table)
    return gradient


def _without_cancelling(table: np.ndarray, plan: Plan) -> tuple[np.ndarray, Plan]:
    """The same gradient from coefficients whose parts cancel before they are rounded to float32.

    Under labels |p - y| is p + y - 2 p y. And as the p of a softmax add up to 1, what all classes' coefficients of p
    have in common adds nothing: the least of them, which makes none much larger, is taken off.
    """
    p, py, d = Term(p=1.0), Term("y", p=1.0), Term(d=1.0)
    if d in plan.terms and not plan.dense:
        columns = dict.fromkeys((*plan.terms, p, py), np.zeros(table.shape[:2]))
        for term, column in zip(plan.terms, np.moveaxis(table, 2, 0), strict=True):
            columns[term] = columns[term] + column
        by_d = columns.pop(d)
        columns[p], columns[py] = columns[p] + by_d, columns[py] - 2 * by_d
        table, plan = np.stack(list(columns.values()), 2), plan._replace(terms=tuple(columns))
    if p in plan.terms and plan.activation == "softmax":
        table, k = table.copy(), plan.terms.index(p)
        by_p = table[:, :, k]
        by_p -= np.take_along_axis(by_p, np.abs(by_p).argmin(1, keepdims=True), 1)
    return table, plan


def run_plan(
    output: int,
    logits: Tensor | None,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    out: Tensor | None,
    table: np.ndarray,
    label: int | None = None,
    labels: int = 0,
) -> int:
    """Runs the code of an output over all chunks; returns the number of bad labels.

    Without logits: ``label`` is that of the one channel of ``out``, ``labels`` how many there are.
    """
    like = out if logits is None else logits
    assert like is not None
    if label is None:
        channels = like.shape[1]
        label, labels = first_label(channels), label_count(channels)
    tensors = (logits, target, mask, weight_map if plan.mapped else None, out)
    layouts = tuple([x if x is None else (x.dtype, x.shape, x.stride()) for x in tensors])
    code, chunks, prepared = _prepare(output, plan, label, labels, layouts)
    arguments = prepared.copy()
    arguments[0] = table.ctypes.data
    for place, x in zip(_ADDRESSES, tensors, strict=True):
        if x is not None:
            arguments[place] = x.data_ptr()
    return run(code, arguments, chunks, like.numel())


@lru_cache(maxsize=1024)
def _prepare(
    output: int, plan: Plan, label: int, labels: int, layouts: tuple[tuple[Any, ...] | None, ...]
) -> tuple[int, int, np.ndarray]:
    """The code of a chunk, how many there are, and its arguments, a :class:`Pass` and each tensor's Walk, but for the
    addresses of table and tensors; ``layouts``: a :class:`Layout` of each tensor."""
    found = [layout and Layout(*layout) for layout in layouts]
    like, of_target = found[_LOGITS] or found[_OUT], found[_TARGET]
    assert like is not None and of_target is not None
    (batch, channels), voxels, real = like.shape[:2], math.prod(like.shape[2:]), real_of(like.dtype)
    chunks = -(-voxels // CHUNK)
    logits_dtype = like.dtype if found[_LOGITS] else real
    form = form_of(plan, channels, labels, output, *(str(dtype)[6:] for dtype in (real, logits_dtype)))
    lanes = registers(form.classes) * REGISTER // real.itemsize
    tile = min(_FEW_TILE if form.classes <= FEW else _MANY_TILE, -(-voxels // lanes) * lanes)
    pitch = (tile + _SKEW) * real.itemsize
    of_mask = found[_MASK]
    masks = of_mask is not None and len(of_mask.shape) == len(like.shape)
    in_classes = (True, plan.dense, masks, True, True)
    whole = voxels % lanes == 0
    walks = [
        _walk(k, layout, each, whole, real) for k, (layout, each) in enumerate(zip(found, in_classes, strict=True))
    ]
    moved = [walks[k].copy or walks[k].convert for k in (_LOGITS, _TARGET, _MAP, _OUT)]
    moved[1] = moved[1] and plan.dense
    # Their rows follow the weights, the labels, and the labels as they are
    places = np.cumsum([4 * pitch, *(pitch * (form.classes + 2) if moves else 0 for moves in moved)]).tolist()
    scratch = 3 * real.itemsize * form.classes * len(form.groups()) if output in WITH_COEFFICIENTS else 0
    ignored = _ignored(labels_within(plan, of_target.dtype))
    numbers = Pass(
        table=0,
        code=plan_code(form),
        labels=0 if plan.dense else labels_code(of_target.dtype, form.narrow, real),
        table_row=8 * len(plan.terms),
        by_chunk=output not in WITH_COEFFICIENTS,
        voxels=voxels,
        chunks=chunks,
        tile=tile,
        lanes=lanes,
        channels=channels,
        classes=form.classes,
        outputs=1 if output in (LOSSES, WEIGHTS, TOTALS) else form.classes,
        narrow=form.narrow,
        first_label=label,
        labels_known=labels,
        masks=masks,
        ignored=ignored.ctypes.data,
        ignore=ignored.size,
        pitch=pitch,
        places=places[0],
        target_rows=places[1] - places[0],
        map_rows=places[2] - places[0],
        out_rows=places[3] - places[0],
        scratch=places[4] - places[0],
        memory=places[4] + scratch,
    )
    arguments = [number for part in (numbers, *walks) for number in part]
    return chunk_code(str(real)[6:]), batch * chunks, np.array(arguments, np.int64)


def _walk(k: int, layout: Layout | None, in_classes: bool, whole: bool, real: torch.dtype) -> Walk:
    """Of tensor k, with its codes; ``in_classes``: with an axis of channels; ``whole``: a sample's voxels fill
    registers."""
    if layout is None:
        return Walk()
    walk = layout.walk(in_classes)
    convert = convert_code(layout.dtype, real) if k in (_MASK, _MAP) or (k == _TARGET and in_classes) else 0
    moves = k == _MASK or (in_classes and not whole)  # to where it can be written to, or filled up
    copies = not walk.in_place or (moves and not convert)
    return walk._replace(copy=copy_code(layout.dtype.itemsize, k != _OUT) if copies else 0, convert=convert)


@made_once
def _ignored(labels: tuple[int, ...]) -> np.ndarray:
    return np.array(labels, np.int64)
