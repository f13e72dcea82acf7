"""Progress bars, tables and JSON files."""

import json
import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# where there is no terminal, in a log, rich would take 80 columns
console = Console(width=None if sys.stdout.isatty() else 130)


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-", style="magenta")


def progress() -> Progress:
    """A bar with counts, rate, elapsed and remaining time, and a `status` field."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    return Progress(*columns, console=console)


def finite(value):
    """The value with NaN and infinities as None: JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_json(path: Path, rows: list[dict]) -> None:
    """The rows as JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(finite(rows), indent=1) + "\n")


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """A number for a table cell; a dash for what was not measured."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}{unit}"


def machine_line(row: dict) -> str:
    """Processor, threads, versions and commit in one line."""
    about = row["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    where = f"{about['gpu']}, " if row["device"] != "cpu" else ""
    head, changed, _ = (about["commit"] or "unknown").partition("+")
    commit = head[:12] + (" with changes" if changed else "")
    return f"{where}{about['cpu']}, {about['threads']} threads, {packages}, commit {commit}"


def plain_table(title: str, columns: Iterable[str], left: Iterable[str]) -> Table:
    """A table without lines, so that it fits a narrow terminal; numbers to the right."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def train_table(rows: list[dict]) -> Table:
    """Scores and times per loss."""
    columns = (
        "loss",
        "Dice",
        "of WM",
        "sensitivity",
        "specificity",
        "loss ms",
        "step ms",
        "loss / step",
        "epochs",
        "s",
    )
    table = plain_table("2D U-Net on ICBM152: mean over CSF, GM and WM on the test slices", columns, ("loss",))
    for row in rows:
        table.add_row(
            row["loss"],
            number(row["dice"], 3),
            number(row["per_class"]["dice"]["WM"], 3),
            *(number(row[metric], 3) for metric in ("sensitivity", "specificity")),
            number(row["loss_ms"]),
            number(row["step_ms"], 1),
            number(row["loss_share"] * 100, 1, " %"),
            str(row["epochs"]),
            number(row["seconds"], 1),
        )
    table.caption = machine_line(rows[0])
    return table


def speed_title(row: dict) -> str:
    """What all rows share."""
    shape = "x".join(map(str, row["shape"]))
    return (
        f"{shape} {row['dtype']}, {row['activation']}, {row['backend']} on {row['device']}, "
        f"labels {row['label_dtype']} (peers int64), median of up to {row['repeats']} interleaved rounds\n"
        "ms: forward + backward = both; copies: both in times of logits.clone(); "
        "peak: memory beyond the inputs, in times of the logits"
    )


def speed_cells(row: dict, peer: dict | None) -> list[str]:
    """One line of the speed table: fastloss beside one peer."""
    if row["refused"]:
        return [row["loss"], "-", "-", "-", f"[red]not timed: {escape(row['refused'])}", *[""] * 5]
    times = "{} + {} = {}".format(*(number(row[f"{part}_ms"]) for part in ("forward", "backward", "total")))
    ours = [row["loss"], times, number(row["total_over_copy"], 1), number(row["peak_over_logits"])]
    if peer is None:
        return [*ours, "none", *[""] * 5]
    colour = "green" if peer["speedup"] >= 1 else "red"
    return [
        *ours,
        peer["name"],
        number(peer["eager_ms"], 1),
        number(peer["compiled_ms"], 1),
        f"[{colour}]{peer['speedup']:.1f}x[/]",
        number(peer["peak_over_logits"]),
        number(peer["compiled_peak_over_logits"]),
    ]


def speed_table(rows: list[dict]) -> Table:
    """fastloss beside every peer, wins and losses alike."""
    columns = ("loss", "fastloss ms", "copies", "peak", "peer", "eager ms", "compiled ms", "faster")
    table = plain_table(speed_title(rows[0]), (*columns, "peak eager", "compiled"), ("loss", "peer"))
    for row in rows:
        for peer in row["peers"] or [None]:
            table.add_row(*speed_cells(row, peer))
    table.caption = f"faster: than the better of eager and compiled{geometric_mean(rows)}\n{machine_line(rows[0])}"
    return table


def geometric_mean(rows: list[dict]) -> str:
    """The mean factor over all peers, where there are any."""
    factors = [peer["speedup"] for row in rows for peer in row["peers"]]
    return f"; geometric mean {statistics.geometric_mean(factors):.1f}x over {len(factors)}" if factors else ""
