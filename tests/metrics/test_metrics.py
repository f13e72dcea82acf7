"""Overlap metrics: exact counts of every form of input, the formulas, averages over a data set, errors."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fastloss.metrics import Accumulator, ConfusionCounts, confusion_counts, confusion_matrix, surface_distances

NAN = math.nan
FIELDS = ("true_positive", "false_positive", "false_negative", "true_negative")
LABEL_DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


def labels(*shape, classes=4, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, classes, shape, np.uint8))


def one_hot(x, classes):
    return torch.stack([x == c for c in range(classes)], 1)


def counts_by_hand(predicted, true, counted=None):
    """Python's integers, voxel by voxel, of masks [B, C, *S]; [4, B, C]."""
    predicted, true = (x.flatten(2).tolist() for x in (predicted, true))
    counted = None if counted is None else counted.flatten(1).tolist()
    table = np.zeros((4, len(predicted), len(predicted[0])), int)
    for b, c in itertools.product(*map(range, table.shape[1:])):
        for v, (p, y) in enumerate(zip(predicted[b][c], true[b][c], strict=True)):
            if counted is None or counted[b][v]:
                table[{(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[int(p), int(y)], b, c] += 1
    return table


def assert_counts(counts, expected):
    for name, values in zip(FIELDS, expected, strict=True):
        table = getattr(counts, name)
        assert table.dtype == torch.int64
        np.testing.assert_array_equal(table.numpy(), values, err_msg=name)


def table(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("space", [(301,), (17, 23), (5, 7, 9), (1, 4, 6), (1, 1)])
def test_labels(space):
    guess, truth = labels(3, *space), labels(3, *space, seed=1)
    expected = counts_by_hand(one_hot(guess, 4), one_hot(truth, 4))
    assert_counts(confusion_counts(guess[:, None], truth, classes=4), expected)
    assert_counts(confusion_counts(guess[:, None], truth[:, None], classes=4), expected)
    if space[0] > 1:
        assert_counts(confusion_counts(guess, truth[:, None], classes=4), expected)


@pytest.mark.parametrize("space", [(100_003,), (300, 301), (3, 40_000), (41, 40, 39), (2, 200, 201)])
def test_volumes_of_many_slabs(space):
    guess, truth = labels(2, *space), labels(2, *space, seed=1)
    counts = confusion_counts(guess, truth, classes=4)
    masks = one_hot(guess, 4), one_hot(truth, 4)
    for found in (counts, confusion_counts(*masks)):
        both = (masks[0] & masks[1]).flatten(2).sum(2)
        assert torch.equal(found.true_positive, both)
        assert torch.equal(found.false_positive, masks[0].flatten(2).sum(2) - both)
        assert torch.equal(found.false_negative, masks[1].flatten(2).sum(2) - both)
        total = sum(getattr(found, name) for name in FIELDS)
        assert torch.equal(total, torch.full((2, 4), math.prod(space)))


def test_more_voxels_than_float32_counts():
    voxels = 2**24 + 3
    empty = torch.zeros(1, dtype=torch.uint8).expand(1, voxels)
    truth = empty.clone()
    truth[0, -1] = 1
    counts = confusion_counts(empty, truth, classes=2)
    assert_counts(counts, [[[voxels - 1, 0]], [[1, 0]], [[0, 1]], [[0, voxels - 1]]])
    assert counts.specificity()[0, 1].item() == 1 and counts.dice()[0, 0].item() == 2 * (voxels - 1) / (2 * voxels - 1)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_label_dtypes(dtype):
    guess, truth = labels(2, 6, 7), labels(2, 6, 7, seed=1)
    expected = confusion_counts(guess, truth, classes=4)
    found = confusion_counts(guess.to(dtype), truth.to(dtype), classes=4)
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in FIELDS)
    assert_counts(
        confusion_counts(guess > 1, (truth > 1).to(dtype), classes=2),
        counts_by_hand(one_hot(guess > 1, 2), one_hot(truth > 1, 2)),
    )


@pytest.mark.parametrize("classes", [256, 300, 1000])
def test_many_classes(classes):
    guess, truth = (torch.randint(0, classes, (2, 30, 40), generator=torch.manual_seed(s)) for s in (0, 1))
    truth[0, :20] = guess[0, :20]
    expected = counts_by_hand(one_hot(guess, classes), one_hot(truth, classes))
    assert_counts(confusion_counts(guess.short(), truth, classes=classes), expected)


def test_layouts_and_inputs_stay():
    guess, truth = labels(2, 5, 6, 7), labels(2, 5, 6, 7, seed=1)
    expected = counts_by_hand(one_hot(guess, 4), one_hot(truth, 4))
    before = guess.clone(), truth.clone()
    views = [guess.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0), guess.repeat_interleave(2, 3)[..., ::2]]
    for view in views:
        assert torch.equal(view, guess) and not view.is_contiguous()
        assert_counts(confusion_counts(view, truth, classes=4), expected)
    expanded = truth[:1].expand(2, -1, -1, -1)
    assert_counts(confusion_counts(guess, expanded, classes=4), counts_by_hand(one_hot(guess, 4), one_hot(expanded, 4)))
    assert torch.equal(before[0], guess) and torch.equal(before[1], truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_logits(dtype):
    z = torch.randn(2, 3, 6, 7, generator=torch.manual_seed(0)).to(dtype).requires_grad_()
    truth = labels(2, 6, 7, classes=3)
    largest = counts_by_hand(one_hot(z.argmax(1), 3), one_hot(truth, 3))
    assert_counts(confusion_counts(z, truth, activation="softmax"), largest)
    assert_counts(confusion_counts(z.double().softmax(1), truth, activation="softmax"), largest)
    assert_counts(confusion_counts(z, one_hot(truth, 3), activation="softmax"), largest)
    positive = counts_by_hand(z > 0, one_hot(truth, 3))
    assert_counts(confusion_counts(z, truth, activation="sigmoid"), positive)
    assert_counts(confusion_counts(z.double().sigmoid() > 0.5, one_hot(truth, 3)), positive)


def test_confusion_matrix():
    guess, truth = labels(2, 60, 61), labels(2, 60, 61, seed=1).short()
    truth[:, :3] = 255
    mask = labels(2, 60, 61, seed=2) > 0
    z = torch.where(one_hot(guess, 4), 2.0, -1.0)
    expected = np.zeros((2, 4, 4), int)
    for b, i, j in itertools.product(range(2), range(3, 60), range(61)):
        expected[b, truth[b, i, j], guess[b, i, j]] += int(mask[b, i, j])
    found = confusion_matrix(guess, truth, classes=4, ignore_index=255, mask=mask)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)
    assert torch.equal(confusion_matrix(z, truth, activation="softmax", ignore_index=255, mask=mask), found)
    counts = confusion_counts(guess, truth, classes=4, ignore_index=255, mask=mask)
    assert torch.equal(found.diagonal(0, 1, 2), counts.true_positive)
    assert torch.equal(found.sum(1), counts.true_positive + counts.false_positive)
    nothing = confusion_matrix(guess[:0], truth[:0], classes=4)
    assert nothing.shape == (0, 4, 4) and nothing.dtype == torch.int64


def test_a_tie_goes_to_the_first_class():
    assert_counts(
        confusion_counts(torch.zeros(1, 3, 4), torch.zeros(1, 4, dtype=torch.uint8), activation="softmax"),
        [[[4, 0, 0]], [[0, 0, 0]], [[0, 0, 0]], [[0, 4, 4]]],
    )


def test_nan_does_not_pass_for_background():
    z, truth = torch.randn(2, 3, 5, 6, generator=torch.manual_seed(0)), labels(2, 5, 6, classes=3)
    z[1, 2, 3, 4] = NAN
    for activation in ("softmax", "sigmoid"):
        with pytest.raises(ValueError, match=r"prediction: NaN at index \(1, 3, 4\)"):
            confusion_counts(z, truth, activation=activation)
    z[1, 2, 3, 4] = math.inf
    expected = counts_by_hand(one_hot(z.argmax(1), 3), one_hot(truth, 3))
    assert_counts(confusion_counts(z, truth, activation="softmax"), expected)


def test_masks_of_bytes_are_true_where_they_are_not_zero():
    guess, truth = one_hot(labels(2, 6, 7), 3), one_hot(labels(2, 6, 7, seed=1), 3)
    mask = labels(2, 6, 7, classes=2, seed=2)
    expected = counts_by_hand(guess, truth, mask)
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.int64):
        found = confusion_counts(guess, truth.to(dtype) * 255, mask=mask.to(dtype) * 255)
        assert_counts(found, expected)


