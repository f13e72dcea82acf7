"""`bench train` on files: results that agree, runs that survive kill -9, several processes, predictions in place."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner
from torch import nn

from bench.__main__ import cli
from bench.losses.registry import LOSSES
from bench.machine import ROOT
from bench.training.datasets import open_dataset, prepare
from bench.training.plan import Plan, keep
from bench.training.results import mean_of_known, read_runs, rows_of
from bench.training.run import Run, Samples
from bench.training.scores import predict, score, spread, summarise
from bench.training.settings import Settings

SMALL = ["--widths", "2,2,4", "--threads", "1", "--batch-size", "8"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def threads():
    """What --threads sets; one, since the tests are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arguments(cache, out, *more):
    return ["train", "--data", "synthetic:5,16", "--cache", str(cache), "--out", str(out), *SMALL, *more]


def train(cache, out, *more):
    done = CliRunner().invoke(cli, arguments(cache, out, *more))
    assert done.exit_code == 0, done.output
    return done.output


def history(out, run="dice_ce-seed0"):
    return json.loads((out / "runs" / run / "result.json").read_text())["history"]


def test_table_json_and_csv_have_the_same_numbers(cache, tmp_path):
    out = tmp_path / "out"
    shown = train(
        cache, out, "--losses", "dice,cldice", "--seeds", "0,1", "--epochs", "1", "--json", str(out / "x.json")
    )
    rows = json.loads((out / "results.json").read_text())
    assert [row["loss"] for row in rows] == ["dice", "cldice"] and rows == json.loads((out / "x.json").read_text())
    assert rows[0]["seeds"] == [0, 1] and rows[0]["complete"]
    assert rows[0]["survey"] == {"dice": 0.970, "sensitivity": 0.981, "specificity": 0.998} and not rows[1]["survey"]
    assert "0.970 0.981 0.998" in shown and f"{rows[0]['dice']:.3f}" in shown
    with (out / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 1 * 2  # losses, seeds, test subjects, classes
    own = [float(row["dice"]) for row in lines if (row["loss"], row["class"]) == ("dice", "brain")]
    assert sum(own) / len(own) == pytest.approx(rows[0]["per_class"]["brain"]["dice"]["mean"])
    for name in ("dice", "jaccard", "sensitivity", "specificity"):
        assert 0 <= rows[0]["per_class"]["background"][name]["mean"] <= 1
    # the same command trains nothing, other settings need another folder
    file = out / "runs/dice-seed1/result.json"
    before = file.stat().st_mtime_ns
    train(cache, out, "--losses", "dice", "--seeds", "1", "--epochs", "1")
    assert file.stat().st_mtime_ns == before
    refused = CliRunner().invoke(cli, arguments(cache, out, "--losses", "dice", "--epochs", "2"))
    assert refused.exit_code == 1 and "holds runs with epochs 1 (now 2)" in refused.output


def command(*more):
    return [sys.executable, *more]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_with_nothing_lost(cache, tmp_path):
    more = ["--losses", "dice_ce", "--epochs", "15"]
    train(cache, tmp_path / "whole", *more)
    out = tmp_path / "killed"
    process = subprocess.Popen(command("-m", "bench", *arguments(cache, out, *more)), env=environment(), cwd=ROOT)
    checkpoint, end = out / "runs/dice_ce-seed0/checkpoint.pt", time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "runs/dice_ce-seed0/result.json").exists()
    at = torch.load(checkpoint, weights_only=True)["progress"]
    assert 0 < at["epoch"] < 15
    assert f"goes on at epoch {at['epoch'] + 1}" in train(cache, out, *more)
    assert history(out) == history(tmp_path / "whole")


