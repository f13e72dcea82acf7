"""The registered operators of sums over logits that are made chunk by chunk, and their autograd: forward adds the sums
of chunks, backward makes each chunk again and takes its gradient to what it is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..terms import VALIDATE_ALL, make_plan
from .autograd import NoForwardMode, apply_function, first_derivative_only, save
from .backends import choose
from .chunks import PIECE, Box, Gradients, Maker, add_adjoint, boxes, cut, make_chunk, making, no_gradients
from .lazy_logits import LazyLogits
from .registry import register
from .tensors import sum_dtype
from .values import check_values

_INPUTS = (
    "Tensor features, Tensor? weight, Tensor? bias, Tensor target, Tensor? mask, Tensor? weight_map, "
    "ScalarType dtype, int chunk_bytes, SymInt[] size, str mode, bool align_corners, float[] scales, "
    "str[] terms, str activation, int[] ignore, bool dense, int validate, str backend"
)
_MAKER = slice(6, 6 + len(Maker._fields))  # among the arguments


class _Call:
    """The arguments of the operators, and the chunks that they have in common."""

    def __init__(
        self,
        features: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        target: Tensor,
        mask: Tensor | None,
        weight_map: Tensor | None,
        dtype: torch.dtype,
        chunk_bytes: int,
        size: Sequence[int],
        mode: str,
        align_corners: bool,
        scales: Sequence[float],
        terms: Sequence[str],
        activation: str,
        ignore: Sequence[int],
        dense: bool,
        validate: int,
        backend: str,
    ):
        self.maker = Maker(dtype, chunk_bytes, tuple(size), mode, align_corners, tuple(scales))
        self.made_of: tuple[Tensor, Tensor | None, Tensor | None] = features, weight, bias
        self.volumes = target, mask, weight_map
        self.plan = make_plan(tuple(terms), activation, tuple(ignore), dense)
        self.validate = validate
        self.module = choose(backend, features.device)
        self.shape = self.maker.shape(features, weight)
        axes = len(self.shape) - 2
        self.as_rows = self.maker.pointwise and all(x is None or _is_row(x, axes) for x in (features, *self.volumes))

    def row(self, volume: Tensor) -> Tensor:
        """With the spatial axes as one, if all volumes may have them so."""
        return volume.flatten(2 - len(self.shape)) if self.as_rows else volume

    def chunks(self) -> Iterator[tuple[Box, Tensor, list[Tensor | None]]]:
        """Their boxes, logits, and what they have of the volumes."""
        batch, channels, *space = self.shape
        if self.as_rows:
            space = [math.prod(space)]
        features, weight, bias = self.made_of
        features, volumes = self.row(features), [x if x is None else self.row(x) for x in self.volumes]
        for box in boxes(batch, space, channels, self.maker):
            for part in _whole_pieces(box) if self.as_rows else [box]:
                parts = [cut(x, part, len(space)) for x in volumes]
                yield part, make_chunk(self.maker, features, weight, bias, part), parts

    def check(self, logits: Tensor, parts: list[Tensor | None], bad_labels: bool | int) -> None:
        """Raises ValueError for what is no value of a chunk, with its place in the whole."""
        target, mask, _ = parts
        assert target is not None
        try:
            check_values(logits, target, mask, self.plan, self.validate, bad_labels)
        except ValueError:
            target, mask, _ = self.volumes
            if self.validate == VALIDATE_ALL:
                whole = LazyLogits.of(*self.made_of, self.maker).tensor()
            else:  # of which only the shape is looked at
                whole = logits.new_empty(1).expand(self.shape)
            check_values(whole, target, mask, self.plan, self.validate, True)
            raise


def _is_row(volume: Tensor, axes: int) -> bool:
    """Whether the last axes are one in memory."""
    steps = [(size, step) for size, step in zip(volume.shape, volume.stride(), strict=True)][-axes:]
    return all(before == step * size for (_, before), (size, step) in itertools.pairwise(steps))


def _whole_pieces(box: Box) -> Iterator[Box]:
    """A row's part that is whole pieces, and what is left of it."""
    samples, part = box
    end = part.stop - (part.stop - part.start) % PIECE
    for a, b in ((part.start, end), (end, part.stop)):
        if a < b:
            yield samples, slice(a, b)


