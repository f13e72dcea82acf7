"""`bench train` on files: results that agree, runs that survive kill -9, several processes, predictions in place."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

import nibabel
from click.testing import CliRunner
from scipy import ndimage
from torch import nn

from bench.__main__ import cli
from bench.losses.registry import LOSSES
from bench.machine import ROOT
from bench.training.datasets import Prepared, open_dataset, prepare
from bench.training.datasets.reading import IGNORED
from bench.training.datasets.store import Entry
from bench.training.plan import Plan, keep
from bench.training.results import mean_of_known, read_runs, rows_of
from bench.training.run import Run, Samples
from bench.training.scores import hd95_mm, predict, score, spread, summarise
from bench.training.settings import Settings
from fastloss.metrics import surface_distances

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


def run_command(arguments):
    torch.set_num_threads(1)
    cli(arguments, standalone_mode=False)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_times_ends_with_the_same_numbers(cache, tmp_path, kills):
    more = ["--losses", "dice_ce", "--epochs", str(12 * kills)]
    train(cache, tmp_path / "whole", *more)
    out, random, reached = tmp_path / "killed", np.random.default_rng(kills), [0]
    checkpoint, result = (out / "runs/dice_ce-seed0" / name for name in ("checkpoint.pt", "result.json"))
    processes = get_context("forkserver")  # a fresh process for each, but for the imports
    processes.set_forkserver_preload(["bench.__main__", "bench.training.plan"])
    for _ in range(kills):
        process = processes.Process(target=run_command, args=(arguments(cache, out, *more),))
        process.start()
        before, end = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0, time.monotonic() + 120
        late = random.random() < 0.8  # or while it starts
        while late and time.monotonic() < end and process.is_alive():
            if checkpoint.is_file() and checkpoint.stat().st_mtime_ns > before:
                break
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1 if late else 1.0))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not result.exists()
        at = torch.load(checkpoint, weights_only=True)["progress"] if checkpoint.is_file() else {"epoch": 0}
        assert at["epoch"] >= reached[-1] + late
        reached.append(at["epoch"])
    assert 0 < reached[-1] < 12 * kills
    assert f"goes on at epoch {reached[-1] + 1}" in train(cache, out, *more)
    whole = tmp_path / "whole/runs/dice_ce-seed0"
    for key in ("history", "scores"):
        assert json.loads(result.read_text())[key] == json.loads((whole / "result.json").read_text())[key]
    states = [torch.load(file, weights_only=True)["model"] for file in (checkpoint, whole / "checkpoint.pt")]
    assert all(torch.equal(state, other) for state, other in zip(*(s.values() for s in states), strict=True))


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

    def __init__(self, threshold=0.5):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        return torch.cat([self.threshold - images[:, :1], images[:, :1] - self.threshold], 1)


def ball(shape, centre, radii):
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return ((((place - centre) / radii) ** 2).sum(-1) <= 1).astype(np.uint8)


def test_hd95_of_some_slices_is_of_the_whole_volumes_surfaces():
    """A cut through both would be a surface that they share, where all distances are 0."""
    spacing, shape = (3.0, 1.0, 1.5), (20, 32, 32)
    truth, ours = ball(shape, (10, 16, 16), (9, 12, 10)), ball(shape, (12, 15, 18), (6, 13, 9))
    data = Prepared("two", (), ("background", "x"), (0, 1))
    tested = np.zeros(20, bool)
    tested[[5, 6, 13, 14, 15]] = True
    mm = np.array(spacing)
    surfaces = [np.argwhere(m & ~ndimage.binary_erosion(m)) for m in (ours > 0, truth > 0)]
    distances = np.linalg.norm((surfaces[0][:, None] - surfaces[1][None]) * mm, axis=-1)
    to, back = distances.min(1)[tested[surfaces[0][:, 0]]], distances.min(0)[tested[surfaces[1][:, 0]]]
    expected = max(np.percentile(to, 95), np.percentile(back, 95))
    found = hd95_mm(ours, truth, tested, spacing, data)
    assert found[1] == pytest.approx(expected, rel=1e-6)
    of_cuts = surface_distances(*(torch.from_numpy(m[13:16])[None, None] for m in (ours, truth)), spacing, classes=2)
    assert float(of_cuts.hausdorff(95)) < 0.7 * expected
    all_of_it = surface_distances(*(torch.from_numpy(m)[None, None] for m in (ours, truth)), spacing, classes=2)
    assert hd95_mm(ours, truth, ~np.zeros(20, bool), spacing, data)[1] == float(all_of_it.hausdorff(95))


def test_hd95_where_a_class_is_absent():
    entry = Entry("a", "a", Path(), (4, 1, 5, 5), (1.0, 1.0, 1.0), (0, 1, 2, IGNORED), "", 0.0)
    data = Prepared("three", (entry,), ("background", "x", "y"), (0, 1, 2))
    truth, ours = np.zeros((4, 5, 5), np.uint8), np.zeros((4, 5, 5), np.uint8)
    truth[0, 2, 2] = ours[3, 2, 2] = truth[2, 0, 0] = 1
    ours[2, 4, 4] = 2
    first, third, fourth = ([z == own for z in range(4)] for own in (0, 2, 3))

    def of(tested):
        return hd95_mm(ours, truth, np.array(tested), (1.0, 1.0, 1.0), data)[1:]

    assert of(first)[0] == 3.0 and math.isnan(of(first)[1])  # of one side alone, to what lies in another slice
    assert of(fourth)[0] == pytest.approx(3.0) and of(third)[1] == math.inf
    truth[2] = 255  # ignored
    assert math.isnan(of(third)[0]) and math.isnan(of(third)[1])


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


def write_pairs(folder, shape, count, top=1):
    for number in range(count):
        labels = np.random.default_rng(number).integers(0, top + 1, shape).astype(np.uint8)
        for kind, voxels in (("images", labels * np.float32(9)), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / kind / f"{number}.nii")
    return f"pairs:{folder}/images/*.nii,{folder}/labels/*.nii"


@pytest.mark.parametrize(
    ("shape", "count", "more"),
    [
        ((16, 16, 1), 5, []),  # files of one slice
        ((16, 16), 5, []),
        ((4, 3, 15), 1, []),  # a test run of one slice, and the least of images: one voxel at the network's bottom
        ((16, 16, 1), 5, ["--dims", "3", "--patch", "4,8,4", "--patches", "1"]),
        ((16, 16, 5), 1, ["--dims", "3", "--patch", "4,8,4", "--patches", "1"]),
    ],
)
def test_single_slices_train_and_are_scored(tmp_path, shape, count, more):
    data = ["--data", write_pairs(tmp_path / "d", shape, count), "--cache", str(tmp_path), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(cli, ["train", *data, *SMALL, "--epochs", "1", "--losses", "dice_ce", *more])
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "o/results.json").read_text())
    assert 0 <= row["dice"] <= 1 and all("hd95_mm" in line for line in row["runs"][0]["scores"])


@pytest.mark.parametrize(("dims", "slices"), [("2", 1), ("2", 4), ("3", 1), ("3", 3)])
def test_too_few_slices_are_refused_before_training(tmp_path, dims, slices):
    data = ["--data", write_pairs(tmp_path / "d", (16, 16, slices), 1), "--cache", str(tmp_path)]
    done = CliRunner().invoke(cli, ["train", *data, "--out", str(tmp_path / "o"), "--dims", dims, "--losses", "dice"])
    assert done.exit_code == 1 and f"1 volumes of {slices} slices leave none for" in done.output
    assert (
        "expected volumes of three persons, or one of at least 5 slices" in done.output
        and not (tmp_path / "o/runs").exists()
    )


def test_patches_of_one_voxel_at_the_bottom_are_refused():
    refused = CliRunner().invoke(cli, ["train", "--dims", "3", "--patch", "4,4,4", "--widths", "2,2,4"])
    assert refused.exit_code == 2 and "expected three multiples of 4, not all 4" in refused.output


def test_ignored_voxels_are_in_no_loss_and_no_score(tmp_path):
    """nnU-Net's ignored label fills half of each volume, where the image says something."""
    root = tmp_path / "d"
    for case in range(5):
        image = np.random.default_rng(case).normal(0, 1, (16, 16, 6)).astype(np.float32)
        above = image > image[image > image.min()].mean()  # which the reader makes 0
        labels = np.where(np.arange(16)[:, None, None] < 8, 2, above).astype(np.uint8)
        for path, voxels in ((f"imagesTr/{case}_0000.nii", image), (f"labelsTr/{case}.nii", labels)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), root / path)
    about = {"channel_names": ["T1"], "labels": {"background": 0, "x": 1, "ignore": 2}, "file_ending": ".nii"}
    (root / "dataset.json").write_text(json.dumps(about))
    options = ["--data", f"nnunet:{root}", "--cache", str(tmp_path), "--out", str(tmp_path / "o"), "--epochs", "1"]
    done = CliRunner().invoke(cli, ["train", *options, *SMALL, "--losses", "dice_ce,boundary,topk"])
    assert done.exit_code == 0, done.output  # label 255 is an error to a loss that counts it
    run = make_run(tmp_path, tmp_path / "run", 2, f"nnunet:{root}")
    run.net, run.plain = Bright(threshold=0.0), lambda logits, labels: torch.zeros(())
    rows, slices = score(run)
    assert [(row["dice"], row["hd95_mm"]) for row in rows] == [(1.0, 0.0)] * 2 and run.validate() == (0.0, 1.0)
    assert slices["about0"][0] == 1.0


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
