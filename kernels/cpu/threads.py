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
import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, int64, njit, prange
from numba.core import event
from numba.core.registry import cpu_target
from numba.extending import intrinsic

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
                "fastloss: compiling CPU kernels, once for this machine: a few seconds a loss (fastloss.warmup() does "
                "it ahead of time)"
            )

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())


@lru_cache
def _source_digest() -> str:
    """Numba's cache looks at one file only: the digest of all kernel sources keeps it from going stale. Its version
    and the processor are in it, as two that write one file at once would mix up their code."""
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("*.py")), Path(terms.__file__)]
    machine = repr((numba.__version__, cpu_target.target_context.codegen().magic_tuple())).encode()
    return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), machine])).hexdigest()[:12]


def made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps for good what is known elsewhere by its address: ``functools.cache`` would let two threads make it at once,
    and free the first."""
    kept: dict[tuple[Any, ...], Any] = {}

    def get(*key: Any) -> Any:
        if key not in kept:
            with _Threads.making:
                if key not in kept:
                    kept[key] = make(*key)
        return kept[key]

    return get


def _clone(function: Callable[..., Any], *names: str, **scope: Any) -> types.FunctionType:
    """With globals of its own, and a name of its own, since Numba's cache key has neither these nor the jit flags."""
    clone = types.FunctionType(function.__code__, {**function.__globals__, **scope}, "_".join(names))
    clone.__qualname__ = f"{clone.__name__}_{_source_digest()}"
    return clone


def _compile(function: Callable[..., Any], decorator: Callable[..., Any], *signature: Any, **flags: Any) -> Any:
    """Compiled now, for the signature: Numba raises what is wrong with a cache when it reads or writes it."""
    flags = {"error_model": "numpy", **flags}
    try:
        return decorator(*signature, cache=True, **flags)(function)
    except Exception as error:  # no place, a full disk, a damaged file; what is wrong with the function comes again
        if not _Threads.warned:
            _Threads.warned = True
            _log.warning(
                "fastloss: compiled kernels cannot be kept on disk, compiling them in each process (%s: %s); "
                "NUMBA_CACHE_DIR names another folder",
                *(type(error).__name__, error),
            )
        return decorator(*signature, **flags)(function)


# A code by address: ``code(arguments, i) -> int64``, ``arguments`` the address of int64 numbers


@intrinsic
def call(typingctx, code, arguments, i):  # type: ignore[no-untyped-def]
    """Calls the code at an address."""

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        number = context.get_value_type(int64)
        function = builder.inttoptr(values[0], ir.FunctionType(number, (number, number)).as_pointer())
        return builder.call(function, values[1:])

    return int64(int64, int64, int64), codegen


def _loop(code, arguments, count):  # type: ignore[no-untyped-def]
    found = 0
    for i in prange(count):
        found += call(code, arguments, i)
    return found


@made_once
def _loop_of(kind: str) -> Any:
    """The loop, serial or parallel."""
    signature = int64(int64, int64, int64)
    return _compile(_clone(_loop, "_loop", kind), njit, signature, nogil=True, parallel=kind == "parallel")


def code_of(function: Callable[..., Any], name: str, **scope: Any) -> Any:
    """A function of ``(arguments, i)``, both int64, as machine code for :func:`run`: compiled, or loaded from the disk.

    Args:
        name: one for each function and scope: the disk knows the code by it and by the sources.
        scope: globals that the function has of its own.

    Returns:
        The code, to be kept as long as its ``address`` is in use.
    """
    return _compile(_clone(function, name, **scope), cfunc, int64(int64, int64))


class _Threads:
    """What is known of parallel kernels in this process."""

    used = False  # a parallel kernel has run here: a forked child must not enter one
    forked = False
    unsafe_layer = threading.Lock()  # Numba's workqueue layer aborts when two threads enter it
    making = threading.RLock()  # codes, one at a time
    warned = False  # that codes cannot be kept


def _after_fork() -> None:
    _Threads.forked = _Threads.forked or _Threads.used
    _Threads.unsafe_layer, _Threads.making = threading.Lock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(code: int, arguments: np.ndarray, count: int, size: int) -> int:
    """Calls the code at an address with the arguments (int64) and each i below ``count``, on as many threads as torch
    has if ``size``, the number of voxels and classes, is worth it; returns the sum of the results.

    The one parallel loop of the back end: Numba compiles it once, whatever it runs.
    """
    given = (code, arguments.ctypes.data, count)
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads == 1 or _Threads.forked or size < _SERIAL_BELOW:
        return int(_loop_of("serial")(*given))
    parallel = _loop_of("parallel")
    if numba.get_num_threads() != threads:
        numba.set_num_threads(threads)
    if _Threads.used and numba.threading_layer() != "workqueue":
        return int(parallel(*given))
    with _Threads.unsafe_layer:
        result = int(parallel(*given))
        _Threads.used = True
        return result
