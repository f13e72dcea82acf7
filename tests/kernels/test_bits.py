"""The same bits always: in the process that compiles and in later ones, on one thread and on several."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rows import LOSSES, RANKED

DTYPES = ("float32", "float64", "bfloat16", "float16")
STENCILS = ("HausdorffErosionLoss", "HausdorffConvLoss", "SoftDiceCLDiceLoss", "StructuralSimilarityLoss")
SMALL, LARGE = (5, 7, 9), (29, 26, 28)  # for one thread; and for several: two chunks of voxels a sample
SCRIPT = """
import hashlib, json, sys
import torch
import fastloss

threads, cases = json.load(sys.stdin)
torch.set_num_threads(threads)
found = []
for name, options, activation, dtype, dense, channels, space in cases:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, channels, *space, dtype=torch.float64)
    logits = logits.softmax(1) if activation is None else logits
    target = torch.randint(0, channels, (2, *space), dtype=torch.uint8)
    if dense:
        target = torch.nn.functional.one_hot(target.long(), channels).movedim(-1, 1).to(torch.uint8)
    leaf = logits.to(getattr(torch, dtype)).requires_grad_()
    value = getattr(fastloss, name)(activation=activation, **options)(leaf, target)
    value.backward()
    assert value.isfinite() and leaf.grad.isfinite().all(), name
    parts = [x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for x in (value, leaf.grad)]
    found.append(hashlib.sha256(b"".join(parts)).hexdigest())
print(json.dumps(found))
"""


def cases_of(loss, options_of):
    """Every case of a loss."""
    for activation in ("softmax", "sigmoid", None):
        for channels in (3, 6):
            for dtype in DTYPES:
                for dense in (False, True):
                    for space in (SMALL, LARGE):
                        yield loss, options_of(activation, channels), activation, dtype, dense, channels, space


def cases_by_loss():
    """All cases of each loss with its options."""
    for row in (*LOSSES, *RANKED):
        cases = list(cases_of(row.cls.__name__, row.all_options))
        yield cases if row in LOSSES else [case for case in cases if case[2] == "softmax" and not case[4]]
    for name in STENCILS:
        yield [case for case in cases_of(name, lambda activation, channels: {}) if case[2] == "softmax"]


def digests(cases, threads, cache):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT]
    given = json.dumps([threads, cases])
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), "compiling CPU kernels" in done.stderr


def check(cases, cache, *others):
    """The first process, on two threads, compiles; others, each on so many threads, load."""
    compiled, announced = digests(cases, 2, cache)
    assert announced and len(set(compiled)) > len(cases) // 2
    for threads in others:
        loaded, _ = digests(cases, threads, cache)
        differ = [case for case, a, b in zip(cases, compiled, loaded, strict=True) if a != b]
        assert not differ, f"on {threads} threads: {differ}"


def test_a_case_of_each_loss(tmp_path):
    """Over all of them every activation, dtype, target, number of classes and size."""
    of_name = {cases[0][0]: cases for cases in cases_by_loss()}
    cases = [cases[37 * k % len(cases)] for k, cases in enumerate(of_name.values())]
    for k, wanted in ((2, {"softmax", "sigmoid", None}), (3, set(DTYPES)), (4, {False, True}), (5, {3, 6})):
        assert {case[k] for case in cases} == wanted
    assert {case[6] for case in cases} == {SMALL, LARGE}
    check(cases, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("cases", cases_by_loss(), ids=lambda cases: f"{cases[0][0]}-{cases[0][1]}")
def test_all_cases_of_a_loss(cases, tmp_path):
    check(cases, tmp_path, 1, 2)
