"""Scores as torchmetrics: the means of tables, over batches, collections, checkpoints and processes."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

pytest.importorskip("torchmetrics")

from torchmetrics import MetricCollection

from fastloss.integrations.torchmetrics import OverlapMetric, SurfaceMetric
from fastloss.metrics import ConfusionCounts, confusion_counts, surface_distances

CLASSES = 4


def batches(count=3):
    """Blobs of labels and predictions that differ; class 3 is only in the first."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for number in range(count):
        coarse = torch.randint(0, CLASSES if number == 0 else 3, (2, 3, 4, 4), generator=generator)
        truth = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2).repeat_interleave(3, 3)
        found.append((truth.roll(1, 2)[:, None].to(torch.uint8), truth))
    return found


def tables(make):
    """The table of all samples."""
    return torch.cat([make(*pair) for pair in batches()])


@pytest.mark.parametrize("score", ["dice", "jaccard", "sensitivity", "specificity", "precision"])
@pytest.mark.parametrize("background", [True, False])
def test_overlap_is_the_mean_of_the_samples(score, background):
    options = {"include_background": background, "ignore_index": 2}
    each = OverlapMetric(score, num_classes=CLASSES, average="none", **options)
    mean = OverlapMetric(score, num_classes=CLASSES, **options)
    for pair in batches():
        each.update(*pair)
        mean.update(*pair)
    expected = tables(lambda p, t: getattr(confusion_counts(p, t, classes=CLASSES, **options), score)()).nanmean(0)
    assert each.compute().isfinite().any() and each.higher_is_better
    torch.testing.assert_close(each.compute(), expected, equal_nan=True, rtol=1e-14, atol=0)
    torch.testing.assert_close(mean.compute(), expected.nanmean(), rtol=1e-14, atol=0)


def test_global_overlap_is_that_of_all_voxels():
    metric = OverlapMetric("dice", num_classes=CLASSES, average="none", aggregation_level="global")
    for pair in batches():
        metric.update(*pair)
    everything = [torch.cat(volumes) for volumes in zip(*batches(), strict=True)]
    expected = confusion_counts(*everything, classes=CLASSES).pooled().dice()
    samplewise = tables(lambda p, t: confusion_counts(p, t, classes=CLASSES).dice()).nanmean(0)
    assert torch.equal(metric.compute(), expected) and not torch.equal(expected, samplewise)


@pytest.mark.parametrize(
    ("options", "of"),
    [
        ({"score": "hausdorff", "percentile": 95}, lambda s: s.hausdorff(95)),
        ({"score": "hausdorff"}, lambda s: s.hausdorff()),
        ({"score": "average_distance"}, lambda s: s.average()),
        ({"score": "surface_dice", "tolerance_mm": 1.5}, lambda s: s.surface_dice(1.5)),
        ({"score": "surface_dice", "tolerance_mm": [1, 2, 3, 4]}, lambda s: s.surface_dice([1, 2, 3, 4])),
    ],
)
def test_surfaces(options, of):
    spacing = (3.0, 1.0, 1.5)
    metric = SurfaceMetric(**options, num_classes=CLASSES, spacing=spacing, average="none")
    given = SurfaceMetric(**options, num_classes=CLASSES, average="none")
    for pair in batches():
        metric.update(*pair)
        given.update(*pair, spacing=spacing)
    expected = tables(lambda p, t: of(surface_distances(p, t, spacing, classes=CLASSES))).nanmean(0)
    torch.testing.assert_close(metric.compute(), expected, equal_nan=True, rtol=1e-14, atol=0)
    assert torch.equal(metric.compute(), given.compute()) and expected.isfinite().all()
    assert metric.higher_is_better == (options["score"] == "surface_dice")


def test_logits_and_masks_of_voxels():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(2, CLASSES, 6, 7, generator=generator), torch.randint(0, CLASSES, (2, 6, 7))
    mask = torch.rand(2, 6, 7, generator=generator) < 0.5
    metric = OverlapMetric(num_classes=CLASSES, activation="softmax", average="none")
    metric.update(logits, labels, mask=mask)
    expected = confusion_counts(logits, labels, activation="softmax", mask=mask).dice().nanmean(0)
    assert torch.equal(metric.compute(), expected)


def test_forward_gives_the_batch_and_keeps_the_whole_and_reset_forgets():
    metric = OverlapMetric("jaccard", num_classes=CLASSES)
    alone = [metric(*pair) for pair in batches()]
    means = tables(lambda p, t: confusion_counts(p, t, classes=CLASSES).jaccard()).nanmean(0)
    torch.testing.assert_close(metric.compute(), means.nanmean(), rtol=1e-14, atol=0)
    first = confusion_counts(*batches()[0], classes=CLASSES).jaccard().nanmean(0).nanmean()
    torch.testing.assert_close(alone[0], first, rtol=1e-14, atol=0)
    metric.reset()
    metric.update(*batches()[0])
    torch.testing.assert_close(metric.compute(), first, rtol=1e-14, atol=0)


