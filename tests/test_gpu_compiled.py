"""The machine code of every kernel variant, for three NVIDIA and one AMD target: no spills, 128-bit accesses.

``python -m pytest -m slow tests/test_gpu_compiled.py`` compiles the whole product of options.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_common import compiled_environment

pytest.importorskip("triton")

HELPER = Path(__file__).with_name("gpu_compile.py")
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
LIMITS = {"sm_80": 255, "sm_90": 255, "sm_100": 255, "gfx942": 256}


def run_helper(*arguments):
    command = [sys.executable, str(HELPER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=compiled_environment(), timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("matrix", ["main", pytest.param("all", marks=pytest.mark.slow)])
def test_no_spills_and_wide_accesses(target, matrix):
    facts = run_helper("inspect", target, *(["all"] if matrix == "all" else []))
    assert len(facts) >= (200 if matrix == "all" else 20)
    wrong = {name: fact for name, fact in facts.items() if faults(name, fact, LIMITS[target])}
    assert not wrong, "\n".join(f"{name}: {fact}" for name, fact in wrong.items())


def faults(name, fact, limit):
    """What is wrong with a kernel's code; empty if nothing."""
    widths = fact["widths"]
    found = []
    # ptxas may keep one register on the stack, outside the loop, with others to spare; no loss sums every term
    allowed = 40 if "every term" in name else 12 if fact["registers"] <= 128 else 0
    if fact["spilled"] > allowed:
        found.append("spills")
    if not 0 < fact["registers"] <= limit:
        found.append("registers")
    if fact["wide"] and widths.get("LDG.128", 0) < fact["sites"]:
        found.append("narrow loads of the logits")
    if fact["wide"] and name.startswith("backward") and {w for w in widths if w.startswith("STG")} != {"STG.128"}:
        found.append("narrow stores of the gradient")
    return found
