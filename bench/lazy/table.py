"""The table of `bench head` and `bench resample`: each way beside the one that is ours."""

from rich.table import Table

from bench.output import machine_line, number, plain_table


def ways_table(rows: list[dict], title: str, ours: str, ratio: str, time: str, digits: int) -> Table:
    """Times, under the key ``time`` of each way, and peaks; and how many times those of ``ours``, headed ``ratio``."""
    columns = ("case", "way", "ms", ratio, "peak MiB", ratio)
    table = plain_table(title, columns, columns[:2])
    for row in rows:
        own = row["ways"][ours]
        for way, its in row["ways"].items():
            peak, least = its["peak_bytes"], own["peak_bytes"]
            table.add_row(
                row["name"] if way == ours else "",
                way,
                number(its[time], 1),
                number(its[time] / own[time], digits),
                number(None if peak is None else peak / 2**20, 1),
                number(peak / least if peak is not None and least else None, 1),
            )
    table.caption = machine_line(rows[0])
    return table
