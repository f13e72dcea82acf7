"""The kernels command: its counts, its predictions, its complaints."""

import math
import os

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("rich", reason="the benchmarks need rich")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.kernels import measure as kernels
from bench.kernels.instructions import LARGEST, executed_shape, tools_folder
from bench.kernels.variants import Variant

NAME = "forward softmax 4 bfloat16 dice and cross-entropy"
TRAFFIC = {"name": NAME, "moved": 9.0, "asked": 9.0, "compulsory": 9.0, "partial": 0.002, "faults": []}
CODE = {
    "name": NAME, "target": "sm_90", "registers": 96, "spilled": 0, "shared": 128, "occupancy": 0.31,
    "widths": {"LDG.128": 4, "LDG.U8": 1, "STG.32": 1}, "faults": [],
}  # fmt: skip
AROUND = {"name": "forward dice", "kernels": 2, "which": ["sum", "quotients"], "bytes": 9, "host_us": 99.0}


class FakeJob:
    def __init__(self, title, *rows):
        self.title, self.found = title, rows

    def rows(self):
        yield from self.found


def invoke(monkeypatch, tmp_path, code=None, instructions=89.0):
    counted = {"name": NAME, "instructions": instructions, "why_not": ""}
    work = {
        "code sm_90": FakeJob("sm_90", {**CODE, **(code or {})}),
        "traffic": FakeJob("traffic", TRAFFIC),
        "instructions": FakeJob("instructions", counted),
        "epilogue": FakeJob("epilogue", AROUND),
    }
    monkeypatch.setattr(kernels, "jobs", lambda *_: work)
    return CliRunner().invoke(cli, ["kernels", "--json", str(tmp_path / "kernels.json")])


def test_launches_are_executed_on_volumes_that_fit():
    for channels, expected in ((4, (2, 128, 128, 128)), (400, (1, 128, 128, 128)), (1400, (1, 46, 128, 128))):
        variant = Variant("forward", {"channels": channels, "dtype": torch.bfloat16})
        found = executed_shape(variant, (2, 128, 128, 128))
        assert found == expected and math.prod(found) * channels * 2 <= LARGEST


def test_times_follow_from_bytes_and_instructions():
    row = kernels.predict({**TRAFFIC, "instructions": 89.0, "measured_us": 15.0}, 2 * 128**3, 3.0)
    assert row["bandwidth_us"] == pytest.approx(9 * 2 * 128**3 / 3.0e12 * 1e6)
    assert row["issue_us"] == pytest.approx(89 * 2 * 128**3 / 32 / (132 * 4 * 1.7e9) * 1e6)
    assert row["predicted_us"] == max(row["bandwidth_us"], row["issue_us"])
    assert row["achieved"] == pytest.approx(row["predicted_us"] / 15.0) and row["faults"] == []


def test_table_and_json(monkeypatch, tmp_path):
    done = invoke(monkeypatch, tmp_path)
    assert done.exit_code == 0, done.output
    assert "forward dice" in done.output and "sum, quotients" in done.output
    assert "4x128 1xU8" in done.output and (tmp_path / "kernels.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": {"faults": ["spills"], "spilled": 8}}, f"sm_90, {NAME}: spills"),
        ({"instructions": 150.0}, "bound by instructions: 1.7"),
    ],
)
def test_faults_end_in_an_error(monkeypatch, tmp_path, change, message):
    done = invoke(monkeypatch, tmp_path, **change)
    assert done.exit_code == 1 and message in done.output


def test_a_worker_that_fails_is_named():
    job = kernels.Job("traffic", "bench.kernels.traffic", ("--shape", "x"), interpreted=True)
    with pytest.raises(RuntimeError, match=r"bench\.kernels\.traffic --shape x failed"):
        list(job.rows())


