"""The speed table."""

import statistics

from rich.markup import escape
from rich.table import Table

from bench.output import machine_line, number, plain_table

PEER_WIDTH = 26  # so that a table has 100 columns


def speed_title(row: dict) -> str:
    """What all rows share."""
    shape = "x".join(map(str, row["shape"]))
    return (
        f"{shape} {row['dtype']}, {row['activation']}, {row['backend']} on {row['device']}, "
        f"labels {row['label_dtype']}, median of up to {row['repeats']} interleaved rounds\n"
        "ms of forward and backward; copies: in times of logits.clone(); peak memory beyond the inputs in\n"
        "times of the logits: fastloss, eager peer, compiled peer"
    )


def speed_cells(row: dict, peer: dict | None) -> list[str]:
    """One line of the speed table: fastloss beside one peer."""
    if row["refused"]:
        return [row["loss"], "-", "-", f"[red]not timed: {escape(row['refused'])}", *[""] * 4]
    ours = [row["loss"], number(row["total_ms"], 1), number(row["total_over_copy"], 1)]
    if peer is None:
        return [*ours, "none", *[""] * 3, number(row["peak_over_logits"], 1)]
    colour = "green" if peer["speedup"] >= 1 else "red"
    peaks = (row["peak_over_logits"], peer["peak_over_logits"], peer["compiled_peak_over_logits"])
    return [
        *ours,
        shortened(peer["name"]),
        number(peer["eager_ms"], 1),
        number(peer["compiled_ms"], 1),
        f"[{colour}]{peer['speedup']:.1f}x[/]",
        " ".join(number(peak, 1) for peak in peaks),
    ]


def shortened(name: str) -> str:
    """The name without its middle, where it is too long."""
    return name if len(name) <= PEER_WIDTH else f"{name[: PEER_WIDTH - 10]}…{name[-9:]}"


def speed_table(rows: list[dict]) -> Table:
    """fastloss beside every peer, wins and losses alike."""
    columns = ("loss", "ms", "copies", "peer", "eager", "compiled", "faster", "peaks")
    table = plain_table(speed_title(rows[0]), columns, ("loss", "peer"))
    for row in rows:
        for peer in row["peers"] or [None]:
            table.add_row(*speed_cells(row, peer))
    head = f"faster: than the better of eager and compiled{geometric_mean(rows)}"
    table.caption = "\n".join([head, *given(rows), machine_line(rows[0])])
    return table


def given(rows: list[dict]) -> list[str]:
    """The form of the labels that each peer was fastest on, and the peers that are not installed."""
    forms: dict[str, list[str]] = {}
    for row in rows:
        for peer in row["peers"]:
            forms.setdefault(peer["given"], []).append(peer["name"])
    lines = [f"given {form}, the fastest: {', '.join(dict.fromkeys(names))}" for form, names in sorted(forms.items())]
    absent = sorted({package for row in rows for package in row["absent"]})
    return lines + ([f"not installed, hence not compared: {', '.join(absent)}"] if absent else [])


def geometric_mean(rows: list[dict]) -> str:
    """The mean factor over all peers, where there are any."""
    factors = [peer["speedup"] for row in rows for peer in row["peers"]]
    return f"; geometric mean {statistics.geometric_mean(factors):.1f}x over {len(factors)}" if factors else ""
