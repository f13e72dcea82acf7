"""The speed table."""

import statistics

from rich.markup import escape
from rich.table import Table

from bench.output import machine_line, number, plain_table


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
