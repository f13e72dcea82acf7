"""The scaling command: its points, limits, plots and tables."""

import json

import pytest

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("kornia", reason="the benchmarks need kornia")
pytest.importorskip("matplotlib", reason="the plots need matplotlib")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("rich", reason="the benchmarks need rich")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.speed import roofline, scaling
from bench.speed.case import Case


def test_scaling_writes_plots_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "BYTES", 1 << 20)
    monkeypatch.setattr(scaling, "CLASSES_EDGE", 8)
    arguments = ["--losses", "dice", "--edges", "6,8", "--classes", "2,3", "--point-seconds", "0", "--no-memory"]
    done = CliRunner().invoke(
        cli, ["scaling", *arguments, "--out", str(tmp_path), "--json", str(tmp_path / "scaling.json")]
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "scaling.json").read_text())
    lines = [(row["line"], row["shape"]) for row in result["points"] if row["line"] != "threads"]
    assert lines == [
        ("volume", [1, 4, 6, 6, 6]),
        ("volume", [1, 4, 8, 8, 8]),
        ("classes", [1, 2, 8, 8, 8]),
        ("classes", [1, 3, 8, 8, 8]),
    ]
    for row in result["points"]:
        assert row["ms"]["ours"]["total"] > 0 and (row["line"] == "threads" or len(row["ms"]) >= 3)
    assert result["roofline"].keys() == {"read_gb_s", "copy_gb_s", "exp_g_s"}
    assert 0 < result["tiny"]["dice"]["formula_us"] < result["tiny"]["dice"]["call_us"] * 2
    assert result["machine"]["versions"]["torch"] and "commit" in result["machine"]
    svg = (tmp_path / "dice.svg").read_text()
    assert "<svg" in svg and (tmp_path / "dice.png").stat().st_size > 10000
    assert "1x4x8x8x8" in done.output and "GB/s" in done.output


def test_points_that_come_too_late_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "BYTES", 1 << 20)
    case = Case("dice", (1, 4, 8, 8, 8))
    result = scaling.measure([case], scaling.Series([4], [2], [], 0.0), end=0.0, advance=lambda name: None)
    assert result["points"] == [] and len(result["left_out"]) == 2


def test_attainable_is_the_slower_of_bytes_and_exponentials():
    case = Case("dice", (1, 4, 10, 10, 10))
    logits, labels = 16000, 1000
    slow_memory = {"read_gb_s": 1e-6, "copy_gb_s": 2e-6, "exp_g_s": 1e9}
    assert roofline.attainable(case, slow_memory) == pytest.approx(
        1e3 * ((logits + labels) / 1e3 + (2 * logits + labels) / 2e3)
    )
    slow_exp = {"read_gb_s": 1e9, "copy_gb_s": 1e9, "exp_g_s": 1e-6}
    assert roofline.attainable(case, slow_exp) == pytest.approx(1e3 * 2 * 4000 / 1e3)


@pytest.mark.parametrize("value", ["a", "0,4", ""])
def test_bad_numbers_are_named(value):
    done = CliRunner().invoke(cli, ["scaling", "--edges", value])
    assert done.exit_code == 2 and "expected" in done.output
