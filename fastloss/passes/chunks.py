"""The chunks of logits: which boxes of a volume they are, their values, and where the gradient of one goes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .resize import Resize, ranges_of, resized, resized_back

Box = tuple[slice, ...]
"""Samples, then a range of each spatial axis."""

PIECE = 4096  # voxels: of a long row a chunk has whole pieces, between which threads share the pass over it


class Maker(NamedTuple):
    """How logits are made of features: by the weight and the bias of a 1x1 convolution, by interpolation, or both."""

    dtype: torch.dtype  # of the logits
    chunk_bytes: int
    size: tuple[int, ...] = ()  # the fields of a Resize, since an operator takes no such thing
    mode: str = ""
    align_corners: bool = False
    scales: tuple[float, ...] = ()

    @property
    def resize(self) -> Resize:
        return Resize(tuple(self.size), self.mode, self.align_corners, tuple(self.scales))

    @property
    def pointwise(self) -> bool:
        """Whether a voxel's logits are made of its features alone."""
        return not self.size

    @property
    def arithmetic(self) -> torch.dtype:
        """That of the interpolation, which is rounded once, at its end."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def shape(self, features: Tensor, weight: Tensor | None) -> tuple[int, ...]:
        """``[B, C, *S]`` of the logits."""
        channels = features.shape[1] if weight is None else weight.shape[0]
        return (features.shape[0], channels, *(self.size or features.shape[2:]))

    def convolves_first(self, features: Tensor) -> bool:
        """Whether the convolution comes before the interpolation, with which it commutes, as shares add up to 1: where
        there are fewer voxels."""
        return math.prod(features.shape[2:]) <= math.prod(self.size)


class Gradients(NamedTuple):
    """Of features, weight and bias; None where not asked for. Those of weight and bias are sums over all chunks, in
    float32, of float64 in float64."""

    features: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def default_chunk_bytes(features: Tensor) -> int:
    """Three quarters of the features, within limits: less than their gradient takes anyway, and enough for threads."""
    most = 2**26 if features.device.type == "cpu" else 2**28
    return min(max(features.numel() * features.element_size() * 3 // 4, 2**24), most)


def boxes(batch: int, space: Sequence[int], channels: int, maker: Maker) -> Iterator[Box]:
    """Parts of a batch in order, each without gaps in the memory of a sample: what is made of it takes about
    ``chunk_bytes``, or is one voxel."""
    sizes = (batch, *space)
    # interpolation has two volumes besides, in its arithmetic
    volumes = 2 * maker.dtype.itemsize + (0 if maker.pointwise else 2 * maker.arithmetic.itemsize)
    voxels = maker.chunk_bytes // (channels * volumes)
    if voxels > PIECE:
        voxels -= voxels % PIECE
    steps = []
    for axis, size in enumerate(sizes):
        step = min(max(1, voxels // max(1, math.prod(sizes[axis + 1 :]))), max(1, size))
        if step % PIECE and size:
            step = -(-size // -(-size // step))  # parts of about one size
        steps.append(step)
    starts = (range(0, size, step) for size, step in zip(sizes, steps, strict=True))
    for start in itertools.product(*starts):
        yield tuple(slice(a, min(a + step, size)) for a, step, size in zip(start, steps, sizes, strict=True))


@contextmanager
def making(device: torch.device) -> Iterator[None]:
    """Where chunks are made: as they are written, without a gradient or another dtype of torch's own."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def cut(volume: Tensor | None, box: Box, space: int) -> Tensor | None:
    """The part of ``[B, *S]`` or ``[B, C, *S]``, a view."""
    if volume is None:
        return None
    return volume[box] if volume.ndim == space + 1 else volume[(box[0], slice(None), *box[1:])]


