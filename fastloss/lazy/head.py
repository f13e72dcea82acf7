"""``lazy_head``: a network's last layer that returns lazy logits in training."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..passes.chunks import default_chunk_bytes
from ..passes.lazy_logits import LazyLogits
from ..passes.options import as_number, check_count
from ..passes.resize import NO_RESIZE

Head = TypeVar("Head", bound=nn.Module)


class _LazyHead(nn.Module):
    """Comes before the layer's own class."""

    weight: Any
    bias: Any
    lazy_chunk_bytes: int | None = None

    def forward(self, input: Tensor) -> Any:
        lazily = self.training and not (torch.jit.is_tracing() or torch.compiler.is_exporting())  # type: ignore[attr-defined]
        found = self._lazy(input) if lazily else None
        return super().forward(input) if found is None else found

    def _lazy(self, input: Tensor | LazyLogits) -> LazyLogits | None:
        """None for what the layer itself does another way, or not at all."""
        last, resize = isinstance(self, nn.Linear), NO_RESIZE
        if isinstance(input, LazyLogits):
            if last or input.weight is not None or input.channels_last:
                return None
            resize = input.resize
            input = input.features
        features, weight = input.movedim(-1, 1) if last and input.ndim > 2 else input, self.weight
        dtype, kind = features.dtype, features.device.type
        if kind == "meta":  # has no values, and no autocast
            return None
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif dtype != weight.dtype:
            return None
        axes = features.ndim - 2
        if not 1 <= axes <= 3 or not (last or axes == weight.ndim - 2) or features.shape[1] != weight.shape[1]:
            return None
        # copies, as FSDP frees the parameters of a module after its forward
        copies = weight.flatten(1).clone(), None if self.bias is None else self.bias.clone()
        chunk_bytes = self.lazy_chunk_bytes or default_chunk_bytes(features)
        return LazyLogits(features, *copies, dtype, chunk_bytes, resize, last)

    def undo_lazy_head(self) -> None:
        """Makes it what it was before :func:`fastloss.lazy_head`.

        Raises:
            ValueError: where another library has changed the module's class since.
        """
        original = _originals.get(type(self))
        if original is None:
            raise ValueError(f"module: has become a {type(self).__name__} since, expected it as lazy_head left it")
        self.__class__ = original
        self.__dict__.pop("lazy_chunk_bytes", None)


class LazyConv1d(_LazyHead, nn.Conv1d):
    """An ``nn.Conv1d`` after :func:`fastloss.lazy_head`."""


class LazyConv2d(_LazyHead, nn.Conv2d):
    """An ``nn.Conv2d`` after :func:`fastloss.lazy_head`."""


class LazyConv3d(_LazyHead, nn.Conv3d):
    """An ``nn.Conv3d`` after :func:`fastloss.lazy_head`."""


class LazyLinear(_LazyHead, nn.Linear):
    """An ``nn.Linear`` after :func:`fastloss.lazy_head`."""


_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_originals: dict[type, type] = dict(zip((LazyConv1d, LazyConv2d, LazyConv3d, LazyLinear), _LAYERS, strict=True))


def lazy_head(module: Head, *, chunk_bytes: int | None = None) -> Head:
    r"""Makes a network's last layer return :class:`fastloss.LazyLogits` in training, in place.

    In evaluation it returns logits as before. Its parameters and its state dict stay what they are; only its class
    changes, to one derived from its own, and back by ``module.undo_lazy_head()``. With a loss on sums the logits and
    their gradient, the largest tensors of a training with many classes, then never exist as a whole:

    .. code-block:: python

        network.head = fastloss.lazy_head(torch.nn.Conv3d(32, 118, 1))
        fastloss.DiceCELoss()(network(image), labels).backward()

    It works under autocast (the logits have its dtype), DistributedDataParallel, FSDP, gradient accumulation and
    activation checkpointing (with ``use_reentrant=True`` only of what comes before the head), and torch.compile traces
    it without a break. Features, weight and bias get first derivatives; weight and bias are summed in float32, chunk
    after chunk: the same bits every time. torch.jit.trace and torch.export see the logits.

    Args:
        module: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d`` of kernel 1, without stride, padding and groups, of
            features ``[B, F, *S]``; or ``nn.Linear`` of features ``[B, *S, F]``, whose lazy logits ``[B, *S, C]`` stay
            lazy as ``[B, C, *S]`` through ``movedim``, ``permute`` or ``transpose``.
        chunk_bytes: memory of a chunk, its logits and their gradient; None for three quarters of the features, from 16
            to 64 MiB on a CPU, to 256 MiB elsewhere.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """
    chunk_bytes = as_number(chunk_bytes, "chunk_bytes")
    if chunk_bytes is not None:
        check_count(chunk_bytes=chunk_bytes)
    if not isinstance(module, _LazyHead):
        module.__class__ = _lazy_class(module)
    module.lazy_chunk_bytes = chunk_bytes  # type: ignore[assignment]
    return module


def _lazy_class(module: nn.Module) -> type:
    """The class derived from the module's own."""
    layer = next((layer for layer in _LAYERS if isinstance(module, layer)), None)
    cls = type(module)
    if layer is None or cls.forward is not layer.forward:
        raise TypeError(
            f"module: got {cls.__name__}, expected nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Linear, with their own forward"
        )
    if not isinstance(module, nn.Linear):
        _check_pointwise(module)
    found = next((lazy for lazy, original in _originals.items() if original is cls), None)
    if found is None:
        found = type(f"Lazy{cls.__name__}", (_LazyHead, cls), {"__module__": cls.__module__})
        _originals[found] = cls
    return found


def _check_pointwise(module: Any) -> None:
    """Whether a convolution's logits of a voxel are made of its features alone."""
    if module.padding_mode != "zeros":
        raise ValueError(f"module: got padding_mode={module.padding_mode!r}, expected 'zeros', and no padding")
    padding = module.padding if isinstance(module.padding, tuple) else (0,)  # of a kernel of 1 'same' and 'valid' are 0
    for name, values, good in (
        ("kernel_size", module.kernel_size, 1),
        ("stride", module.stride, 1),
        ("padding", padding, 0),
        ("groups", (module.groups,), 1),
    ):
        if any(value != good for value in values):
            got = values[0] if name == "groups" else tuple(values)
            raise ValueError(f"module: got {name}={got}, expected {good}: a 1x1 convolution, of each voxel alone")
