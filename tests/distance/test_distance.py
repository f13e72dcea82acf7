"""Distances of masks: exactness, dtypes, layouts, threads."""

import math
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from distance_common import SPACINGS, blobs, brute_force_squared, random_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from fastloss.distance import boundary_distance, edt, edt_squared, label_edt, signed_edt
from fastloss.distance.transforms import distance_field

INTEGER_DTYPES = [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


def assert_exact(mask, spacing, **options):
    squared = brute_force_squared(mask, spacing)
    np.testing.assert_array_equal(edt_squared(mask, spacing, **options), squared.astype(np.float32))
    np.testing.assert_array_equal(edt(mask, spacing, **options), np.sqrt(squared).astype(np.float32))


@pytest.mark.parametrize("foreground", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("shape", [(60,), (17, 23), (7, 9, 11), (1, 12, 9), (12, 1, 9), (12, 9, 1)])
def test_brute_force_to_the_last_bit(shape, foreground):
    for seed, spacing in enumerate([(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.7, 0.9, 1.1), (1e-3, 1.0, 1e3)]):
        assert_exact(random_mask(shape, foreground, seed), spacing[: len(shape)])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_fields_of_the_losses(root, double):
    labels, spacing = torch.from_numpy(blobs((9, 10, 11)).astype(np.int64)), [3.0, 1.0, 0.7]
    dtype = torch.float64 if double else torch.float32
    fields = {("mask", False): edt, ("sides", False): boundary_distance, ("sides", True): signed_edt}
    for (mode, signed), function in {**fields, ("labels", False): label_edt}.items():
        expected = function(labels, spacing, dtype=torch.float64)
        expected = expected if root else expected * expected.abs()
        found = distance_field(labels, spacing, mode, root=root, signed=signed, double=double)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected.to(dtype), rtol=1e-14 if double else 2e-7, atol=0)


@settings(max_examples=200, deadline=None)
@given(st.data(), arrays(np.uint8, array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 2)))
def test_brute_force_on_any_mask(data, mask):
    spacing = data.draw(st.lists(SPACINGS, min_size=mask.ndim, max_size=mask.ndim))
    assert_exact(mask, spacing, threads=data.draw(st.sampled_from([1, 3])))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5), (0.7, 0.9, 1.1)])
@pytest.mark.parametrize("shape", [(64, 65, 66), (200, 190)])
def test_scipy_on_larger_grids(shape, spacing):
    spacing = spacing[: len(shape)]
    for mask in (blobs(shape), ~blobs(shape), random_mask(shape, 0.5), random_mask(shape, 0.999)):
        expected = ndimage.distance_transform_edt(mask, spacing)
        np.testing.assert_array_equal(edt(mask, spacing), expected.astype(np.float32))


@pytest.mark.parametrize("sites", ["one end", "both ends", "along the diagonal"])
@pytest.mark.parametrize("shape", [(2, 40_000), (40_000, 2), (100_000,), (3, 3, 20_000), (3, 20_000, 3), (20, 20_000)])
def test_long_lines_take_time_in_proportion(shape, sites):
    mask = np.ones(shape, bool)
    for part in {"one end": [0], "both ends": [0, 1], "along the diagonal": np.linspace(0, 1, 8)}[sites]:
        mask[tuple(int(part * (length - 1)) for length in shape)] = False
    begin = time.process_time()
    found = [edt(mask, threads=1), label_edt(mask, threads=1), boundary_distance(mask, threads=1)]
    seconds = time.process_time() - begin
    begin = time.process_time()
    expected = ndimage.distance_transform_edt(mask)
    scipy_seconds = time.process_time() - begin
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    for both_sides in found[1:]:
        np.testing.assert_array_equal(both_sides[mask], found[0][mask])
    # all pairs of a line would take 50 to 500 times as long as SciPy does
    assert seconds < 3 * 6 * scipy_seconds + 0.1


