"""The CPU back end of the sums: runs a plan's code over chunks of voxels, in parallel, bitwise repeatable.

Chunks are fixed by the shape alone and their sums are added in order, so that the result does not depend on the number
of threads. Importing this module imports Numba.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan, first_label, label_count

from ..layout import labels_within
from .chunk import CHUNK, Pass, chunk_code
from .classes import FEW, registers
from .codes import plan_code
from .forms import GRADIENT, LOSSES, SUMS, WEIGHTS, form_of
from .lanes import MOST_LANES, REGISTER
from .rows import convert_code, copy_code, labels_code
from .tensors import in_huge_pages, real_of, walk
from .threads import run

_FEW_TILE, _MANY_TILE = 32 * MOST_LANES, 256  # voxels
_LOGITS, _TARGET, _MASK, _MAP, _OUT = range(5)
_Lie = tuple[torch.dtype | None, int]  # a tensor's dtype, and whether its voxels lie in a row
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
        return torch.zeros((batch, channels, terms), dtype=torch.float64), 0
    chunks = -(-size // (batch * channels) // CHUNK)
    sums = np.zeros((batch, chunks, channels, terms))
    bad = _run(output, logits, target, mask, weight_map, plan, out, sums)
    return torch.from_numpy(sums.sum(1) if chunks > 1 else sums[:, 0]), bad


def write_target(
    output: int, target: Tensor, mask: Tensor | None, plan: Plan, out: Tensor, c: int, channels: int
) -> None:
    """Fills ``out`` ``[B, 1, *S]`` with what an output has of each voxel without logits, for one of the channels."""
    plan = plan._replace(terms=(), activation="none")
    target = target[:, c : c + 1] if plan.dense else target
    table = np.zeros(0)
    _run(output, None, target, mask, None, plan, out, table, c + first_label(channels), label_count(channels))


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
        table = np.ascontiguousarray(grad_sums.detach().numpy())
        _run(GRADIENT, logits, target, mask, weight_map, plan, gradient, table)
    return gradient


def _run(
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
    batch, channels = like.shape[:2]
    size = like.numel()
    voxels = size // (batch * channels)
    if label is None:
        label, labels = first_label(channels), label_count(channels)
    tensors = (logits, target, mask, weight_map if plan.mapped else None, out)
    walks = [walk(x, k in (_LOGITS, _MAP, _OUT) or (k == _TARGET and plan.dense)) for k, x in enumerate(tensors)]
    lie = tuple([(x if x is None else x.dtype, w.in_place) for x, w in zip(tensors, walks, strict=True)])
    code, numbers, codes = _prepare(output, plan, channels, voxels, label, labels, lie)
    arguments = [table.ctypes.data, *numbers]
    for w, found in zip(walks, codes, strict=True):
        arguments += w[:-2]
        arguments += found
    return run(code, np.array(arguments, np.int64), batch * -(-voxels // CHUNK), size)


@lru_cache(maxsize=1024)
def _prepare(
    output: int, plan: Plan, channels: int, voxels: int, label: int, labels: int, lie: tuple[_Lie, ...]
) -> tuple[int, tuple[int, ...], list[tuple[int, int]]]:
    """The code of a chunk, the numbers of a :class:`Pass` but for the table, and the codes of each tensor's Walk."""
    of_logits, of_target, *_, of_out = (dtype for dtype, _ in lie)
    real = real_of(of_logits or of_out)
    form = form_of(plan, channels, labels, output, *(str(dtype)[6:] for dtype in (real, of_logits or real)))
    lanes = registers(form.classes) * REGISTER // real.itemsize
    tile = min(_FEW_TILE if form.classes <= FEW else _MANY_TILE, -(-voxels // lanes) * lanes)
    whole = voxels % lanes == 0
    pitch = (tile + _SKEW) * real.itemsize
    codes, rows = [], []
    for k, (dtype, in_place) in enumerate(lie):
        in_classes = k in (_LOGITS, _MAP, _OUT) or (k == _TARGET and plan.dense)
        convert = convert_code(dtype, real) if dtype and (k in (_MASK, _MAP) or (k == _TARGET and plan.dense)) else 0
        moves = k == _MASK or (in_classes and not whole)  # to where it can be written to, or filled up
        copy = dtype and (not in_place or (moves and not convert))
        codes.append((copy_code(dtype.itemsize, k != _OUT) if dtype and copy else 0, convert))
        rows.append(form.classes + 2 if in_classes and (copy or convert) else 0)
    # After the weights, the labels, and the labels as they are; of logits, target, map and results
    places = np.cumsum([4 * pitch, *(pitch * n for k, n in enumerate(rows) if k != _MASK)]).tolist()
    scratch = 3 * real.itemsize * form.classes * len(form.groups()) if output == GRADIENT else 0
    ignored = _ignored(labels_within(plan, of_target))
    numbers = Pass(
        table=0,
        code=plan_code(form),
        labels=0 if plan.dense else labels_code(of_target, form.narrow, real),
        table_row=8 * len(plan.terms),
        by_chunk=output != GRADIENT,
        voxels=voxels,
        chunks=-(-voxels // CHUNK),
        tile=tile,
        lanes=lanes,
        channels=channels,
        classes=form.classes,
        outputs=1 if output in (LOSSES, WEIGHTS) else form.classes,
        narrow=form.narrow,
        first_label=label,
        labels_known=labels,
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
    return chunk_code(str(real)[6:]), numbers[1:], codes


@cache  # for good: others keep its address
def _ignored(labels: tuple[int, ...]) -> np.ndarray:
    return np.array(labels, np.int64)
