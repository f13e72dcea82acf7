"""The command for distance transforms end to end, its refusal, and its masks."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.distances import edt, peers
from bench.distances.masks import MASKS
from bench.machine import installed_version


def run_edt(tmp_path, *arguments):
    """Exit code, output and rows of `python -m bench edt`."""
    file = tmp_path / "edt.json"
    done = CliRunner().invoke(cli, ["edt", "--size", "16", "--repeats", "2", "--json", str(file), *arguments])
    return done.exit_code, done.output, json.loads(file.read_text()) if file.exists() else None


def test_rows_of_the_json(tmp_path):
    code, output, rows = run_edt(tmp_path, "--masks", "blobs,not ball")
    assert code == 0, output
    assert len(rows) == 2 * 2 * 2 and {row["kind"] for row in rows} == {"unsigned", "signed"}
    for row in rows:
        assert row["shape"] == [16, 16, 16] and row["median_ms"]["fastloss"] > 0 and not row["refused"]
        assert row["faster"]["scipy"] == pytest.approx(row["median_ms"]["scipy"] / row["median_ms"]["fastloss"])
        assert max(row["differences"].values()) < 1e-5
    assert "geometric mean" in output


def test_a_peer_that_disagrees_is_not_timed(tmp_path, monkeypatch):
    ours, *_ = peers.TRANSFORMS["unsigned"]
    right = ours.make

    def make(mask, spacing, threads):
        return {**right(mask, spacing, threads), "wrong": lambda: mask.astype(np.float32)}

    monkeypatch.setitem(peers.TRANSFORMS, "unsigned", (ours, peers.Transform("peer", "numpy", make)))
    code, output, rows = run_edt(tmp_path, "--kind", "unsigned", "--masks", "empty slab")
    assert code != 0 and "peer differs" in output and rows[0]["median_ms"] == {}


def test_a_peer_is_timed_at_its_best(tmp_path, monkeypatch):
    ours, *_ = peers.TRANSFORMS["unsigned"]

    def make(mask, spacing, threads):
        (call,) = ours.make(mask, spacing, threads).values()
        return {
            "slow": lambda: (time.sleep(0.05), call())[1],
            "fast": call,
            "slower": lambda: (time.sleep(0.1), call())[1],
        }

    monkeypatch.setitem(peers.TRANSFORMS, "unsigned", (ours, peers.Transform("peer", "numpy", make)))
    code, output, rows = run_edt(tmp_path, "--kind", "unsigned", "--masks", "ball")
    assert code == 0 and {row["ways"]["peer"] for row in rows} == {"fast"} and rows[0]["median_ms"]["peer"] < 50
    assert "given fast (2)" in output


@pytest.mark.parametrize("kind", peers.TRANSFORMS)
def test_every_way_of_every_transform_gives_the_same_field(kind):
    mask, spacing = MASKS["blobs"](20)[:, :17, :13], (3.0, 1.0, 0.5)
    (expected,) = (call() for call in peers.TRANSFORMS[kind][0].make(mask, spacing, 2).values())
    for transform in peers.TRANSFORMS[kind]:
        if transform.package is None or installed_version(transform.package):
            for way, call in transform.make(mask, spacing, 2).items():
                assert edt.off(expected, call(), mask, transform) < edt.TOLERANCE, (transform.title, way)


def test_a_peer_that_is_not_installed_is_left_out(tmp_path, monkeypatch):
    ours, *_ = peers.TRANSFORMS["unsigned"]
    monkeypatch.setitem(peers.TRANSFORMS, "unsigned", (ours, peers.Transform("none", "no-such-package", None)))
    code, _, rows = run_edt(tmp_path, "--kind", "unsigned", "--masks", "ball")
    assert code == 0 and rows[0]["faster"] == {}


def test_unknown_mask(tmp_path):
    code, output, _ = run_edt(tmp_path, "--masks", "cube")
    assert code == 2 and "unknown mask 'cube'" in output


@pytest.mark.parametrize("name", MASKS)
def test_masks_have_both_sides(name):
    mask = MASKS[name](32)
    assert mask.shape == (32, 32, 32) and mask.dtype == bool and 0 < mask.mean() < 1