@pytest.mark.parametrize("shape", [(9,), (5, 6), (3, 4, 5), (40, 50, 60)])
def test_masks_of_one_value(shape):
    np.testing.assert_array_equal(edt(np.zeros(shape, bool)), np.zeros(shape))
    for field in (edt(np.ones(shape, bool), 0.5), edt_squared(np.ones(shape, bool))):
        np.testing.assert_array_equal(field, np.full(shape, np.inf))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_no_voxels(shape):
    field = edt(np.zeros(shape, bool))
    assert field.shape == shape and field.dtype == np.float32


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize(("value", "expected"), [(0, 0.0), (1, math.inf)])
def test_one_voxel(shape, value, expected):
    assert edt(np.full(shape, value, np.uint8)).item() == expected


def test_extreme_spacings_neither_fail_nor_hang():
    mask = random_mask((20, 20), 0.9)
    assert_exact(mask, (1e-30, 1e-30))  # squares below float32: zero
    with np.errstate(over="ignore"):
        assert_exact(mask, (1e30, 1e30))  # squares beyond float32: +inf
        assert np.isinf(edt(mask, 1e200)[mask]).all()


@settings(max_examples=60, deadline=None)
@given(st.data(), arrays(np.uint8, array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 2)))
def test_black_border_is_a_layer_of_zeros(data, mask):
    spacing = data.draw(st.lists(SPACINGS, min_size=mask.ndim, max_size=mask.ndim))
    inner = tuple(slice(1, -1) for _ in mask.shape)
    squared = brute_force_squared(np.pad(mask, 1), spacing)[inner]
    field, sites = edt_squared(mask, spacing, black_border=True, return_indices=True)
    np.testing.assert_array_equal(field, squared.astype(np.float32))
    np.testing.assert_array_equal(edt(mask, spacing, black_border=True), np.sqrt(squared).astype(np.float32))
    free, near = edt_squared(mask, spacing, return_indices=True)
    np.testing.assert_array_equal(sites, np.where(free <= field, near, -1))