def test_of_nothing_is_nan():
    metric = SurfaceMetric("average_distance", num_classes=3)
    metric.update(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert metric.compute().isnan()


def test_a_collection_keeps_apart_what_is_equal_in_its_first_batch():
    """A collection shares the states of metrics that are equal after one batch: here all are 1, or 0 mm."""
    scores = MetricCollection(
        {
            "dice": OverlapMetric("dice", num_classes=CLASSES),
            "jaccard": OverlapMetric("jaccard", num_classes=CLASSES),
            "foreground": OverlapMetric("dice", num_classes=CLASSES + 1, include_background=False),
            "ignoring": OverlapMetric("dice", num_classes=CLASSES, ignore_index=1),
            "hd": SurfaceMetric(num_classes=CLASSES),
            "hd50": SurfaceMetric(num_classes=CLASSES, percentile=50),
        }
    )
    (_, truth), *rest = batches()
    scores.update(truth, truth)
    for pair in rest:
        scores.update(*pair)
    found = scores.compute()
    for name, metric in (
        ("jaccard", OverlapMetric("jaccard", num_classes=CLASSES)),
        ("ignoring", OverlapMetric("dice", num_classes=CLASSES, ignore_index=1)),
        ("hd50", SurfaceMetric(num_classes=CLASSES, percentile=50)),
    ):
        for pair in [(truth, truth), *rest]:
            metric.update(*pair)
        assert torch.equal(found[name], metric.compute()), name
    assert len({float(value) for value in found.values()}) == len(found)


def test_one_class_is_no_background():
    logits, target = torch.randn(2, 1, 6, 7), torch.randint(0, 2, (2, 6, 7))
    expected = confusion_counts(logits, target, activation="sigmoid").dice().nanmean()
    for background in (True, False):
        metric = OverlapMetric(num_classes=1, activation="sigmoid", include_background=background)
        assert metric(logits, target) == expected


def test_states_count_voxels_exactly():
    for metric in of_processes():
        metric.update(*batches()[0])
        assert {state.dtype for state in metric.metric_state.values()} == {torch.float64, torch.int64}


def test_copies_pickles_and_saved_states():
    metric = OverlapMetric(num_classes=CLASSES, aggregation_level="global")
    metric.persistent(True)
    metric.update(*batches()[0])
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(other.compute(), metric.compute())
    fresh = OverlapMetric(num_classes=CLASSES, aggregation_level="global")
    fresh.load_state_dict(metric.state_dict())
    fresh.update(*batches()[1])
    metric.update(*batches()[1])
    assert torch.equal(fresh.compute(), metric.compute())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OverlapMetric("f1", num_classes=3), "score: got 'f1', expected one of 'dice', 'jaccard'"),
        (
            lambda: OverlapMetric(num_classes=3, average="micro"),
            "average: got 'micro', expected one of 'macro', 'none'",
        ),
        (
            lambda: OverlapMetric(num_classes=3, aggregation_level="all"),
            "aggregation_level: got 'all', expected one of",
        ),
        (lambda: SurfaceMetric("surface_dice", num_classes=3), "tolerance_mm: got None .* expected a number of mm"),
        (lambda: SurfaceMetric(num_classes=3, tolerance_mm=1), "tolerance_mm: got 1 .* expected None"),
        (
            lambda: SurfaceMetric("average_distance", num_classes=3, percentile=95),
            "percentile: got 95 .* expected None",
        ),
        (lambda: OverlapMetric(num_classes=2.5), "num_classes: expected an int or a NumPy integer, got 2.5"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def share(rank, folder):
    """A process's part: two batches and one, of which the last sample lacks class 3."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = of_processes()
    for pair in batches()[:2] if rank == 0 else batches()[2:]:
        for metric in metrics:
            metric.update(*pair)
    torch.save([metric.compute() for metric in metrics], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def of_processes():
    """Metrics with states of each kind."""
    options = {"num_classes": CLASSES, "average": "none"}
    return [
        OverlapMetric(**options),
        OverlapMetric(aggregation_level="global", **options),
        SurfaceMetric(percentile=95, **options),
    ]


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_processes_have_the_value_of_one(tmp_path):
    torch.multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    alone = of_processes()
    for pair in batches():
        for metric in alone:
            metric.update(*pair)
    expected = [metric.compute() for metric in alone]
    for rank in range(2):
        for found, value in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-14, atol=0)


def test_counts_have_the_order_of_their_states():
    """The global state is stacked by the fields of the counts."""
    assert list(ConfusionCounts.__dataclass_fields__)[:2] == ["true_positive", "false_positive"]
