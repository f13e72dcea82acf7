"""Peak memory of this process: of one forward and backward beyond its inputs, and of all since a moment."""

import ctypes
import gc
import os
from pathlib import Path

import torch

from bench.timing import Contestant

WARM_UP = 2
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


def reset_peak(device: torch.device) -> None:
    """Start to watch the memory anew, where that is possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(CLEAR_REFS, os.W_OK):
        CLEAR_REFS.write_text("5")


def peak_so_far(device: torch.device) -> int | None:
    """Most memory since `reset_peak`: of the GPU's tensors, or of this process; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_bytes("VmHWM") if os.access(CLEAR_REFS, os.W_OK) else None
