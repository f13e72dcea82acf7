"""Time and peak memory of a call on the device."""

import time
from collections.abc import Callable

import torch

from bench.gpu.stages import Run


def microseconds(run: Run, call: Callable[[], object]) -> float:
    """The median of the device's time, by CUDA events, with the L2 cache cleared before each run; one run of a toy."""
    if run.device.type != "cuda":
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e6
    from triton.testing import do_bench

    return 1e3 * do_bench(call, warmup=5, rep=30, return_mode="median")


def host_microseconds(run: Run, call: Callable[[], object], times: int = 20) -> float:
    """What a call takes of the process that makes it, not waiting for the device."""
    times = 1 if run.toy else times
    synchronise(run)
    begin = time.perf_counter()
    for _ in range(times):
        call()
    took = time.perf_counter() - begin
    synchronise(run)
    return took * 1e6 / times


def synchronise(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)


def peak_bytes(run: Run, call: Callable[[], object]) -> int | None:
    """Bytes that a call holds at once beyond what was there; None where they are not counted, on a CPU."""
    if run.device.type != "cuda":
        return None
    synchronise(run)
    torch.cuda.reset_peak_memory_stats(run.device)
    before = torch.cuda.memory_allocated(run.device)
    call()
    synchronise(run)
    return torch.cuda.max_memory_allocated(run.device) - before


def nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
