"""Surface metrics: brute force in float64, equality with MONAI, absent classes, the edge of the volume, errors."""

import math
import warnings

import numpy as np
import pytest
import torch
from distance_common import SPACINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from fastloss.metrics import confusion_counts, surface_distances

NAN, INF = math.nan, math.inf


def blob_labels(*shape, classes=4, seed=0, spread=3):
    """Where the smoothed noise of a class is the largest."""
    noise = np.random.default_rng(seed).standard_normal((classes, *shape))
    smooth = [[ndimage.gaussian_filter(sample, spread) for sample in one] for one in noise]
    return torch.from_numpy(np.argmax(smooth, 0).astype(np.uint8))


def pair(*shape, classes=4, seed=0):
    """Labels and others near to them."""
    truth = blob_labels(*shape, classes=classes, seed=seed)
    guess = torch.roll(truth, 1, -1)
    swap = torch.from_numpy(np.random.default_rng(seed).random(truth.shape) < 0.01)
    return torch.where(swap, (guess + 1) % classes, guess), truth


def brute_force_surface(mask):
    """Foreground voxels with a face neighbour that is background or beyond the volume."""
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = voxel.copy()
                near[axis] += step
                if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                    found.append(voxel)
    return np.unique(np.array(found, float).reshape(-1, mask.ndim), axis=0)


def brute_force(guess, truth, spacing):
    """Distances from each surface to the other, every voxel with every voxel, in float64."""
    here, there = (brute_force_surface(mask) * np.array(spacing) for mask in (guess, truth))
    every = np.sqrt(((here[:, None] - there[None]) ** 2).sum(2))
    return every.min(1, initial=INF), every.min(0, initial=INF)


def assert_close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected).double(), rtol=1e-6, atol=0, equal_nan=True)


def assert_metrics(surfaces, distances, tolerance):
    """All metrics of one sample and class against those of float64 distances."""
    to, back = distances
    both = np.concatenate(distances)
    for percentile in (0, 37.5, 50, 95, 100):
        one, other = np.percentile(to, percentile), np.percentile(back, percentile)
        assert_close(surfaces.hausdorff(percentile), [[max(one, other)]])
        assert_close(surfaces.hausdorff(percentile, one_sided=True), [[one]])
    assert_close(surfaces.hausdorff(), [[both.max()]])
    assert_close(surfaces.average(), [[both.mean()]])
    assert_close(surfaces.average(one_sided=True), [[to.mean()]])
    assert_close(surfaces.surface_dice(tolerance), [[(both.astype(np.float32) <= np.float32(tolerance)).mean()]])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5), (0.7, 0.9, 1.1)])
@pytest.mark.parametrize("shape", [(40,), (14, 17), (7, 9, 8), (1, 9, 8)])
def test_brute_force(shape, spacing):
    random = np.random.default_rng(0)
    for foreground in (0.05, 0.5, 0.95):
        guess, truth = (random.random(shape) < foreground for _ in range(2))
        guess.flat[0] = truth.flat[-1] = True
        spacing_mm = spacing[-len(shape) :]
        surfaces = surface_distances(*(torch.from_numpy(x)[None, None] for x in (guess, truth)), spacing_mm)
        to, back = expected = brute_force(guess, truth, spacing_mm)
        np.testing.assert_array_equal(surfaces.to_target[0][0], to.astype(np.float32))
        np.testing.assert_array_equal(surfaces.to_prediction[0][0], back.astype(np.float32))
        for tolerance in (0.0, 0.7, 1.0, 1.5, 100.0):
            assert_metrics(surfaces, expected, tolerance)


@settings(max_examples=100, deadline=None)
@given(st.data(), array_shapes(max_dims=3, max_side=7))
def test_brute_force_on_any_masks(data, shape):
    guess, truth = (data.draw(arrays(np.bool_, shape)) for _ in range(2))
    spacing = data.draw(st.lists(SPACINGS, min_size=len(shape), max_size=len(shape)))
    given = [torch.from_numpy(x)[None, None] for x in (guess, truth)]
    surfaces = surface_distances(*given, spacing)
    swapped = surface_distances(*given[::-1], spacing)
    if guess.any() and truth.any():
        assert_metrics(surfaces, brute_force(guess, truth, spacing), spacing[0])
    for metric in ("hausdorff", "average"):
        assert_close(getattr(surfaces, metric)(), getattr(swapped, metric)())
    assert_close(surfaces.surface_dice(1), swapped.surface_dice(1))
    assert not surfaces.hausdorff(95) > surfaces.hausdorff()
    assert not surfaces.average() > surfaces.hausdorff()


