"""The distance transforms in Triton against those in C++: in the interpreter, and executed as PTX."""

import os

import numpy as np
import pytest
import torch
from distance_common import SPACINGS, blobs, random_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_kernels import executed
from torch.utils._python_dispatch import TorchDispatchMode

import fastloss
from fastloss.distance import boundary_distance, edt, edt_squared, label_edt, signed_edt
from fastloss.distance.transforms import distance_field

pytest.importorskip("triton")

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
pytestmark = pytest.mark.usefixtures("poisoned_memory")
overflows = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on infinities

MODES = [("mask", False), ("sides", False), ("sides", True), ("labels", False)]
WHOLE = [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.7, 1.3, 2.1), (1 / 3, 2 / 3, 1.0), (2.5, 0.78125, 0.78125)]


def both(voxels, spacing, mode, root=True, signed=False, double=False):
    """What C++ gives, and Triton."""
    from fastloss.kernels.gpu import distances as gpu

    options = {"root": root, "signed": signed, "double": double}
    wanted = distance_field(voxels, list(spacing), mode, **options)
    found, sites = gpu.transform(voxels, list(spacing), mode, **options)
    assert sites is None and found.dtype == wanted.dtype and found.is_contiguous()
    return found, wanted


def within_one_ulp(found, wanted):
    """Of float32; of float64 within four."""
    if found.dtype == torch.float64:
        return torch.allclose(found, wanted, rtol=4 * 2.0**-52, atol=0)
    bits = [x.view(torch.int32).long() for x in (found, wanted)]
    return (bits[0] - bits[1]).abs().max().item() <= 1 if found.numel() else True


