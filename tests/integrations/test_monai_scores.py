"""Scores as MONAI's metrics beside MONAI's own; through Ignite; over processes; maps of labels as a transform."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

pytest.importorskip("monai")

from monai import metrics as monai_metrics
from monai.data import MetaTensor
from monai.networks.utils import one_hot
from monai.transforms import Compose, RandFlipd, RandRotate90d, RandSpatialCropd, SpatialCropd

import fastloss
from fastloss.integrations.monai import LabelMapsd, OverlapMetric, SurfaceMetric
from fastloss.precompute import LabelMaps

CLASSES = 3
REDUCTIONS = ["mean", "sum", "mean_batch", "sum_batch", "mean_channel", "sum_channel", "none"]


def batches(count=2):
    """One-hot floats of blobs, as MONAI's post-processing gives them; the last sample has no class 2."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for number in range(count):
        coarse = torch.randint(0, CLASSES, (2, 1, 3, 4, 4), generator=generator)
        if number == count - 1:
            coarse[-1] = coarse[-1].clamp_max(1)
        truth = coarse.repeat_interleave(3, 2).repeat_interleave(3, 3).repeat_interleave(3, 4)
        found.append((one_hot(truth.roll(1, 3), CLASSES), one_hot(truth, CLASSES)))
    return found


def both(ours, theirs, **call):
    """Aggregates of two metrics over the batches."""
    for p, y in batches():
        ours(y_pred=p, y=y, **call)
        theirs(y_pred=p, y=y, **call)
    return ours.aggregate(), theirs.aggregate()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("background", [True, False])
def test_dice_is_monais(reduction, background):
    options = {"include_background": background, "reduction": reduction, "get_not_nans": True}
    (ours, known), (theirs, theirs_known) = both(OverlapMetric("dice", **options), monai_metrics.DiceMetric(**options))
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert torch.equal(known, theirs_known)


@pytest.mark.parametrize(("score", "theirs"), [("sensitivity", "sensitivity"), ("specificity", "specificity")])
def test_confusion_scores_are_monais(score, theirs):
    peer = monai_metrics.ConfusionMatrixMetric(metric_name=theirs, compute_sample=True, include_background=False)
    ours, (expected,) = both(OverlapMetric(score, include_background=False), peer)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "mean_batch", "none"])
