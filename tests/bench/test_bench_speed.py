"""The speed command end to end, its refusals, and its measuring instruments."""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("kornia", reason="the benchmarks need kornia")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")

from click.testing import CliRunner

from bench import timing
from bench.__main__ import cli
from bench.losses import registry
from bench.losses.peers import FORMS, OPTIONAL_PACKAGES, Peer, index_labels, monai, one_hot_labels
from bench.output import finite
from bench.speed import memory
from bench.speed.agreement import differences, disagreement
from bench.speed.case import Case
from bench.speed.measure import Effort, affordable, measure

TINY = "1,3,12,10,8"
ROW_KEYS = {
    "loss",
    "shape",
    "dtype",
    "backend",
    "forward_ms",
    "backward_ms",
    "total_ms",
    "peak_over_logits",
    "peers",
}
PEER_KEYS = {"name", "given", "eager_ms", "compiled_ms", "peak_over_logits", "compiled_peak_over_logits", "speedup"}


def speed(tmp_path, *arguments):
    """Exit code, output and rows of `python -m bench speed`."""
    file = tmp_path / "speed.json"
    done = CliRunner().invoke(cli, ["speed", "--shape", TINY, "--repeats", "3", "--json", str(file), *arguments])
    return done.exit_code, done.output, json.loads(file.read_text()) if file.exists() else None


def test_rows_of_the_json(tmp_path):
    code, output, rows = speed(tmp_path, "--losses", "jaccard,dice_ce", "--no-compile", "--no-memory")
    assert code == 0, output
    assert max(map(len, output.splitlines())) <= 100
    assert [row["loss"] for row in rows] == ["jaccard", "dice_ce"]
    for row in rows:
        assert row.keys() >= ROW_KEYS and row["shape"] == [1, 3, 12, 10, 8] and row["dtype"] == "float32"
        assert row["forward_ms"] > 0 and row["backward_ms"] > 0 and row["copy_ms"] > 0
        low, high = row["quartiles_ms"]["total"]
        assert low <= row["total_ms"] <= high
        assert row["peers"][0]["package"] == "monai"
        for peer in row["peers"]:
            assert peer.keys() >= PEER_KEYS and peer["compiled_ms"] is None and peer["given"] in output
            assert peer["speedup"] == pytest.approx(peer["eager_ms"] / row["total_ms"])
        assert row["machine"].keys() >= {"cpu", "threads", "versions", "commit"}
        assert row["notes"][:1] == ["torch.compile of the peers left out"] and "peak memory left out" in row["notes"]


def test_compiled_peer_and_memory(tmp_path):
    code, output, rows = speed(tmp_path, "--losses", "cross_entropy")
    assert code == 0, output
    (row,), ((peer,),) = rows, [row["peers"] for row in rows]
    assert peer["compiled_ms"] > 0 and peer["compiled_quartiles_ms"]["forward"]
    assert peer["speedup"] == pytest.approx(min(peer["eager_ms"], peer["compiled_ms"]) / row["total_ms"])
    for value in (row["peak_over_logits"], peer["peak_over_logits"], peer["compiled_peak_over_logits"]):
        assert value >= 0


def test_disagreement_is_refused(tmp_path, monkeypatch):
    wrong = registry.LossRow("DiceLoss", {"smooth": 1.0}, (monai("DiceLoss", smooth_nr=900.0, smooth_dr=1e-5),))
    monkeypatch.setitem(registry.LOSSES, "wrong", wrong)
    code, output, rows = speed(tmp_path, "--losses", "wrong,dice", "--no-compile", "--no-memory")
    assert code == 1 and "value differs by" in output and "gradient differs by" in output
    assert rows[0]["refused"].startswith("monai DiceLoss: value differs by") and rows[0]["total_ms"] is None
    assert rows[1]["refused"] is None and rows[1]["total_ms"] > 0


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("loss", registry.LOSSES)
def test_every_peer_computes_the_same(loss, activation, dtype):
    case = Case(loss, (2, 3, 14, 12, 10), dtype, activation=activation)
    logits, labels = case.inputs()
    contestants = case.contestants(logits, labels, compiled=False)
    # rounded logits tie, and of two smallest neighbours either may have the gradient
    rough = 0.1 if loss == "cldice" and logits.dtype in (torch.bfloat16, torch.float16) else 0.0
    for name in contestants.keys() - {"ours"}:
        assert disagreement(*differences(contestants["ours"], contestants[name]), logits.dtype, rough) is None, name


def test_a_peer_is_given_the_labels_it_is_fastest_on(monkeypatch):
    def build(activation, classes, seconds):
        return lambda logits, target: (time.sleep(seconds), logits.sum())[1]

    def refusing(activation, classes):
        def call(logits, target):
            raise RuntimeError("no such dtype")

        return call

    slow, fast = (partial(build, seconds=seconds) for seconds in (0.03, 0.0))
    for first, second, expected in (
        (slow, fast, one_hot_labels),
        (fast, slow, index_labels),
        (refusing, fast, one_hot_labels),
    ):
        peer = Peer("peer", "torch", first, index_labels, more=((second, one_hot_labels),))
        monkeypatch.setitem(registry.LOSSES, "made_up", registry.LossRow("DiceLoss", {}, (peer,)))
        case = Case("made_up", (1, 2, 8, 8))
        given = case.inputs()
        best = case.at_best(*given)
        assert best.forms == {"torch peer": FORMS[expected]}
        target = best.contestants(*given, compiled=False)["torch peer"].target
        assert target.shape == expected(given[1], 2).shape


