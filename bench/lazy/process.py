"""Peak memory of each way to do a thing, in a process of its own."""

import json
import os
import subprocess
import sys

from bench.machine import ROOT
from bench.speed.memory import MALLOC


def peak_of(module: str, request: dict) -> float | None:
    """The number that `python -m MODULE REQUEST` prints last, with an allocator that hands freed blocks back; None
    where the process fails, as it does where memory does not suffice."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", module, json.dumps(request)]
    done = subprocess.run(
        command, env={**os.environ, **MALLOC, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])