def make_chunk(maker: Maker, features: Tensor, weight: Tensor | None, bias: Tensor | None, box: Box) -> Tensor:
    """The logits ``[b, C, *box]``."""
    weight = None if weight is None else weight.to(maker.dtype)
    if maker.pointwise:
        part = features[(box[0], slice(None), *box[1:])].to(maker.dtype)
        return part if weight is None else _convolve(part, weight, bias)
    space = features.shape[2:]
    box = (*box, *(slice(0, size) for size in maker.size[len(box) - 1 :]))
    part = features[(box[0], slice(None), *ranges_of(maker.resize, space, box[1:], maker.arithmetic))].to(maker.dtype)
    first = maker.convolves_first(features)
    if weight is not None and first:
        part = _convolve(part, weight, bias)
    part = resized(part.to(maker.arithmetic), maker.resize, space, box[1:]).to(maker.dtype)
    return part if weight is None or first else _convolve(part, weight, bias)


def _convolve(part: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 1x1 convolution, by the library's matrix product."""
    found = part.new_empty((part.shape[0], weight.shape[0], *part.shape[2:]))
    column = None if bias is None else bias.to(part.dtype).unsqueeze(1)
    for x, out in zip(part.flatten(2), found.flatten(2), strict=True):
        if column is None:
            torch.mm(weight, x, out=out)
        else:
            torch.addmm(column, weight, x, out=out)
    return found


def no_gradients(
    maker: Maker, features: Tensor, weight: Tensor | None, bias: Tensor | None, wanted: Sequence[bool]
) -> Gradients:
    """Of zeros; that of features without values, where each chunk has its own part of it."""
    total = torch.float64 if features.dtype == torch.float64 else torch.float32
    sums = [
        torch.zeros_like(x, dtype=total) if x is not None and asked else None
        for x, asked in zip((weight, bias), wanted[1:], strict=True)
    ]
    of_features = _dense_like(features) if wanted[0] else None
    if of_features is not None and not maker.pointwise:
        of_features.zero_()
    return Gradients(of_features, *sums)


def _dense_like(features: Tensor) -> Tensor:
    """Of memory in which a box of one sample has no gaps."""
    kept = torch.empty_like(features)
    return kept if kept.is_contiguous() or kept.movedim(1, -1).is_contiguous() else features.new_empty(features.shape)


def add_adjoint(
    maker: Maker,
    gradient: Tensor,
    features: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    box: Box,
    gradients: Gradients,
) -> None:
    """Adds what the gradient of a chunk's logits gives."""
    if maker.pointwise:
        place = (box[0], slice(None), *box[1:])
        out = None if gradients.features is None else gradients.features[place]
        if weight is not None:
            _back_through(gradient, features[place], weight.to(maker.dtype), gradients, out)
        elif out is not None:
            out.copy_(gradient)
        return
    space, first = features.shape[2:], maker.convolves_first(features)
    place = (box[0], slice(None), *ranges_of(maker.resize, space, box[1:], maker.arithmetic))
    if weight is not None and not first:
        part = make_chunk(maker, features, None, None, box)
        out = torch.empty_like(part)
        _back_through(gradient, part, weight.to(maker.dtype), gradients, out)
        gradient = out
    gradient = resized_back(gradient.to(maker.arithmetic), maker.resize, space, box[1:]).to(maker.dtype)
    if weight is not None and first:
        part = features[place].to(maker.dtype)
        out = torch.empty_like(part)
        _back_through(gradient, part, weight.to(maker.dtype), gradients, out)
        gradient = out
    if gradients.features is not None:
        gradients.features[place] += gradient  # chunks have voxels in common


def _back_through(gradient: Tensor, part: Tensor, weight: Tensor, gradients: Gradients, out: Tensor | None) -> None:
    """Of the 1x1 convolution: adds to weight and bias, and fills ``out`` with the gradient of the part."""
    if gradients.bias is not None:
        gradients.bias.add_(gradient.flatten(2).sum((0, 2), dtype=gradients.bias.dtype))
    for sample, (of_logits, x) in enumerate(zip(gradient.flatten(2), part.flatten(2), strict=True)):
        if out is not None:
            row = out[sample].flatten(1)
            if row.dtype == of_logits.dtype:
                torch.mm(weight.t(), of_logits, out=row)
            else:
                row.copy_(weight.t() @ of_logits)
        if gradients.weight is not None:
            total = gradients.weight.dtype
            gradients.weight.addmm_(of_logits.to(total), x.to(total).t())
