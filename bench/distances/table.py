"""The table of distance transforms."""

import statistics
from collections import Counter

from rich.markup import escape
from rich.table import Table

from bench.output import machine_line, number, plain_table


def edt_table(rows: list[dict]) -> Table:
    """fastloss beside every other library, wins and losses alike."""
    title = "distance transforms, ms (and how many times as long as fastloss); scipy on one thread"
    peers = list(dict.fromkeys(peer for row in rows for peer in row["faster"]))
    table = plain_table(title, ("field", "size", "spacing", "mask", "fastloss", *peers), ("field", "spacing", "mask"))
    for row in rows:
        spacing = ":".join(f"{mm:g}" for mm in row["spacing_mm"])
        cells = [row["kind"], str(row["shape"][0]), spacing, row["mask"]]
        if row["refused"]:
            table.add_row(*cells, f"[red]not timed: {escape(row['refused'])}")
            continue
        cells.append(number(row["median_ms"]["fastloss"], 1))
        for peer in peers:
            if peer in row["faster"]:
                colour = "green" if row["faster"][peer] >= 1 else "red"
                cells.append(f"{row['median_ms'][peer]:.0f} ([{colour}]{row['faster'][peer]:.1f}x[/])")
            else:
                cells.append("")
        table.add_row(*cells)
    table.caption = f"{summary(rows)}\n{machine_line(rows[0])}"
    return table


def summary(rows: list[dict]) -> str:
    """Geometric mean and least factor against each peer."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for peer in dict.fromkeys(peer for row in rows if row["kind"] == kind for peer in row["faster"]):
            factors = [row["faster"][peer] for row in rows if row["kind"] == kind and peer in row["faster"]]
            mean = statistics.geometric_mean(factors)
            head = f"{kind} against {peer}: geometric mean {mean:.1f}x, least {min(factors):.1f}x"
            lines.append(head + used(rows, kind, peer))
    return "\n".join(lines)


def used(rows: list[dict], kind: str, peer: str) -> str:
    """The inputs and settings at which a peer was fastest, and in how many rows."""
    ways = Counter(row["ways"][peer] for row in rows if row["kind"] == kind and peer in row["faster"])
    return "; given " + ", ".join(f"{way} ({count})" for way, count in ways.most_common())
