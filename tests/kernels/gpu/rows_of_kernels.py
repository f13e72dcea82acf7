"""What the processes whose Triton compiles print about the kernels."""

import json
import os
import subprocess
import sys

import pytest

from bench.kernels.measure import Job
from bench.machine import ROOT


def rows_of(module, *arguments, interpreted=False):
    """The rows that a worker of `python -m bench kernels` prints."""
    return list(Job(module, module, arguments, interpreted).rows())


def executed(what):
    """What `gpu_execute.py` prints, where there is an executor of PTX."""
    folder = os.environ.get("FASTLOSS_TOOLS", str(ROOT.parent / "shared" / "tools"))
    if not os.path.exists(os.path.join(folder, "ptxrun.py")):
        pytest.skip(f"no PTX executor in {folder} (FASTLOSS_TOOLS names its folder)")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(ROOT / "tests" / "kernels" / "gpu" / "gpu_execute.py"), folder, what]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