@pytest.mark.parametrize(
    ("dtype", "label"),
    [(torch.uint64, 2**64 - 1), (torch.uint64, 2**63), (torch.int64, -(2**63)), (torch.uint32, 2**32 - 1)],
)
def test_ignored_labels_beyond_31_bits(dtype, label):
    truth = labels(1, 6, 7, seed=1).numpy().astype(str(dtype).removeprefix("torch."))
    truth[0, :2] = label
    guess = labels(1, 6, 7)
    expected = counts_by_hand(one_hot(guess[:, 2:], 4), one_hot(labels(1, 6, 7, seed=1)[:, 2:], 4))
    wrapped = label - 2**64 if label > 0 else label + 2**64  # the same bits, but another label
    assert_counts(confusion_counts(guess, truth, classes=4, ignore_index=(label, 2**70)), expected)
    with pytest.raises(ValueError, match=r"target: label -?\d+ at index \(0, 0, 0\)"):
        confusion_counts(guess, truth, classes=4, ignore_index=wrapped)


def test_arrays_of_any_layout():
    guess, truth = labels(2, 5, 6), labels(2, 5, 6, seed=1)
    expected = counts_by_hand(one_hot(guess, 4), one_hot(truth, 4))
    backwards = np.ascontiguousarray(guess.numpy()[:, ::-1, ::-1])[:, ::-1, ::-1]
    swapped = truth.numpy().astype(">i4")
    swapped.flags.writeable = False
    assert_counts(confusion_counts(backwards, swapped, classes=np.int64(4)), expected)
    assert_counts(confusion_counts(guess, truth, classes=torch.tensor(4)), expected)


