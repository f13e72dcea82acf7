"""Two-sided, signed and label fields, leading axes, float64 and nearest sites."""

import math

import numpy as np
import pytest
import torch
from distance_common import SPACINGS, blobs, brute_force_squared, brute_force_to_other_label, random_mask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from fastloss.distance import boundary_distance, edt, edt_squared, label_edt, signed_edt

FIELDS = [edt, edt_squared, signed_edt, boundary_distance, label_edt]


@given(st.data(), arrays(np.uint8, array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 2)))
def test_fields_of_any_labels(data, labels):
    spacing = data.draw(st.lists(SPACINGS, min_size=labels.ndim, max_size=labels.ndim))
    options = {"spacing": spacing, "threads": data.draw(st.sampled_from([1, 3]))}
    expected = brute_force_to_other_label(labels != 0, spacing).astype(np.float32)
    np.testing.assert_array_equal(boundary_distance(labels, **options), expected)
    np.testing.assert_array_equal(signed_edt(labels, **options), np.where(labels, -expected, expected))
    several = brute_force_to_other_label(labels, spacing).astype(np.float32)
    np.testing.assert_array_equal(label_edt(labels, **options), several)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5), (0.7, 0.9, 1.1), (0.7123, 1.0, 0.8)])
@pytest.mark.parametrize("shape", [(64, 65, 66), (200, 190)])
def test_fields_are_sums_of_edt_on_larger_grids(shape, spacing):
    spacing = spacing[: len(shape)]
    for mask in (blobs(shape), random_mask(shape, 0.5), random_mask(shape, 0.9999), random_mask(shape, 0.0001)):
        inside, outside = edt(mask, spacing), edt(~mask, spacing)
        np.testing.assert_array_equal(boundary_distance(mask, spacing), inside + outside)
        np.testing.assert_array_equal(signed_edt(mask, spacing), outside - inside)


def test_signed_map_of_half_millimetre_columns():
    mask = np.zeros((5, 7), np.uint8)
    mask[1:4, 2:5] = 1
    spacing = (1.0, 0.5)
    inside = ndimage.distance_transform_edt(mask, spacing)
    outside = ndimage.distance_transform_edt(1 - mask, spacing)
    np.testing.assert_array_equal(signed_edt(mask, spacing), (outside - inside).astype(np.float32))
    assert signed_edt(mask, spacing)[2, 3] == -1.0 and signed_edt(mask, spacing)[2, 1] == 0.5


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
)
def test_labels_of_every_dtype(dtype):
    random = np.random.default_rng(0)
    labels = ndimage.zoom(random.integers(0, 2 if dtype is np.bool_ else 5, (4, 4, 4)), 3, order=0)
    expected = brute_force_to_other_label(labels, (1.0, 2.0, 0.5)).astype(np.float32)
    values = labels.astype(dtype)
    if dtype is not np.bool_:
        info = np.iinfo(dtype)
        table = np.array([info.min, info.max, 3, 1, info.max - 1], dtype)  # far apart: no narrower type will do
        values = table[labels]
    for given_labels in (values, torch.from_numpy(values), values.astype(values.dtype.newbyteorder())):
        np.testing.assert_array_equal(np.asarray(label_edt(given_labels, (1.0, 2.0, 0.5))), expected)


def test_more_labels_than_16_bits_hold():
    labels = np.arange(50 * 45 * 40, dtype=np.int64).reshape(50, 45, 40) * 3
    labels[:, :, 20:] = labels.max()
    expected = np.ones(labels.shape, np.float32)
    expected[:, :, 20:] = np.arange(1, 21)
    np.testing.assert_array_equal(label_edt(labels), expected)


@pytest.mark.parametrize("shape", [(9,), (5, 6), (3, 4, 5), (60, 50, 70)])
def test_empty_and_full_masks_have_a_zero_field(shape):
    for mask in (np.zeros(shape, bool), np.ones(shape, bool), np.full(shape, 7)):
        for field in (signed_edt(mask), boundary_distance(mask, 0.3), label_edt(mask)):
            assert not field.any() and not np.signbit(field).any()


@pytest.mark.parametrize("spacing", [1.0, 0.7123])
@pytest.mark.parametrize("spatial_axes", [1, 2, 3])
def test_leading_axes_are_separate_volumes(spatial_axes, spacing):
    volumes = random_mask((3, 2, 21, 22, 23), 0.95)
    volumes[0, 0] = False
    volumes[1, 1] = True
    volumes[2, 0] = blobs((21, 22, 23))
    flat = volumes.reshape(-1, *volumes.shape[-spatial_axes:])
    for field in FIELDS:
        expected = np.stack([field(volume, spacing) for volume in flat]).reshape(volumes.shape)
        for threads in (1, 3):
            got = field(torch.from_numpy(volumes), spacing, spatial_axes=spatial_axes, threads=threads)
            np.testing.assert_array_equal(got.numpy(), expected, err_msg=field.__name__)


