"""The Triton pass that writes what is ranked: in the interpreter, compiled for four targets, and executed as PTX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_common import compiled_environment, make_problem

pytest.importorskip("triton")

HELPER = Path(__file__).with_name("gpu_compile_ranked.py")
TOOLS = Path(os.environ.get("FASTLOSS_TOOLS", Path(__file__).parents[2] / "shared" / "tools"))
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")


def run_helper(*arguments):
    command = [sys.executable, str(HELPER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=compiled_environment(), timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


FAMILIES = [(2, "softmax"), (5, "softmax"), (18, "softmax"), (3, "sigmoid"), (1, "sigmoid"), (17, "none")]


@interpreted
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize(
    ("weights", "dtype", "dense"),
    [
        ("mask", torch.float32, False),
        ("ignore", torch.float64, False),
        ("all", torch.bfloat16, False),
        ("mask", torch.bfloat16, True),
    ],
)
def test_values(channels, activation, weights, dtype, dense):
    from fastloss.kernels import gpu_ranked, reference_ranked

    options = {"all": {}, "ignore": {"ignore": (1, 255)}, "mask": {"mask": "weight"}}[weights]
    problem = make_problem(
        channels, (3, 5, 7), activation, dtype, ("count",), dense=dense,
        target_dtype=torch.bool if dense else torch.int16, **options,
    )  # fmt: skip
    arguments, plan = (problem.target, problem.mask), problem.plan
    exclusive = activation == "softmax" or (activation == "none" and channels > 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6

    def output(channels):
        real = torch.float64 if dtype == torch.float64 else torch.float32
        return torch.full((2, channels, 3, 5, 7), torch.nan, dtype=real)

    wanted, _, weight = reference_ranked.voxel_errors(problem.logits.double(), *arguments, plan)
    launch, found = gpu_ranked.values_launch(problem.logits, *arguments, plan, output(channels), "errors")
    launch.run()
    counted = (weight != 0).expand_as(found)
    assert (found.double() - wanted)[counted].abs().max() <= tolerance * max(1, wanted.max())
    wanted = reference_ranked.voxel_losses(problem.logits.double(), *arguments, plan, exclusive)
    what = "own" if exclusive and activation == "none" else "losses"
    found = output(1 if activation == "softmax" else channels)
    launch, found = gpu_ranked.values_launch(problem.logits, *arguments, plan, found, what)
    launch.run()
    found = found.double().sum(1, keepdim=True).clamp_min(-1) if what == "own" else found.double()
    assert (found - wanted).abs().max() <= tolerance * wanted.max()


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_no_spills_and_wide_accesses(target):
    facts = run_helper("inspect", target)
    assert len(facts) >= 11
    for name, fact in facts.items():
        assert fact["spilled"] == 0 and 0 < fact["registers"] <= 256, (name, fact)
        assert fact["widths"].get("LDG.128", 0) >= fact["sites"], (name, fact)
        assert {width for width in fact["widths"] if width.startswith("STG")} == {fact["store"]}, (name, fact)


def test_compiled_code_gives_the_reference_values_and_moves_every_byte_once():
    if not (TOOLS / "ptxrun.py").exists():
        pytest.skip(f"no PTX executor in {TOOLS} (FASTLOSS_TOOLS names its folder)")
    rows = run_helper("execute", str(TOOLS))
    assert len(rows) >= 7
    assert {row["name"]: row["error"] for row in rows if not row["error"] <= 2e-6} == {}
    assert {row["name"]: row["moved"] for row in rows if row["moved"] > 1.05} == {}