def monai_tables(guess, truth, spacing, classes, tolerances):
    """MONAI's tables of all classes but the background, with the name of each metric's call here."""
    monai = pytest.importorskip("monai.metrics")
    hot = [torch.stack([x == c for c in range(classes)], 1).float() for x in (guess, truth)]
    options = {"spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            (monai.compute_hausdorff_distance(*hot, **options), lambda s: s.hausdorff()),
            (monai.compute_hausdorff_distance(*hot, percentile=95, **options), lambda s: s.hausdorff(95)),
            (
                monai.compute_hausdorff_distance(*hot, percentile=50, directed=True, **options),
                lambda s: s.hausdorff(50, one_sided=True),
            ),
            (
                monai.compute_average_surface_distance(*hot, symmetric=True, **options),
                lambda s: s.average(),
            ),
            (monai.compute_average_surface_distance(*hot, **options), lambda s: s.average(one_sided=True)),
            (
                monai.compute_surface_dice(*hot, tolerances[1:], **options),
                lambda s: s.surface_dice(tolerances),
            ),
        ]


@pytest.mark.parametrize("shape", [(2, 50, 60), (2, 24, 22, 20), (1, 1, 30, 30), (1, 3, 30, 30)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5), (0.7, 0.9, 1.1)])
def test_monai(shape, spacing):
    spacing = spacing[-(len(shape) - 1) :]
    for seed in range(2):
        guess, truth = pair(*shape, seed=seed)
        given = (guess[:, None], truth[:, None])  # with the channels' axis, since there is an axis of size 1
        surfaces = surface_distances(*given, spacing, classes=4)
        for expected, metric in monai_tables(guess, truth, spacing, 4, [9.0, 0.5, 1.0, 2.0]):
            # MONAI interpolates percentiles at ranks in float32
            torch.testing.assert_close(metric(surfaces), expected.double(), rtol=1e-5, atol=0, equal_nan=True)


def test_monai_where_classes_are_absent():
    guess, truth = (torch.zeros(3, 9, 10, dtype=torch.int64) for _ in range(2))
    guess[0, 2:5, 3:6] = 1
    truth[0, 3:6, 3:7] = 1
    truth[1, 3:6, 3:6] = 1
    guess[2, 3:6, 3:6] = 2
    surfaces = surface_distances(guess, truth, classes=3)
    one_alone = torch.tensor([[False, False], [True, False], [False, True]])
    for expected, metric in monai_tables(guess, truth, (1.0, 1.0), 3, [0.0, 1.0, 1.0]):
        if not expected[one_alone].isfinite().all():
            assert (metric(surfaces)[one_alone] == INF).all()
            expected[one_alone] = INF  # MONAI's percentiles of infinities are NaN
        torch.testing.assert_close(metric(surfaces), expected.double(), rtol=1e-5, atol=0, equal_nan=True)


def test_absent_classes():
    guess, truth = (torch.zeros(1, 4, 5, dtype=torch.uint8) for _ in range(2))
    guess[0, 1, 1:3] = 1
    truth[0, 2, 1:3] = 2
    surfaces = surface_distances(guess, truth, classes=4)
    for table in (surfaces.hausdorff(), surfaces.hausdorff(95), surfaces.average(), surfaces.average(one_sided=True)):
        assert_close(table, [[INF, INF, NAN]])
    assert_close(surfaces.surface_dice(100), [[0, 0, NAN]])
    assert surfaces.to_target[0][0].tolist() == [INF, INF] and surfaces.to_prediction[0][0].size == 0


def test_all_foreground():
    full = torch.ones(1, 1, 4, 5, 6, dtype=torch.bool)
    part = full.clone()
    part[..., 3:] = False
    surfaces = surface_distances(full, part, (1, 1, 2))
    assert_close(surfaces.hausdorff(), [[6.0]])  # the last column to column 2
    assert_close(surface_distances(full, full).hausdorff(), [[0.0]])
    assert_close(surface_distances(full, full).surface_dice(0), [[1.0]])


def test_two_voxels_by_hand():
    guess, truth = (torch.zeros(1, 1, 10, 10, dtype=torch.bool) for _ in range(2))
    guess[0, 0, 2, 3] = truth[0, 0, 5, 7] = True
    surfaces = surface_distances(guess, truth, (2.0, 0.5))
    assert_close(surfaces.hausdorff(), [[math.hypot(6, 2)]])
    surfaces = surface_distances(guess, truth, 0.1)
    assert_close(surfaces.average(), [[0.5]])
    assert surfaces.surface_dice(0.5).item() == 1 and surfaces.surface_dice(0.49).item() == 0


def test_a_distance_equal_to_the_tolerance_is_near():
    """0.1, 0.7 and multiples of them are no numbers of float64, and their distances are rounded."""
    for mm in (0.1, 0.3, 0.7, 1 / 3, 1.1):
        for steps in (1, 3, 7):
            guess, truth = (torch.zeros(1, 1, 10, dtype=torch.bool) for _ in range(2))
            guess[..., 1] = truth[..., 1 + steps] = True
            surfaces = surface_distances(guess, truth, mm)
            assert surfaces.surface_dice(mm * steps).item() == 1, (mm, steps)