@pytest.mark.parametrize(
    ("options", "peer"),
    [
        (
            {"score": "hausdorff", "percentile": 95},
            lambda **o: monai_metrics.HausdorffDistanceMetric(percentile=95, **o),
        ),
        ({"score": "hausdorff"}, lambda **o: monai_metrics.HausdorffDistanceMetric(**o)),
        ({"score": "average_distance"}, lambda **o: monai_metrics.SurfaceDistanceMetric(symmetric=True, **o)),
        (
            {"score": "surface_dice", "tolerance_mm": 1.5},
            lambda **o: monai_metrics.SurfaceDiceMetric(class_thresholds=[1.5] * (CLASSES - 1), **o),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_surface_scores_are_monais(options, peer, reduction):
    ours, theirs = both(
        SurfaceMetric(reduction=reduction, **options), peer(reduction=reduction), spacing=(3.0, 1.0, 1.0)
    )
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_lists_of_samples_label_maps_and_logits_are_the_same():
    expected = OverlapMetric(num_classes=None)
    lists, labels, logits = OverlapMetric(), OverlapMetric(num_classes=CLASSES), OverlapMetric(activation="softmax")
    for p, y in batches():
        expected(p, y)
        lists([MetaTensor(x) for x in p], [MetaTensor(x) for x in y])
        labels(p.argmax(1, keepdim=True), y.argmax(1, keepdim=True))
        logits(8 * p, y.argmax(1, keepdim=True))
    for other in (lists, labels, logits):
        assert torch.equal(other.aggregate(), expected.aggregate())
    expected.reset()
    with pytest.raises(ValueError, match="aggregate: got no batch"):
        expected.aggregate()


def test_a_call_gives_the_table_of_its_batch_and_buffers_hold_all():
    metric = SurfaceMetric(percentile=95)
    found = [metric(p, y) for p, y in batches()]
    assert [list(table.shape) for table in found] == [[2, CLASSES - 1]] * 2
    assert torch.equal(metric.get_buffer().nan_to_num(-1), torch.cat(found).nan_to_num(-1)) and len(metric) == 4


def test_probabilities_are_no_masks():
    with pytest.raises(ValueError, match="prediction: got values beside 0 and 1, expected masks"):
        OverlapMetric()(torch.rand(1, 3, 4, 4), torch.ones(1, 3, 4, 4))


def test_ignite_runs_them_through_monais_handler():
    engine = pytest.importorskip("ignite.engine")
    from monai.handlers import IgniteMetricHandler

    metric = SurfaceMetric("hausdorff", percentile=95)
    evaluator = engine.Engine(lambda _, batch: batch)
    IgniteMetricHandler(metric_fn=metric, output_transform=lambda output: output).attach(evaluator, "hd95")
    state = evaluator.run(batches(), max_epochs=2)
    alone = SurfaceMetric("hausdorff", percentile=95)
    for p, y in batches():
        alone(p, y)
    assert state.metrics["hd95"] == pytest.approx(alone.aggregate().item())
    assert state.metric_details["hd95"].shape == (4, CLASSES - 1)


def share(rank, folder):
    """A process's batches: two, and one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = SurfaceMetric(percentile=95, reduction="mean_batch")
    for p, y in batches(3)[:2] if rank == 0 else batches(3)[2:]:
        metric(p, y)
    torch.save(metric.aggregate(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_processes_have_the_value_of_one(tmp_path):
    torch.multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    metric = SurfaceMetric(percentile=95, reduction="mean_batch")
    for p, y in batches(3):
        metric(p, y)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), metric.aggregate())


# maps of labels


def sample(spacing=(3.0, 1.0, 0.5)):
    labels = torch.zeros(1, 9, 10, 11, dtype=torch.uint8)
    labels[:, 2:6, 3:8, 1:5], labels[:, 7:, :4, 6:] = 1, 2
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.arange(990.0).reshape(1, 9, 10, 11), affine=affine)
    return {"image": image, "label": MetaTensor(labels, affine=affine)}


def test_maps_are_those_of_precompute_at_the_voxel_size_of_the_file():
    loss = fastloss.BoundaryLoss()
    found = LabelMapsd("label", loss, CLASSES, pixdim=True)(sample())
    expected = LabelMaps(fastloss.BoundaryLoss(spacing=(3.0, 1.0, 0.5)), CLASSES)({"label": sample()["label"]})["maps"]
    assert torch.equal(found["maps"].as_tensor(), expected) and found.keys() == {"image", "label", "maps"}
    assert torch.equal(found["maps"].affine, found["label"].affine)
    plain = LabelMapsd("label", loss, CLASSES)({"label": sample()["label"].as_tensor()})["maps"]
    assert not isinstance(plain, MetaTensor) and not torch.equal(plain, expected)


@pytest.mark.parametrize("seed", range(4))
def test_flips_and_quarter_turns_carry_the_maps_along(seed):
    keys, loss = ["image", "label", "maps"], fastloss.BoundaryLoss(spacing=1.0)
    moves = [RandFlipd(keys, 0.5, spatial_axis=axis) for axis in range(3)] + [RandRotate90d(keys, 0.5, 3, (0, 2))]
    pipeline = Compose([LabelMapsd("label", loss, CLASSES), *moves]).set_random_state(seed)
    found = pipeline(sample())
    anew = LabelMapsd("label", loss, CLASSES)({"label": found["label"]})["maps"]
    assert torch.equal(found["maps"].as_tensor(), anew.as_tensor())


def test_crops_keep_the_distances_to_what_was_cut_off():
    keys, loss = ["image", "label", "maps"], fastloss.BoundaryLoss(spacing=1.0)
    whole = LabelMapsd("label", loss, CLASSES)(sample())["maps"]
    crop = SpatialCropd(keys, roi_start=(1, 2, 3), roi_end=(6, 8, 9))
    found = Compose([LabelMapsd("label", loss, CLASSES), crop])(sample())
    assert torch.equal(found["maps"].as_tensor(), whole.as_tensor()[:, 1:6, 2:8, 3:9])
    random = Compose([LabelMapsd("label", loss, CLASSES), RandSpatialCropd(keys, (4, 5, 6), random_size=False)])
    sizes = {key: tuple(value.shape[1:]) for key, value in random(sample()).items()}
    assert set(sizes.values()) == {(4, 5, 6)}


def test_the_loss_takes_the_maps_of_a_batch():
    loss = fastloss.BoundaryLoss(spacing=(3.0, 1.0, 0.5))
    found = LabelMapsd("label", loss, CLASSES)(sample())
    logits = torch.randn(1, CLASSES, 9, 10, 11)
    given = loss(logits, found["label"][None], maps=found["maps"][None])
    torch.testing.assert_close(given.as_subclass(torch.Tensor), loss(logits, found["label"][None].as_tensor()))


def test_missing_labels_and_wrong_arguments():
    loss = fastloss.BoundaryLoss()
    assert LabelMapsd("label", loss, 3, allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError):
        LabelMapsd("label", loss, 3)({"image": 1})
    with pytest.raises(ValueError, match=r"keys: got .* expected one key"):
        LabelMapsd(["label", "other"], loss, 3)
    with pytest.raises(ValueError, match="spacing: got 'mm' with pixdim=True"):
        LabelMapsd("label", loss, 3, spacing="mm", pixdim=True)
    with pytest.raises(TypeError, match="pixdim: got labels of Tensor"):
        LabelMapsd("label", loss, 3, pixdim=True)({"label": torch.zeros(1, 4, 4, dtype=torch.uint8)})
