"""Runs kinds of random inputs, each in a process of its own under a watchdog, and counts what comes of it."""

import faulthandler
import importlib
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

SETTINGS = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
STARTING_S = 120  # a process may take to import and to compile before its first input


@dataclass(frozen=True)
class Kind:
    """``cases(random)`` is a strategy of cases for a round; ``check(case)`` raises where something is wrong."""

    name: str
    cases: Callable[[np.random.Generator], Any]
    check: Callable[[Any], None]
    share: float = 1.0  # of the time
    per_round: int = 1000
    limit_s: float = 60.0  # for one input, compiling included
    guided: bool = False  # by the coverage of fastloss, with atheris


@dataclass
class Result:
    """What came of the inputs of a kind."""

    kind: str
    seed: int
    inputs: int = 0
    wrong: int = 0
    crashes: int = 0
    hangs: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Record:
    """Files that outlive a process: the case that is being checked, and the result so far."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._case = os.open(folder / "case", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._trace = os.open(folder / "trace", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._armed = -math.inf

    def case(self, line: str, limit_s: float) -> None:
        data = line.encode("utf-8", "backslashreplace")
        os.pwrite(self._case, data, 0)
        os.ftruncate(self._case, len(data))
        if time.monotonic() - self._armed > limit_s / 4:  # costs a millisecond
            faulthandler.dump_traceback_later(limit_s, exit=True, file=self._trace)
            self._armed = time.monotonic()

    def result(self, result: Result) -> None:
        write = self.folder / "result.new"
        write.write_text(json.dumps(asdict(result)))
        write.replace(self.folder / "result")


def line_of(kind: Kind, case: Any) -> str:
    """Python that checks a case again."""
    module = kind.check.__module__
    code = f"from {module} import *; {kind.check.__name__}({case!r})"
    return f"PYTHONPATH=tests python -c {shlex.quote(code)}"


def told(error: Exception, line: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if "hypothesis" not in f.filename), "")
    return f"{type(error).__name__}: {str(error)[:500]} at {where}\n    {line}"


def work(kind: Kind, seed: int, record: Record, *, seconds: float = 1e9, inputs: float = 1e9) -> Result:
    """Rounds of inputs until the time or the number is up; a failure shrinks, and ends the kind after the fifth."""
    result, start, last = Result(kind.name, seed), time.monotonic(), ""

    def over() -> bool:
        return time.monotonic() - start > seconds or result.inputs >= inputs

    for turn in itertools.count():
        failed = False

        @hypothesis.seed(seed * 1_000_003 + turn)
        @settings(SETTINGS, max_examples=int(min(kind.per_round, inputs - result.inputs)))
        @given(kind.cases(np.random.default_rng([seed, turn])))
        def one(case):
            nonlocal failed, last
            if over() and not failed:
                return
            last = line_of(kind, case)
            record.case(last, kind.limit_s)
            try:
                kind.check(case)
            except BaseException:
                failed = True
                raise
            result.inputs += not failed  # what shrinks a failure is no new input

        try:
            one()
        except Exception as error:
            result.wrong += 1
            result.failures.append(told(error, last))
        result.seconds = time.monotonic() - start
        record.result(result)
        if over() or result.wrong >= 5:
            faulthandler.cancel_dump_traceback_later()
            return result


def work_guided(atheris: Any, kind: Kind, seed: int, record: Record, seconds: float) -> None:
    """The same with inputs made of libFuzzer's bytes, which look for code that no input has reached; it ends the
    process. A failure does not shrink."""
    result, start, last = Result(kind.name, seed), time.monotonic(), ""

    @SETTINGS
    @given(kind.cases(np.random.default_rng(seed)))
    def one(case):
        nonlocal last
        last = line_of(kind, case)
        record.case(last, kind.limit_s)
        kind.check(case)

    def of_bytes(data: bytes) -> None:
        try:
            result.inputs += one.hypothesis.fuzz_one_input(data) is not None
        except Exception as error:
            result.wrong += 1
            result.failures.append(told(error, last))
        result.seconds = time.monotonic() - start
        over = result.seconds > seconds or result.wrong >= 5
        if over or result.inputs % 256 == 0:
            record.result(result)
        if over:
            os._exit(0)

    atheris.Setup([sys.argv[0], f"-seed={seed + 1}", "-max_len=4096", "-rss_limit_mb=0", "-verbosity=0"], of_bytes)
    atheris.Fuzz()


def find(module: str, name: str) -> Kind:
    return next(kind for kind in importlib.import_module(module).KINDS if kind.name == name)


def run(module: str, kind: Kind, seed: int, seconds: float, folder: Path, inputs: float = 1e9) -> Result:
    """A kind in a process of its own: what kills or stops it is counted, and it goes on with another seed."""
    total, end = Result(kind.name, seed), time.monotonic() + seconds
    for attempt in range(5):
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*"):
            file.unlink()
        left = max(1.0, end - time.monotonic())
        options = [module, kind.name, str(seed + attempt), str(left), str(inputs), str(folder), str(int(kind.guided))]
        with open(folder / "output", "w") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", *options], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            status = child.wait(left + STARTING_S + 2 * kind.limit_s)
        except subprocess.TimeoutExpired:  # the watchdog itself hangs
            child.send_signal(signal.SIGKILL)
            status = child.wait()
        if (folder / "result").exists():
            found = json.loads((folder / "result").read_text())
            total.inputs, total.wrong = total.inputs + found["inputs"], total.wrong + found["wrong"]
            total.seconds, total.failures = total.seconds + found["seconds"], total.failures + found["failures"]
        if status == 0:
            break
        case = (folder / "case").read_text() if (folder / "case").exists() else "no case yet"
        trace = (folder / "trace").read_text() if (folder / "trace").exists() else ""
        hung = "Timeout" in trace or status == -signal.SIGKILL
        total.hangs, total.crashes = total.hangs + hung, total.crashes + (not hung)
        tail = trace if hung else (folder / "output").read_text()[-2000:]
        total.failures.append(f"{'hang' if hung else f'crash, status {status}'}\n    {case}\n{tail}")
        if end - time.monotonic() < 5:
            break
    return total