def kinds_of_masks(shape):
    """random, empty, full, one voxel, a slab, a ball, a far site."""
    one, slab, far = (np.zeros(shape, bool) for _ in range(3))
    one[tuple(size // 2 for size in shape)] = True
    slab[shape[0] // 3 : shape[0] // 2] = True
    far[(1,) * len(shape)] = True
    grid = np.indices(shape)
    ball = sum((x - size // 2) ** 2 for x, size in zip(grid, shape, strict=True)) <= (min(shape) / 3) ** 2
    return {
        "random": random_mask(shape, 0.7), "blobs": blobs(shape), "empty": np.zeros(shape, bool),
        "full": np.ones(shape, bool), "one voxel": one, "slab": slab, "ball": ball, "far site": ~far,
    }  # fmt: skip


@interpreted
@overflows
@pytest.mark.parametrize("spacing", [*WHOLE[:3], (0.7123, 1.0, 0.8)], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7), (6, 5, 3), (11, 13), (25,)], ids=str)
@pytest.mark.by_turns(3)
def test_kinds_of_masks(shape, spacing):
    spacing = spacing[: len(shape)]
    volumes = torch.from_numpy(np.stack(list(kinds_of_masks(shape).values())))
    for mode, signed in MODES:
        found, wanted = both(volumes, spacing, mode, root=signed, signed=signed)
        same = within_one_ulp(found, wanted) if spacing[0] == 0.7123 else torch.equal(found, wanted)
        assert same, mode


LAYOUTS = {
    "contiguous": lambda x: x,
    "permuted": lambda x: x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1]),
    "sliced": lambda x: torch.nn.functional.pad(x, (2, 3, 1, 0) if x.ndim > 1 else (2, 3))[
        (..., slice(1, None), slice(2, -3)) if x.ndim > 1 else (..., slice(2, -3))
    ],
    "strided": lambda x: x.repeat_interleave(3, -1)[..., ::3],
    "expanded": lambda x: x[:1].expand(x.shape),
}
DTYPES = [torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.int64]


@interpreted
@overflows
@settings(max_examples=20)
@given(st.data())
def test_equals_the_cpu_for_any_shape_layout_dtype_and_tile(data):
    from fastloss.kernels.gpu import distances as gpu

    axes = data.draw(st.integers(1, 3))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes + 2))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).choice(3, shape, p=data.draw(st.sampled_from(
        [(0.1, 0.8, 0.1), (0.5, 0.5, 0), (0.02, 0.98, 0)])))  # fmt: skip
    dtype = data.draw(st.sampled_from(DTYPES))
    layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    voxels = layout(torch.from_numpy(values)).to(torch.uint8) if dtype in (torch.uint16, torch.uint32) else None
    voxels = layout(torch.from_numpy(values).to(dtype)) if voxels is None else voxels.to(dtype)
    spacing = data.draw(st.one_of(
        st.sampled_from(WHOLE).map(lambda row: list(row[:axes])), st.lists(SPACINGS, min_size=axes, max_size=axes)
    ))  # fmt: skip
    mode, signed = data.draw(st.sampled_from(MODES))
    tile, ahead, line, narrow = data.draw(st.sampled_from([(8, 4, 4096, 2**15 - 1), (2, 1, 2, 3), (4, 2, 4, 99)]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TILE": tile, "AHEAD": ahead, "LONGEST_LINE": line, "LONGEST_NARROW": narrow}.items():
            patch.setattr(gpu, name, value)
        root, double = data.draw(st.booleans()), data.draw(st.booleans())
        found, wanted = both(voxels, spacing, mode, root, signed, double)
    whole = gpu.metric_of([gpu.Axis(n, 1, mm) for n, mm in zip(shape[-axes:], spacing, strict=True)]).whole
    assert torch.equal(found, wanted) if whole else within_one_ulp(found, wanted)


@interpreted
@overflows
@pytest.mark.parametrize("spacing", [(1e-30,) * 3, (1e30,) * 3, (1e200, 1.0, 1.0), (4000.0, 1.0, 1.0), (1e-200,) * 3])
def test_extreme_spacings(spacing, monkeypatch):
    """Squares below float32 are 0, beyond it +inf; whole ones just below the greatest do not overflow, not even of rows
    that a GPU's tile would have beyond the volume."""
    from fastloss.kernels.gpu import distances as gpu

    monkeypatch.setattr(gpu, "TILE", 8)
    monkeypatch.setattr(gpu, "AHEAD", 4)
    mask = torch.from_numpy(kinds_of_masks((9, 4, 5))["far site"])
    for mode, signed in MODES[::2]:
        for root in (True, False):
            found, wanted = both(mask, spacing, mode, root, signed)
            assert torch.equal(found, wanted)


@interpreted
def test_which_numbers_will_do():
    from fastloss.kernels.gpu import distances as gpu

    def metric(lengths, spacing):
        return gpu.metric_of([gpu.Axis(n, 1, mm) for n, mm in zip(lengths, spacing, strict=True)])

    assert metric((512, 512, 512), (0.7, 1.3, 2.1)).multiples == (7, 13, 21)
    assert metric((512, 512, 512), (2.5, 0.79, 0.79)).whole is False  # 250 and 79, in more than 64 parts
    assert metric((328, 5, 5), (100.0, 1.0, 1.0)).whole and not metric((329, 5, 5), (100.0, 1.0, 1.0)).whole
    assert metric((2**15,), (1.0,)).whole and not metric((2**15 + 1,), (1.0,)).whole  # whose square means no site
    assert metric((9, 1, 7), (2.0, 0.123, 3.0))[:3] == (True, 1.0, (2, 1, 3))  # an axis of one voxel has no say


@interpreted
@overflows
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7123, 1.0, 0.8)], ids=str)
@pytest.mark.parametrize("shape", [(5, 9, 6), (12, 17), (29,)], ids=str)
@pytest.mark.by_turns(5)
def test_sites_are_as_far_away_as_the_distance_says(shape, spacing):
    """Also of rows one more than a power of two, whose last number takes a further bit."""
    spacing = spacing[: len(shape)]
    volumes = torch.from_numpy(np.stack([mask for mask in kinds_of_masks(shape).values()]))
    wanted, theirs = edt_squared(volumes, spacing, spatial_axes=len(shape), return_indices=True, dtype=torch.float64)
    with fastloss.backend("triton"):
        found, sites = edt_squared(
            volumes, spacing, spatial_axes=len(shape), return_indices=True, dtype=torch.float64
        )  # fmt: skip
    assert within_one_ulp(found, wanted) and torch.equal(sites < 0, theirs < 0)
    places = torch.from_numpy(np.stack(np.unravel_index(sites.clamp_min(0).flatten(1).numpy(), shape)))
    voxels = torch.from_numpy(np.indices(shape).reshape(len(shape), 1, -1))
    mm = torch.tensor(spacing, dtype=torch.float64).view(-1, 1, 1)
    squares = ((places - voxels) * mm).square().sum(0).view(found.shape)
    some = sites >= 0
    assert torch.allclose(squares[some], found[some], rtol=1e-14)
    assert not volumes.flatten(1).gather(1, sites.clamp_min(0).flatten(1)).view(found.shape)[some].any()


