"""Compiling kernels ahead of the first training step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .losses.compound import DiceCELoss
from .losses.region import DiceLoss
from .passes.options import as_number, check_iterable
from .passes.tensors import INTEGERS
from .terms import label_count

_SMALL = 8  # voxels along an axis: a volume that the CPU takes without threads


def warmup(
    losses: nn.Module | Iterable[nn.Module] | None = None,
    *,
    classes: int | Sequence[int] = 4,
    dtypes: torch.dtype | Sequence[torch.dtype] = torch.float32,
    label_dtype: torch.dtype = torch.uint8,
    size: Sequence[int] = (32, 32, 32),
    device: torch.device | str = "cpu",
) -> float:
    """Compiles the kernels that losses need, and returns the seconds it took.

    Each loss runs forward and backward on small random volumes, for each number of classes and each dtype. The machine
    code is kept on disk, so that later processes only load it: on the CPU by Numba, beside the package or, where that
    cannot be written, in the user's cache (``NUMBA_CACHE_DIR`` names another folder); on a GPU by Triton
    (``TRITON_CACHE_DIR``). Call it in the image or job that installs the package, or before the workers start.

    On the CPU all losses on sums share what walks over a volume, for float64 and for the other dtypes. Besides, each
    set of terms and activation has a code forward and one backward, for each dtype of the logits, for labels or dense
    targets, and for each number of classes of a softmax (channels on their own, as under sigmoid, come one by one). A
    code takes a fraction of a second. Those for dense targets, masks and strided tensors are left to the first call
    that has some.

    Args:
        losses: a loss or several; by default Dice + cross-entropy under softmax and Dice under sigmoid, and with them
            all that losses on sums share. Those that look at neighbours or rank voxels have more of their own.
        classes: number or numbers of channels. There are kernels for each; on the CPU only under softmax.
        dtypes: of the logits. There are kernels for each.
        label_dtype: of the labels; on a GPU a part of the kernel, on the CPU a small code of its own.
        size: the volume, one to three axes. A GPU's kernels depend on whether the voxels fill their tiles, and the CPU
            needs a code more where they do not: give the patch size. On the CPU a volume of 8 voxels along each axis is
            added, for the loops without threads.
        device: where to run.

    Raises:
        ValueError: naming the argument.
        TypeError: for a module that is no loss, likewise.
    """
    losses = [DiceCELoss(), DiceLoss(activation="sigmoid")] if losses is None else losses
    losses = list(losses) if isinstance(losses, nn.ModuleList) else losses
    members = _several(losses, "losses", nn.Module, "one or more losses (modules)")
    counts = _several(classes, "classes", int, "one or more positive integers")
    kinds = _several(dtypes, "dtypes", torch.dtype, "one or more floating point dtypes")
    sizes = _several(size, "size", int, "one to three positive sizes")
    if min(counts) < 1:
        raise ValueError(f"classes: got {classes!r}, expected one or more positive integers")
    if len(sizes) > 3 or min(sizes) < 1:
        raise ValueError(f"size: got {size!r}, expected one to three positive sizes")
    if not all(kind.is_floating_point for kind in kinds):
        raise ValueError(f"dtypes: got {dtypes!r}, expected one or more floating point dtypes")
    if not isinstance(label_dtype, torch.dtype) or label_dtype not in INTEGERS:
        raise ValueError(f"label_dtype: got {label_dtype!r}, expected bool or an integer dtype of torch")
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: got {device!r}, expected a device of torch ({error})") from error
    begin = time.perf_counter()
    for space in (tuple(sizes), *([(_SMALL,) * len(sizes)] if where.type == "cpu" else [])):
        for count in counts:
            logits, labels = _volume(count, space, label_dtype)
            for dtype in kinds:
                for loss in members:
                    _step(loss.to(where), logits.to(where, dtype), labels.to(where))
    return time.perf_counter() - begin


def _several(value: Any, name: str, kind: type, expected: str) -> list[Any]:
    """One of a kind or several, as a list that is not empty."""
    given = as_number(value, name)
    items = [given] if isinstance(given, kind) else check_iterable(given, name, expected)
    items = [as_number(item, name) for item in items]
    if not items or not all(isinstance(item, kind) for item in items):
        raise ValueError(f"{name}: got {value!r}, expected {expected}")
    return items


def _volume(classes: int, space: tuple[int, ...], label_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits and labels; the global random state stays as it is."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, classes, *space), generator=generator)
    return logits, torch.randint(0, label_count(classes), (2, *space), generator=generator).to(label_dtype)


def _step(loss: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> None:
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        try:
            value = loss(leaf, labels)
        except (TypeError, NotImplementedError) as error:
            raise TypeError(f"losses: {loss!r} is not called with logits and labels ({error})") from error
        if not isinstance(value, torch.Tensor) or not value.requires_grad:
            raise TypeError(f"losses: {loss!r} gives {value!r}, expected a tensor with a gradient")
        torch.autograd.grad(value.sum(), leaf)  # parameters of the loss get no gradient
