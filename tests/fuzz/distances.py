"""Distance transforms in C++ and in Triton, to the last bit, against brute force and SciPy."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from distance_common import SPACINGS, brute_force_squared, brute_force_to_other_label
from hypothesis import strategies as st
from scipy import ndimage

import fastloss
from fastloss import distance

from .run import Kind

__all__ = ["KINDS", "Case", "check"]

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
TENSORS = ("tensor", "permuted tensor", "strided tensor", "expanded tensor")
LAYOUTS = ("C", "F", "reversed", "strided", "big endian", "unaligned", "expanded", *TENSORS)
# of one to three axes; the interpreter's are small
LONG = {
    "numba": [(700,), (3, 300), (300, 3), (2, 3, 200), (1, 190, 5)],
    "triton": [(70,), (3, 40), (40, 2), (2, 3, 20)],
}
FUNCTIONS = ("edt", "edt_squared", "indices", "signed_edt", "boundary_distance", "label_edt")
MOST = 400  # voxels that brute force takes


@dataclass(frozen=True)
class Case:
    backend: str  # "numba" stands for C++
    shape: tuple[int, ...]
    leading: int  # how many of the axes count volumes
    content: str
    share: float  # of foreground
    dtype: str
    layout: str
    spacing: tuple[float, ...] | float | None
    double: bool
    threads: int
    function: str
    seed: int


@st.composite
def draw(draw, backend):
    axes, in_triton = draw(st.integers(1, 3)), backend == "triton"
    edges = st.integers(1, 6 if in_triton else 12)
    space = draw(st.one_of(st.tuples(*[edges] * axes), st.sampled_from(LONG[backend])))
    leading = draw(st.sampled_from([(), (), (), (1,), (2,), (2, 1), (0,)]))
    sizes = st.one_of(st.sampled_from([0.7, 1.3, 2.1, 1.0, 3.0]), SPACINGS)
    return Case(
        backend=backend,
        shape=(*leading, *space),
        leading=len(leading),
        content=draw(st.sampled_from(["random", "random", "blobs", "one site", "full", "empty", "labels"])),
        share=draw(st.sampled_from([0.05, 0.5, 0.9, 0.99])),
        dtype=draw(st.sampled_from(DTYPES)),
        layout=draw(st.sampled_from(TENSORS if in_triton else LAYOUTS)),
        spacing=draw(st.one_of(st.none(), sizes, st.tuples(*[sizes] * len(space)))),
        double=draw(st.booleans()),
        threads=draw(st.sampled_from([1, 1, 2, 3])),
        function=draw(st.sampled_from(FUNCTIONS)),
        seed=draw(st.integers(0, 2**20)),
    )


def voxels_of(case):
    random = np.random.default_rng(case.seed)
    noise = random.random(case.shape)
    if case.content == "blobs":
        noise = ndimage.gaussian_filter(noise, [0] * case.leading + [2] * (len(case.shape) - case.leading))
        noise = noise.argsort(axis=None).argsort().reshape(case.shape) / max(1, noise.size)
    mask = noise < case.share
    if case.content in ("full", "one site"):
        mask[:] = True
    if case.content == "one site" and mask.size:
        mask.flat[case.seed % mask.size] = False
    if case.content == "empty":
        mask[:] = False
    dtype = np.dtype(case.dtype)
    if dtype.kind == "b":
        return mask
    info = np.iinfo(dtype)
    if case.content == "labels":
        table = np.array([0, 1, 2, info.max, info.min, info.max - 1], dtype)
        return table[(noise * 6).astype(int)]
    return np.where(mask, np.array([1, info.max, info.min or 7][case.seed % 3], dtype), np.array(0, dtype))


def laid_out(voxels, layout):
    """The voxels in another memory layout, and their values."""
    if layout == "F":
        return np.asfortranarray(voxels), voxels
    if layout == "reversed":
        every = (slice(None, None, -1),) * voxels.ndim
        return np.ascontiguousarray(voxels[every])[every], voxels
    if layout == "strided":
        return np.repeat(voxels, 3, -1)[..., ::3], voxels
    if layout == "big endian":
        return voxels.astype(voxels.dtype.newbyteorder(">")), voxels
    if layout == "unaligned":
        return np.frombuffer(b"\0" + voxels.tobytes(), np.uint8)[1:].view(voxels.dtype).reshape(voxels.shape), voxels
    if layout == "permuted tensor":
        return torch.from_numpy(np.ascontiguousarray(voxels.T)).permute(*reversed(range(voxels.ndim))), voxels
    if layout == "strided tensor":
        return torch.from_numpy(np.repeat(voxels, 3, -1))[..., ::3], voxels
    if layout == "expanded tensor" and voxels.shape[0]:
        view = torch.from_numpy(voxels[:1].copy()).expand(voxels.shape)
        return view, np.array(view)
    if layout == "expanded" and voxels.shape[0]:
        view = np.broadcast_to(voxels[:1], voxels.shape)
        return view, view.copy()
    return torch.from_numpy(voxels) if layout in TENSORS else voxels, voxels


def check(case):
    given, voxels = laid_out(voxels_of(case), case.layout)
    before = voxels.copy()
    axes = len(case.shape) - case.leading
    name = "edt_squared" if case.function == "indices" else case.function
    options = {"spacing": case.spacing, "threads": case.threads, "dtype": np.float64 if case.double else None}
    options |= {"spatial_axes": axes} if case.leading or len(case.shape) > 3 else {}
    options |= {"return_indices": True} if case.function == "indices" else {}
    with fastloss.backend(case.backend):
        found = getattr(distance, name)(given, **options)
    sites = None
    if case.function == "indices":
        found, sites = (np.asarray(x) for x in found)
    assert isinstance(found, torch.Tensor) == (isinstance(given, torch.Tensor) and sites is None)
    found = np.asarray(found)
    assert found.shape == case.shape and found.dtype == (np.float64 if case.double else np.float32)
    np.testing.assert_array_equal(np.asarray(given), before, "the input was changed")
    spacing = np.full(axes, 1.0 if case.spacing is None else case.spacing, float).tolist()
    space = case.shape[case.leading :]
    fields, volumes = (x.reshape(-1, *space) for x in (found, voxels))
    for k, (field, volume) in enumerate(zip(fields, volumes, strict=True)):
        expected = truth(case.function, volume, spacing)
        if case.double:
            np.testing.assert_allclose(field, expected, rtol=1e-15)
        else:
            np.testing.assert_array_max_ulp(field, expected.astype(np.float32), ulps(case.backend, space, spacing))
        if sites is not None:
            check_sites(sites.reshape(-1, *space)[k], volume, spacing, expected)


def truth(function, volume, spacing):
    """In float64."""
    if function in ("edt", "edt_squared", "indices"):
        squared = brute_force_squared(volume, spacing) if small(volume) else scipy_squared(volume, spacing)
        return np.sqrt(squared) if function == "edt" else squared
    labels = volume if function == "label_edt" else volume != 0
    expected = brute_force_to_other_label(labels, spacing)
    return np.where(volume != 0, -expected, expected) if function == "signed_edt" else expected


def ulps(backend, space, spacing):
    """By how many last places a float32 may be off: Triton adds the squares of float64 in an order of its own."""
    if backend == "numba":
        return 0
    from fastloss.kernels.gpu.distances import Axis, metric_of

    return 0 if metric_of([Axis(n, 1, mm) for n, mm in zip(space, spacing, strict=True)]).whole else 1


def small(volume):
    return volume.size <= MOST


def scipy_squared(volume, spacing):
    if volume.all():
        return np.full(volume.shape, math.inf)
    nearest = ndimage.distance_transform_edt(volume != 0, spacing, return_distances=False, return_indices=True)
    places = np.indices(volume.shape)
    squares = [((near - here) * mm) ** 2 for near, here, mm in zip(nearest, places, spacing, strict=True)]
    return sum(squares[1:], squares[0])


def check_sites(sites, volume, spacing, squared):
    """Each names a voxel that is 0 and as near as any."""
    if (volume != 0).all():
        assert (sites == -1).all()
        return
    places = np.stack(np.unravel_index(sites.ravel(), volume.shape))
    assert not volume[tuple(places)].any()
    here = np.indices(volume.shape).reshape(volume.ndim, -1)
    far = [((p - v) * mm) ** 2 for p, v, mm in zip(places, here, spacing, strict=True)]
    np.testing.assert_allclose(sum(far[1:], far[0]).reshape(volume.shape), squared, rtol=1e-15)


KINDS = [
    Kind("distances", lambda random: draw("numba"), check, share=2, per_round=4000),
    Kind("distances on Triton", lambda random: draw("triton"), check, share=1, per_round=100, limit_s=300),
]