def test_peer_of_two_classes():
    case = Case("unified_focal", (2, 2, 14, 12, 10))
    peer, *_ = case.peers()
    contestants = case.contestants(*case.inputs(), compiled=False)
    found = differences(contestants["ours"], contestants[peer.title])
    assert disagreement(*found, torch.float32) is None


def test_every_loss_is_known_and_those_of_other_libraries_have_a_peer():
    import fastloss

    losses = {name for name in fastloss.__all__ if name.endswith("Loss")} - {
        "SegmentationLoss",
        "SumLoss",
        "CompoundLoss",
        "LovaszHingeLoss",  # which takes logits without an activation
    }
    assert {row.cls for row in registry.LOSSES.values()} == losses
    alone = {
        loss for loss in registry.LOSSES if all(p.package in OPTIONAL_PACKAGES for p in Case(loss, (1, 2, 4)).peers())
    }
    assert alone == {
        "balanced_cross_entropy",
        "poly",
        "focal_tversky",
        "log_cosh_dice",
        "sensitivity_specificity",
        "combo",
        "exp_log",
        "boundary",
        "distance_penalty",
        "shape_aware",
        "dice_cldice",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "dice,focl,x"], "unknown loss 'focl', 'x'; known: all, cross_entropy, dice"),
        (["--losses", ","], "no loss named"),
        (["--shape", "2,4"], "expected B,C and one to three spatial sizes"),
        (["--shape", "2,4,0,8"], "all positive"),
        (["--shape", "2,4,a"], "expected integers"),
        (["--shape", "2,1,8,8"], "softmax needs at least two classes"),
        (["--dtype", "int8"], "'int8' is not one of"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    code, output, rows = speed(tmp_path, *arguments)
    assert code == 2 and rows is None
    assert message in " ".join(output.replace("│", " ").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_named(tmp_path):
    code, output, _ = speed(tmp_path, "--device", "cuda")
    assert code == 2 and "no CUDA or ROCm device" in output


def test_forced_backend_that_cannot_run_is_named(tmp_path, monkeypatch):
    def cannot_run(*_):
        raise ValueError("backend: 'triton' is forced and cannot run: no GPU")

    monkeypatch.setattr("bench.speed.measure.measure", cannot_run)
    code, output, rows = speed(tmp_path, "--losses", "dice", "--backend", "triton")
    assert code == 1 and rows is None and "Error: backend: 'triton' is forced and cannot run: no GPU" in output


def test_contestants_take_turns():
    turns = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def step(self, device):
            turns.append(self.name)
            return 1.0, 2.0

    samples = timing.interleave({"a": Fake("a"), "b": Fake("b")}, repeats=20, device=torch.device("cpu"))
    rounds = list(zip(turns[-40::2], turns[-39::2], strict=True))
    assert set(rounds) == {("a", "b"), ("b", "a")}  # in an order drawn each round
    assert len(turns) == 40 + 2 * timing.WARM_UP
    assert samples["a"].total == [3.0] * 20


def test_the_c_library_is_left_alone_where_that_is_asked_for(monkeypatch):
    tuned = []
    monkeypatch.setattr(timing, "keep_freed_memory", lambda: tuned.append(True))
    untuned = Effort(1, compiled=False, memory=False, tuned=False)
    row = measure(Case("dice", (1, 2, 8, 8), only_ours=True), untuned)
    assert not row["tuned"] and not tuned
    assert measure(Case("dice", (1, 2, 8, 8), only_ours=True), replace(untuned, tuned=True))["tuned"] and tuned


def test_rounds_end_with_the_time_but_are_three_at_least(monkeypatch):
    class Fake:
        def step(self, device):
            return 1.0, 2.0

    def rounds(seconds):
        clock = itertools.count()
        monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))  # a second later at each look
        return len(timing.interleave({"a": Fake()}, 50, torch.device("cpu"), seconds)["a"].forward)

    assert rounds(0.0) == timing.FEWEST
    assert timing.FEWEST < rounds(10.0) < 20
    assert rounds(math.inf) == 50


def test_peers_that_take_seconds_can_be_left_out():
    case = Case("hausdorff_erosion", (1, 2, 8, 8))
    row = measure(case, Effort(1, compiled=False, memory=False, slow_peers=False))
    assert row["peers"] == [] and "bench speed --losses hausdorff_erosion" in row["notes"][0]
    assert row["total_ms"] > 0


def test_what_does_not_fit_is_left_out():
    full = Effort(repeats=3)
    assert affordable(full, math.inf) == full
    assert affordable(full, 20.0) == Effort(repeats=3, compiled=False, memory=True)
    assert affordable(full, 1.0) == Effort(repeats=3, compiled=False, memory=False)


def test_quartiles():
    assert timing.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == [2.0, 3.0, 4.0]


def test_nan_becomes_null():
    assert finite([{"a": float("nan"), "b": (1.0, float("inf"))}]) == [{"a": None, "b": [1.0, None]}]


PROBE = """
import torch
from bench.peak_memory import peak_bytes
from bench.timing import Contestant
logits = torch.randn(1, 4, 64, 64, 64, requires_grad=True)
loss = Contestant(lambda x, y: x.exp().sum(), logits, None)
print(peak_bytes(loss, torch.device("cpu")) / logits.numel() / 4)
"""


@pytest.mark.skipif(memory.can_measure(Case("dice", (1, 2, 4))) is not None, reason="needs /proc/self/clear_refs")
def test_peak_memory_of_a_known_function():
    """exp keeps its result for the backward, and the gradient is the second volume: 2.0."""
    env = {**os.environ, **memory.MALLOC, "PYTHONPATH": str(memory.ROOT)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(2.0, abs=0.1)