def test_loads_and_stores_are_counted():
    """In a process of its own, as the count has the interpreter run tiles of a GPU."""
    import json
    import os
    import subprocess
    import sys

    from bench.machine import ROOT

    script = """
import json
from bench.kernels.traffic import traffic
from bench.kernels.variants import variants
print(json.dumps([traffic(variant, (2, 64, 64, 64)) for variant in variants()[:2]]))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    forward, backward = json.loads(done.stdout.splitlines()[-1])
    assert forward["compulsory"] == 4 * 2 + 1 and backward["compulsory"] == 2 * 4 * 2 + 1
    for row in (forward, backward):
        assert 1 <= row["moved"] / row["compulsory"] <= 1.02 and row["asked"] >= row["moved"] * 0.99
        assert row["faults"] == []
    assert 0 < forward["partial"] < 0.01


def test_the_peers_kernels_are_counted_as_ours(monkeypatch):
    """Where it is installed: in a process of its own, whose Triton compiles."""
    monkeypatch.setattr(kernels, "installed_version", lambda package: "0.0.1a5" if package == "exacta" else None)
    work = kernels.jobs(["sm_90"], False, (2, 64, 64, 64), "tools", False)
    assert work["exacta"].arguments == ("tools", "--shape", "2,64,64,64")
    monkeypatch.setattr(kernels, "installed_version", lambda package: None)
    assert "exacta" not in kernels.jobs(["sm_90"], False, (2, 64, 64, 64), "tools", False)
    pytest.importorskip("exacta")
    folder = tools_folder()
    if folder is None:
        pytest.skip("no PTX executor (FASTLOSS_TOOLS names its folder)")
    job = kernels.Job("exacta", "bench.kernels.exacta", (str(folder), "--shape", "1,32,32,32"))
    rows = [kernels.predict(row, 32**3, 3.0) for row in job.rows()]
    assert len(rows) == 12 and all(row["instructions"] > 50 and row["over_bandwidth"] >= 1 for row in rows)


def test_the_peers_distances_are_counted_and_predicted_to_take_longer_than_ours():
    pytest.importorskip("exacta")
    folder = tools_folder()
    if folder is None:
        pytest.skip("no PTX executor (FASTLOSS_TOOLS names its folder)")
    volume = ("--shape", "1,32,32,32")
    theirs = kernels.Job("exacta", "bench.kernels.exacta", (str(folder), "--distances", *volume))
    ours = kernels.Job("distances", "bench.kernels.distances", (str(folder), *volume))
    rows = {row["name"]: kernels.predict(row, 32**3, 3.0) for job in (theirs, ours) for row in job.rows()}
    for kind, least in (("blobs", 4), ("ball", 1.5), ("far", 1.5)):
        mine, peers = (
            [rows[f"{kernel} {kind} {name}"] for name in ("scan", "rows", "planes")]
            for kernel in ("distance mask whole uint8", "exacta: distance mask")
        )
        assert sum(row["instructions"] for row in peers) > sum(row["instructions"] for row in mine) > 0
        assert sum(row["predicted_us"] for row in peers) > least * sum(row["predicted_us"] for row in mine)


@pytest.mark.parametrize("mode", ["mask", "sides"])
def test_passes_that_are_counted_in_part_leave_what_all_of_them_would(mode):
    """The next pass's instructions depend on what the passes before it have found."""
    import torch

    from bench.kernels import distances

    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1")
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand((3, 4, 6), generator=generator) < 0.9).to(torch.uint8)
    mask[1] = 1
    launches = [list(distances.Case(mode).launches(mask)[0]) for _ in range(2)]
    for (name, run), (_, filled) in zip(*launches, strict=True):
        run.run()
        distances.finish(name, filled, mask, mode)
        for ours, theirs in zip(filled.args, run.args, strict=True):
            if isinstance(ours, torch.Tensor) and name != "planes":
                if mode == "mask" and ours.dtype == torch.int16:  # the sign is where they lead to
                    theirs = torch.where(theirs < 0, ~theirs, theirs)
                assert torch.equal(ours, theirs)