def test_the_default_device_does_not_matter():
    guess, truth = labels(2, 5, 6), labels(2, 5, 6, seed=1)
    with torch.device("meta"):
        counts = confusion_counts(guess.numpy(), truth.numpy(), classes=4)
        matrix = confusion_matrix(guess, truth, classes=4)
        scores = Accumulator()
        scores.update(dice=counts.dice())
        mean = scores.compute()["dice"].mean
    assert_counts(counts, counts_by_hand(one_hot(guess, 4), one_hot(truth, 4)))
    assert matrix.sum() == 60 and mean.isfinite().all()


def test_volumes_of_one_slice():
    guess, truth = labels(1, 1, 5, 6), labels(1, 1, 5, 6, seed=1)
    volume = truth[:, None]  # [1, 1, 1, 5, 6]
    expected = counts_by_hand(one_hot(guess, 4), one_hot(truth, 4))
    for prediction, target in ((guess, truth), (guess, volume), (volume * 0 + guess, truth)):
        assert_counts(confusion_counts(prediction, target, classes=4, spatial_axes=3), expected)
    with pytest.raises(ValueError, match=r"target: got shape \[1, 1, 1, 5, 6\], expected \[1, 5, 6\]"):
        confusion_counts(guess, volume, classes=4, spatial_axes=2)
    with pytest.raises(ValueError, match=r"prediction: got shape \[1, 5, 6\], .* just 1 spatial axes"):
        confusion_counts(guess, truth, classes=4, spatial_axes=1)