@interpreted
@overflows
def test_the_public_functions_are_triton_s_where_it_is_forced(monkeypatch):
    from fastloss.kernels.gpu import sums as gpu

    launched = []
    run = gpu.Launch.run
    monkeypatch.setattr(gpu.Launch, "run", lambda launch: (launched.append(launch.kernel.__name__), run(launch)))
    volumes = torch.from_numpy(random_mask((2, 1, 2, 4, 5, 6), 0.9))[:, 0]
    calls = [
        lambda x: edt(x, 0.5, spatial_axes=3),
        lambda x: edt_squared(x, (3.0, 1.0, 1.0), spatial_axes=3, black_border=True),
        lambda x: edt(x, spatial_axes=2, black_border=True, return_indices=True, dtype=torch.float64)[0],
        lambda x: boundary_distance(x, spatial_axes=3),
        lambda x: signed_edt(x, spatial_axes=1),
        lambda x: label_edt(x.to(torch.int64) << 40, spatial_axes=3),
        lambda x: edt(x[:0], spatial_axes=3),
    ]
    for call in calls:
        wanted = call(volumes)
        assert not launched
        with fastloss.backend("triton"):
            found = call(volumes)
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype
        assert launched == ["scan_lines", "spread", "spread"][: len(launched)] and bool(launched) == bool(found.numel())
        launched.clear()
    array = volumes.numpy()
    with fastloss.backend("triton"):
        assert isinstance(edt(array, spatial_axes=3), np.ndarray) and not launched


class Made(TorchDispatchMode):
    """Bytes of the tensors that are made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.zeros, torch.ops.aten.full):
            self.bytes += found.nbytes
        return found


@interpreted
@overflows
@pytest.mark.parametrize(
    ("shape", "spacing", "indices", "most"),
    [
        ((6, 7, 8), (1.0, 1.0, 1.0), False, 4 + 4),
        ((6, 7, 8), (0.7123, 1.0, 0.8), False, 4 + 8),
        ((12, 16), (1.0, 1.0), False, 4 + 2),
        ((6, 7, 8), (1.0, 1.0, 1.0), True, 4 + 4 + 8 + 6),
    ],
)
def test_takes_one_volume_besides_the_result(shape, spacing, indices, most, monkeypatch):
    from fastloss.kernels.gpu import distances as gpu

    monkeypatch.setattr(gpu.Launch, "run", lambda launch: None)
    mask = torch.ones(shape, dtype=torch.uint8)
    with Made() as made:
        gpu.transform(mask, list(spacing), "mask", indices=indices)
    spans = 8 * (shape[0] + 1)
    assert most * mask.numel() <= made.bytes <= most * mask.numel() + spans


def test_compiled_code_gives_the_bits_of_the_cpu():
    """Two bytes a voxel for steps, four for squares, each written and read once; mask and distances besides."""
    rows = executed("distances")
    assert len(rows) == 5
    assert {row["name"]: row["wrong"] for row in rows if row["wrong"]} == {}
    assert {row["name"]: row["moved"] for row in rows if row["moved"] > 1.05} == {}