def test_forms_of_the_prediction_agree():
    guess, truth = pair(2, 3, 200, 201)  # a plane of several slabs
    expected = surface_distances(guess, truth, (1, 2, 3), classes=4).average()
    hot = torch.stack([guess == c for c in range(4)], 1)
    z = torch.where(hot, 3.0, -3.0)
    for found in (
        surface_distances(guess[:, None].long(), truth[:, None].int(), (1, 2, 3), classes=4),
        surface_distances(guess.transpose(1, 3).contiguous().transpose(1, 3), truth, [1, 2, 3], classes=4),
        surface_distances(hot, truth, (1, 2, 3)),
        surface_distances(z, truth, (1, 2, 3), activation="softmax"),
        surface_distances(z.requires_grad_(), truth, (1, 2, 3), activation="sigmoid"),
        surface_distances(hot, torch.stack([truth == c for c in range(4)], 1), (1, 2, 3)),
    ):
        assert torch.equal(found.average(), expected)
    background = surface_distances(guess, truth, (1, 2, 3), classes=4, include_background=True)
    assert torch.equal(background.average()[:, 1:], expected)
    assert torch.equal(
        background.surface_dice([1, 2, 3, 4])[:, 1:],
        surface_distances(guess, truth, (1, 2, 3), classes=4).surface_dice(torch.tensor([1, 2, 3, 4])),
    )


@pytest.mark.parametrize("classes", [254, 255, 256, 300])
def test_many_classes(classes):
    truth = torch.zeros(1, 30, 30, dtype=torch.int64)
    truth[0, 3:9, 3:9], truth[0, 12:20, 3:9] = classes - 1, classes - 2
    truth[0, 25:] = -100
    surfaces = surface_distances(truth, truth, classes=classes, ignore_index=-100)
    assert surfaces.hausdorff()[0, -2:].tolist() == [0, 0] and surfaces.hausdorff()[0, :-2].isnan().all()


def test_voxels_that_do_not_count_are_outside():
    guess, truth = pair(1, 12, 13, 14)
    mask = torch.from_numpy(np.random.default_rng(0).random((1, 12, 13, 14)) < 0.9)
    mask[:, 7:] = False
    empty = [torch.where(mask, x, 0) for x in (guess, truth)]
    expected = surface_distances(*empty, classes=4).average()
    assert torch.equal(surface_distances(guess, truth, classes=4, mask=mask).average(), expected)
    ignored = torch.where(mask, truth.short(), -1)
    assert torch.equal(surface_distances(guess, ignored, classes=4, ignore_index=-1).average(), expected)
    masks = [torch.stack([x == c for c in range(4)], 1) for x in (guess, truth)]
    assert torch.equal(surface_distances(*masks, mask=mask[:, None]).average(), expected)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 5, 0)])
def test_no_voxels(shape):
    empty = torch.zeros(shape, dtype=torch.uint8)
    found = surface_distances(empty, empty, classes=3).hausdorff()
    assert found.shape == (shape[0], 2) and found.isnan().all()


def test_perfect_overlap_and_perfect_surfaces_are_the_same():
    _, truth = pair(1, 16, 17, 18)
    surfaces = surface_distances(truth, truth, classes=4)
    assert (surfaces.hausdorff() == 0).all() and (surfaces.surface_dice(0) == 1).all()
    assert (confusion_counts(truth, truth, classes=4).dice() == 1).all()


Y = torch.zeros(2, 4, 5, dtype=torch.uint8)
ERRORS = {
    "spacing of another length": (lambda: surface_distances(Y, Y, (1, 1, 1), classes=2), ValueError, "spacing: .* 2"),
    "spacing of zero": (lambda: surface_distances(Y, Y, (1, 0), classes=2), ValueError, "spacing: expected positive"),
    "spacing of a text": (lambda: surface_distances(Y, Y, "mm", classes=2), TypeError, "spacing: expected numbers"),
    "labels without classes": (lambda: surface_distances(Y, Y), ValueError, "classes: got None"),
    "label out of range": (
        lambda: surface_distances(Y, Y + 7, classes=2),
        ValueError,
        r"target: label 7 at index \(0, 0, 0\)",
    ),
    "percentile": (
        lambda: surface_distances(Y, Y, classes=2).hausdorff(101),
        ValueError,
        "percentile: got 101",
    ),
    "tolerance below zero": (
        lambda: surface_distances(Y, Y, classes=2).surface_dice(-1),
        ValueError,
        "tolerance_mm: got -1",
    ),
    "tolerances of another length": (
        lambda: surface_distances(Y, Y, classes=2).surface_dice([1.0]),
        ValueError,
        "tolerance_mm: got 1 .* expected 2",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu():
    guess, truth = pair(2, 20, 21, 22)
    found = surface_distances(guess.cuda(), truth.cuda(), classes=4).average()
    assert found.is_cuda and torch.equal(found.cpu(), surface_distances(guess, truth, classes=4).average())
