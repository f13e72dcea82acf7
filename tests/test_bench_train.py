"""Training runs of a few steps: what is measured, stopping in time, and the command."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.losses.registry import LOSSES
from bench.output import console
from bench.training import by_clock as train
from bench.training.datasets.icbm152 import Slices
from bench.training.unet import UNet


@pytest.fixture
def slices():
    """Two batches of eight images whose label is their brightness."""
    images = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.bucketize(images[:, 0], torch.tensor([-0.7, 0.0, 0.7])).to(torch.uint8)
    return dict.fromkeys(("train", "val", "test"), Slices(images, labels, tuple(range(16))))


def small_unet():
    torch.manual_seed(0)
    return UNet(widths=(4, 4, 4, 4, 4))


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels.long())


def test_split_backward_is_the_plain_backward():
    images, labels = torch.randn(2, 1, 32, 32), torch.randint(0, 4, (2, 32, 32))
    ours, plain = small_unet(), small_unet()
    optimiser = torch.optim.SGD(ours.parameters(), lr=0.0)
    value, took = train.train_step(ours, optimiser, cross_entropy, images, labels)
    expected = cross_entropy(plain(images), labels)
    expected.backward()
    assert value == pytest.approx(expected.item())
    assert 0 < took.loss < took.step
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_two_steps_change_the_weights_and_are_counted(slices):
    net, seen = small_unet(), []
    before = [p.detach().clone() for p in net.parameters()]
    history, times = train.fit(
        net, cross_entropy, slices, train.Schedule(epochs=1, batch_size=8), lambda *a: seen.append(a)
    )
    assert len(times) == 2 and len(history) == 1 and [epoch for epoch, _ in seen] == [0, 0]
    assert all(math.isfinite(history[0][key]) for key in ("train", "validation", "learning_rate"))
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert train.loss_share(times) == times[1].loss / times[1].step


def test_training_stops_after_the_step_that_passes_the_limit(slices):
    history, times = train.fit(
        small_unet(),
        cross_entropy,
        slices,
        train.Schedule(epochs=50, batch_size=8, seconds=1e-9),
        lambda *a: None,
    )
    assert len(times) == 1 and len(history) == 1


def test_learning_rate_falls_on_a_plateau(slices):
    def constant(logits, labels):
        return logits.sum() * 0 + 1.0

    history, _ = train.fit(small_unet(), constant, slices, train.Schedule(epochs=5, patience=1), lambda *a: None)
    assert history[0]["learning_rate"] == 1e-3 and history[-1]["learning_rate"] < 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_every_registered_loss_trains_and_repeats(name, slices):
    first, second = (train.train_loss(name, slices, train.Schedule(epochs=1, batch_size=8)) for _ in range(2))
    assert first["history"] == second["history"]
    assert 0 < first["loss_share"] < 1 and first["steps"] == 2
    for metric in ("dice", "sensitivity", "specificity"):
        assert 0 <= first[metric] <= 1
        assert list(first["per_class"][metric]) == ["background", "CSF", "GM", "WM"]
    console.print(train.train_table([first]))


def folders(tmp_path):
    return "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")


def test_command_trains_on_the_volume(tmp_path):
    file = tmp_path / "new" / "train.json"
    done = CliRunner().invoke(
        cli, ["train", "--losses", "dice_ce", "--seconds", "1", "--json", str(file), *folders(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    (row,) = json.loads(file.read_text())
    assert row["loss"] == "dice_ce" and row["steps"] >= 1 and 0 <= row["dice"] <= 1
    assert row["machine"]["versions"].keys() >= {"python", "torch", "monai"}


def test_unknown_loss_lists_the_known():
    done = CliRunner().invoke(cli, ["train", "--losses", "dyce"])
    assert done.exit_code == 2 and "unknown loss 'dyce'" in done.output and "tversky" in done.output


def test_missing_data_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.training.datasets.icbm152.importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(cli, ["train", "--losses", "dice", *folders(tmp_path)])
    assert done.exit_code == 1 and "pip install nilearn" in done.output


def test_a_low_score_after_few_epochs_has_its_reason():
    from bench.training.by_clock import Schedule, unfinished

    def notes(dice, epochs):
        return unfinished("dice", epochs, 5.9, torch.tensor([0.9, 0.5, 0.6, dice]), Schedule())

    assert notes(0.821, 2) == [
        "white matter's Dice is 0.82 after 2 of 12 epochs, 6 s; `python -m bench train --losses dice` trains on"
    ]
    assert notes(0.86, 2) == [] and notes(0.821, 12) == []
