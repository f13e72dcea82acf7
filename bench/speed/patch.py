"""Peak memory of every loss and peer, and the largest cubic patch that fits a budget."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from bench.machine import machine
from bench.output import machine_line, number, plain_table
from bench.speed.case import LABEL_DTYPES, Case
from bench.speed.memory import peaks

SIZES = (48, 80)  # voxels along the axes of the two cubes that the line goes through


@dataclass(frozen=True)
class Line:
    """Bytes held by logits, labels and the loss, as a straight line over the voxels of the batch."""

    start: float
    slope: float

    @classmethod
    def through(cls, points: list[tuple[int, float]]) -> "Line":
        """Of two points (voxels, bytes)."""
        (a, low), (b, high) = points
        slope = (high - low) / (b - a)
        return cls(low - slope * a, slope)

    def at(self, voxels: int) -> float:
        return self.start + self.slope * voxels

    def largest_edge(self, batch: int, budget: float) -> int:
        """The longest edge of a cube whose batch stays within the budget; 0 where none does."""
        edge = round((max(0.0, budget - self.start) / (self.slope * batch)) ** (1 / 3)) + 1
        while edge > 0 and self.at(batch * edge**3) > budget:
            edge -= 1
        return edge


def cube(case: Case, edge: int) -> Case:
    """The case with cubic volumes."""
    return replace(case, shape=(*case.shape[:2], edge, edge, edge))


def held(case: Case, compiled: bool) -> dict[str, tuple[float, float]]:
    """For each contestant the peak in times of the logits, and all bytes held at the peak."""
    found = {}
    for name, ratio in peaks(case, compiled).items():
        label = LABEL_DTYPES[case.label_dtype] if name == "ours" else torch.int64
        inputs = case.logits_bytes + case.voxels * label.itemsize
        found[name] = (ratio, inputs + ratio * case.logits_bytes)
    return found


def measure(case: Case, budget: float, compiled: bool, verify: bool, advance: Callable[[str], None]) -> dict:
    """Peaks at two sizes, the largest patch by the line through them, and fastloss's measured at that size."""
    batch = case.shape[0]
    points: dict[str, list[tuple[int, float]]] = {}
    peak = {}
    for edge in SIZES:
        advance(f"{edge}^3")
        for name, (ratio, held_bytes) in held(cube(case, edge), compiled).items():
            points.setdefault(name, []).append((batch * edge**3, held_bytes))
            peak[name] = ratio
    lines = {name: Line.through(of) for name, of in points.items()}
    edges = {name: line.largest_edge(batch, budget) for name, line in lines.items()}
    verified = None
    if verify and edges["ours"] > SIZES[-1]:
        advance(f"{edges['ours']}^3")
        verified = held(cube(replace(case, only_ours=True), edges["ours"]), False)["ours"][1]
    return {
        "loss": case.loss,
        **case.as_dict(),
        "budget_bytes": budget,
        "peak_over_logits": peak,
        "largest_edge": edges,
        "verified_bytes": verified,
        "machine": machine(),
        "notes": [] if verified is None or verified <= budget * 1.02 else ["the largest patch did not fit when run"],
    }


def patch_table(rows: list[dict]) -> Table:
    """fastloss beside every peer."""
    first = rows[0]
    batch, classes = first["shape"][:2]
    title = (
        f"batch {batch}, {classes} classes, {first['dtype']}, {first['activation']}: peak beyond the inputs in times "
        f"of the logits, and the largest cube whose logits, labels and loss fit {first['budget_bytes'] / 2**30:g} GiB\n"
        "run: what that cube took with fastloss when run"
    )
    table = plain_table(title, ("loss", "library", "peak", "cube", "run GiB"), ("loss", "library"))
    for row in rows:
        for name, peak in row["peak_over_logits"].items():
            ours = name == "ours"
            run = row["verified_bytes"] if ours else None
            cells = (row["loss"] if ours else "", "fastloss" if ours else name, number(peak))
            table.add_row(*cells, f"{row['largest_edge'][name]}^3", number(run and run / 2**30) if ours else "")
    table.caption = machine_line(first)
    return table