class _Pieces:
    """A chunk of one sample as several samples, through strides: since the CPU's threads share samples, and of large
    ones parts, of which a chunk has too few."""

    def __init__(self, logits: Tensor):
        space = logits.ndim - 2
        voxels = logits.shape[2]
        self.rows = space > 1 and voxels > 1
        self.pieces = space == 1 and voxels > PIECE and voxels % PIECE == 0
        self.apart = logits.device.type == "cpu" and logits.shape[0] == 1 and (self.rows or self.pieces)
        self.axis = -space if self.rows else -2

    def split(self, volume: Tensor) -> Tensor:
        """``[1, ..., *S]`` as ``[pieces, ..., *piece]``."""
        if not self.apart:
            return volume
        if self.pieces:
            volume = volume.unflatten(-1, (-1, PIECE))
        return volume.movedim(self.axis, 0).squeeze(1)

    def join(self, volume: Tensor) -> Tensor:
        """The same back."""
        if not self.apart:
            return volume
        volume = volume.unsqueeze(1).movedim(0, self.axis)
        return volume.flatten(-2) if self.pieces else volume


def _lazy_sums(*arguments: Any) -> Tensor:
    call = _Call(*arguments)
    features = call.made_of[0]
    size = (*call.shape[:2], len(call.plan.terms))
    sums = torch.zeros(size, dtype=sum_dtype(features.device), device=features.device)
    with making(features.device):
        for box, logits, parts in call.chunks():
            bad_labels: bool | int = True
            pieces = _Pieces(logits)
            inputs = [x if x is None else pieces.split(x) for x in (logits, *parts)]
            if hasattr(call.module, "forward_with_bad_labels"):
                found, bad_labels = call.module.forward_with_bad_labels(*inputs, call.plan)
            else:
                found = call.module.forward(*inputs, call.plan)
            if call.validate:
                call.check(logits, parts, bad_labels)
            sums[box[0]] += found.sum(0) if pieces.apart else found
    return sums


def _lazy_sums_backward(grad_sums: Tensor, wanted: Sequence[bool], *arguments: Any) -> tuple[Tensor, ...]:
    call = _Call(*arguments)
    features, weight, bias = call.made_of
    gradients = no_gradients(call.maker, *call.made_of, wanted)
    rows = gradients
    if gradients.features is not None:
        rows = gradients._replace(features=call.row(gradients.features))
    with making(features.device):
        for box, logits, parts in call.chunks():
            pieces = _Pieces(logits)
            z, volumes = pieces.split(logits), [x if x is None else pieces.split(x) for x in parts]
            by_sums = grad_sums[box[0]].expand(z.shape[0], -1, -1)
            gradient = pieces.join(call.module.backward(by_sums, z, *volumes, call.plan))
            add_adjoint(call.maker, gradient, call.row(features), weight, bias, box, rows)
    return tuple(_found(gradients, call.made_of))


def _found(gradients: Gradients, made_of: Sequence[Tensor | None]) -> Iterator[Tensor]:
    """Each in the dtype of what it is of; nothing for what was not asked for."""
    for gradient, like in zip(gradients, made_of, strict=True):
        yield torch.empty(0) if gradient is None or like is None else gradient.to(like.dtype)


def _lazy_sums_fake(*arguments: Any) -> Tensor:
    features, weight = arguments[:2]
    terms = arguments[_MAKER.stop]
    shape = Maker(*arguments[_MAKER]).shape(features, weight)
    return features.new_empty((*shape[:2], len(terms)), dtype=sum_dtype(features.device))


def _lazy_sums_backward_fake(grad_sums: Tensor, wanted: Sequence[bool], *arguments: Any) -> tuple[Tensor, ...]:
    features, weight, bias = arguments[:3]
    return tuple(
        _found(no_gradients(Maker(*arguments[_MAKER]), features, weight, bias, wanted), (features, weight, bias))
    )


register(f"lazy_sums({_INPUTS}) -> Tensor", _lazy_sums, _lazy_sums_fake)
register(
    f"lazy_sums_backward(Tensor grad_sums, bool[] wanted, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
    _lazy_sums_backward,
    _lazy_sums_backward_fake,
)


class _LazySums(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, options = arguments
        save(ctx, tensors, options)
        sums: Tensor = torch.ops.fastloss.lazy_sums(*tensors, *options)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        nothing = (None,) * 7
        if grads[0] is None:
            return nothing
        tensors, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:3])
        found = torch.ops.fastloss.lazy_sums_backward(grads[0], wanted, *tensors, *ctx.options)
        by, pairs = (grads[0], *tensors[:3]), zip(found, wanted, strict=True)
        return (*(first_derivative_only(x, *by) if asked else None for x, asked in pairs), *nothing[3:])


class _EagerLazySums(NoForwardMode, _LazySums):
    pass


def lazy_sums(
    lazy: LazyLogits, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, options: tuple[Any, ...]
) -> Tensor:
    """Differentiable sums ``[B, C, K]``; ``options`` are those of :func:`fastloss.passes.ops.sums`."""
    tensors = (lazy.features, lazy.weight, lazy.bias, target, mask, weight_map)
    result: Tensor = apply_function(_LazySums, _EagerLazySums, *tensors, (*lazy.maker, *options))
    return result
