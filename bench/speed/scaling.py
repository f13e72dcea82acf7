"""Time and memory against the volume, the classes and the threads: the points of `python -m bench scaling`."""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from bench.losses.registry import LOSSES
from bench.machine import machine, notes_on_others, watch_others
from bench.speed.case import Case
from bench.speed.memory import can_measure, peaks
from bench.speed.roofline import attainable, overhead_of_formula, roofline
from bench.timing import interleave

PEERS_KEEP = 10  # logits' volumes that a peer holds at its peak, by which what does not fit is left out
CLASSES_EDGE = 64  # of the volumes over which the classes are counted
TINY = (1, 2, 32, 32)


@dataclass(frozen=True)
class Series:
    """What is measured."""

    edges: Sequence[int]
    classes: Sequence[int]
    threads: Sequence[int]
    seconds: float  # for the rounds of one point
    repeats: int = 15
    memory: bool = True

    def cases(self, case: Case) -> list[tuple[str, Case]]:
        """Each point, with the name of the line that it lies on."""
        batch, classes = case.shape[:2]
        found = [("volume", replace(case, shape=(batch, classes, edge, edge, edge))) for edge in self.edges]
        found += [("classes", replace(case, shape=(batch, n, *(CLASSES_EDGE,) * 3))) for n in self.classes]
        edge = max((edge for edge in self.edges if edge <= 128), default=min(self.edges))
        cube = (batch, classes, edge, edge, edge)
        return found + [("threads", replace(case, shape=cube, threads=n, only_ours=True)) for n in self.threads]


def free_bytes() -> float:
    """Memory that is available now; unknown counts as plenty."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def point(line: str, case: Case, series: Series, roof: dict) -> dict:
    """Times of one case (and peaks), with the peers where they fit the memory."""
    notes = []
    if case.logits_bytes * PEERS_KEEP > 0.7 * free_bytes() and not case.only_ours:
        notes.append("peers left out: their memory")
        case = replace(case, only_ours=True)
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        with warnings.catch_warnings(), case.backend_context(), watch_others() as watched:
            warnings.simplefilter("ignore")
            given = case.inputs()
            contestants = case.at_best(*given).contestants(*given, False)
            samples = interleave(contestants, series.repeats, case.torch_device, series.seconds)
    finally:
        torch.set_num_threads(before)
    row = {"line": line, **case.as_dict(), "class": LOSSES[case.loss].cls, "ms": {}, "peak_over_logits": {}}
    for name, found in samples.items():
        row["ms"][name] = {part: statistics.median(getattr(found, part)) for part in ("forward", "backward", "total")}
    row["attainable_ms"] = attainable(case, roof) if case.threads == before else None
    row["share"] = row["attainable_ms"] and row["attainable_ms"] / row["ms"]["ours"]["total"]
    if series.memory and line != "threads" and not can_measure(case):
        row["peak_over_logits"] = peaks(case, False)
    row["notes"] = notes + notes_on_others(watched["others"])
    return row


def measure(cases: list[Case], series: Series, end: float, advance: Callable[[str], None]) -> dict:
    """All points of all losses; those that begin after ``end`` (of ``time.monotonic``) are left out, and named."""
    roof = roofline(cases[0].torch_device)
    rows, left_out = [], []
    for case in cases:
        for line, at in series.cases(case):
            name = f"{case.loss} {line} {'x'.join(map(str, at.shape))}, {at.threads} threads"
            advance(name)
            if time.monotonic() > end:
                left_out.append(name)
                continue
            rows.append(point(line, at, series, roof))
    tiny = {case.loss: overhead_of_formula(replace(case, shape=TINY)) for case in cases}
    first = cases[0]
    about = {"device": first.device, "dtype": first.dtype, "activation": first.activation, "machine": machine()}
    return about | {"roofline": roof, "points": rows, "tiny": tiny, "left_out": left_out}