def test_one_channel():
    z, truth = torch.randn(2, 1, 6, 7, generator=torch.manual_seed(0)), labels(2, 6, 7, classes=2)
    expected = counts_by_hand(z > 0, truth[:, None] > 0)
    for target in (truth, truth[:, None], truth.bool(), truth[:, None].bool()):
        assert_counts(confusion_counts(z, target, activation="sigmoid"), expected)
        assert_counts(confusion_counts(z > 0, target, include_background=False), expected)


def test_masks_may_overlap():
    random = np.random.default_rng(0)
    guess, truth = (torch.from_numpy(random.random((2, 3, 5, 6)) < 0.5) for _ in range(2))
    expected = counts_by_hand(guess, truth)
    assert_counts(confusion_counts(guess, truth), expected)
    assert_counts(confusion_counts(guess, truth.to(torch.uint8)), expected)


def test_background_is_left_out():
    guess, truth = labels(2, 6, 7), labels(2, 6, 7, seed=1)
    expected = counts_by_hand(one_hot(guess, 4), one_hot(truth, 4))[:, :, 1:]
    assert_counts(confusion_counts(guess, truth, classes=4, include_background=False), expected)


@pytest.mark.parametrize("ignore", [255, (255,), (255, 1), (255, 0, -100)])
def test_ignored_and_masked_voxels(ignore):
    truth = labels(2, 6, 7, seed=1).to(torch.int16)
    truth[:, :2] = 255
    truth[0, 3, :3] = -100 if -100 in np.atleast_1d(ignore) else 255
    guess = labels(2, 6, 7).to(torch.int16)
    guess[truth == 255] = 9999  # not looked at
    mask = torch.from_numpy(np.random.default_rng(2).random((2, 6, 7)) < 0.7)
    counted = mask & ~torch.isin(truth.int(), torch.tensor(ignore))
    expected = counts_by_hand(one_hot(guess, 4), one_hot(truth, 4), counted)
    for weight in (mask, mask[:, None], mask.int() * 3):
        assert_counts(confusion_counts(guess, truth, classes=4, ignore_index=ignore, mask=weight), expected)
    z = torch.randn(2, 4, 6, 7, generator=torch.manual_seed(0))
    z[(~counted)[:, None].expand_as(z)] = NAN
    expected = counts_by_hand(z > 0, one_hot(truth, 4), counted)
    assert_counts(confusion_counts(z, truth, activation="sigmoid", ignore_index=ignore, mask=mask), expected)


def test_dense_masks_with_a_mask():
    guess, truth = one_hot(labels(2, 6, 7), 4), one_hot(labels(2, 6, 7, seed=1), 4)
    mask = torch.from_numpy(np.random.default_rng(2).random((2, 6, 7)) < 0.7)
    assert_counts(confusion_counts(guess, truth, mask=mask), counts_by_hand(guess, truth, mask))


def test_formulas():
    counts = ConfusionCounts(*(torch.tensor([[n]]) for n in (6, 2, 4, 88)))
    assert counts.dice().item() == 12 / 18
    assert counts.jaccard().item() == 6 / 12
    assert counts.sensitivity().item() == 6 / 10
    assert counts.specificity().item() == 88 / 90
    assert counts.precision().item() == 6 / 8


