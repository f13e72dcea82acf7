"""Codes that bring what does not lie in rows into them, and labels into classes: compiled when such a tensor comes.

Each takes the address of a :class:`Row`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from .tensors import WALK, array_at, record_at, record_type
from .threads import code_of, made_once

NO_CLASS = 255  # as a label of 8 bits; -1 as one of 32
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_LABELS = {
    torch.bool: np.uint8,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.uint16: np.uint16,
    torch.uint32: np.uint32,
}
_REALS = {torch.float32: np.float32, torch.float64: np.float64}


class Row(NamedTuple):
    """Voxels of one class: of a tensor, and of a row that a code fills or empties."""

    walk: int  # address of the tensor's Walk
    sample: int
    channel: int
    voxel: int  # the first
    count: int
    row: int  # address
    source: int  # address of what is converted
    weights: int  # address of the voxels' weights
    weighted: int  # whether these hold anything
    classes: int  # labels from 0 to below
    ignored: int  # address of labels (int64), of the tensor's type all of them, whose weight is 0
    ignore: int  # how many
    keep: int  # whether labels that are as the code wants them may stay where they are


ROW = record_type(Row)


def copy_code(size: int, inwards: bool) -> int:
    """Address of the code that gathers, or scatters, a row of elements of some bytes."""
    return _address(_copy, f"copy_{size}_{inwards}", element=_UNSIGNED[size], inwards=inwards)


def convert_code(source: torch.dtype, real: torch.dtype) -> int:
    """Address of the code that converts a row; 0 if there is nothing to convert."""
    if source == real:
        return 0
    halves = {torch.bfloat16: _from_bfloat16, torch.float16: _from_half}
    function = halves.get(source, _convert)
    element = np.uint16 if source in halves else _REALS.get(source) or _LABELS[source]
    return _address(function, f"{function.__name__}_{source}_{real}", element=element, real=_REALS[real])


def labels_code(source: torch.dtype, narrow: bool, real: torch.dtype) -> int:
    """Address of the code that makes classes of labels; it returns -1 if all are, else how many of those that count are
    neither classes nor ignored: then weights and labels have been written."""
    held = _LABELS[source]
    scope = {"element": held, "most": np.iinfo(held).max, "same": narrow and source.itemsize == 1}
    scope |= {"label": np.uint8 if narrow else np.int32, "none": NO_CLASS if narrow else -1, "real": _REALS[real]}
    return _address(_labels, f"labels_{source}_{narrow}_{real}", **scope)


@made_once
def _code(function: Any, name: str, scope: tuple[tuple[str, Any], ...]) -> Any:
    return code_of(function, name.replace("torch.", ""), **dict(scope))


def _address(function: Any, name: str, **scope: Any) -> int:
    return int(_code(function, name, tuple(scope.items())).address)


# What the codes have of their own
element = label = real = np.float32
inwards = same = False
none = most = 0


def _copy(arguments, i):  # type: ignore[no-untyped-def]
    a = record_at(arguments, ROW)
    w = record_at(a.walk, WALK)
    voxel, stop, row, stride = a.voxel, a.voxel + a.count, a.row, w.stride2
    while voxel < stop:
        n = min(w.size2 - voxel % w.size2, stop - voxel)  # that one stride can walk
        line = voxel // w.size2
        first = a.sample * w.batch + a.channel * w.channel + line // w.size1 * w.stride0 + line % w.size1 * w.stride1
        first += voxel % w.size2 * stride
        there = array_at(w.address + first * w.size, ((n - 1) * stride + 1,), element)
        here = array_at(row, (n,), element)
        for k in range(n):
            if inwards:
                here[k] = there[k * stride]
            else:
                there[k * stride] = here[k]
        voxel, row = voxel + n, row + n * w.size
    return 0


def _convert(arguments, i):  # type: ignore[no-untyped-def]
    a = record_at(arguments, ROW)
    source, row = array_at(a.source, (a.count,), element), array_at(a.row, (a.count,), real)
    for k in range(a.count):
        row[k] = source[k]
    return 0


def _from_bfloat16(arguments, i):  # type: ignore[no-untyped-def]
    a = record_at(arguments, ROW)
    source, row = array_at(a.source, (a.count,), element), array_at(a.row, (a.count,), real)
    for k in range(a.count):
        row[k] = np.uint32(np.uint32(source[k]) << np.uint32(16)).view(np.float32)
    return 0


def _from_half(arguments, i):  # type: ignore[no-untyped-def]
    a = record_at(arguments, ROW)
    source, row = array_at(a.source, (a.count,), element), array_at(a.row, (a.count,), real)
    least = np.uint32(113 << 23).view(np.float32)
    for k in range(a.count):
        half = np.uint32(source[k])
        bits = np.uint32(np.uint32(half & np.uint32(0x7FFF)) << np.uint32(13))
        exponent = np.uint32(bits & np.uint32(0x0F800000))
        subnormal = np.float32(np.uint32(bits + np.uint32(113 << 23)).view(np.float32) - least)
        special = exponent == np.uint32(0x0F800000)
        value = np.uint32(bits + np.uint32(224 << 23)) if special else np.uint32(bits + np.uint32(112 << 23))
        value = subnormal.view(np.uint32) if exponent == np.uint32(0) else value
        sign = np.uint32(np.uint32(half & np.uint32(0x8000)) << np.uint32(16))
        row[k] = np.uint32(value | sign).view(np.float32)
    return 0


def _labels(arguments, i):  # type: ignore[no-untyped-def]
    a = record_at(arguments, ROW)
    n = a.count
    source, row = array_at(a.source, (n,), element), array_at(a.row, (n,), label)
    weights, ignored = array_at(a.weights, (n,), real), array_at(a.ignored, (a.ignore,), np.int64)
    zero, last = element(0), element(min(a.classes - 1, most))  # in their own type, as narrow as it is
    special = False
    for k in range(n):
        special |= (source[k] < zero) | (source[k] > last)
    for j in range(a.ignore):
        unwanted = element(ignored[j])
        for k in range(n):
            special |= source[k] == unwanted
    if not special:
        if not (same and a.keep != 0):
            for k in range(n):
                row[k] = source[k]
        return -1
    if a.weighted == 0:
        for k in range(n):
            weights[k] = 1
    for j in range(a.ignore):
        unwanted = element(ignored[j])
        for k in range(n):
            weights[k] = real(0) if source[k] == unwanted else weights[k]
    bad = 0
    for k in range(n):
        known = (source[k] >= zero) & (source[k] <= last)
        bad += 0 if known | (weights[k] == 0) else 1
        row[k] = label(source[k]) if known else label(none)
    return bad
