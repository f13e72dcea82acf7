"""The table and the plot of `python -m bench accuracy`."""

from pathlib import Path

import matplotlib
from rich.table import Table

from bench.accuracy.measure import ROUNDINGS, best_peer, unit_roundoff
from bench.output import machine_line, plain_table

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot

LIBRARIES = {
    "ours": "#d55e00",
    "monai": "#0072b2",
    "torch": "#009e73",
    "kornia": "#cc79a7",
    "exacta": "#e69f00",
    "smp": "#56b4e9",
    "nnunet": "#000000",
}
LEAST = 1e-10  # where an error of 0 is drawn


def error_text(error: float | None) -> str:
    """A cell."""
    return "-" if error is None else f"{error:.1e}"


def accuracy_table(rows: list[dict]) -> Table:
    """fastloss beside the best peer, of the value and of the gradient, wins and losses alike."""
    title = (
        f"{rows[0]['activation']} on {rows[0]['device']}: relative errors against float64 on the same logits, the "
        f"gradient's in L2; medians over {rows[0]['draws']} draw(s)\n"
        f"worse: by more than the best peer, and by more than {ROUNDINGS} roundings of the result's dtype"
    )
    columns = ("loss", "dtype", "shape", "value", "best peer", "value of", "gradient", "best peer", "gradient of")
    table = plain_table(title, (*columns, "worse"), ("loss", "dtype", "shape", "value of", "gradient of", "worse"))
    for row in rows:
        cells = []
        for what in ("value", "gradient"):
            best = best_peer(row["errors"], what)
            cells += [error_text(row["errors"]["ours"][what]), error_text(best and row["errors"][best][what])]
            cells.append(best or "none")
        shape = "x".join(map(str, row["shape"]))
        verdict = f"[red]{', '.join(row['worse'])}[/]" if row["worse"] else ""
        table.add_row(row["loss"], row["dtype"], shape, *cells, verdict)
    truths = ", ".join(sorted({row["truth"] for row in rows}))
    table.caption = f"float64: the {truths} back end, with which every peer in float64 agrees\n{machine_line(rows[0])}"
    return table


def figure(rows: list[dict]):
    """Errors of value and gradient of each loss, a column of panels for each dtype; small volumes have small dots."""
    dtypes, losses = (list(dict.fromkeys(row[key] for row in rows)) for key in ("dtype", "loss"))
    sizes = sorted({row["shape"][2] for row in rows})
    shown, axes = pyplot.subplots(
        2, len(dtypes), figsize=(4.2 * len(dtypes), 9), sharey="row", constrained_layout=True, squeeze=False
    )
    for across, dtype in enumerate(dtypes):
        for down, what in enumerate(("value", "gradient")):
            axis = axes[down][across]
            for row in rows:
                if row["dtype"] == dtype:
                    for k, (name, errors) in enumerate(reversed(row["errors"].items())):
                        library = name.split()[0]
                        axis.plot(
                            losses.index(row["loss"]) + 0.15 * (len(row["errors"]) - 1 - k),
                            max(errors[what], LEAST),
                            "o" if library == "ours" else "x",
                            color=LIBRARIES[library],
                            markersize=3 + 2 * sizes.index(row["shape"][2]),
                            label="fastloss" if library == "ours" else library,
                        )
            axis.axhline(unit_roundoff(what, dtype), color="black", linewidth=0.8, linestyle=":", label="rounding once")
            axis.set_yscale("log")
            axis.set_xticks(range(len(losses)), losses, rotation=90, fontsize=7)
            axis.set_title(f"{what}, {dtype}", fontsize=10)
            axis.grid(alpha=0.3)
    for axis in axes[:, -1]:
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        axis.legend(handles.values(), handles.keys(), fontsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error against float64")
    edges = ", ".join(f"{size}" for size in sizes)
    shown.suptitle(f"Errors against float64, {rows[0]['shape'][1]} classes, volumes of {edges} voxels along an edge")
    return shown


def save(rows: list[dict], folder: Path) -> list[Path]:
    """An SVG and a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    shown, files = figure(rows), [folder / f"accuracy.{kind}" for kind in ("svg", "png")]
    for file in files:
        shown.savefig(file, bbox_inches="tight", dpi=120)
    pyplot.close(shown)
    return files