def test_healthy_subjects_stay_in_the_mean_specificity():
    empty = torch.zeros(100, 1, 8, 8, dtype=torch.bool)
    found = empty.clone()
    found[0, 0, 0, 0] = True
    assert confusion_counts(found, empty).specificity().nanmean().item() == pytest.approx(1 - 1 / 6400, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_scores_are_nan_where_they_are_nothing_over_nothing_and_nowhere_else(numbers):
    tp, fp, fn, tn = numbers
    counts = ConfusionCounts(*(torch.tensor([[n]]) for n in numbers))
    for found, hits, all_ in (
        (counts.dice(), 2 * tp, 2 * tp + fp + fn),
        (counts.jaccard(), tp, tp + fp + fn),
        (counts.sensitivity(), tp, tp + fn),
        (counts.specificity(), tn, tn + fp),
        (counts.precision(), tp, tp + fp),
    ):
        assert found.isnan().item() if all_ == 0 else found.item() == hits / all_


def test_absent_classes():
    guess = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    truth = torch.tensor([[0, 0, 0, 2], [0, 0, 0, 0]])
    counts = confusion_counts(guess, truth, classes=4)
    torch.testing.assert_close(counts.dice(), table([0.8, 0, 0, NAN], [1, NAN, NAN, NAN]), equal_nan=True)
    torch.testing.assert_close(counts.jaccard(), table([2 / 3, 0, 0, NAN], [1, NAN, NAN, NAN]), equal_nan=True)
    torch.testing.assert_close(counts.sensitivity(), table([2 / 3, NAN, 0, NAN], [1, NAN, NAN, NAN]), equal_nan=True)
    torch.testing.assert_close(counts.precision(), table([1, 0, NAN, NAN], [1, NAN, NAN, NAN]), equal_nan=True)
    torch.testing.assert_close(counts.specificity(), table([1, 0.5, 1, 1], [NAN, 1, 1, 1]), equal_nan=True)
    pooled = counts.pooled()
    assert pooled.true_positive.tolist() == [6, 0, 0, 0]
    torch.testing.assert_close(pooled.dice(), torch.tensor([12 / 13, 0, 0, NAN]).double(), equal_nan=True)


def test_pooled_samples_by_hand():
    truth = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 1, 1]])
    guess = torch.tensor([[0, 1, 1, 1, 2, 2], [0, 0, 2, 0, 1, 1]])
    counts = confusion_counts(guess, truth, classes=4).pooled()
    # class 0: TP 4 FN 2 TN 6; class 1: TP 4 FP 1 FN 1 TN 6; class 2: TP 1 FP 2 TN 9
    expected = {
        "dice": [4 / 5, 4 / 5, 1 / 2, NAN],
        "sensitivity": [2 / 3, 4 / 5, 1, NAN],
        "specificity": [1, 6 / 7, 9 / 11, 1],
        "precision": [1, 4 / 5, 1 / 3, NAN],
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(counts, name)(), torch.tensor(values).double(), equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 5, 0)])
def test_no_voxels(shape):
    empty = torch.zeros(shape, dtype=torch.uint8)
    counts = confusion_counts(empty, empty, classes=3)
    assert counts.true_negative.tolist() == [[0] * 3] * shape[0] and counts.dice().isnan().all()


def test_nothing_counts():
    truth = torch.full((1, 4, 5), 255)
    counts = confusion_counts(torch.zeros(1, 2, 4, 5), truth, activation="softmax", ignore_index=255)
    assert_counts(counts, np.zeros((4, 1, 2)))


PAIRS = array_shapes(min_dims=2, max_dims=4, max_side=6).flatmap(
    lambda shape: st.tuples(*(arrays(np.uint8, shape, elements=st.integers(0, 2)) for _ in range(2)))
)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_identities(pair):
    guess, truth = map(torch.from_numpy, pair)
    counts = confusion_counts(guess, truth, classes=3)
    swapped = confusion_counts(truth, guess, classes=3)
    assert torch.equal(counts.false_positive, swapped.false_negative)
    dice, jaccard = counts.dice(), counts.jaccard()
    torch.testing.assert_close(dice, 2 * jaccard / (1 + jaccard), equal_nan=True)
    torch.testing.assert_close(dice, swapped.dice(), equal_nan=True)
    voxels = math.prod(guess.shape[1:])
    assert (sum(getattr(counts, name) for name in FIELDS) == voxels).all()
    assert ((counts.true_positive + counts.false_negative).sum(1) == voxels).all()
    same = confusion_counts(guess, guess, classes=3)
    for metric in (same.dice(), same.jaccard(), same.sensitivity(), same.specificity(), same.precision()):
        assert (metric[~metric.isnan()] == 1).all()
    order = torch.tensor([2, 0, 1])
    permuted = confusion_counts(order[guess.long()], order[truth.long()], classes=3).dice()
    torch.testing.assert_close(permuted[:, order], dice, equal_nan=True)


