"""The first call of a process: compiled once and announced, loaded in a second afterwards, and compiled ahead."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastloss.kernels
import pytest
import torch

import fastloss

SMALL_KERNEL = """
import json, time
import torch
import fastloss
from fastloss.kernels.cpu import select as cpu_select
start = time.perf_counter()
cpu_select.select_largest(torch.rand(100), 0.1)
print(json.dumps([time.perf_counter() - start, fastloss.__file__]))
"""
FIRST_CALL = """
import json, time
import torch
import fastloss
torch.set_num_threads(1)
logits = torch.randn(1, 2, 16, 16, requires_grad=True)
labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
start = time.perf_counter()
fastloss.DiceCELoss()(logits, labels).backward()
print(json.dumps([time.perf_counter() - start, fastloss.__file__]))
"""


def first_call(script, folder, cache):
    """Seconds of a first call, and what was said, with the package in one folder and the user's home in another."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, file = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(folder)
    return seconds, done.stderr


@pytest.fixture
def read_only(tmp_path):
    """A copy of the package in which no cache can be written: where its folders would be lie files (root may write
    into folders that are read-only)."""
    package = tmp_path / "site-packages" / "fastloss"
    ours = Path(fastloss.__file__).parent
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ours, package, ignore=leave)
    shutil.copytree(Path(fastloss.kernels.__file__).parent, package / "kernels", ignore=leave, dirs_exist_ok=True)
    for folder in (package, package / "kernels", package / "kernels" / "cpu"):
        (folder / "__pycache__").write_text("")
    return package.parent


def test_a_read_only_package_keeps_its_kernels_in_the_users_cache(read_only, tmp_path):
    _, said = first_call(SMALL_KERNEL, read_only, tmp_path / "cache")
    assert said.count("fastloss: compiling CPU kernels, once for this machine") == 1
    assert list((tmp_path / "cache").rglob("*.nbc"))
    assert first_call(SMALL_KERNEL, read_only, tmp_path / "cache")[1] == ""


@pytest.mark.slow
def test_first_call_of_a_loss(read_only, tmp_path):
    cold, _ = first_call(FIRST_CALL, read_only, tmp_path / "cache")
    warm, said = first_call(FIRST_CALL, read_only, tmp_path / "cache")
    assert said == "" and warm < 1.0 and cold < 30.0


def test_warmup_leaves_random_state_and_runs_every_combination(monkeypatch):
    seen = []

    class Loss(torch.nn.Module):
        def forward(self, logits, labels):
            assert logits.requires_grad and int(labels.max()) < logits.shape[1]
            seen.append((tuple(logits.shape), logits.dtype, labels.dtype))
            return logits.sum()

    before = torch.get_rng_state()
    with torch.no_grad():
        seconds = fastloss.warmup(
            Loss(), classes=[2, 3], dtypes=[torch.float32, torch.float64], label_dtype=torch.int16, size=(16, 9)
        )
    assert seconds > 0 and torch.equal(before, torch.get_rng_state())
    assert len(seen) == 8 and {labels for *_, labels in seen} == {torch.int16}
    assert ((2, 3, 16, 9), torch.float64, torch.int16) in seen and ((2, 2, 8, 8), torch.float32, torch.int16) in seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": [3]}, "losses: got 3"),
        ({"classes": 0}, "classes: got 0"),
        ({"classes": []}, "classes: got"),
        ({"dtypes": torch.int32}, "dtypes: got torch.int32"),
        ({"size": (4, 4, 4, 4)}, "size: got"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fastloss.warmup(**options)
