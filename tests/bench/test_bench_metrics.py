"""The command for metrics end to end, and its refusal."""

import json

import pytest

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.distances import metrics


def run_metrics(tmp_path, shape):
    """Exit code, output and rows of `python -m bench metrics`."""
    file = tmp_path / "metrics.json"
    done = CliRunner().invoke(cli, ["metrics", "--shape", shape, "--repeats", "2", "--json", str(file)])
    return done.exit_code, done.output, json.loads(file.read_text())


@pytest.mark.parametrize("shape", ["2,3,32,32", "1,3,32,32,32"])
def test_rows_of_the_json(tmp_path, shape):
    code, output, rows = run_metrics(tmp_path, shape)
    assert code == 0, output
    assert [row["kind"] for row in rows] == ["surface", "overlap"]
    for row in rows:
        assert max(row["differences"].values()) < 1e-5 and not row["refused"]
        assert row["monai_given"] in ("float32", "uint8", "bool", "int32") and row["monai_given"] in output
        assert row["faster"] == pytest.approx(row["monai_ms"] / row["fastloss_ms"])


def test_metrics_that_disagree_are_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "TOLERANCE", -1.0)
    code, output, rows = run_metrics(tmp_path, "1,3,32,32")
    assert code != 0 and "values disagree" in output and "faster" not in rows[0]
