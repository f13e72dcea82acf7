"""Training runs of a few steps: what is measured, stopping in time, and the command."""

import json
import math
import time

import numpy as np
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
from bench.training.by_clock import Clock, schedule, train_rounds, train_table, train_within, unfinished
from bench.training.datasets import Dataset, Volume, prepare
from bench.training.datasets.icbm152 import CLASSES
from bench.training.plan import Plan, make_run
from bench.training.run import Run, Samples, train_step
from bench.training.settings import Settings
from bench.training.unet import UNet

CPU = torch.device("cpu")


class Bright:
    """A volume whose label is its brightness."""

    subject = group = "bright"

    def key(self):
        return "bright"

    def read(self):
        image = np.random.default_rng(1).standard_normal((26, 1, 32, 32), np.float32)
        labels = np.digitize(image[:, 0], (-0.7, 0.0, 0.7)).astype(np.int16)
        return Volume(image, labels, (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two batches of eight slices to train on."""
    data = prepare(Dataset("bright", [Bright()], CLASSES, (0, 1, 2, 3)), tmp_path_factory.mktemp("cache"))
    samples = Samples.of(data, Settings(), 0)
    assert len(samples.train) == 16
    return samples


def small_run(samples, loss, **more):
    settings = Settings(widths=(4, 4, 4, 4, 4), batch_size=8, **more)
    return Run(samples, settings, loss, loss, 0, None, CPU)


def small_unet():
    torch.manual_seed(0)
    return UNet(widths=(4, 4, 4, 4, 4))


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels.long())


def test_split_backward_is_the_plain_backward():
    images, labels = torch.randn(2, 1, 32, 32), torch.randint(0, 4, (2, 32, 32))
    ours, plain = small_unet(), small_unet()
    optimiser = torch.optim.SGD(ours.parameters(), lr=0.0)
    value, took = train_step(ours, optimiser, cross_entropy, images, labels)
    expected = cross_entropy(plain(images), labels)
    expected.backward()
    assert value == pytest.approx(expected.item())
    assert 0 < took.loss < took.step
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_two_steps_change_the_weights_and_are_counted(samples):
    run, seen = small_run(samples, cross_entropy, epochs=1), []
    before = [p.detach().clone() for p in run.net.parameters()]
    assert run.train(math.inf, lambda at: seen.append((at.epoch, at.step)))
    found = run.about()
    assert found["steps"] == 2 and found["epochs"] == 1 and seen == [(0, 1), (0, 2)]
    assert all(math.isfinite(found["history"][0][key]) for key in ("train", "validation", "learning_rate"))
    assert any(not torch.equal(a, b) for a, b in zip(before, run.net.parameters(), strict=True))
    assert run.at.timed == 1 and found["loss_share"] == run.at.loss_seconds / run.at.step_seconds


def test_training_stops_after_the_step_that_passes_the_limit(samples):
    run = small_run(samples, cross_entropy, epochs=50)
    assert not run.train(0.0, lambda at: None)
    assert run.at.steps == 1 and not run.about()["complete"]


def test_learning_rate_falls_on_a_plateau(samples):
    def constant(logits, labels):
        return logits.sum() * 0 + 1.0

    run = small_run(samples, constant, epochs=5, patience=1)
    run.train(math.inf, lambda at: None)
    rates = [line["learning_rate"] for line in run.at.history]
    assert rates[0] == 1e-3 and rates[-1] < 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_every_registered_loss_trains_and_repeats(name, samples, tmp_path):
    plan = Plan(Settings(epochs=1, batch_size=8), [name], [0], tmp_path, CPU)
    runs = [make_run(plan, samples.data, name, 0) for _ in range(2)]
    assert all(run.train(math.inf, lambda at: None) for run in runs)
    first, second = (run.about() for run in runs)
    assert first["history"] == second["history"] and 0 < first["loss_share"] < 1 and first["steps"] == 2


@pytest.fixture(scope="module")
def within(samples, tmp_path_factory):
    """Two losses trained within some seconds; the rows and their folder."""
    folder = tmp_path_factory.mktemp("within")
    settings = Settings(widths=(4, 4, 4, 4, 4), batch_size=8, epochs=3)
    clock = lambda: Clock.of(900, math.inf)  # noqa: E731
    return train_within(["dice", "weighted_cross_entropy"], samples.data, settings, CPU, folder, clock), folder


def test_all_losses_and_seeds_have_as_many_steps(within):
    rows, folder = within
    assert [row["loss"] for row in rows] == ["dice", "weighted_cross_entropy"]
    for row in rows:
        assert row["seeds"] == [0, 1] and {run["steps"] for run in row["runs"]} == {6}
        assert math.isfinite(row["foreground"]["dice"]["std"])
        for run in row["runs"]:
            rates = [line["learning_rate"] for line in run["history"]]
            assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3])
    assert (folder / "report.html").is_file() and json.loads((folder / "results.json").read_text())


def test_table_of_the_main_job_has_100_columns(within):
    rows, _ = within
    with console.capture() as captured:
        console.print(train_table(rows))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.split()[:1] == ["weighted_cross_entropy"] for line in lines) == 1
    (line,) = (line for line in lines if "weighted_cross_entropy" in line)
    assert "±" in line and "0.962" in line


@pytest.mark.parametrize(
    ("left", "most", "expected"),
    [(230, 40, (12, 2)), (110, 40, (6, 2)), (60, 40, (7, 1)), (5, 40, (1, 1)), (230, 4, (4, 2)), (0, 3, (1, 1))],
)
def test_epochs_and_seeds_that_fit(left, most, expected):
    assert schedule(left, 10.0, most) == expected


def test_no_round_begins_that_would_end_too_late(samples, tmp_path):
    plan = Plan(Settings(epochs=50, batch_size=8, widths=(4, 4, 4, 4, 4)), ["dice", "jaccard"], [0, 1], tmp_path, CPU)
    begin = time.monotonic()
    runs = train_rounds(plan, samples.data, Clock.of(3.0, math.inf))
    assert time.monotonic() - begin < 6 and len({run.at.steps for run in runs.values()}) == 1


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
    def notes(dice):
        return unfinished({"loss": "dice", "epochs": 2, "steps": 44, "per_class": {"WM": {"dice": {"mean": dice}}}})

    assert notes(0.821) == [
        "white matter's Dice is 0.82 after 2 epochs, 44 steps; `python -m bench train --losses dice` trains on"
    ]
    assert notes(0.86) == []
