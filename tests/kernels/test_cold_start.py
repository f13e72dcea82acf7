"""The first call of a process: compiled once and announced, loaded in a second afterwards, and compiled ahead."""

import json
import os
import re
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
import fastloss.kernels.cpu.sums
torch.set_num_threads(1)
logits = torch.randn(1, 2, 16, 16, requires_grad=True)
labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
start = time.process_time()
fastloss.DiceCELoss()(logits, labels).backward()
print(json.dumps([time.process_time() - start, fastloss.__file__]))
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
    """After the imports, in seconds of the processor: others may run beside."""
    cold, _ = first_call(FIRST_CALL, read_only, tmp_path / "cache")
    warm, said = first_call(FIRST_CALL, read_only, tmp_path / "cache")
    assert said == "" and warm <= 0.5 and cold <= 4.0


COUNTED = """
import json, os
from pathlib import Path
import torch
import fastloss

seen, found = set(), {}

def step(name, loss, logits, labels, **options):
    loss(logits.detach().requires_grad_(), labels, **options).backward()
    files = {file.name for file in Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbi")}
    found[name] = sorted(files - seen)
    seen.update(files)

torch.set_num_threads(1)
dice, logits = fastloss.DiceLoss(), torch.randn(2, 3, 16, 16)
labels = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
step("first", fastloss.DiceCELoss(), logits, labels)
step("same", fastloss.DiceCELoss(smooth=1.0), 2 * logits, labels, mask=None)
step("further loss", dice, logits, labels)
step("classes", dice, torch.randn(2, 7, 16, 16), labels)
step("float64", dice, logits.double(), labels)
step("bfloat16", dice, logits.bfloat16(), labels)
step("label dtype", dice, logits, labels.long())
step("dense", dice, logits, torch.rand(2, 3, 16, 16))
step("dense of another dtype", dice, logits, torch.ones(2, 3, 16, 16, dtype=torch.float64))
step("part of a vector", dice, logits[..., :15].contiguous(), labels[..., :15].contiguous())
step("channels last", dice, logits.double().contiguous(memory_format=torch.channels_last), labels)
step("mask", dice, logits, labels, mask=torch.ones(2, 16, 16, dtype=torch.bool))
step("many voxels", dice, torch.randn(1, 3, 8, 16, 16), torch.zeros(1, 8, 16, 16, dtype=torch.uint8))
torch.set_num_threads(2)
step("threads", dice, torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.uint8))
print(json.dumps(found))
"""
PLAN = ["plan", "plan"]  # a code forward and one backward
COMPILED = {
    "first": ["_loop_serial", "chunk_float32", "labels_uint8_True_float32", *PLAN],
    "same": [],
    "further loss": PLAN,
    "classes": PLAN,
    "float64": ["chunk_float64", "labels_uint8_True_float64", *PLAN],
    "bfloat16": PLAN,
    "label dtype": ["labels_int64_True_float32"],
    "dense": PLAN,
    "dense of another dtype": ["_convert_float64_float32"],
    "part of a vector": ["copy_4_False", "copy_4_True"],
    "channels last": ["copy_8_False", "copy_8_True"],
    "mask": ["_convert_bool_float32"],
    "many voxels": [],
    "threads": ["_loop_parallel"],
}


def test_what_is_compiled(tmp_path):
    """Seconds depend on the machine; how many codes there are does not."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", COUNTED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    named = {
        step: sorted(re.sub(r"^\w+\.(plan|\w+?)_[0-9a-f]{12,}.*", r"\1", file) for file in files)
        for step, files in found.items()
    }
    assert named == {step: sorted(names) for step, names in COMPILED.items()}


def test_warmup_leaves_random_state_and_runs_every_combination(monkeypatch):
    seen, backward = [], []

    class Loss(torch.nn.Module):
        def forward(self, logits, labels):
            assert logits.requires_grad and int(labels.max()) < max(2, logits.shape[1])
            seen.append((tuple(logits.shape), logits.dtype, labels.dtype))
            logits.register_hook(backward.append)
            return logits.sum()

    before = torch.get_rng_state()
    with torch.no_grad():
        seconds = fastloss.warmup(
            Loss(), classes=[1, 3], dtypes=[torch.float32, torch.float64], label_dtype=torch.int16, size=(16, 9)
        )
    assert seconds > 0 and torch.equal(before, torch.get_rng_state())
    assert len(seen) == len(backward) == 8 and {labels for *_, labels in seen} == {torch.int16}
    assert ((2, 3, 16, 9), torch.float64, torch.int16) in seen and ((2, 1, 8, 8), torch.float32, torch.int16) in seen


def test_warmup_of_a_list_of_modules():
    losses = torch.nn.ModuleList([fastloss.DiceLoss(), fastloss.CrossEntropyLoss()])
    assert fastloss.warmup(losses, classes=2, size=(4, 4)) > 0


class Constant(torch.nn.Module):
    def forward(self, logits, labels):
        return None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": [3]}, r"losses: got \[3\]"),
        ({"losses": torch.nn.Identity()}, r"losses: Identity\(\) is not called with logits and labels"),
        ({"losses": torch.nn.Module()}, r"losses: Module\(\) is not called with logits and labels"),
        ({"losses": Constant()}, r"losses: Constant\(\) gives None, expected a tensor with a gradient"),
        ({"classes": 0}, "classes: got 0"),
        ({"classes": []}, "classes: got"),
        ({"dtypes": torch.int32}, "dtypes: got torch.int32"),
        ({"size": (4, 4, 4, 4)}, "size: got"),
        ({"size": ("a",)}, r"size: got \('a',\)"),
        ({"classes": None}, "classes: got None"),
        ({"label_dtype": torch.float32}, "label_dtype: got torch.float32"),
        ({"device": "gpu"}, "device: got 'gpu'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastloss.warmup(**options)