def test_metatensors_are_unwrapped():
    monai_data = pytest.importorskip("monai.data")
    guess = labels(1, 5, 6)
    found = confusion_counts(monai_data.MetaTensor(guess), monai_data.MetaTensor(guess), classes=4).dice()
    assert type(found) is torch.Tensor and (found == 1).all()


def test_accumulator():
    random = np.random.default_rng(0)
    rows = torch.from_numpy(random.random((7, 3)))
    rows[2, 1] = rows[:, 2] = NAN
    rows[0, 2] = 0.25
    scores = Accumulator()
    for part in rows.split(2):
        scores.update(dice=part, twice=2 * part.float())
    found = scores.compute()
    assert list(found) == ["dice", "twice"]
    np.testing.assert_allclose(found["dice"].mean, np.nanmean(rows.numpy(), 0))
    np.testing.assert_allclose(found["dice"].std[:2], np.nanstd(rows.numpy()[:, :2], 0, ddof=1))
    assert found["dice"].std[2].isnan() and found["dice"].left_out.tolist() == [0, 1, 6]
    np.testing.assert_allclose(found["twice"].mean, 2 * found["dice"].mean, rtol=1e-6)


def test_accumulator_with_nothing_and_with_infinity():
    assert Accumulator().compute() == {}
    scores = Accumulator()
    scores.update(hd95=table([math.inf, NAN, 1.0]))
    scores.update(hd95=table([1.0, NAN, 3.0]))
    found = scores.compute()["hd95"]
    torch.testing.assert_close(found.mean, torch.tensor([math.inf, NAN, 2.0]).double(), equal_nan=True)
    torch.testing.assert_close(found.std, torch.tensor([NAN, NAN, math.sqrt(2)]).double(), equal_nan=True)


