"""Stages of a run, most important first; what a run that is cut off has found is kept."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from bench.machine import machine


@dataclass
class Run:
    """What every stage is told. ``toy``: sizes for Triton's interpreter on the CPU, whose times say nothing."""

    device: torch.device
    toy: bool
    end: float  # of time.monotonic(), after which nothing new begins
    copy_bytes: float = 3.0e12  # bytes a second of a copy, once measured
    free: int = field(default=16 << 30)  # bytes of memory that a check may fill

    @property
    def late(self) -> bool:
        return time.monotonic() > self.end


Stage = Callable[[Run], Iterator[dict]]


def run_stages(
    run: Run,
    stages: Iterable[tuple[str, Stage]],
    keep: Callable[[dict], None],
    advance: Callable[[str, dict], None] = lambda stage, row: None,
) -> dict:
    """The result of all stages, handed to ``keep`` after each; a stage that raises leaves its rows and the reason."""
    about = machine()
    result: dict = {"device": run.device.type, "toy": run.toy, "machine": about, "stages": []}
    for name, stage in stages:
        begin, rows, error = time.monotonic(), [], None
        try:
            for row in stage(run) if not run.late else ():
                rows.append(row)
                advance(name, row)
                if run.late:
                    break
        except Exception as problem:  # of a kernel, a peer or the driver: the next stage may still tell something
            error = f"{type(problem).__name__}: {str(problem)[:2000]}"
        result["stages"].append(
            {"name": name, "rows": rows, "error": error, "cut": run.late, "seconds": time.monotonic() - begin}
        )
        keep(result)
    return result


def faults(result: dict) -> list[str]:
    """What is wrong, stage by stage."""
    found = [f"{stage['name']}: {stage['error']}" for stage in result["stages"] if stage["error"]]
    wrong = ((stage["name"], row) for stage in result["stages"] for row in stage["rows"] if row.get("ok") is False)
    return found + [f"{name}: {row}" for name, row in wrong]
