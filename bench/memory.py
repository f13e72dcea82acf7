"""Peak memory of one forward and backward beyond its inputs, measured in a process of its own."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from bench.case import Case
from bench.machine import ROOT
from bench.timing import Contestant

WARM_UP = 2
# glibc keeps freed blocks below these sizes, and the peak would not see them come and go
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes(key: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def run_once(contestant: Contestant) -> None:
    """Forward and backward; the gradient lives until the end of the backward and is then dropped."""
    value = contestant.loss(contestant.logits, contestant.target)
    torch.autograd.grad(value, contestant.logits)


def peak_bytes(contestant: Contestant, device: torch.device) -> int:
    """Most memory held during one forward and backward, less what was held before it."""
    for _ in range(WARM_UP):
        run_once(contestant)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run_once(contestant)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text("5")  # sets the recorded peak back to what is resident now
    before = resident_bytes("VmRSS")
    run_once(contestant)
    return max(0, resident_bytes("VmHWM") - before)


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
        [sys.executable, "-m", "bench.memory", json.dumps({"case": case.as_dict(), "compiled": compiled})],
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
