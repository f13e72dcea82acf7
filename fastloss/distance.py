"""Exact Euclidean distance transforms of masks on anisotropic grids."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import torch

__all__ = ["edt", "edt_squared"]

Mask = TypeVar("Mask", np.ndarray, torch.Tensor)

_MAX_AXES = 3
_INTEGRAL = {torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
_INTEGRAL |= {torch.int8, torch.int16, torch.int32, torch.int64}


def edt(mask: Mask, spacing: float | Sequence[float] | None = None, *, threads: int | None = None) -> Mask:
    r"""Distance in mm from every nonzero voxel to the nearest zero voxel.

    .. math:: D(x) = \min_{y:\, m(y) = 0} \sqrt{\sum_a \big(s_a (x_a - y_a)\big)^2}

    where :math:`m` is the mask and :math:`s_a` the spacing of axis :math:`a`, as SciPy's
    ``distance_transform_edt`` has it. Zero voxels get 0. A mask without a zero voxel has nothing to measure
    to and gets +inf everywhere. The minimum is formed in float64 and rounded once, after the root.

    Args:
        mask: ``[*S]`` with 1 to 3 axes, bool or any integer dtype, any strides, NumPy array or CPU tensor.
        spacing: Voxel size in mm, one number or one per axis; 1 where ``None``.
        threads: Upper bound of the threads used; ``torch.get_num_threads()`` where ``None``.

    Returns:
        ``[*S]`` float32, contiguous, in mm, of the same kind as ``mask``.

    Source:
        P. F. Felzenszwalb and D. P. Huttenlocher, Distance Transforms of Sampled Functions, Theory of
        Computing 8(19), 415-428, 2012.
    """
    return _transform(mask, spacing, threads, root=True)


def edt_squared(mask: Mask, spacing: float | Sequence[float] | None = None, *, threads: int | None = None) -> Mask:
    r"""Squared distance in mm² from every nonzero voxel to the nearest zero voxel.

    .. math:: D^2(x) = \min_{y:\, m(y) = 0} \sum_a \big(s_a (x_a - y_a)\big)^2

    Arguments, source and the treatment of masks without a zero voxel are those of :func:`edt`.

    Returns:
        ``[*S]`` float32, contiguous, in mm², of the same kind as ``mask``.
    """
    return _transform(mask, spacing, threads, root=False)


def _transform(mask: Mask, spacing: float | Sequence[float] | None, threads: int | None, *, root: bool) -> Mask:
    voxels = _voxels(mask)
    sizes_mm = _spacing_per_axis(spacing, voxels.ndim)
    field = _extension().distance_transform(voxels, sizes_mm, root=root, threads=_thread_bound(threads))
    return torch.from_numpy(field) if isinstance(mask, torch.Tensor) else field


def _extension() -> ModuleType:
    try:
        from fastloss import _C
    except ImportError as error:
        raise ImportError(
            "fastloss._C, the C++ extension, is missing or does not load: install fastloss with "
            "`pip install .` (or `pip install -e .` in a checkout) where a C++17 compiler is present"
        ) from error
    return _C


def _voxels(mask: Any) -> np.ndarray:
    if isinstance(mask, torch.Tensor):
        if mask.device.type != "cpu" or mask.layout is not torch.strided:
            raise ValueError(f"mask: expected a dense CPU tensor, got {mask.layout} on {mask.device}")
        integral = mask.dtype in _INTEGRAL
    elif isinstance(mask, np.ndarray):
        integral = mask.dtype.kind in "biu"
    else:
        raise TypeError(f"mask: expected a NumPy array or a torch tensor, got {type(mask).__name__}")
    if not integral:
        raise TypeError(f"mask: expected bool or an integer dtype, got {mask.dtype}")
    if not 1 <= mask.ndim <= _MAX_AXES:
        raise ValueError(f"mask: expected 1 to {_MAX_AXES} axes, got {mask.ndim} (shape {tuple(mask.shape)})")
    return mask if isinstance(mask, np.ndarray) else mask.as_subclass(torch.Tensor).numpy()


def _spacing_per_axis(spacing: float | Sequence[float] | None, axes: int) -> list[float]:
    if spacing is None:
        return [1.0] * axes
    try:
        sizes_mm = np.asarray(spacing, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"spacing: expected numbers in mm, got {spacing!r}") from error
    if sizes_mm.ndim == 0:
        sizes_mm = np.full(axes, sizes_mm)
    if sizes_mm.shape != (axes,):
        raise ValueError(f"spacing: expected one number or {axes}, one per axis of mask, got {spacing!r}")
    if not (np.isfinite(sizes_mm).all() and (sizes_mm > 0).all()):
        raise ValueError(f"spacing: expected positive finite sizes in mm, got {spacing!r}")
    return cast("list[float]", sizes_mm.tolist())


def _thread_bound(threads: int | None) -> int:
    if threads is None:
        return torch.get_num_threads()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads: expected an int or None, got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    return threads
