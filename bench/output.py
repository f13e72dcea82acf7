"""Progress bars, tables and JSON files."""

import json
import math
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
    """A table without lines, so that it fits a narrow terminal; numbers to the right. Names may hold brackets."""
    left_all = {"title_justify": "left", "caption_justify": "left"}
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), **left_all)
    for column in columns:
        table.add_column(escape(column), justify="left" if column in left else "right")
    return table


def print_notes(rows: list[dict], of: str = "loss") -> None:
    """What to know about the rows of a table, each note once; `of`: the row's name by this key before it, if any."""
    for note in dict.fromkeys((f"{row[of]}: " if of else "") + note for row in rows for note in row["notes"]):
        console.print(note, markup=False)
