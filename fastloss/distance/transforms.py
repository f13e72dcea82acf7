"""The transforms of arrays and tensors: in C++, or on a GPU in Triton."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch

from ..passes.options import as_flag
from .inputs import as_labels, as_voxels, is_double, spacing_per_axis, thread_bound

Mask = TypeVar("Mask", np.ndarray, torch.Tensor)


@overload
def edt(
    mask: Mask,
    spacing: float | Sequence[float] | None = ...,
    *,
    spatial_axes: int | None = ...,
    dtype: Any = ...,
    black_border: bool = ...,
    return_indices: Literal[False] = ...,
    threads: int | None = ...,
) -> Mask: ...
@overload
def edt(
    mask: Mask,
    spacing: float | Sequence[float] | None = ...,
    *,
    spatial_axes: int | None = ...,
    dtype: Any = ...,
    black_border: bool = ...,
    return_indices: Literal[True],
    threads: int | None = ...,
) -> tuple[Mask, Mask]: ...
def edt(
    mask: Mask,
    spacing: float | Sequence[float] | None = None,
    *,
    spatial_axes: int | None = None,
    dtype: Any = None,
    black_border: bool = False,
    return_indices: bool = False,
    threads: int | None = None,
) -> Mask | tuple[Mask, Mask]:
    r"""Distance in mm from every nonzero voxel to the nearest zero voxel.

    .. math:: D(x) = \min_{y:\, m(y) = 0} \sqrt{\sum_a \big(s_a (x_a - y_a)\big)^2}

    where :math:`m` is the mask and :math:`s_a` the spacing of axis :math:`a`, as SciPy's
    ``distance_transform_edt`` has it. Zero voxels get 0. A volume without a zero voxel has nothing to measure
    to and gets +inf everywhere.

    Args:
        mask: ``[..., *S]``, bool or any integer dtype, any strides: NumPy array, or tensor of the CPU or a GPU.
        spacing: Voxel size in mm, one number or one per spatial axis; 1 where ``None``.
        spatial_axes: How many of the last axes are a volume, 1 to 3; all of them where ``None``.
        dtype: float32 (where ``None``) or float64, of NumPy or torch.
        black_border: Whether the voxels beyond the volume are zero, as if a layer of zeros lay around it.
        return_indices: Also return where the nearest zero voxel lies.
        threads: Upper bound of the CPU threads used; ``torch.get_num_threads()`` where ``None``.

    Returns:
        ``[..., *S]`` of the dtype asked for, contiguous, in mm, of the same kind as ``mask`` and where it is. With
        ``return_indices`` a pair of it and the int64 ``[..., *S]`` numbers, in C order within the volume
        ``S``, of a nearest zero voxel (any of several that are as near): -1 where there is none, or the border is
        nearer; ``np.unravel_index(numbers.ravel(), S)`` makes coordinates of them.

    Raises:
        TypeError: The mask is no array or tensor of integers, or another argument is of the wrong type.
        ValueError: An argument has a value out of range; the message names it, what came and what was expected.

    Source:
        A. Meijster, J. B. T. M. Roerdink and W. H. Hesselink, A General Algorithm for Computing Distance
        Transforms in Linear Time, Mathematical Morphology and its Applications, 2000 (the axes one after another,
        the first as a scan). Later axes: csrc/minplus.hpp.
    """
    return _of_mask(mask, spacing, spatial_axes, dtype, black_border, return_indices, threads, root=True)


@overload
def edt_squared(
    mask: Mask,
    spacing: float | Sequence[float] | None = ...,
    *,
    spatial_axes: int | None = ...,
    dtype: Any = ...,
    black_border: bool = ...,
    return_indices: Literal[False] = ...,
    threads: int | None = ...,
) -> Mask: ...
@overload
def edt_squared(
    mask: Mask,
    spacing: float | Sequence[float] | None = ...,
    *,
    spatial_axes: int | None = ...,
    dtype: Any = ...,
    black_border: bool = ...,
    return_indices: Literal[True],
    threads: int | None = ...,
) -> tuple[Mask, Mask]: ...
def edt_squared(
    mask: Mask,
    spacing: float | Sequence[float] | None = None,
    *,
    spatial_axes: int | None = None,
    dtype: Any = None,
    black_border: bool = False,
    return_indices: bool = False,
    threads: int | None = None,
) -> Mask | tuple[Mask, Mask]:
    r"""Squared distance in mm² from every nonzero voxel to the nearest zero voxel.

    .. math:: D^2(x) = \min_{y:\, m(y) = 0} \sum_a \big(s_a (x_a - y_a)\big)^2

    Arguments, indices, errors, source and the treatment of volumes without a zero voxel are those of :func:`edt`.

    Returns:
        ``[..., *S]``, contiguous, in mm², of the same kind as ``mask``; with ``return_indices`` the indices as well.
    """
    return _of_mask(mask, spacing, spatial_axes, dtype, black_border, return_indices, threads, root=False)


def boundary_distance(
    mask: Mask,
    spacing: float | Sequence[float] | None = None,
    *,
    spatial_axes: int | None = None,
    dtype: Any = None,
    threads: int | None = None,
) -> Mask:
    r"""Distance in mm from every voxel to the nearest voxel on the other side of the mask.

    .. math:: D(x) = \min_{y:\, [m(y) \neq 0] \neq [m(x) \neq 0]} \sqrt{\sum_a \big(s_a (x_a - y_a)\big)^2}

    which is ``edt(inside) + edt(outside)``, in one transform instead of two. The Hausdorff loss takes it
    (D. Karimi and S. E. Salcudean 2019, arXiv:1904.10030). A volume that is all zero or all nonzero has no
    boundary and gets 0 everywhere. Arguments and errors are those of :func:`edt`.

    Returns:
        ``[..., *S]`` of the dtype asked for, contiguous, in mm, of the same kind as ``mask``.
    """
    voxels, spacing_mm = _checked(mask, spacing, spatial_axes)
    return _transform(mask, voxels, spacing_mm, dtype, threads, mode="sides")


def signed_edt(
    mask: Mask,
    spacing: float | Sequence[float] | None = None,
    *,
    spatial_axes: int | None = None,
    dtype: Any = None,
    threads: int | None = None,
) -> Mask:
    r"""Signed distance in mm to the nearest voxel on the other side of the mask: negative inside.

    .. math:: \varphi = D_{\text{outside}} - D_{\text{inside}}

    with the distances of :func:`edt`, in one transform instead of two, as the boundary loss takes it
    (H. Kervadec et al. 2019, arXiv:1812.07032). Nonzero voxels are inside. A volume that is all zero or all
    nonzero has no boundary and gets 0 everywhere. Arguments and errors are those of :func:`edt`.

    Returns:
        ``[..., *S]`` of the dtype asked for, contiguous, in mm, of the same kind as ``mask``.
    """
    voxels, spacing_mm = _checked(mask, spacing, spatial_axes)
    return _transform(mask, voxels, spacing_mm, dtype, threads, mode="sides", negative_inside=True)


def label_edt(
    labels: Mask,
    spacing: float | Sequence[float] | None = None,
    *,
    spatial_axes: int | None = None,
    dtype: Any = None,
    threads: int | None = None,
) -> Mask:
    r"""Distance in mm from every voxel to the nearest voxel of another label, all labels in one transform.

    .. math:: D(x) = \min_{y:\, l(y) \neq l(x)} \sqrt{\sum_a \big(s_a (x_a - y_a)\big)^2}

    The label 0 is a label like the others. A volume of one label has no boundary and gets 0 everywhere.
    Arguments and errors are those of :func:`edt`.

    Returns:
        ``[..., *S]`` of the dtype asked for, contiguous, in mm, of the same kind as ``labels``.
    """
    voxels, spacing_mm = _checked(labels, spacing, spatial_axes, name="labels")
    return _transform(labels, as_labels(voxels), spacing_mm, dtype, threads, mode="labels")


def distance_field(
    voxels: torch.Tensor, spacing: list[float], mode: str, *, root: bool, signed: bool, double: bool
) -> torch.Tensor:
    """Distances of a tensor ``[..., *S]`` in a mode of the C++ transform, with one spacing for each axis of S."""
    array, _ = as_voxels(voxels, len(spacing), "voxels")
    array = as_labels(array) if mode == "labels" else array
    dtype = torch.float64 if double else None
    field: torch.Tensor = _transform(voxels, array, spacing, dtype, None, mode=mode, root=root, negative_inside=signed)
    return field


def _of_mask(
    mask: Mask,
    spacing: float | Sequence[float] | None,
    spatial_axes: int | None,
    dtype: Any,
    black_border: bool,
    return_indices: bool,
    threads: int | None,
    *,
    root: bool,
) -> Mask | tuple[Mask, Mask]:
    voxels, spacing_mm = _checked(mask, spacing, spatial_axes)
    indices, with_border = as_flag(return_indices, "return_indices"), as_flag(black_border, "black_border")
    found = _transform(mask, voxels, spacing_mm, dtype, threads, mode="mask", root=root, indices=indices)
    if with_border:
        arrays = [torch.as_tensor(array) for array in (found if indices else (found,))]  # the same memory
        _limit_by_border(*arrays, spacing_mm=spacing_mm, root=root)
    return found


def _limit_by_border(
    field: torch.Tensor, sites: torch.Tensor | None = None, *, spacing_mm: list[float], root: bool
) -> None:
    """Lowers distances, in place, to that from the layer around the volume, whose nearest voxel lies along an axis."""
    for axis, size_mm in enumerate(spacing_mm, field.ndim - len(spacing_mm)):
        steps = torch.arange(1, field.shape[axis] + 1, dtype=torch.float64, device=field.device)
        mm = (torch.minimum(steps, steps.flip(0)) * size_mm) ** 2
        border = (mm.sqrt() if root else mm).to(field.dtype).view(-1, *[1] * (field.ndim - axis - 1))
        if sites is not None:
            sites.masked_fill_(field > border, -1)
        torch.minimum(field, border, out=field)


def _checked(
    mask: Any, spacing: float | Sequence[float] | None, spatial_axes: int | None, name: str = "mask"
) -> tuple[np.ndarray | torch.Tensor, list[float]]:
    voxels, axes = as_voxels(mask, spatial_axes, name)
    return voxels, spacing_per_axis(spacing, axes, name)


def _transform(
    given: Any,
    voxels: np.ndarray | torch.Tensor,
    spacing_mm: list[float],
    dtype: Any,
    threads: int | None,
    *,
    mode: str,
    root: bool = True,
    negative_inside: bool = False,
    indices: bool = False,
) -> Any:
    double, bound = is_double(dtype), thread_bound(threads)
    if isinstance(voxels, torch.Tensor):
        triton = import_module("fastloss.kernels.gpu.distances")
        options = {"root": root, "signed": negative_inside, "double": double, "indices": indices}
        field, sites = triton.transform(voxels, spacing_mm, mode, **options)
        return (field, sites) if indices else field
    field, sites = _extension().distance_transform(
        voxels,
        spacing_mm,
        mode,
        root=root,
        negative_inside=negative_inside,
        double_precision=double,
        indices=indices,
        threads=bound,
    )
    convert = torch.from_numpy if isinstance(given, torch.Tensor) else np.asarray
    return (convert(field), convert(sites)) if indices else convert(field)


def _extension() -> ModuleType:
    try:
        from fastloss import _C
    except ImportError as error:
        raise ImportError(
            "fastloss._C, the C++ extension, is missing or does not load: install fastloss with "
            "`pip install .` (or `pip install -e .` in a checkout) where a C++17 compiler is present"
        ) from error
    return _C