Y = torch.zeros(2, 4, 5, dtype=torch.uint8)
Z = torch.zeros(2, 3, 4, 5)
NESTED = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged)
BAD_LABELS = Y.clone().long()
BAD_LABELS[1, 2, 3] = 2**40
ERRORS = {
    "no tensor": (lambda: confusion_counts([1], Y, classes=2), TypeError, "prediction: got a list of 1"),
    "complex": (lambda: confusion_counts(Z.cfloat(), Y), TypeError, "prediction: .*, got torch.complex64"),
    "objects": (lambda: confusion_counts(Y, Y.numpy().astype(object), classes=2), TypeError, "target: .*, got object"),
    "long doubles": (
        lambda: confusion_counts(Y.numpy().astype(np.longdouble), Y, activation="sigmoid"),
        TypeError,
        "prediction: expected a dtype that torch has, got",
    ),
    "matrix of masks": (lambda: confusion_matrix(Z.bool(), Y), ValueError, "prediction, target: got a mask for each"),
    "spatial_axes of a wrong type": (
        lambda: confusion_counts(Y, Y, classes=2, spatial_axes=2.0),
        TypeError,
        "spatial_axes: expected an int or None, got 2.0",
    ),
    "floats without activation": (lambda: confusion_counts(Z, Y), ValueError, "activation: got None"),
    "unknown activation": (lambda: confusion_counts(Z, Y, activation="relu"), ValueError, "activation: got 'relu'"),
    "labels with activation": (
        lambda: confusion_counts(Y, Y, activation="softmax", classes=2),
        ValueError,
        "activation: got 'softmax' for a prediction of torch.uint8",
    ),
    "labels without classes": (lambda: confusion_counts(Y, Y), ValueError, "classes: got None"),
    "floats with classes": (
        lambda: confusion_counts(Z, Y, activation="softmax", classes=3),
        ValueError,
        "classes: got 3 for a prediction of floats",
    ),
    "one class": (lambda: confusion_counts(Y, Y, classes=1), ValueError, "classes: got 1"),
    "classes of a wrong type": (lambda: confusion_counts(Y, Y, classes=2.0), TypeError, "classes: .*, got 2.0"),
    "labels of rank 1": (lambda: confusion_counts(Y[0, 0], Y, classes=2), ValueError, r"prediction: got shape \[5\]"),
    "labels of rank 5": (
        lambda: confusion_counts(torch.zeros(2, 2, 2, 2, 2).int(), Y, classes=2),
        ValueError,
        r"prediction: got shape \[2, 2, 2, 2, 2\]",
    ),
    "logits of rank 2": (
        lambda: confusion_counts(Z[..., 0, 0], Y, activation="softmax"),
        ValueError,
        r"prediction: got shape \[2, 3\]",
    ),
    "softmax of one channel": (
        lambda: confusion_counts(Z[:, :1], Y, activation="softmax"),
        ValueError,
        "prediction: got 1 channels",
    ),
    "no channel": (lambda: confusion_counts(Z[:, :0], Y, activation="sigmoid"), ValueError, "prediction: got 0"),
    "fractions in the target": (
        lambda: confusion_counts(Y, Y + 0.5, classes=2),
        ValueError,
        r"target: no whole number at index \(0, 0, 0\)",
    ),
    "target of another shape": (
        lambda: confusion_counts(Y, Y[:, :3], classes=2),
        ValueError,
        r"target: got shape \[2, 3, 5\], expected \[2, 4, 5\] or \[2, 1, 4, 5\]",
    ),
    "masks for a prediction of labels": (
        lambda: confusion_counts(Y, Z.bool(), classes=3),
        ValueError,
        r"target: got shape \[2, 3, 4, 5\]",
    ),
    "ignore_index with masks": (
        lambda: confusion_counts(Z.bool(), Z.bool(), ignore_index=0),
        ValueError,
        "ignore_index: set",
    ),
    "ignore_index of a wrong type": (
        lambda: confusion_counts(Y, Y, classes=2, ignore_index=0.5),
        TypeError,
        "ignore_index|iterable",
    ),
    "label beyond the classes": (
        lambda: confusion_counts(Y, BAD_LABELS, classes=2),
        ValueError,
        r"target: label 1099511627776 at index \(1, 2, 3\) .* expected 0 to 1 or an ignore_index",
    ),
    "predicted label beyond the classes": (
        lambda: confusion_counts(BAD_LABELS, Y, classes=2),
        ValueError,
        r"prediction: label 1099511627776 at index \(1, 2, 3\)",
    ),
    "negative label": (lambda: confusion_counts(Z.bool(), Y.long() - 1), ValueError, r"target: label -1 .* 0 to 2"),
    "label 2 of one channel": (
        lambda: confusion_counts(Z[:, :1].bool(), Y + 2),
        ValueError,
        "target: label 2 .* 0 to 1",
    ),
    "mask of floats": (lambda: confusion_counts(Y, Y, classes=2, mask=Y.float()), TypeError, "mask: got torch.float32"),
    "mask of another shape": (
        lambda: confusion_counts(Y, Y, classes=2, mask=Y[:1]),
        ValueError,
        r"mask: got shape \[1, 4, 5\]",
    ),
    "sparse": (lambda: confusion_counts(Z.to_sparse(), Y), ValueError, "prediction: got torch.sparse_coo"),
    "nested": (lambda: confusion_counts(NESTED, Y), ValueError, "prediction: got a nested tensor"),
    "8 bits": (lambda: confusion_counts(Z.to(torch.float8_e5m2), Y, activation="softmax"), TypeError, "got .*float8"),
    "no values": (lambda: confusion_counts(Z.to("meta"), Y.to("meta")), ValueError, "prediction: is on meta"),
    "background": (
        lambda: confusion_counts(Y, Y, classes=2, include_background=1),
        TypeError,
        "include_background: got 1",
    ),
    "subvoxels": (
        lambda: surface_distances(Y, Y, classes=2, use_subvoxels=NESTED),
        ValueError,
        "use_subvoxels: got",
    ),
    "one side": (lambda: surface_distances(Y, Y, classes=2).hausdorff(one_sided=[]), TypeError, r"one_sided: got \[\]"),
    "a mean of sides": (lambda: surface_distances(Y, Y, classes=2).average(one_sided=0), TypeError, "one_sided: got 0"),
    "another device": (lambda: confusion_counts(Y, Y.to("meta"), classes=2), ValueError, "target: is on meta"),
    "accumulated vector": (lambda: Accumulator().update(dice=torch.zeros(3)), ValueError, r"dice: got \[3\]"),
    "accumulated number": (lambda: Accumulator().update(dice=0.5), ValueError, "dice: got float"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("space", [(70_000,), (4, 40_000), (2, 300, 301)])
def test_a_bad_label_is_found_in_any_slab(space):
    truth = torch.zeros(2, *space, dtype=torch.int16)
    truth.view(2, -1)[1, -2] = 9
    place = ", ".join(str(size - 1) for size in space[:-1])
    index = f"1, {place + ', ' if place else ''}{space[-1] - 2}"
    with pytest.raises(ValueError, match=rf"target: label 9 at index \({index}\)"):
        confusion_counts(truth.clamp(0, 1), truth, classes=2)


def test_merged_accumulators():
    tables = torch.from_numpy(np.random.default_rng(0).random((5, 3)))
    whole, parts = Accumulator(), [Accumulator(), Accumulator()]
    whole.update(dice=tables, hd95=tables[:2])
    parts[0].update(dice=tables[:2])
    parts[1].update(dice=tables[2:], hd95=tables[:2])
    parts[0].merge(parts[1])
    for name, expected in whole.compute().items():
        assert all(torch.equal(*pair) for pair in zip(parts[0].compute()[name], expected, strict=True))
    assert parts[1].compute()["dice"].left_out.tolist() == [0, 0, 0] and len(parts[1]._tables["dice"]) == 1
    with pytest.raises(ValueError, match="dice: got 4 classes, expected 3"):
        other = Accumulator()
        other.update(dice=torch.zeros(1, 4))
        whole.merge(other)


def each_rank(rank, folder):
    """A share of the samples; one process has no distances."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    scores = Accumulator(process_group="world" if rank else dist.group.WORLD)
    for row in TABLE[rank::2].split(2):
        scores.update(dice=row)
    if rank:
        scores.update(hd95=TABLE[:1])
    torch.save({name: tuple(found) for name, found in scores.compute().items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


TABLE = torch.tensor([[0.5, NAN], [0.25, 1.0], [0.75, NAN], [1.0, 0.5], [0.0, 0.25]], dtype=torch.float64)


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="no torch.distributed with gloo")
def test_accumulators_of_several_processes(tmp_path):
    torch.multiprocessing.start_processes(each_rank, (tmp_path,), nprocs=2, start_method="fork")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        whole = Accumulator()
        whole.update(dice=torch.cat([TABLE[0::2], TABLE[1::2]]), hd95=TABLE[:1])
        for name, expected in whole.compute().items():
            for value, right in zip(found[name], expected, strict=True):
                torch.testing.assert_close(value, right, rtol=0, atol=0, equal_nan=True)


def test_accumulator_of_a_group_that_is_none():
    with pytest.raises(TypeError, match="process_group: got 3"):
        Accumulator(process_group=3)
    with pytest.raises(RuntimeError, match=r"process_group: 'world', but torch\.distributed is not initialised"):
        Accumulator(process_group="world").compute()


def test_accumulator_wants_as_many_classes_as_before():
    scores = Accumulator()
    scores.update(dice=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="dice: got 4 classes, expected 3"):
        scores.update(dice=torch.zeros(2, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu():
    guess, truth = labels(2, 20, 21, 22), labels(2, 20, 21, 22, seed=1)
    expected = confusion_counts(guess, truth, classes=4)
    found = confusion_counts(guess.cuda(), truth.cuda(), classes=4)
    assert all(torch.equal(getattr(found, name).cpu(), getattr(expected, name)) for name in FIELDS)
    assert found.dice().is_cuda
