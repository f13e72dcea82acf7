"""Distance transforms beside those of other libraries: agreement first, then time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.distances.masks import MASKS
from bench.distances.peers import TRANSFORMS, Field, Transform
from bench.machine import installed_version, machine, notes_on_others, watch_others
from bench.timing import SLOW_SECONDS, fastest, no_collection

TOLERANCE = 1e-5  # relative; peers compute in float32


@dataclass(frozen=True)
class EdtCase:
    """One row of the table."""

    kind: str  # "unsigned" or "signed"
    size: int
    mask: str
    spacing: tuple[float, float, float]
    threads: int
    repeats: int


def off(expected: np.ndarray, found: np.ndarray, mask: np.ndarray, transform: Transform) -> float:
    """Largest relative difference of two fields, among the voxels where they mean the same."""
    field = transform.comparable(found)
    if transform.outside_only:
        expected, field = expected[~mask], field[~mask]
    difference = np.abs(field - expected)
    return float((difference / np.maximum(np.abs(expected), 1e-6)).max(initial=0.0))


@dataclass
class Called:
    """An installed transform at its best."""

    call: Field
    way: str  # the input and settings that were fastest
    seconds: float  # of a first call
    difference: float  # from fastloss's field, the largest of all ways


def first_calls(case: EdtCase, mask: np.ndarray) -> dict[str, Called]:
    """Every installed transform, each way of calling it tried."""
    found: dict[str, Called] = {}
    expected = None
    for transform in TRANSFORMS[case.kind]:
        if transform.package and not installed_version(transform.package):
            continue
        ways = transform.make(mask, case.spacing, case.threads)
        seconds, differences = {}, []
        for way, call in ways.items():
            begin = time.perf_counter()
            field = call()
            seconds[way] = time.perf_counter() - begin
            expected = field if expected is None else expected
            differences.append(off(expected, field, mask, transform))
        best = fastest(ways)
        # NaN is the largest difference there is, which max() would pass over
        found[transform.title] = Called(ways[best], best, seconds[best], float(np.max(differences)))
    return found


def interleaved(called: dict[str, Called], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of all calls in turn; a slow one takes part in the first round only."""
    samples: dict[str, list[float]] = {title: [] for title in called}
    with no_collection():
        for number in range(repeats):
            for title, transform in called.items():
                if number > 0 and transform.seconds > SLOW_SECONDS:
                    continue
                begin = time.perf_counter()
                transform.call()
                samples[title].append((time.perf_counter() - begin) * 1e3)
    return samples


def measure(case: EdtCase) -> dict:
    """A row: medians of all transforms, how many times faster fastloss is, and the differences found."""
    mask = MASKS[case.mask](case.size)
    called = first_calls(case, mask)
    differences = {title: transform.difference for title, transform in called.items()}
    row = {
        "kind": case.kind,
        "shape": [case.size] * 3,
        "mask": case.mask,
        "spacing_mm": list(case.spacing),
        "threads": case.threads,
        "repeats": case.repeats,
        "device": "cpu",
        "differences": differences,
        "ways": {title: transform.way for title, transform in called.items()},
        "median_ms": {},
        "rounds": {},
        "faster": {},
        "refused": None,
        "notes": [],
        "machine": machine(),
    }
    wrong = [f"{title} differs by {found:.1e}" for title, found in differences.items() if not found <= TOLERANCE]
    if wrong:
        row["refused"] = ", ".join(wrong)
        return row
    with watch_others() as watched:
        samples = interleaved(called, case.repeats)
    row["median_ms"] = {title: statistics.median(times) for title, times in samples.items()}
    row["rounds"] = {title: len(times) for title, times in samples.items()}
    ours = row["median_ms"]["fastloss"]
    row["faster"] = {title: ms / ours for title, ms in row["median_ms"].items() if title != "fastloss"}
    row["notes"] += notes_on_others(watched["others"])
    return row


def all_cases(kinds, sizes, masks, threads: int, repeats: int) -> list[EdtCase]:
    """Every kind on every mask of every size, isotropic and with slices three times as thick."""
    spacings = ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0))
    return [
        EdtCase(kind, size, mask, spacing, threads, repeats)
        for kind in kinds
        for size in sizes
        for mask in masks
        for spacing in spacings
    ]


def run(cases: list[EdtCase], advance: Callable[[dict], None]) -> list[dict]:
    """The rows of all cases; `advance` is told each."""
    rows = []
    for case in cases:
        rows.append(measure(case))
        advance(rows[-1])
    return rows