def to_the_first_voxel(shape):
    """Squared distances in voxels."""
    return sum(x.astype(np.int64) ** 2 for x in np.indices(shape))


# axes beyond 1024; squared distances beyond 2^24, which float32 does not hold, up to 2^30, the range of integers, and
# beyond it, and beyond 2^15, that of 16 bits, in some of the rows that are solved together
@pytest.mark.parametrize(
    "shape",
    [(1500, 3, 4), (3, 1500, 4), (3, 4, 1500), (32_768,), (5, 9_001), (9_001, 5), (32_769,), (40_000, 2), (200, 2)],
)
def test_long_axes(shape):
    mask = np.ones(shape, np.int32)
    mask.flat[0] = 0
    squared = to_the_first_voxel(shape)
    distance = np.sqrt(squared.astype(np.float64)).astype(np.float32)
    sides = np.where(mask, distance, np.float32(1))
    np.testing.assert_array_equal(edt_squared(mask), squared.astype(np.float32))
    np.testing.assert_array_equal(edt(mask), distance)
    np.testing.assert_array_equal(boundary_distance(mask), sides)
    np.testing.assert_array_equal(signed_edt(mask), np.where(mask, -sides, sides))
    np.testing.assert_array_equal(label_edt(mask - 7), sides)
    field, sites = edt(mask, return_indices=True, dtype=np.float64)
    np.testing.assert_array_equal(field, np.sqrt(squared.astype(np.float64)))
    assert not sites.any()


@pytest.mark.parametrize("shape", [(2, 40_000), (40_000, 2), (2, 40_000, 2), (64, 32_768)])
def test_long_lines_of_near_sites(shape):
    """More voxels than 16 bits number, or as many, though no square leaves them."""
    mask, axis = np.ones(shape, np.uint8), np.argmax(shape)
    sites = np.arange(5, shape[axis], 97)
    np.moveaxis(mask, axis, 0)[sites] = 0
    steps = np.arange(shape[axis])
    nearest = np.abs(steps[:, None] - sites[None]).min(1).astype(np.float32)
    field, found = edt(mask, return_indices=True)
    np.testing.assert_array_equal(
        np.moveaxis(field, axis, -1), np.broadcast_to(nearest, np.moveaxis(mask, axis, -1).shape)
    )
    assert not mask.flat[found].any()


def test_every_field_of_any_layout():
    labels = np.random.default_rng(0).integers(0, 3, (12, 13, 14)).astype(np.int16)
    spacing = (2.0, 0.7, 1.0)
    layouts = {
        "Fortran order": np.asfortranarray(labels),
        "permuted": np.ascontiguousarray(labels.transpose(1, 2, 0)).transpose(2, 0, 1),
        "strided": np.repeat(np.repeat(labels, 2, 0), 3, 2)[::2, :, ::3],
        "negative strides": np.ascontiguousarray(labels[::-1, :, ::-1])[::-1, :, ::-1],
        "unaligned": np.frombuffer(b"\0" + labels.tobytes(), np.uint8)[1:].view(np.int16).reshape(labels.shape),
        "big-endian": labels.astype(">i2"),
    }
    for field in FIELDS:
        expected = field(labels, spacing)
        for name, view in layouts.items():
            found = field(view, spacing)
            np.testing.assert_array_equal(found, expected, err_msg=f"{field.__name__}, {name}")
            assert found.flags.c_contiguous
        plane = np.broadcast_to(labels[:1], labels.shape)
        np.testing.assert_array_equal(field(plane, spacing), field(plane.copy(), spacing))


def test_leading_axes_of_any_strides():
    volumes = random_mask((5, 6, 7, 2, 3), 0.8)
    view = torch.from_numpy(volumes).permute(4, 3, 2, 0, 1)  # [3, 2, 7, 5, 6]
    for field in FIELDS:
        expected = field(view.contiguous(), 0.5, spatial_axes=3)
        assert torch.equal(field(view, 0.5, spatial_axes=3), expected)
        one = view[:1, :1].expand(2, 2, 7, 5, 6)
        assert torch.equal(field(one, 0.5, spatial_axes=3)[1, 1], expected[0, 0])
        assert field(view[:0], spatial_axes=3).shape == (0, 2, 7, 5, 6)


@pytest.mark.parametrize("dtype", [np.float64, torch.float64, "float64"])
def test_float64(dtype):
    mask, spacing = blobs((30, 31, 32)), (0.7, 0.9, 1.1)
    expected = ndimage.distance_transform_edt(mask, spacing)
    field = edt(mask, spacing, dtype=dtype)
    assert field.dtype == np.float64
    np.testing.assert_allclose(field, expected, rtol=4e-16)
    other = ndimage.distance_transform_edt(~mask, spacing)
    np.testing.assert_allclose(signed_edt(mask, spacing, dtype=dtype), other - expected, rtol=4e-16)
    np.testing.assert_array_equal(edt(mask, dtype=dtype), ndimage.distance_transform_edt(mask))
    assert edt(torch.from_numpy(mask), dtype=torch.float64).dtype == torch.float64
    assert edt(mask, dtype=torch.float32).dtype == np.float32


