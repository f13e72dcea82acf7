"""``interpolate``: ``F.interpolate`` whose result is made chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..passes.chunks import default_chunk_bytes
from ..passes.lazy_logits import LazyLogits
from ..passes.options import as_number, check_count, check_flag, check_iterable, check_positive
from ..passes.resize import Resize
from ..passes.tensors import FLOATS, check_tensor

MODES = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear")
_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}  # and how many spatial axes they have


def interpolate(
    input: Tensor | LazyLogits,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    chunk_bytes: int | None = None,
) -> LazyLogits:
    """``F.interpolate``, with its arguments and numbers, as :class:`fastloss.LazyLogits`: losses on sums make the
    result chunk by chunk, and whatever else asks gets it as a tensor.

    Of the lazy logits of a head (:func:`fastloss.lazy_head`), and as the input of such a head, both are made at once,
    the convolution where there are fewer voxels: interpolation commutes with it. Along each axis it is a product with
    small matrices, the adjoint with their transposes: the same bits every time, on every device. float16 and bfloat16
    are rounded once, at the end. A NaN or an infinity spreads over up to 64 voxels along each axis.

    Args:
        input: ``[B, C, *S]`` with 1 to 3 spatial axes, of floats; or lazy logits.
        size: of the result, one number or one for each spatial axis.
        scale_factor: in place of ``size``, likewise.
        mode: ``"nearest"``, ``"nearest-exact"``, or ``"linear"``, ``"bilinear"``, ``"trilinear"`` of 1, 2, 3 axes.
        align_corners, recompute_scale_factor: as torch has them.
        antialias: False, as it is no interpolation.
        chunk_bytes: memory of a chunk; None for that of the lazy logits, or as :func:`fastloss.lazy_head` has it.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """
    if not isinstance(input, LazyLogits):
        check_tensor(input, "input")
        if input.dtype not in FLOATS:
            raise TypeError(f"input: got {input.dtype}, expected float32, float64, float16 or bfloat16")
    shape = tuple(input.shape)
    if not 3 <= len(shape) <= 5 or 0 in shape[2:]:
        raise ValueError(f"input: got shape {list(shape)}, expected [B, C, *S] with 1 to 3 spatial axes, of any voxels")
    axes = len(shape) - 2
    if not isinstance(mode, str) or mode not in MODES or _LINEAR.get(mode, axes) != axes:
        linear = ("linear", "bilinear", "trilinear")[axes - 1]
        raise ValueError(
            f"mode: got {mode!r} for {axes} spatial axes, expected 'nearest', 'nearest-exact' or {linear!r}"
        )
    if align_corners is not None:
        check_flag(align_corners=align_corners)
        if mode not in _LINEAR:
            raise ValueError(f"align_corners: got {align_corners} with mode={mode!r}, expected None")
    if antialias:
        raise ValueError(f"antialias: got {antialias!r}, expected False")
    if chunk_bytes is not None:
        chunk_bytes = as_number(chunk_bytes, "chunk_bytes")
        check_count(chunk_bytes=chunk_bytes)
    sizes, scales = sizes_of(shape[2:], size, scale_factor)
    resize = Resize(sizes, "linear" if mode in _LINEAR else mode, bool(align_corners), scales)
    if recompute_scale_factor:
        resize = resize._replace(scales=())
    if isinstance(input, LazyLogits):
        if input.maker.pointwise and not input.channels_last:
            return replace(input, resize=resize, chunk_bytes=chunk_bytes or input.chunk_bytes)
        input = input.tensor("a second interpolation")
    return LazyLogits(input, None, None, input.dtype, chunk_bytes or default_chunk_bytes(input), resize)


def sizes_of(space: Sequence[int], size: Any, scale_factor: Any) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Of the result, and the factors, if these were given."""
    if (size is None) == (scale_factor is None):
        what = "neither" if size is None else "both"
        raise ValueError(f"size, scale_factor: got {what}, expected one of them")
    if size is not None:
        sizes = _for_each_axis(size, "size", len(space))
        for n in sizes:
            if not isinstance(n, torch.SymInt):
                check_count(size=n)
        return tuple(sizes), ()
    scales = _for_each_axis(scale_factor, "scale_factor", len(space))
    for scale in scales:
        check_positive(scale_factor=scale)
    sizes = [math.floor(n * scale) for n, scale in zip(space, scales, strict=True)]
    if 0 in sizes:
        raise ValueError(f"scale_factor: got {scale_factor!r} for a size of {list(space)}, expected at least one voxel")
    return tuple(sizes), tuple(float(scale) for scale in scales)


def _for_each_axis(value: Any, name: str, axes: int) -> list[Any]:
    value = as_number(value, name)
    if isinstance(value, (int, float, torch.SymInt)):
        return [value] * axes
    values = [as_number(item, name) for item in check_iterable(value, name, "a number, or one for each spatial axis")]
    if len(values) != axes:
        raise ValueError(f"{name}: got {len(values)} numbers, expected one, or {axes}, one for each spatial axis")
    return values
