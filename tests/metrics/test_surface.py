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


def marching_squares(mask, spacing):
    """Centres in mm and lengths of the pieces of contour between pixel centres, cell by cell, of a mask in 2D."""
    padded, diagonal = np.pad(mask, 1), math.hypot(*spacing) / 2
    found = []
    for i, j in np.ndindex(mask.shape[0] + 1, mask.shape[1] + 1):
        (a, b), (c, d) = padded[i : i + 2, j : j + 2]
        inside = int(a) + int(b) + int(c) + int(d)
        if inside in (1, 3):
            length = diagonal
        elif inside == 2:
            length = spacing[1] if a == b else spacing[0] if a == c else 2 * diagonal
        else:
            continue
        found.append((i * spacing[0], j * spacing[1], length))
    return np.array(found).reshape(-1, 3)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (3.0, 0.5), (0.7, 0.9)])
def test_subvoxels_by_hand_in_2d(spacing):
    guess, truth = pair(1, 21, 18, classes=2)
    surfaces = surface_distances(guess, truth, spacing, classes=2, use_subvoxels=True)
    here, there = (marching_squares(x[0].numpy() == 1, spacing) for x in (guess, truth))
    every = np.sqrt(((here[:, None, :2] - there[None, :, :2]) ** 2).sum(2))
    to, back = every.min(1), every.min(0)
    assert_close(surfaces.average(one_sided=True), [[(to * here[:, 2]).sum() / here[:, 2].sum()]])
    total = here[:, 2].sum() + there[:, 2].sum()
    assert_close(surfaces.average(), [[((to * here[:, 2]).sum() + (back * there[:, 2]).sum()) / total]])
    tolerance = float(np.float32(np.quantile(to, 0.7)))
    near = here[to.astype(np.float32) <= tolerance, 2].sum() + there[back.astype(np.float32) <= tolerance, 2].sum()
    assert_close(surfaces.surface_dice(tolerance), [[near / total]])
    for percentile in (0, 30, 95, 100):

        def robust(mm, length, share=percentile / 100):
            return min(t for t in mm if length[mm <= t].sum() >= share * length.sum() * (1 - 1e-12))

        one, other = robust(to, here[:, 2]), robust(back, there[:, 2])
        assert_close(surfaces.hausdorff(percentile), [[max(one, other)]])
        assert_close(surfaces.hausdorff(percentile, one_sided=True), [[one]])
        both = robust(np.concatenate([to, back]), np.concatenate([here[:, 2], there[:, 2]]))
        assert_close(surfaces.hausdorff(percentile, pooled=True), [[both]])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5), (0.7, 0.9, 1.1), (2.0, 0.3)])
def test_subvoxels_are_those_of_monai(spacing):
    monai_metrics = pytest.importorskip("monai.metrics")
    shape = (13, 14, 15)[: len(spacing)]
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, *shape)))  # cells of every code
    for guess, truth in (pair(2, *shape, classes=3, seed=1), (noise, noise.flip(1))):
        masks = [torch.stack([x == c for c in range(3)], 1) for x in (guess, truth)]
        expected = monai_metrics.compute_surface_dice(
            *masks, class_thresholds=[0.4, 1.0], include_background=False, spacing=spacing, use_subvoxels=True
        )
        surfaces = surface_distances(*masks, spacing, use_subvoxels=True)
        torch.testing.assert_close(surfaces.surface_dice([0, 0.4, 1.0]), expected.double(), rtol=1e-5, atol=1e-7)


def test_areas_are_those_of_marching_cubes():
    box = torch.zeros(1, 1, 9, 9, 9, dtype=torch.bool)
    box[..., 2:7, 3:6, 1:8] = True  # 5, 3 and 7 voxels
    mm = (2.0, 3.0, 0.5)
    (area,) = surface_distances(box, box, mm, use_subvoxels=True).target_area[0]
    corner = math.hypot(6, 1.5, 1) / 8  # a triangle between the midpoints of the three edges
    edges = 4 * (4 * math.hypot(1.0, 6.0) + 2 * math.hypot(1.5, 6.0) + 6 * math.hypot(1.5, 1.0)) / 2
    faces = 2 * (2 * 6 * 1.5 + 4 * 6 * 1.0 + 4 * 2 * 6.0)
    assert area.sum() == pytest.approx(8 * corner + edges + faces, rel=1e-12)
    ball = sum(x**2 for x in np.indices((41, 41, 41)) - 20.0) <= 15.2**2
    (area,) = surface_distances(*[torch.from_numpy(ball)[None, None]] * 2, use_subvoxels=True).target_area[0]
    assert area.sum() == pytest.approx(4 * math.pi * 15.2**2, rel=0.1)


def test_subvoxels_of_absent_classes_and_lines():
    guess, truth = (torch.zeros(1, 9, dtype=torch.uint8) for _ in range(2))
    guess[0, 2:4], truth[0, 3:7] = 1, 1
    surfaces = surface_distances(guess, truth, 2.0, classes=3, use_subvoxels=True)  # ends at 2, 4 and at 3, 7
    assert_close(surfaces.hausdorff(), [[6.0, NAN]])
    assert_close(surfaces.average(), [[(2 + 2 + 2 + 6) / 4, NAN]])
    assert_close(surfaces.surface_dice(2.0), [[3 / 4, NAN]])
    alone = surface_distances(guess, truth * 0, classes=2, use_subvoxels=True)
    assert_close(alone.hausdorff(95), [[INF]])
    assert_close(alone.average(), [[INF]])
    assert_close(alone.surface_dice(9), [[0.0]])


