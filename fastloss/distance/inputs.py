"""Checks of volumes, numbers and spacings: the only place for what distance transforms, label maps and metrics take."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from ..passes.backends import distances_in_triton
from ..passes.tensors import FLOATS, INTEGERS, check_has_values, check_layout

MAX_AXES = 3
Spacing = float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | torch.Tensor | None

_INTEGRAL = (*INTEGERS, torch.uint64)


def as_voxels(mask: Any, spatial_axes: int | None, name: str) -> tuple[np.ndarray | torch.Tensor, int]:
    """The mask in place, an array or a tensor for Triton, and how many of its last axes are spatial."""
    in_triton = False
    if isinstance(mask, torch.Tensor):
        check_layout(mask, name)
        in_triton = distances_in_triton(mask.device)
        if mask.device.type != "cpu" and not in_triton:
            wanted = "a CPU tensor where Triton does not serve the GPU" if mask.is_cuda else "a CUDA or CPU tensor"
            raise ValueError(f"{name}: expected {wanted}, got one on {mask.device}")
        integral = mask.dtype in _INTEGRAL
    elif isinstance(mask, np.ndarray):
        integral = mask.dtype.kind in "biu"
    else:
        raise TypeError(f"{name}: expected a NumPy array or a torch tensor, got {type(mask).__name__}")
    if not integral:
        raise TypeError(f"{name}: expected bool or an integer dtype, got {mask.dtype}")
    axes = _spatial_axes(tuple(mask.shape), spatial_axes, name)
    if isinstance(mask, np.ndarray):
        return mask, axes
    plain = mask.as_subclass(torch.Tensor)
    return (plain if in_triton else plain.numpy()), axes


def _spatial_axes(shape: tuple[int, ...], spatial_axes: int | None, name: str) -> int:
    if spatial_axes is None:
        if not 1 <= len(shape) <= MAX_AXES:
            hint = "; with leading axes say how many of the last are spatial_axes" if shape else ""
            raise ValueError(f"{name}: expected 1 to {MAX_AXES} axes, got {len(shape)} (shape {shape}){hint}")
        return len(shape)
    axes = whole_number(spatial_axes, "spatial_axes", "None")
    if not 1 <= axes <= MAX_AXES:
        raise ValueError(f"spatial_axes: expected 1 to {MAX_AXES}, got {axes}")
    if axes > len(shape):
        raise ValueError(f"{name}: expected at least spatial_axes = {axes} axes, got shape {shape}")
    return axes


def as_labels(voxels: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Labels in 16 bits where their values allow it, which C++ compares twice as fast; in 32 otherwise."""
    if isinstance(voxels, torch.Tensor):  # whose values only the device knows
        return voxels
    if voxels.dtype.itemsize <= 2 or voxels.size == 0:
        return voxels
    least, greatest = int(voxels.min()), int(voxels.max())
    if greatest - least < 2**16:
        # wraps around alike for all, so that labels stay apart
        return np.subtract(voxels, voxels.dtype.type(least)).astype(np.uint16)
    if voxels.dtype.itemsize == 4:
        return voxels
    return np.unique(voxels, return_inverse=True)[1].reshape(voxels.shape).astype(np.uint32)


def is_double(dtype: Any) -> bool:
    """Whether float64 is asked for, in NumPy's or torch's words; float32 where None."""
    if dtype is None or dtype is torch.float32:
        return False
    if dtype is torch.float64:
        return True
    try:
        found = None if isinstance(dtype, torch.dtype) else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise TypeError(f"dtype: expected float32 or float64 of NumPy or torch, got {dtype!r}")
    return bool(found == np.float64)


def spacing_per_axis(spacing: Spacing, axes: int, name: str) -> list[float]:
    """One positive, finite voxel size in mm for each spatial axis."""
    if spacing is None:
        return [1.0] * axes
    sizes_mm = numbers(spacing, "spacing", "numbers in mm")
    if sizes_mm.ndim == 0:
        sizes_mm = np.full(axes, sizes_mm)
    if sizes_mm.shape != (axes,):
        raise ValueError(f"spacing: expected one number or {axes}, one per spatial axis of {name}, got {spacing!r}")
    if not (np.isfinite(sizes_mm).all() and (sizes_mm > 0).all()):
        raise ValueError(f"spacing: expected positive finite sizes in mm, got {spacing!r}")
    return cast("list[float]", sizes_mm.tolist())


def spacing_per_sample(spacing: Spacing, samples: int, axes: int, name: str) -> list[list[float]]:
    """:func:`spacing_per_axis` of each sample: ``[B, axes]`` has a row for each, anything else is for all."""
    rows = None if spacing is None else numbers(spacing, "spacing", "numbers in mm")
    if rows is None or rows.ndim != 2:
        return [spacing_per_axis(spacing, axes, name)] * samples
    if len(rows) != samples:
        raise ValueError(f"spacing: expected {samples} rows, one for each sample of {name}, got {spacing!r}")
    return [spacing_per_axis(row, axes, name) for row in rows]


def axes_of_spacing(spacing: Spacing) -> int | None:
    """How many spatial axes a spacing tells of; None where it is one number for all, or none."""
    sizes_mm = None if spacing is None else numbers(spacing, "spacing", "numbers in mm")
    return None if sizes_mm is None or sizes_mm.ndim == 0 else sizes_mm.shape[-1]


def has_channel_axis(shape: Sequence[int], spatial_axes: int | None) -> bool:
    """Whether labels are ``[B, 1, *S]`` rather than ``[B, *S]``, which spatial axes that are known decide."""
    return len(shape) > 2 and shape[1] == 1 and spatial_axes != len(shape) - 1


def numbers(value: Any, name: str, expected: str) -> np.ndarray:
    """Real numbers of Python, NumPy or torch, in nested sequences or not, as a float64 array of as many axes."""
    try:
        array = np.asarray(value.tolist() if isinstance(value, torch.Tensor) else value)
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise TypeError(f"{name}: expected {expected}, got {value!r}")


def whole_number(value: Any, name: str, otherwise: str) -> int:
    """An integer of Python, NumPy or a tensor without axes; ``otherwise`` is what else the argument may be."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"{name}: expected an int or {otherwise}, got {value!r}")


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """A tensor of real numbers, detached, on its own device; an array's memory is shared where torch can read it."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected real numbers or bool, got {value.dtype}")
        readable = value.flags.writeable and value.flags.aligned and value.dtype.isnative
        if not readable or any(stride < 0 or stride % value.itemsize for stride in value.strides):
            value = value.astype(value.dtype.newbyteorder("="), order="C")
        try:
            return torch.from_numpy(value)
        except TypeError as error:  # such as float128
            raise TypeError(f"{name}: expected a dtype that torch has, got {value.dtype}") from error
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a NumPy array or a torch tensor, got {type(value).__name__}")
    check_has_values(value, name)
    if value.dtype not in _INTEGRAL + FLOATS:
        raise TypeError(f"{name}: expected integers, bool or floats of 16 to 64 bits, got {value.dtype}")
    return value.detach().as_subclass(torch.Tensor)


def thread_bound(threads: int | None) -> int:
    """The most threads that a transform may use."""
    if threads is None:
        return torch.get_num_threads()
    most = whole_number(threads, "threads", "None")
    if most < 1:
        raise ValueError(f"threads: expected at least 1, got {most}")
    return min(most, 2**31 - 1)