def test_black_border_of_leading_axes_and_tensors():
    edt_library = pytest.importorskip("edt")
    masks, spacing = random_mask((3, 14, 15, 16), 0.99), (3.0, 1.0, 0.7)
    field = edt(torch.from_numpy(masks), spacing, spatial_axes=3, black_border=True, dtype=torch.float64)
    assert field.is_contiguous() and field.dtype == torch.float64
    for mask, found in zip(masks, field, strict=True):
        expected = edt_library.edt(mask, anisotropy=spacing, black_border=True)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    full = edt(np.ones((5, 1), np.uint8), (2.0, 3.0), black_border=True)
    assert full.ravel().tolist() == [2, 3, 3, 3, 2]


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_integer_dtypes(dtype):
    mask = random_mask((9, 10, 11), 0.8)
    values = mask.astype(dtype)
    if dtype is not np.bool_:
        values[mask] = np.iinfo(dtype).max if np.iinfo(dtype).min == 0 else np.iinfo(dtype).min
    expected = edt(mask)
    np.testing.assert_array_equal(edt(values), expected)
    np.testing.assert_array_equal(edt(values.astype(values.dtype.newbyteorder())), expected)
    field = edt(torch.from_numpy(values))
    assert field.dtype == torch.float32
    np.testing.assert_array_equal(field.numpy(), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_memory_layouts(dtype):
    mask = random_mask((12, 13, 14), 0.9).astype(dtype)
    spacing, expected = (2.0, 0.7, 1.0), edt(mask, (2.0, 0.7, 1.0))
    unaligned = np.frombuffer(b"\0" + mask.tobytes(), np.uint8)[1:].view(dtype).reshape(mask.shape)
    layouts = {
        "Fortran order": np.asfortranarray(mask),
        "permuted": np.ascontiguousarray(mask.transpose(1, 2, 0)).transpose(2, 0, 1),
        "strided": np.repeat(np.repeat(mask, 2, 0), 3, 2)[::2, :, ::3],
        "negative strides": np.ascontiguousarray(mask[::-1, :, ::-1])[::-1, :, ::-1],
        "unaligned": unaligned,
    }
    for name, view in layouts.items():
        field = edt(view, spacing)
        np.testing.assert_array_equal(field, expected, err_msg=name)
        assert field.flags.c_contiguous, name
    expanded = np.broadcast_to(mask[:1], mask.shape)
    np.testing.assert_array_equal(edt(expanded, spacing), edt(expanded.copy(), spacing))


def test_tensors_keep_their_kind_and_inputs_stay():
    mask = torch.from_numpy(random_mask((8, 9, 10), 0.8))
    before = mask.clone()
    field = edt_squared(mask.permute(2, 0, 1), torch.tensor([1.0, 2.0, 3.0]))
    assert type(field) is torch.Tensor and field.shape == (10, 8, 9) and field.is_contiguous()
    expected = edt_squared(mask.numpy().transpose(2, 0, 1), np.array([1, 2, 3]))
    np.testing.assert_array_equal(field.numpy(), expected)
    assert torch.equal(mask, before)


def test_tensor_subclasses_are_unwrapped():
    monai_data = pytest.importorskip("monai.data")
    mask = torch.from_numpy(random_mask((8, 9), 0.8))
    field = edt(monai_data.MetaTensor(mask))
    assert type(field) is torch.Tensor and torch.equal(field, edt(mask))


def test_one_spacing_serves_every_axis():
    mask = random_mask((8, 9, 10), 0.8)
    np.testing.assert_array_equal(edt(mask, 0.7), edt(mask, (0.7, 0.7, 0.7)))


def test_numbers_of_numpy_and_torch():
    mask = random_mask((8, 9, 10), 0.8)
    expected = edt(mask, (1.5, 2.0, 1.5), threads=2)
    for row in (
        (np.float32(1.5), np.int64(2), 1.5),
        [torch.tensor(1.5), torch.tensor(2), 1.5],
        torch.tensor([1.5, 2.0, 1.5], dtype=torch.bfloat16, requires_grad=True),
        np.array([1.5, 2.0, 1.5], np.float16),
    ):
        found = edt(mask, row, spatial_axes=np.int64(3), threads=torch.tensor(2))
        np.testing.assert_array_equal(found, expected)
    for number in (np.float32(1.5), torch.tensor(1.5), np.array(1.5)):
        np.testing.assert_array_equal(edt(mask, number, threads=10**30), edt(mask, 1.5))


@pytest.mark.parametrize("shape", [(96, 80, 70), (700, 600), (300_000,), (2, 400, 300)])
def test_any_number_of_threads_gives_the_same_bits(shape):
    mask = random_mask(shape, 0.9)
    expected = edt(mask, 0.7, threads=1)
    for threads in (2, 3, 16):
        np.testing.assert_array_equal(edt(mask, 0.7, threads=threads), expected)


def test_many_python_threads_at_once():
    masks = [random_mask((40, 41, 42), 0.9, seed) for seed in range(8)]
    expected = [edt(mask, threads=1) for mask in masks]
    with ThreadPoolExecutor(8) as pool:
        fields = pool.map(lambda mask: edt(mask, threads=2), masks * 3)
        for field, right in zip(fields, expected * 3, strict=True):
            np.testing.assert_array_equal(field, right)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_forked_child_after_use_in_the_parent():
    script = """
        import os
        import numpy as np
        import torch
        from fastloss.distance import edt
        mask = np.random.default_rng(0).random((64, 64, 64)) < 0.9
        expected = edt(mask, threads=2)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(edt(mask, threads=2), expected) else 1)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


def test_the_interpreter_runs_on_meanwhile():
    mask = random_mask((160, 160, 160), 0.5)
    with ThreadPoolExecutor(1) as pool:
        future, turns = pool.submit(edt, mask, threads=1), 0
        while not future.done():
            turns += 1
    assert turns > 1000
