"""How the Numba back end compiles its loops, and runs them on the threads that torch is set to.

Numba's parallel kernels must not be entered in a forked child, nor its workqueue layer by two threads at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import torch
from numba import njit
from numba.core import event

from fastloss import terms

_SERIAL_BELOW = 32768  # logits: a parallel region would cost more than it saves
_log = logging.getLogger("fastloss")


class _Announcer(event.Listener):  # type: ignore[misc]
    """Says once in a process why a call takes long: a kernel that no cache has is being compiled."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and event.data["dispatcher"].py_func.__module__.startswith("fastloss."):
            self.said = True
            _log.warning(
                "fastloss: compiling CPU kernels, once for this machine: up to a minute (fastloss.warmup() does it "
                "ahead of time)"
            )

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())


@lru_cache
def _source_digest() -> str:
    """Numba's cache looks at one file only: the digest of all kernel sources keeps it from going stale."""
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("cpu*.py")), Path(terms.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def serial_and_parallel(loop: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Both clones of a loop, for :func:`pick`."""
    return [compile_loop(loop, loop, parallel) for parallel in (False, True)]


def compile_loop(loop: Callable[..., Any], chunk: Callable[..., Any], parallel: bool) -> Callable[..., Any]:
    """A clone of the loop over a chunk function; of its own name, since Numba's cache key ignores the jit flags."""
    name = f"{chunk.__name__}_{'parallel' if parallel else 'serial'}"
    clone = types.FunctionType(loop.__code__, {**loop.__globals__, "run_chunk": chunk}, name)
    clone.__qualname__ = f"{name}_{_source_digest()}"
    flags = {"parallel": parallel, "nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **flags)(clone)
    except RuntimeError as error:
        _log.warning("fastloss: no writable place for compiled kernels, compiling in each process (%s)", error)
        return njit(**flags)(clone)


class _Threads:
    """What is known of parallel kernels in this process."""

    used = False  # a parallel kernel has run here: a forked child must not enter one
    forked = False
    unsafe_layer = threading.Lock()  # Numba's workqueue layer aborts when two threads enter it


def _after_fork() -> None:
    _Threads.forked = _Threads.forked or _Threads.used
    _Threads.unsafe_layer = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def pick(kernels: list[Callable[..., Any]], size: int) -> Callable[..., Any]:
    """The serial clone, or the parallel one on as many threads as torch has; ``size``: how many logits there are."""
    serial, parallel = kernels
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads == 1 or _Threads.forked or size < _SERIAL_BELOW:
        return serial

    def run(*arguments: Any) -> Any:
        if numba.get_num_threads() != threads:
            numba.set_num_threads(threads)
        if _Threads.used and numba.threading_layer() != "workqueue":
            return parallel(*arguments)
        with _Threads.unsafe_layer:
            result = parallel(*arguments)
            _Threads.used = True
            return result

    return run