def assert_nearest_sites(mask, spacing, squared, sites):
    assert sites.dtype == np.int64 and sites.shape == mask.shape
    places = np.stack(np.unravel_index(sites.ravel(), mask.shape))
    voxels = np.indices(mask.shape).reshape(mask.ndim, -1)
    assert not mask[tuple(places)].any()
    found = sum(((p - v) * mm) ** 2 for p, v, mm in zip(places, voxels, spacing, strict=True))
    np.testing.assert_array_equal(found.astype(np.float32).reshape(mask.shape), squared)


@given(st.data(), arrays(np.uint8, array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 2)))
def test_indices_are_of_nearest_sites(data, mask):
    spacing = data.draw(st.lists(SPACINGS, min_size=mask.ndim, max_size=mask.ndim))
    squared, sites = edt_squared(mask, spacing, return_indices=True)
    np.testing.assert_array_equal(squared, edt_squared(mask, spacing))
    if (mask != 0).all():
        assert (sites == -1).all()
    else:
        assert_nearest_sites(mask, spacing, squared, sites)


def test_indices_of_larger_volumes_and_of_leading_axes():
    masks, spacing = np.stack([blobs((40, 50, 60)), random_mask((40, 50, 60), 0.9999)]), (3.0, 1.0, 0.5)
    squared, sites = edt_squared(torch.from_numpy(masks), spacing, spatial_axes=3, return_indices=True)
    for mask, field, places in zip(masks, squared.numpy(), sites.numpy(), strict=True):
        assert_nearest_sites(mask, spacing, field, places)
    distances, again = edt(masks, spacing, spatial_axes=3, return_indices=True)
    np.testing.assert_array_equal(again, sites.numpy())
    np.testing.assert_array_equal(distances, edt(masks, spacing, spatial_axes=3))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (20.0, 7.0, 3.0), (1.0, 1.37, 0.211)])
def test_long_distances_with_few_sites(spacing):
    mask = np.ones((30, 300, 310), np.uint8)
    for place in [(3, 4, 5), (20, 280, 9), (11, 150, 300)]:
        mask[place] = 0
    grid = np.indices(mask.shape)
    squares = [
        sum(((x - s) * mm) ** 2 for x, s, mm in zip(grid, site, spacing, strict=True))
        for site in np.argwhere(mask == 0)
    ]
    expected = np.minimum.reduce(squares)
    squared, sites = edt_squared(mask, spacing, return_indices=True)
    np.testing.assert_array_equal(squared, expected.astype(np.float32))
    assert_nearest_sites(mask, spacing, squared, sites)
    sides = np.where(mask, np.sqrt(expected), np.minimum.reduce(spacing)).astype(np.float32)
    np.testing.assert_array_equal(boundary_distance(mask, spacing), sides)
    np.testing.assert_array_equal(label_edt(mask.astype(np.int64) << 40, spacing), sides)


@pytest.mark.parametrize("spacing", [(1e-9, 1.0, 0.7), (1.0, 1e-9, 0.7), (0.7, 1.0, 1e-9)])
def test_an_axis_far_finer_than_the_others(spacing):
    """2^31 steps along it, more than any column has, are less than a step along another."""
    mask = np.ones((3, 7, 6), bool)
    mask[0, 0, 0] = False
    np.testing.assert_array_equal(edt_squared(mask, spacing), brute_force_squared(mask, spacing).astype(np.float32))
    sides = brute_force_to_other_label(mask, spacing).astype(np.float32)
    np.testing.assert_array_equal(signed_edt(mask, spacing), np.where(mask, -sides, sides))


def test_spacings_in_whole_multiples_round_as_the_brute_force_does():
    mask = random_mask((14, 15, 16), 0.97)
    for spacing in [(0.1, 0.3, 0.7), (1 / 3, 2 / 3, 1.0), (2.5, 0.78125, 0.78125), (1e-60, 2e-60, 1e-60)]:
        squared = brute_force_squared(mask, spacing)
        np.testing.assert_array_equal(edt(mask, spacing), np.sqrt(squared).astype(np.float32))


def test_nothing_is_kept_over_two_thousand_calls():
    resource = pytest.importorskip("resource", reason="no resource usage on this system")
    mask = random_mask((24, 24, 24), 0.9)

    def peak_after(calls):
        for _ in range(calls):
            signed_edt(mask, threads=2)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak_after(100)
    assert peak_after(2000) - before < 4096  # KiB; one field has 54
    assert math.isfinite(before)
