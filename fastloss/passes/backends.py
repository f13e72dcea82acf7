"""Which back end serves a device: chosen by its type, or forced."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

BACKENDS = ("reference", "numba", "triton")
_MODULES = {"reference": "reference", "numba": "cpu", "triton": "gpu"}
_log = logging.getLogger("fastloss")


def _checked_backend(name: str) -> str:
    if not isinstance(name, str) or (name and name not in BACKENDS):
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(BACKENDS)}")
    return name


_forced = _checked_backend(os.environ.get("FASTLOSS_BACKEND", ""))


def forced_backend() -> str:
    """The back end that is forced in this process, or an empty string."""
    return _forced


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces a back end (``"reference"``, ``"numba"`` or ``"triton"``) in this process, for all threads.

    A forced back end that cannot run raises; nothing falls back in silence. The environment variable
    ``FASTLOSS_BACKEND`` does the same from the start.
    """
    global _forced
    before, _forced = _forced, _checked_backend(name)
    try:
        yield
    finally:
        _forced = before


def _unavailable(name: str, device: torch.device) -> str:
    """Why a back end cannot run on a device; empty if it can."""
    if name == "numba":
        if device.type != "cpu":
            return f"the numba back end takes CPU tensors, got {device}"
        if not importlib.util.find_spec("numba"):
            return "Numba is not installed"
        return "NUMBA_DISABLE_JIT is set" if importlib.import_module("numba").config.DISABLE_JIT else ""
    if name == "triton":
        if not importlib.util.find_spec("triton"):
            return "Triton is not installed"
        return str(_module("triton").unavailable(device))
    return ""


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"fastloss.kernels.{_MODULES[name]}.sums")


_chosen: dict[tuple[str, str], ModuleType] = {}


def choose(forced: str, device: torch.device) -> ModuleType:
    """The back end that serves a device, or the one that is forced."""
    key = (forced, device.type)
    if key not in _chosen:
        wanted = forced or {"cpu": "numba", "cuda": "triton"}.get(device.type, "reference")
        problem = _unavailable(wanted, device)
        if problem and forced:
            raise ValueError(f"backend: {forced!r} is forced and cannot run: {problem}")
        if problem or (wanted == "reference" and not forced):
            reason = problem or f"no kernels for {device.type} devices"
            _log.warning("fastloss: using the reference back end on %s (slow): %s", device.type, reason)
            wanted = "reference"
        _chosen[key] = _module(wanted)
    return _chosen[key]


def distances_in_triton(device: torch.device) -> bool:
    """Whether distances of a device's tensors are Triton's: of a GPU's, or where Triton is forced and can run there."""
    wanted = _forced or ("triton" if device.type == "cuda" else "")
    return wanted == "triton" and not _unavailable("triton", device)


def choose_room(room: str, forced: str, device: torch.device) -> ModuleType:
    """Of the chosen back end another module than ``sums``: ``values``, ``ranked``, ``stencils`` or ``resample``."""
    return importlib.import_module(f"{choose(forced, device).__package__}.{room}")
