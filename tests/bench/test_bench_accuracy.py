"""The accuracy command on small volumes, and what it calls worse."""

import json
import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("kornia", reason="the benchmarks need kornia")
pytest.importorskip("matplotlib", reason="the benchmarks need matplotlib")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.accuracy import measure
from bench.losses.optional_peers import OPTIONAL
from bench.losses.peers import OPTIONAL_PACKAGES
from bench.losses.registry import LOSSES
from bench.machine import installed_version
from bench.speed.agreement import disagreement
from bench.speed.case import Case
from bench.timing import Contestant


@pytest.mark.slow
def test_table_plot_and_json(tmp_path):
    file = tmp_path / "accuracy.json"
    arguments = ["--losses", "dice_ce,lovasz,poly", "--edges", "8,12", "--classes", "3", "--peers-to", "8"]
    done = CliRunner().invoke(cli, ["accuracy", *arguments, "--out", str(tmp_path / "plots"), "--json", str(file)])
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())
    assert [(row["loss"], row["shape"][2]) for row in rows[::3]] == [
        (loss, edge) for loss in ("dice_ce", "lovasz", "poly") for edge in (8, 12)
    ]
    assert [row["dtype"] for row in rows[:3]] == ["float32", "bfloat16", "float16"]
    bounds = {"float32": 1e-5, "bfloat16": 4e-3, "float16": 1e-3}
    for row in rows:
        assert row["truth"] == "reference" and row["worse"] == []
        assert row["errors"]["ours"]["value"] < 1e-6
        assert 0 < row["errors"]["ours"]["gradient"] < bounds[row["dtype"]]
        with_peers = row["shape"][2] == 8 and row["loss"] != "poly"
        assert any(name != "ours" for name in row["errors"]) == with_peers
    assert "monai DiceCELoss" in rows[0]["errors"] and "DiceCELoss" in done.output
    for kind in ("svg", "png"):
        assert (tmp_path / "plots" / f"accuracy.{kind}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--dtypes", "float8"], "unknown dtype 'float8'"), (["--edges", "x"], "expected integers")],
)
def test_bad_options_are_named(arguments, message):
    done = CliRunner().invoke(cli, ["accuracy", *arguments])
    assert done.exit_code == 2 and message in done.output


def test_large_volumes_take_the_kernels_float64(monkeypatch):
    """Whose own error against the reference is that of float64."""
    case = Case("dice_focal", (1, 3, 9, 9, 9))
    plain = measure.truth_of(case, *case.inputs())
    monkeypatch.setattr(measure, "REFERENCE_LOGITS", 10)
    wide = measure.truth_of(case, *case.inputs())
    assert (plain.backend, wide.backend) == ("reference", "numba")
    assert 0 <= abs(plain.value / wide.value - 1) < 1e-14
    assert 0 < (plain.gradient - wide.gradient).norm() < 1e-14 * plain.gradient.norm()


def test_errors_of_several_draws_are_medians():
    case = Case("dice", (1, 3, 6, 6, 6))
    peers, notes = measure.comparable(case)
    single = [measure.measure(replace(case, seed=seed), peers, notes)["errors"] for seed in range(3)]
    assert single[0] != single[1] != single[2]
    for name, errors in measure.measure(case, peers, notes, draws=3)["errors"].items():
        for what, error in errors.items():
            assert error == sorted(each[name][what] for each in single)[1]


def test_errors_are_relative():
    logits = torch.ones(1, 2, 2, 2, requires_grad=True)
    truth = measure.Truth(10.0, torch.full((1, 2, 2, 2), 1.0, dtype=torch.float64), "reference")
    found = truth.errors(Contestant(lambda z, y: 1.1 * z.sum(), logits, None))
    assert found == {"value": pytest.approx(0.12), "gradient": pytest.approx(0.1)}
    nothing = measure.Truth(0.0, torch.zeros(1, 2, 2, 2, dtype=torch.float64), "reference")
    assert nothing.errors(Contestant(lambda z, y: z.sum(), logits, None))["gradient"] == pytest.approx(math.sqrt(8))


def test_what_is_worse():
    def errors(ours, *peers):
        return {"ours": {"value": 0.0, "gradient": ours}} | {
            f"p{k}": {"value": 1e-8, "gradient": peer} for k, peer in enumerate(peers)
        }

    assert measure.worse(errors(1e-5), "float32") == []
    assert measure.worse(errors(1e-5, 2e-5), "float32") == []
    assert measure.worse(errors(1e-5, 2e-5, 9e-6), "float32") == ["gradient"]
    assert measure.worse(errors(2e-7, 1e-7), "float32") == []  # a few roundings
    assert measure.worse(errors(2e-7, 1e-7), "float64") == ["gradient"]
    assert measure.worse(errors(math.nan, 1e-2), "bfloat16") == ["gradient"]


def test_a_peer_that_computes_something_else_is_left_out(monkeypatch):
    row = LOSSES["dice"]
    monkeypatch.setitem(LOSSES, "jaccard", type(row)("JaccardLoss", row.options, row.peers[:1]))
    peers, notes = measure.comparable(Case("jaccard", (1, 3, 8, 8, 8), "float64"))
    assert peers == [] and "monai DiceLoss left out, in float64: value differs" in notes[0]


@pytest.mark.parametrize("package", OPTIONAL_PACKAGES)
def test_optional_peers_compute_the_same_in_every_form(package):
    if not installed_version(package):
        pytest.skip(f"{package} is not installed")
    peers = [(name, peer) for name, own in OPTIONAL.items() for peer in own if peer.package == package]
    for name, peer in peers:
        for activation in peer.activations:
            # SMP's Lovász knows float32 alone
            dtype = "float32" if peer.title == "smp LovaszLoss" else "float64"
            case = Case(name, (2, 3, 8, 8, 8), dtype, activation=activation)
            logits, labels = case.inputs()
            truth = measure.truth_of(case, logits, labels)
            for form, (_, target) in peer.forms.items():
                theirs = Contestant(peer.loss(activation, 3, form), logits, target(labels, 3))
                assert not disagreement(*truth.errors(theirs).values(), logits.dtype), (peer.title, form)
