"""The command for a machine with a GPU: its stages at toy sizes, what it says of faults, and its kit of wheels."""

import json
import os
import subprocess
import sys
import time
import zipfile

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("rich", reason="the benchmarks need rich")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from click.testing import CliRunner

from bench.__main__ import cli
from bench.gpu import kernels, kit
from bench.gpu.stages import Run, faults, run_stages
from bench.gpu.table import markdown
from bench.machine import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on infinities


def toy_run(seconds=60.0):
    return Run(torch.device("cpu"), True, time.monotonic() + seconds)


def test_toy_run_end_to_end(tmp_path):
    file, table = tmp_path / "gpu.json", tmp_path / "gpu.md"
    done = CliRunner().invoke(cli, ["gpu", "--toy", "--json", str(file), "--markdown", str(table)])
    assert done.exit_code == 0, done.output
    stages = {stage["name"]: stage for stage in json.loads(file.read_text())["stages"]}
    assert all(stage["error"] is None and not stage["cut"] for stage in stages.values())
    for name in ("kernels of common losses", "every kind of kernel", "every loss", "more than 2^31 elements"):
        assert stages[name]["rows"] and all(row["ok"] for row in stages[name]["rows"]), stages[name]
    assert len(stages["transforms against all pairs"]["rows"]) == 5 * 6
    who = {row["who"] for row in stages["losses beside their peers"]["rows"] if row["us"] > 0}
    assert {"fastloss", "torch plain Dice + CE"} <= who
    assert "## every loss" in table.read_text() and "| dice_ce | fastloss |" in table.read_text()


def test_a_wrong_kernel_is_named(monkeypatch):
    monkeypatch.setattr(kernels, "ALLOWED", 0.0)
    result = run_stages(toy_run(), [("kernels", lambda run: iter([kernels.checked(kernels.common()[8], run)]))], len)
    (row,) = result["stages"][0]["rows"]
    assert row["ok"] is False and 0 < row["error"] < 1e-6
    assert [row["kernel"] in line for line in faults(result)] == [True]


def test_what_was_found_is_kept():
    """After a stage that fails, and when the time is over."""
    kept = []

    def failing(run):
        yield {"who": "first"}
        raise RuntimeError("no such device")

    def slow(run):
        yield {"who": "second"}
        run.end = time.monotonic() - 1
        yield {"who": "third"}
        yield {"who": "never"}

    stages = [("failing", failing), ("slow", slow), ("too late", failing)]
    result = run_stages(toy_run(), stages, lambda found: kept.append(len(found["stages"])))
    assert kept == [1, 2, 3]
    first, second, last = result["stages"]
    assert first["rows"] == [{"who": "first"}] and first["error"] == "RuntimeError: no such device"
    assert [row["who"] for row in second["rows"]] == ["second", "third"] and second["cut"]
    assert last["rows"] == [] and last["cut"] and last["error"] is None
    assert "no such device" in markdown(result) and faults(result) == ["failing: RuntimeError: no such device"]


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(cli, ["gpu"])
    assert done.exit_code == 1 and "--toy" in done.output


def test_imports_what_the_kit_has():
    """No package but torch's and those of the kit."""
    absent = ("scipy", "numba", "llvmlite", "monai", "kornia", "nibabel", "matplotlib", "SimpleITK", "edt", "pytest")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import bench.__main__, bench.gpu.kernels, bench.gpu.losses, bench.gpu.transforms, bench.gpu.compiled\n"
        "import fastloss, torch\n"
        "fastloss.DiceCELoss().to('meta'), bench.gpu.losses.peers_of('dice_ce', 4)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def wheel(folder, package, text, size=0):
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{package}/__init__.py", text)
        archive.writestr(f"{package}/data", bytes(size))


def test_kit_unpacks_what_is_missing(tmp_path):
    site = tmp_path / "site"
    for package in ("torch", "surely_not_installed", "fastloss"):
        wheel(tmp_path, package, "raise ImportError")
    kit.unpack(tmp_path, site)
    assert not (site / "torch").exists() and (site / "surely_not_installed").exists()
    for module in ("fastloss/__init__.py", "fastloss/kernels/gpu/rows.py"):  # of the checkout, whatever the wheel has
        source = module.replace("fastloss/kernels", "kernels")
        assert (site / module).read_text() == (ROOT / source).read_text()
    assert (site / "fastloss/data").exists() and not list((site / "fastloss").glob("**/__pycache__"))


def test_kit_refuses_to_be_large(tmp_path, monkeypatch, capsys):
    wheel(tmp_path, "small", "", 1000)
    kit.check_size(tmp_path)
    assert "small-1.0" in capsys.readouterr().out
    monkeypatch.setattr(kit, "MOST", 1000)
    with pytest.raises(SystemExit, match="expected at most"):
        kit.check_size(tmp_path)
