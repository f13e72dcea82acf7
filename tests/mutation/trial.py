"""Runs tests on a mutant, in a copy of the working tree."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What tests import and no mutant changes: loaded once, and shared with every trial by a fork.
_PRELOADED = ("torch", "numba", "llvmlite.binding", "triton", "pytest", "hypothesis.extra.numpy", "scipy.ndimage")
_PRELOADED += ("torch.testing", "monai.losses", "monai.metrics", "kornia.losses")
_STEP = 0.02  # seconds from one look at a process to the next
KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"


class Tree:
    """A copy of the working tree, with a Numba cache of its own, which stays for the next one."""

    def __init__(self, folder: Path):
        self.root, self.cache, self.log = folder / "tree", folder / "numba", folder / "log"
        shutil.rmtree(self.root, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
        for name in [*names, *(str(path.relative_to(ROOT)) for path in (ROOT / "fastloss").glob("_C.*.so"))]:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.root / name)
        (self.root / "fastloss/kernels").symlink_to("../kernels")  # before the working tree's, which is installed
        self._stamp = time.time()
        os.environ |= {"NUMBA_CACHE_DIR": str(self.cache), "PYTHONPATH": str(self.root), "TRITON_INTERPRET": "1"}
        for name in _PRELOADED:
            importlib.import_module(name)

    @contextlib.contextmanager
    def mutated(self, file: str, text: str) -> Iterator[None]:
        """The file has another text, and a time that no other text had: Python's and Numba's caches go by it."""
        path = self.root / file
        before, stamp = path.read_bytes(), path.stat()
        self._stamp += 2
        try:
            path.write_text(text)
            os.utime(path, (self._stamp, self._stamp))
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    @contextlib.contextmanager
    def compiled(self) -> Iterator[None]:
        """The extension is made of the tree's sources, without the time that optimising them takes."""
        (library,) = (self.root / "fastloss").glob("_C.*.so")
        original = library.read_bytes()
        import pybind11

        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-w", "-DFASTLOSS_BASELINE"]
        flags += ["-ffp-contract=off", "-fno-trapping-math", "-fno-signed-zeros", "-fno-math-errno"]
        includes = [f"-I{folder}" for folder in (pybind11.get_include(), sysconfig.get_paths()["include"])]
        quiet = {"cwd": self.root, "check": True, "stderr": subprocess.DEVNULL}
        library.unlink()  # a process may have it mapped
        try:
            subprocess.run(["c++", *flags, *includes, "csrc/bindings.cpp", "-o", library], **quiet)
            yield
        finally:
            library.unlink(missing_ok=True)
            library.write_bytes(original)

    def run(self, tests: Sequence[str], seconds: float, own_cache: bool = False) -> str:
        """Whether the tests pass, in a process forked from this one, before a time limit.

        ``own_cache``: of compiled kernels, for a mutant of what these are made of.
        """
        cache = self.cache.with_name("numba-of-mutant") if own_cache else self.cache
        child = os.fork()
        if not child:
            os.setsid()
            self._test(tests, cache)
        status = _wait(child, seconds)
        if own_cache:
            shutil.rmtree(cache, ignore_errors=True)
        if status is None:
            return TIMED_OUT
        return SURVIVED if status == 0 else KILLED

    def _test(self, tests: Sequence[str], cache: Path) -> None:
        """What the child does, and ends with."""
        status = 1
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(self.root)
            sys.path.insert(0, str(self.root))
            os.environ["NUMBA_CACHE_DIR"] = str(cache)
            import numba
            import pytest

            numba.config.reload_config()
            every = [] if "-k" in tests else ["-m", "slow or not slow"]  # of what is named, also what comes by turns
            options = ["-x", "-q", "--hypothesis-profile=unshrunk", "-p", "no:cacheprovider", "-p", "no:xdist"]
            status = pytest.main([*tests, *every, *options])
        finally:
            sys.stdout.flush()
            os._exit(int(status))


def _wait(child: int, seconds: float) -> int | None:
    """The child's exit status; None where it had to be ended."""
    for _ in range(round(seconds / _STEP)):  # counted, as a clock goes on while both processes are stopped
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(_STEP)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
