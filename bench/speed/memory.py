"""Peak memory of each loss and its peers, measured in a process of its own."""

import json
import os
import subprocess
import sys

import torch

from bench.machine import ROOT
from bench.peak_memory import CLEAR_REFS, peak_bytes
from bench.speed.case import Case

# glibc keeps freed blocks below these sizes, and the peak would not see them come and go
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def peaks_here(case: Case, compiled: bool) -> dict[str, float]:
    """Peak over the logits' bytes of fastloss (`ours`) and every peer, in this process."""
    torch.set_num_threads(case.threads)
    with case.backend_context():
        logits, labels = case.inputs()
        logits_bytes = logits.numel() * logits.element_size()
        contestants = case.contestants(logits, labels, compiled)
        return {name: peak_bytes(c, case.torch_device) / logits_bytes for name, c in contestants.items()}


def can_measure(case: Case) -> str | None:
    """Why the peak cannot be measured here, or None."""
    if case.torch_device.type == "cuda" or os.access(CLEAR_REFS, os.W_OK):
        return None
    return f"peak memory on the CPU needs Linux with a writable {CLEAR_REFS}"


def peaks(case: Case, compiled: bool = True) -> dict[str, float]:
    """`peaks_here` in a fresh process whose allocator hands freed blocks back to the system."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "bench.speed.memory", json.dumps({"case": case.as_dict(), "compiled": compiled})],
        env={**os.environ, **MALLOC, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the memory measurement of {case.loss} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(peaks_here(Case(**request["case"]), request["compiled"])))