def test_two_processes_train_as_one(cache, tmp_path):
    more = ["--losses", "dice_ce", "--epochs", "2"]
    train(cache, tmp_path / "one", *more)
    torchrun = command("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "bench")
    done = subprocess.run(
        [*torchrun, *arguments(cache, tmp_path / "two", *more)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "two/runs/dice_ce-seed0/result.json").read_text())["processes"] == 2
    for ours, alone in zip(history(tmp_path / "two"), history(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(alone, rel=1e-3)


def test_a_run_that_is_stopped_in_time_may_be_gone_on_with(cache, tmp_path):
    run = make_run(cache, tmp_path, 2)
    assert not run.train(0.0, lambda at: None) and run.at.steps == 1
    again = make_run(cache, tmp_path, 2)
    assert again.at == run.at
    assert again.train(math.inf, lambda at: None) and again.at.epoch == 2
    whole = make_run(cache, tmp_path / "whole", 2)
    whole.train(math.inf, lambda at: None)
    assert whole.at.history == again.at.history


def test_a_run_of_no_more_than_the_first_step_has_no_times(cache, tmp_path):
    """The first step warms up."""
    run = make_run(cache, tmp_path, 2)
    run.train(0.0, lambda at: None)
    plan = Plan(run.settings, ["dice"], [0], tmp_path, run.device)
    keep(plan, run, "dice", None, [])
    (row,) = rows_of(read_runs(tmp_path, ["dice"], [0]))
    assert row["steps"] == 1 and row["seconds"] > 0
    assert all(math.isnan(row[key]) for key in ("loss_ms", "step_ms", "loss_share"))
    assert mean_of_known([1.0, math.nan, 2.0]) == 1.5


def make_run(cache, folder, dims, spec="synthetic:5,16", **more):
    settings = Settings(data=spec, dims=dims, widths=(2, 2, 4), epochs=2, batch_size=8, patch=(8, 16, 16), **more)
    data = prepare(open_dataset(spec, cache), cache)
    loss = LOSSES["dice"].build("softmax", len(data.classes))
    return Run(Samples.of(data, settings, 0), settings, loss, loss, 0, folder, torch.device("cpu"))


class Bright(nn.Module):
    """Class 1 where the image is above a threshold."""

    def forward(self, images):
        return torch.cat([0.5 - images[:, :1], images[:, :1] - 0.5], 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_predictions_lie_where_the_image_is(cache, tmp_path, dims):
    run = make_run(cache, tmp_path, dims, "synthetic:3,18")
    run.net = Bright()
    (part,) = run.samples.parts["test"]
    entry = run.samples.data.entries[part.entry]
    assert (predict(run, part) == (entry.image()[:, 0] > 0.5)).all()
    rows, slices = score(run)
    assert [row["class"] for row in rows] == ["background", "brain"] and slices["about0"][0] <= slices["about5"][0]
    truth = run.samples.data.classes_of(entry.labels(), entry) > 0
    ours = entry.image()[:, 0] > 0.5
    assert rows[1]["dice"] == pytest.approx(2 * (ours & truth).sum() / (ours.sum() + truth.sum()))


def test_three_dimensions_train(cache, tmp_path):
    out = tmp_path / "out"
    train(cache, out, "--dims", "3", "--patch", "8,8,8", "--patches", "2", "--losses", "dice_ce", "--epochs", "1")
    (row,) = json.loads((out / "results.json").read_text())
    assert row["runs"][0]["settings"]["dims"] == 3 and row["steps"] == 1
    refused = CliRunner().invoke(cli, ["train", "--dims", "3", "--patch", "8,8,9", "--widths", "2,2,4"])
    assert refused.exit_code == 2 and "expected three multiples of 4" in refused.output


def test_spread_and_summary_worked_by_hand():
    assert spread([1.0, 3.0, math.inf, math.nan]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "n": 2, "left_out": 2}
    rows = [
        {"subject": s, "seed": 0, "class": c, "dice": d, "jaccard": d, "sensitivity": d, "specificity": d, "hd95_mm": d}
        for s, c, d in [("a", "bg", 1.0), ("a", "x", 0.5), ("a", "y", 0.7), ("b", "x", 0.2), ("b", "y", math.nan)]
    ]
    table = summarise(rows, ["bg", "x", "y"])
    assert table["x"]["dice"]["mean"] == pytest.approx(0.35) and table["y"]["dice"]["left_out"] == 1
    assert table["foreground"]["dice"]["mean"] == pytest.approx((0.6 + 0.2) / 2)


def test_bad_data_is_a_clear_error(tmp_path):
    done = CliRunner().invoke(cli, ["train", "--data", "nfbs:/nowhere", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "expected nfbs:PATH" in done.output
    done = CliRunner().invoke(cli, ["train", "--seeds", "one"])
    assert done.exit_code == 2 and "expected integers, separated by commas, got 'one'" in done.output


def test_batches_are_the_surveys_or_smaller():
    assert Settings().batch_of(10_000) == 32 and Settings().batch_of(93) == 4 and Settings().batch_of(5) == 1
    assert Settings(dims=3).batch_of(600) == 2 and Settings(batch_size=7).batch_of(5) == 7
    assert np.isclose(Settings().learning_rate, 1e-3) and Settings().smallest_rate == 1e-8
