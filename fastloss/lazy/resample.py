"""``resample_argmax``: the labels of logits at another resolution, without a volume of all classes there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastloss.kernels.layout import Axis

from ..passes.backends import choose_room, forced_backend
from ..passes.chunks import making
from ..passes.lazy_logits import LazyLogits
from ..passes.options import check_choice, check_count, check_flag
from ..passes.resize import Resize
from ..passes.tensors import FLOATS
from .interpolate import MODES, sizes_of

_FEW_PLANES = 16  # of the result that are made of one part at least, since parts have planes in common
_MOST_CLASSES = 2**15


def resample_argmax(
    logits: Tensor | np.ndarray,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "linear",
    align_corners: bool = False,
    *,
    out: Tensor | np.ndarray | None = None,
    memory_bytes: int = 2**28,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor | np.ndarray:
    """The class of the largest logit, or probability, at another resolution: ``F.interpolate(logits, ...).argmax(1)``
    without a volume of all classes there.

    Linear interpolation is computed in float32 (of float64 in float64), also of float16 and bfloat16, in torch's order
    of axes. Of equal classes the first is taken, and of NaN the first, as by ``argmax``. Not differentiable.

    Args:
        logits: ``[B, C, *S]``, a tensor of any float dtype on any device; or a NumPy array, such as an ``np.memmap`` of
            an export on disk, of which no more than ``memory_bytes`` are read at a time. At most 32768 classes.
        size: of the result, one number or one for each spatial axis.
        scale_factor: in place of ``size``, likewise.
        mode: ``"linear"`` (of any number of axes; ``"bilinear"`` and ``"trilinear"`` mean the same), ``"nearest"`` or
            ``"nearest-exact"``, as ``F.interpolate`` has them.
        align_corners: of linear interpolation.
        out: where the labels go, ``[B, *size]``, uint8 or int16, such as an ``np.memmap``; None for new memory.
        memory_bytes: of the copies that are made of logits: of arrays, and of tensors that are not contiguous or, on
            the CPU, of 16 bits. At least two planes of the first spatial axis are read.
        progress: called as ``progress(done, total)``, in planes of the result, after each part.

    Returns:
        Labels ``[B, *size]``, uint8 up to 256 classes, else int16; a tensor on the logits' device, or an array for an
        array.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """
    if isinstance(logits, LazyLogits):
        logits = logits.tensor("resample_argmax")
    _check(logits, mode, align_corners, memory_bytes, progress)
    batch, classes, *space = logits.shape
    sizes, scales = sizes_of(space, size, scale_factor)
    resize = Resize(sizes, mode if mode.startswith("nearest") else "linear", align_corners, scales)
    if out is None:
        narrow, shape = classes <= 256, (batch, *sizes)
        if isinstance(logits, np.ndarray):
            out = np.empty(shape, np.uint8 if narrow else np.int16)
        else:
            out = torch.empty(shape, dtype=torch.uint8 if narrow else torch.int16, device=logits.device)
    else:
        _check_out(out, logits, (batch, *sizes))
    labels = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
    done, total = 0, batch * sizes[0]
    for sample, planes in _parts(logits, resize, memory_bytes, progress is not None):
        _write(logits, sample, planes, resize, labels[sample, planes])
        done += planes.stop - planes.start
        if progress is not None:
            progress(done, total)
    return out


def _check(logits: Any, mode: str, align_corners: bool, memory_bytes: int, progress: Any) -> None:
    if not isinstance(logits, (Tensor, np.ndarray)):
        raise TypeError(f"logits: got {type(logits).__name__}, expected a torch.Tensor or a NumPy array")
    kind = logits.dtype
    good = kind.kind == "f" and kind.itemsize <= 8 if isinstance(kind, np.dtype) else kind in FLOATS
    if not good:
        raise TypeError(f"logits: got {kind}, expected floats of 16, 32 or 64 bits")
    shape = list(logits.shape)
    if not 3 <= len(shape) <= 5 or 0 in shape[1:]:
        raise ValueError(f"logits: got shape {shape}, expected [B, C, *S] with 1 to 3 spatial axes, none of them empty")
    if shape[1] > _MOST_CLASSES:
        raise ValueError(f"logits: got {shape[1]} channels, expected at most {_MOST_CLASSES}, the labels of int16")
    check_choice("mode", mode, MODES)
    check_flag(align_corners=align_corners)
    if align_corners and mode.startswith("nearest"):
        raise ValueError(f"align_corners: got True with mode={mode!r}, expected False")
    check_count(memory_bytes=memory_bytes)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: got {type(progress).__name__}, expected a function of the planes done and of all")


def _check_out(out: Any, logits: Tensor | np.ndarray, shape: tuple[int, ...]) -> None:
    if isinstance(out, np.ndarray) != isinstance(logits, np.ndarray) or not isinstance(out, (Tensor, np.ndarray)):
        raise TypeError(f"out: got {type(out).__name__}, expected a {type(logits).__name__}, as logits are")
    kinds = ("uint8", "int16") if logits.shape[1] <= 256 else ("int16",)
    if str(out.dtype).removeprefix("torch.") not in kinds or tuple(out.shape) != shape:
        got = f"{out.dtype} {list(out.shape)}"
        raise ValueError(f"out: got {got}, expected {' or '.join(kinds)} {list(shape)}")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("out: is read-only, expected an array that can be written to")
    if isinstance(out, Tensor) and isinstance(logits, Tensor) and out.device != logits.device:
        raise ValueError(f"out: is on {out.device}, expected {logits.device}, the logits' device")


def _parts(logits: Any, resize: Resize, memory_bytes: int, several: bool) -> Iterator[tuple[int, slice]]:
    """Samples, and ranges of planes of the result for which no more logits are copied than that."""
    batch, classes, planes, *rest = logits.shape
    length = most = resize.size[0]
    if not _in_place(logits):
        read = memory_bytes // (classes * math.prod(rest) * (8 if _double(logits) else 4))
        most = max(1, (read - 2) * length // planes)
    if several:
        most = min(most, max(_FEW_PLANES, -(-length // 16)))
    for sample in range(batch):
        for start in range(0, length, most):
            yield sample, slice(start, min(start + most, length))


def _double(logits: Any) -> bool:
    return str(logits.dtype).endswith("float64")


def _in_place(logits: Any) -> bool:
    """Whether the kernels read them without a copy."""
    if isinstance(logits, np.ndarray) or not logits.is_contiguous():
        return False
    return logits.device.type != "cpu" or logits.dtype not in (torch.float16, torch.bfloat16)


def _write(logits: Any, sample: int, planes: slice, resize: Resize, labels: Tensor) -> None:
    """The labels of a range of planes."""
    space, double = logits.shape[2:], _double(logits)
    sources = [resize.sources(axis, n, torch.float64 if double else torch.float32) for axis, n in enumerate(space)]
    read = sources[0].range_of(planes)
    part = logits[sample]
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(np.array(part[:, read], np.float64 if double else np.float32, order="C"))
    elif _in_place(logits):
        read = slice(0, space[0])
    else:
        half_on_gpu = part.device.type != "cpu"
        part = part[:, read].contiguous() if half_on_gpu else part[:, read].to(sources[0].dtype).contiguous()
    axes = [Axis(*x.places(part.device)) for x in sources]
    low, high, share = (x[planes] for x in axes[0])
    axes[0] = Axis(low - read.start, high - read.start, share)
    out = labels if labels.is_contiguous() else torch.empty_like(labels, memory_format=torch.contiguous_format)
    with making(part.device):
        if resize.mode == "linear":
            _write_linear(part.detach(), axes, out)
        else:
            found = part.max(0)[1].to(out.dtype)  # argmax is slower on the CPU
            for k, axis in enumerate(axes):
                found = found.index_select(k, axis.low)
            out.copy_(found)
    if out is not labels:
        labels.copy_(out)


def _write_linear(part: Tensor, axes: list[Axis], out: Tensor) -> None:
    missing = 3 - len(axes)
    one = torch.zeros(1, dtype=torch.int64, device=part.device)
    axes = [Axis(one, one, one.to(axes[0].share.dtype))] * missing + axes
    shape, size = ([1] * missing + list(x.shape[-(3 - missing) :]) for x in (part, out))
    module = choose_room("resample", forced_backend(), part.device)
    module.write_labels(part.reshape(part.shape[0], *shape), tuple(axes), out.view(size))
