"""Plots and tables of `python -m bench scaling`."""

from pathlib import Path

import matplotlib
from rich.table import Table

from bench.output import machine_line, number, plain_table

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot

LINES = {"volume": "voxels along an edge of the cube", "classes": "classes"}
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")  # told apart by everyone


def place(row: dict) -> int:
    """Where a point lies on its line."""
    return row["shape"][1] if row["line"] == "classes" else row["shape"][2]


def curves(rows: list[dict], line: str, what: str) -> dict[str, list[tuple[int, float]]]:
    """For each contestant the points (place, ms or peak over the logits)."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["line"] == line:
            values = row["peak_over_logits"] if what == "memory" else {n: t["total"] for n, t in row["ms"].items()}
            for name, value in values.items():
                found.setdefault(name, []).append((place(row), value))
    return {name: sorted(points) for name, points in found.items()}


def figure(result: dict, loss: str):
    """Time and memory of a loss against volume and classes, with the machine below."""
    rows = [row for row in result["points"] if row["loss"] == loss]
    kinds = ("time", "memory") if any(row["peak_over_logits"] for row in rows) else ("time",)
    shown, axes = pyplot.subplots(len(kinds), 2, figsize=(9, 3.25 * len(kinds)), constrained_layout=True, squeeze=False)
    for across, (line, label) in enumerate(LINES.items()):
        for down, what in enumerate(kinds):
            axis = axes[down][across]
            for colour, (name, points) in zip(COLOURS, curves(rows, line, what).items(), strict=False):
                title = "fastloss" if name == "ours" else name
                axis.plot(*zip(*points, strict=True), "o-", color=colour, label=title, markersize=4)
            if what == "time":
                axis.set_yscale("log")
                if axis.lines:
                    axis.legend(fontsize=8)
            axis.set_ylim(bottom=None if what == "time" else 0)
            axis.set_xscale("log", base=2)
            ticks = sorted({place(row) for row in rows if row["line"] == line})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.set_xlabel(label)
            axis.set_ylabel("ms, forward + backward" if what == "time" else "peak memory in times of the logits")
            axis.grid(alpha=0.3)
    fixed = next((row["shape"] for row in rows if row["line"] == "volume"), rows[0]["shape"])
    shown.suptitle(f"{rows[0]['class']}, {result['dtype']}, batch {fixed[0]}; left: {fixed[1]} classes, right: 64³")
    notes = sorted({note for row in rows for note in row["notes"]})
    shown.text(0, -0.02, wrapped("; ".join([machine_line(result), *notes])), fontsize=6, va="top")
    return shown


def wrapped(text: str, width: int = 190) -> str:
    """The text in lines, broken at spaces."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def save(result: dict, folder: Path) -> list[Path]:
    """An SVG and a PNG for each loss."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for loss in dict.fromkeys(row["loss"] for row in result["points"]):
        shown = figure(result, loss)
        for kind in ("svg", "png"):
            files.append(folder / f"{loss}.{kind}")
            shown.savefig(files[-1], bbox_inches="tight", dpi=120)
        pyplot.close(shown)
    return files


def scaling_table(result: dict) -> Table:
    """Every point: fastloss beside the fastest peer, and beside what the machine allows."""
    roof = result["roofline"]
    title = (
        f"{result['dtype']}, forward + backward in ms; this machine: read {roof['read_gb_s']:.1f} GB/s, copy "
        f"{roof['copy_gb_s']:.1f} GB/s, {roof['exp_g_s']:.2f}e9 exp/s\n"
        "attainable: compulsory bytes, or one exponential a logit and pass where that is slower; share: of it, attained"
    )
    columns = ("loss", "line", "shape", "threads", "ms", "attainable", "share", "fastest peer", "peer ms", "faster")
    table = plain_table(title, columns, ("loss", "line", "shape", "fastest peer"))
    for row in result["points"]:
        ours = row["ms"]["ours"]["total"]
        peers = {name: times["total"] for name, times in row["ms"].items() if name != "ours"}
        best = min(peers, key=peers.get) if peers else None
        table.add_row(
            row["loss"],
            row["line"],
            "x".join(map(str, row["shape"])),
            str(row["threads"]),
            number(ours),
            number(row["attainable_ms"]),
            number(row["share"] and 100 * row["share"], 0, " %"),
            best or "-",
            number(best and peers[best], 1),
            number(best and peers[best] / ours, 1, "x"),
        )
    for loss, tiny in result["tiny"].items():
        table.add_row(
            loss, "tiny", "1x2x32x32", "", f"{tiny['call_us']:.0f} µs", "", "", "its formula alone",
            f"{tiny['formula_us']:.0f} µs", "",
        )  # fmt: skip
    table.caption = machine_line(result)
    return table
