"""What a result must say about where it was measured."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
BUSY = 0.2  # cores taken by others that a measurement bears
PACKAGES = ("fastloss", "torch", "monai", "kornia", "numba", "triton", "numpy", "scipy", "edt", "SimpleITK")


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str | None:
    """The checkout's commit, with `+changes` where what is measured differs; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ":!docs"],  # where results are written
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def installed_version(package: str) -> str | None:
    """The distribution's version, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on, as far as they are installed."""
    installed = {package: installed_version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | {name: found for name, found in installed.items() if found}


def machine() -> dict:
    """Processor, cores, threads, GPU, versions and commit."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "versions": versions(),
        "commit": commit(),
    }


def cpu_seconds() -> tuple[float, float] | None:
    """CPU seconds of the whole machine and of this process so far; None where /proc/stat is missing."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy, time.process_time()


@contextmanager
def watch_others():
    """Gives a dict that holds, after the block, `others`: cores kept busy by other processes, or None."""
    found: dict[str, float | None] = {"others": None}
    before, begin = cpu_seconds(), time.perf_counter()
    yield found
    after, took = cpu_seconds(), time.perf_counter() - begin
    if before and after and took > 0:
        found["others"] = max(0.0, (after[0] - before[0] - (after[1] - before[1])) / took)


def notes_on_others(cores: float | None) -> list[str]:
    """A warning where other processes took part of the machine during a measurement."""
    if cores is None or cores <= BUSY:
        return []
    return [f"other processes kept {cores:.1f} cores busy: times are not to be trusted"]


def keep_freed_memory() -> None:
    """Have the C library keep the memory it is given back, where it is glibc, as a tuned training process does.

    By default it returns large blocks to the system and gets them back as pages to be cleared, which takes longer than
    a fast loss; and what one loss freed it may return in another's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def synchronise(device: torch.device) -> None:
    """Wait for the device's queued work; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
