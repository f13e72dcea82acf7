"""The report of a folder of runs as one HTML file that needs nothing else."""

import base64
import io
import math
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.output import machine_line, number
from bench.training.results import HEADINGS, plus_minus
from bench.training.scores import METRICS

TEMPLATES = Path(__file__).resolve().parent / "templates"
LINES = ("-", "--", ":")  # as there are more losses than colours


def write_report(folder: Path, rows: list[dict], title: str, problems: list[str]) -> Path:
    """Write `report.html` from the rows, and the slices that the runs keep."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    first = rows[0]["runs"][0]
    subjects = first["subjects"]
    notes = [f"left out: {problem}" for problem in problems]
    notes += [f"{row['loss']}: {note}" for row in rows for note in row["notes"]]
    page = environment.get_template("report.html").render(
        title=title,
        rows=rows,
        headings=HEADINGS,
        best={metric: best(rows, metric) for metric in METRICS},
        stars=any(row["foreground"][m]["left_out"] for row in rows for m in METRICS),
        classes=first["classes"],
        subjects=subjects,
        single=subjects["train"] == subjects["test"],
        settings=first["settings"],
        batch_size=first["batch_size"],
        seeds=sorted({seed for row in rows for seed in row["seeds"]}),
        device=first["device"],
        machine=machine_line(first),
        curves=curves(rows),
        overlays=overlays(folder, rows),
        notes=notes,
        cell=lambda spread, metric: plus_minus(spread, 1 if metric == "hd95_mm" else 3),
        figure=number,
        mebibytes=lambda count: number(None if count is None else count / 2**20, 1),
    )
    file = folder / "report.html"
    file.write_text(page)
    return file


def best(rows: list[dict], metric: str) -> str | None:
    """The loss with the best mean: the least distance, or the most of all else."""
    found = {row["loss"]: row["foreground"][metric]["mean"] for row in rows}
    found = {loss: value for loss, value in found.items() if math.isfinite(value)}
    pick = min if metric == "hd95_mm" else max
    return pick(found, key=found.__getitem__) if found else None


def encoded(figure: Figure) -> str:
    """A figure as base64 of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def curves(rows: list[dict]) -> str:
    """Validation loss, relative to the first epoch's, and Dice, of every loss and seed."""
    figure = Figure(figsize=(11, 4.5 + 0.12 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = matplotlib.colormaps["tab10"]
    for number_, row in enumerate(rows):
        style = {"color": colours(number_ % 10), "linestyle": LINES[number_ // 10 % len(LINES)], "linewidth": 1.3}
        for run in row["runs"]:
            known = [line for line in run["history"] if line["validation"] is not None]
            epochs = np.arange(1, len(known) + 1)
            marker = "o" if len(known) == 1 else None
            label = row["loss"] if run is row["runs"][0] else None
            losses = np.array([line["validation"] for line in known])
            # losses have scales of their own, and some are below zero: the way from the first to the least is 1
            span = losses[0] - losses.min() if len(losses) else 0.0
            left.plot(epochs, (losses - losses.min()) / span if span else losses * 0, marker=marker, **style)
            dice = [math.nan if line["validation_dice"] is None else line["validation_dice"] for line in known]
            right.plot(epochs, dice, marker=marker, label=label, **style)
    left.set(xlabel="epoch", ylabel="held-out loss: 1 at first, 0 at its least", ylim=(-0.05, 1.6))
    right.set(xlabel="epoch", ylabel="held-out Dice of the foreground")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return encoded(figure)


def overlays(folder: Path, rows: list[dict]) -> dict[str, str]:
    """For each loss the worst and best test slices of its first seed, where there are any."""
    pictures = {}
    for row in rows:
        file = folder / "runs" / f"{row['loss']}-seed{row['seeds'][0]}" / "slices.npz"
        with np.load(file) as arrays:
            count = sum(name.startswith("image") for name in arrays.files)
            if count:
                pictures[row["loss"]] = encoded(overlay(dict(arrays), count, row["runs"][0]))
    return pictures


def overlay(arrays: dict[str, np.ndarray], count: int, run: dict) -> Figure:
    """Slices with truth and prediction tinted."""
    figure = Figure(figsize=(1.9 * count, 2.3), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        image = arrays[f"image{i}"].astype(np.float32)
        low, high = np.percentile(image, (1, 99.5))
        grey = np.clip((image - low) / ((high - low) or 1), 0, 1)
        wrong = arrays[f"true{i}"] != arrays[f"predicted{i}"]  # one class for another is no agreement
        true, ours = arrays[f"true{i}"] > 0, arrays[f"predicted{i}"] > 0
        tint = np.stack([ours, true, np.zeros_like(true)], -1).astype(np.float32)
        tint[wrong & true & ours] = (1, 0.3, 1)
        shown = np.where((true | ours)[..., None], 0.65 * grey[..., None] + 0.35 * tint, grey[..., None])
        axes.imshow(shown.transpose(1, 0, 2), origin="lower", interpolation="nearest")
        dice, _, z = arrays[f"about{i}"]
        axes.set_title(f"slice {int(z)}, Dice {dice:.3f}", fontsize=8)
        axes.set_axis_off()
    return figure
