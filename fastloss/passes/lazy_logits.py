"""``LazyLogits``: logits that a pass makes chunk by chunk, and that are a tensor to whatever else asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from .chunks import Maker, boxes, make_chunk, making
from .resize import NO_RESIZE, Resize, interpolated

_log = logging.getLogger("fastloss")


@dataclass(frozen=True, eq=False)
class LazyLogits:
    r"""Logits :math:`z = W x + b` of features x, which losses on sums make chunk by chunk and never keep.

    What a head returns in training after :func:`fastloss.lazy_head`. Losses on sums, their compounds,
    :class:`fastloss.DeepSupervision`, :func:`fastloss.voxel_sums` and :func:`fastloss.metrics.confusion_counts` take it
    as it is: forward adds the sums of chunks, backward makes each chunk again and takes its gradient to features,
    weight and bias. Whatever else is asked of it, functions of torch, methods, operators, indices, gets the real logits
    of :meth:`tensor`, which the logger ``fastloss`` tells at the level DEBUG.

    A dataclass whose tensors DistributedDataParallel, FSDP, pytrees and torch.compile see; no tuple, since code that
    finds one takes its first item for the logits.

    Args:
        features: ``[B, F, *S]``, any float dtype and strides.
        weight: ``[C, F]``.
        bias: ``[C]``, or None.
        dtype: of the logits: that in which the chunks are made.
        chunk_bytes: memory of a chunk, the logits and their gradient.
        resize: the interpolation, if any, which :func:`fastloss.interpolate` gives.
        channels_last: whether the logits are ``[B, *S, C]``, as ``nn.Linear`` gives them.
    """

    features: Tensor
    weight: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    chunk_bytes: int
    resize: Resize = NO_RESIZE
    channels_last: bool = False

    @classmethod
    def of(cls, features: Tensor, weight: Tensor | None, bias: Tensor | None, maker: Maker) -> LazyLogits:
        """Those that a maker makes."""
        return cls(features, weight, bias, maker.dtype, maker.chunk_bytes, maker.resize)

    @property
    def maker(self) -> Maker:
        return Maker(self.dtype, self.chunk_bytes, *self.resize)

    @property
    def shape(self) -> torch.Size:
        batch, channels, *space = self.maker.shape(self.features, self.weight)
        return torch.Size((batch, *space, channels) if self.channels_last else (batch, channels, *space))

    @property
    def ndim(self) -> int:
        return self.features.ndim

    @property
    def device(self) -> torch.device:
        return self.features.device

    @property
    def requires_grad(self) -> bool:
        return any(x is not None and x.requires_grad for x in (self.features, self.weight, self.bias))

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return True

    def detach(self) -> LazyLogits:
        weight, bias = (None if x is None else x.detach() for x in (self.weight, self.bias))
        return replace(self, features=self.features.detach(), weight=weight, bias=bias)

    def to(self, *args: Any, **options: Any) -> Any:
        """Of another float dtype alone: as lazily, made in it; anything else as ``Tensor.to``."""
        if not options and len(args) == 1 and isinstance(args[0], torch.dtype) and args[0].is_floating_point:
            return replace(self, dtype=args[0])
        return self.tensor("to").to(*args, **options)

    def float(self) -> LazyLogits:
        return replace(self, dtype=torch.float32)

    def double(self) -> LazyLogits:
        return replace(self, dtype=torch.float64)

    def tensor(self, asked: str = "tensor") -> Tensor:
        """The real logits ``[B, C, *S]``, differentiable."""
        if asked != "tensor" and not torch.compiler.is_compiling():
            _log.debug("fastloss: %s makes lazy logits real, %s %s", asked, self.dtype, list(self.shape))
        x = self.features.to(self.dtype)
        before = self.maker.pointwise or self.maker.convolves_first(self.features)
        with torch.autocast(self.device.type, enabled=False):
            x = self._convolved(x) if before else x
            x = x if self.maker.pointwise else interpolated(x, self.resize)
            x = x if before else self._convolved(x)
        return x.movedim(1, -1) if self.channels_last else x

    def _convolved(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return x
        convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
        kernel = self.weight.to(self.dtype).reshape(*self.weight.shape, *[1] * (x.ndim - 2))
        return convolve(x, kernel, None if self.bias is None else self.bias.to(self.dtype))

    def permute(self, *dims: Any) -> Any:
        """As ``Tensor.permute``: lazy, where the channels go from the last axis to axis 1 or back."""
        order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        order = tuple(axis % self.ndim for axis in order)
        axes = tuple(range(1, self.ndim))
        if order == (0, *((axes[-1], *axes[:-1]) if self.channels_last else (*axes[1:], axes[0]))):
            return replace(self, channels_last=not self.channels_last)
        return self.tensor("permute").permute(*dims)

    def movedim(self, source: Any, destination: Any) -> Any:
        """As ``Tensor.movedim``; see :meth:`permute`."""
        if not (isinstance(source, int) and isinstance(destination, int)):
            return self.tensor("movedim").movedim(source, destination)
        order = list(range(self.ndim))
        order.insert(destination % self.ndim, order.pop(source))
        return self.permute(order)

    def transpose(self, dim0: int, dim1: int) -> Any:
        """As ``Tensor.transpose``; see :meth:`permute`."""
        order = list(range(self.ndim))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return self.permute(order)

    def nothing(self) -> Tensor:
        """0, of which features, weight and bias have a gradient of zero."""
        parts = [x[:0].sum() for x in (self.features, self.weight, self.bias) if x is not None]
        return torch.stack([part.to(self.dtype) for part in parts]).sum()

    def chunks(self) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """The real logits, part by part, without a gradient: ranges of samples and axes, and ``[b, C, *part]``."""
        batch, channels, *space = self.maker.shape(self.features, self.weight)
        with making(self.device):
            for box in boxes(batch, space, channels, self.maker):
                yield box, make_chunk(self.maker, self.features, self.weight, self.bias, box)

    def window(self, box: tuple[slice, ...]) -> Tensor:
        """The real logits of a box alone, ``[b, C, *box]``, without a gradient: ranges of samples and spatial axes."""
        with making(self.device):
            return make_chunk(self.maker, self.features, self.weight, self.bias, box)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """As ``Tensor.argmax``; over the channels chunk by chunk."""
        channels = self.ndim - 1 if self.channels_last else 1
        if dim not in (channels, channels - self.ndim):
            return self.tensor("argmax").argmax(dim, keepdim)
        batch, _, *space = self.maker.shape(self.features, self.weight)
        found = torch.empty((batch, *space), dtype=torch.int64, device=self.device)
        for box, logits in self.chunks():
            found[box] = logits.max(1)[1]  # argmax is slower on the CPU
        return found.unsqueeze(channels) if keepdim else found

    def softmax(self, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        """As ``Tensor.softmax``; over the channels, and without a gradient, chunk by chunk."""
        if self.channels_last or dim not in (1, 1 - self.ndim) or (torch.is_grad_enabled() and self.requires_grad):
            return self.tensor("softmax").softmax(dim, dtype)
        found = torch.empty(self.shape, dtype=dtype or self.dtype, device=self.device)
        for box, logits in self.chunks():
            found[(box[0], slice(None), *box[1:])] = logits.softmax(1, dtype)
        return found

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        own = name in _OWN and func is getattr(torch, name)
        if own and args and isinstance(args[0], cls):
            return getattr(args[0], name)(*args[1:], **(kwargs or {}))
        args, kwargs = _real((args, kwargs or {}), name)
        return func(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.tensor(name), name)

    def __getitem__(self, index: Any) -> Any:
        return self.tensor("an index")[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor("iteration"))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.tensor("numpy").detach().cpu().__array__(*args, **options)

    def __repr__(self) -> str:
        made_of = "" if self.weight is None else f", of {self.features.shape[1]} features"
        return f"LazyLogits({list(self.shape)}, {self.dtype}, {self.device}{made_of})"


_OWN = ("argmax", "softmax", "permute", "movedim", "transpose")


def _real(arguments: Any, asked: str) -> Any:
    """The arguments, with real logits in them."""

    def real(x: Any) -> Any:
        return x.tensor(asked) if isinstance(x, LazyLogits) else x

    return pytree.tree_map(real, arguments, is_leaf=lambda x: isinstance(x, LazyLogits))


def _operator(name: str) -> Callable[..., Any]:
    def operator(self: LazyLogits, *others: Any) -> Any:
        return getattr(self.tensor(name), name)(*_real(others, name))

    operator.__name__ = name
    return operator


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_COMPARISONS = ("lt", "le", "eq", "ne", "ge", "gt", "neg", "abs")
for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), *_COMPARISONS):
    setattr(LazyLogits, f"__{_name}__", _operator(f"__{_name}__"))
LazyLogits.__hash__ = object.__hash__  # type: ignore[method-assign]


def _flatten(lazy: LazyLogits) -> tuple[list[Any], Any]:
    return [lazy.features, lazy.weight, lazy.bias], (lazy.dtype, lazy.chunk_bytes, lazy.resize, lazy.channels_last)


def _unflatten(parts: Any, context: Any) -> LazyLogits:
    return LazyLogits(*parts, *context)


pytree.register_pytree_node(LazyLogits, _flatten, _unflatten, serialized_type_name="fastloss.LazyLogits")