def test_pooled_percentile_is_medpys():
    guess, truth = pair(1, 14, 15, 16, classes=2)
    spacing = (3.0, 1.0, 0.5)
    both = np.concatenate(brute_force(guess[0].numpy() == 1, truth[0].numpy() == 1, spacing))
    surfaces = surface_distances(guess, truth, spacing, classes=2)
    for percentile in (0, 50, 95, 100):
        assert_close(surfaces.hausdorff(percentile, pooled=True), [[np.percentile(both, percentile)]])
    assert surfaces.hausdorff(95, pooled=True).item() != surfaces.hausdorff(95).item()
    assert torch.equal(surfaces.hausdorff(pooled=True), surfaces.hausdorff())


def test_a_spacing_for_each_sample():
    guess, truth = pair(3, 9, 10, 11)
    rows = [(3.0, 1.0, 0.5), (1.0, 1.0, 1.0), (0.7, 0.9, 1.1)]
    for spacing in (rows, np.array(rows, np.float32), torch.tensor(rows, dtype=torch.float64)):
        together = surface_distances(guess, truth, spacing, classes=4).average()
        alone = [surface_distances(guess[[b]], truth[[b]], list(spacing[b]), classes=4).average() for b in range(3)]
        assert torch.equal(together, torch.cat(alone))
    assert surface_distances(guess[:0], truth[:0], np.ones((0, 3)), classes=4).average().shape == (0, 3)


def test_the_spacing_says_how_many_axes_there_are():
    guess, truth = pair(1, 1, 16, 17)  # volumes of one slice, or slices with a channel axis
    volume, slices = surface_distances(guess, truth, (3.0, 1.0, 0.5), classes=4), (guess[0], truth[0])
    assert torch.equal(
        volume.average(), surface_distances(guess[:, None], truth[:, None], (3, 1, 0.5), classes=4).average()
    )
    assert torch.equal(volume.average(), surface_distances(guess, truth, [(3, 1, 0.5)], classes=4).average())
    plane = surface_distances(*slices, (1.0, 0.5), classes=4).average()
    assert torch.equal(surface_distances(guess, truth, (1.0, 0.5), classes=4).average(), plane)
    assert not torch.equal(volume.average(), plane)  # in a volume of one slice every voxel is on the surface
    for axes, spacing, expected in ((3, 0.5, (0.5, 0.5, 0.5)), (2, 0.5, (0.5, 0.5)), (3, None, (1, 1, 1))):
        found = surface_distances(guess, truth, spacing, classes=4, spatial_axes=axes)
        assert torch.equal(found.average(), surface_distances(guess, truth, expected, classes=4).average())


def test_numbers_of_numpy_and_torch():
    guess, truth = pair(1, 14, 15)
    expected = surface_distances(guess, truth, 1.5, classes=4)
    for number in (np.float32, np.float64, torch.tensor, lambda x: torch.tensor([x, x], requires_grad=True)):
        found = surface_distances(guess, truth, number(1.5), classes=4)
        assert torch.equal(found.average(), expected.average())
    for number in (np.int64, np.int8, np.float32, torch.tensor):
        assert torch.equal(expected.hausdorff(number(95)), expected.hausdorff(95))
        assert torch.equal(expected.surface_dice(number(2)), expected.surface_dice(2.0))
    assert torch.equal(expected.surface_dice(np.full(4, 2)), expected.surface_dice(2.0))


def test_arrays_and_the_default_device():
    guess, truth = pair(1, 14, 15)
    expected = surface_distances(guess, truth, classes=4)
    with torch.device("meta"):
        found = surface_distances(guess.numpy()[:, ::-1], truth.numpy()[:, ::-1].astype(">u2"), classes=4)
        tables = found.average(), found.surface_dice(1.0), found.hausdorff(95)
    for table, right in zip(
        tables, (expected.average(), expected.surface_dice(1.0), expected.hausdorff(95)), strict=True
    ):
        assert torch.equal(table, right)


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


@pytest.mark.parametrize("shape", [(1500, 3, 4), (3, 4, 1500), (30_000,)])
def test_long_axes(shape):
    guess, truth = (torch.zeros(1, 1, *shape, dtype=torch.bool) for _ in range(2))
    guess.view(-1)[0] = truth.view(-1)[-1] = True
    expected = math.sqrt(sum((size - 1) ** 2 for size in shape))
    assert_close(surface_distances(guess, truth).hausdorff(95), [[expected]])


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
    "spacings of other samples": (
        lambda: surface_distances(Y, Y, np.ones((3, 2)), classes=2),
        ValueError,
        "spacing: expected 2 rows, one for each sample of prediction",
    ),
    "spacings of another length": (
        lambda: surface_distances(Y, Y, np.ones((2, 3)), classes=2),
        ValueError,
        "spacing: expected one number or 2",
    ),
    "a spacing of zero in a row": (
        lambda: surface_distances(Y, Y, [[1, 1], [1, 0]], classes=2),
        ValueError,
        "spacing: expected positive",
    ),
    "spacing of a truth value": (
        lambda: surface_distances(Y, Y, True, classes=2),
        TypeError,
        "spacing: expected numbers in mm, got True",
    ),
    "pooled and one-sided": (
        lambda: surface_distances(Y, Y, classes=2).hausdorff(95, pooled=True, one_sided=True),
        ValueError,
        "pooled: got True",
    ),
    "percentile of nothing": (
        lambda: surface_distances(Y, Y, classes=2).hausdorff(NAN),
        ValueError,
        "percentile: got nan",
    ),
    "percentile of a text": (
        lambda: surface_distances(Y, Y, classes=2).hausdorff("95"),
        TypeError,
        "percentile: expected None or a number from 0 to 100, got '95'",
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
        r"tolerance_mm: got \[1.0\], expected a number or 2",
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
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), surface_distances(guess, truth, classes=4).average(), rtol=1e-12, atol=0)
