"""The results of a folder of runs: rows per loss, tables, JSON and CSV."""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from bench.output import finite, machine_line, number, plain_table
from bench.training.scores import METRICS, summarise
from bench.training.survey import TABLE_III

TIMES = ("loss_ms", "step_ms", "loss_share", "seconds")  # of a run
HEADINGS = {"dice": "Dice", "jaccard": "Jaccard", "sensitivity": "sens.", "specificity": "spec.", "hd95_mm": "HD95 mm"}


def read_runs(folder: Path, losses: Iterable[str], seeds: Iterable[int]) -> list[dict]:
    """The finished runs of the losses and seeds, in their order."""
    files = [folder / "runs" / f"{loss}-seed{seed}" / "result.json" for loss in losses for seed in seeds]
    return [restored(json.loads(file.read_text())) for file in files if file.is_file()]


def restored(run: dict) -> dict:
    """NaN where JSON has null, in the scores and times."""
    run |= {key: math.nan if run[key] is None else run[key] for key in TIMES}
    run["scores"] = [{k: math.nan if v is None else v for k, v in row.items()} for row in run["scores"]]
    return run


def mean_of_known(values: list[float]) -> float:
    """Without NaN; NaN where there is nothing else."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def rows_of(runs: list[dict]) -> list[dict]:
    """One row for each loss: scores over subjects and seeds, times as means over seeds."""
    rows = []
    for loss in dict.fromkeys(run["loss"] for run in runs):
        own = [run for run in runs if run["loss"] == loss]
        scores = [row | {"seed": run["seed"]} for run in own for row in run["scores"]]
        table = summarise(scores, own[0]["classes"])
        times = {key: mean_of_known([run[key] for run in own]) for key in TIMES}
        survey = TABLE_III.get(loss)
        rows.append(
            {
                "loss": loss,
                **{metric: table["foreground"][metric]["mean"] for metric in METRICS},
                "per_class": {name: table[name] for name in own[0]["classes"]},
                "foreground": table["foreground"],
                **times,
                "peak_bytes": max((run["peak_bytes"] or 0) for run in own) or None,
                "loss_peak_bytes": max((run["loss_peak_bytes"] or 0) for run in own) or None,
                "survey": dict(zip(("dice", "sensitivity", "specificity"), survey, strict=True)) if survey else None,
                "seeds": [run["seed"] for run in own],
                "epochs": max(run["epochs"] for run in own),
                "steps": max(run["steps"] for run in own),
                "complete": all(run["complete"] for run in own),
                "notes": sorted({note for run in own for note in run["notes"]}),
                "device": own[0]["device"],
                "machine": own[0]["machine"],
                "runs": own,
            }
        )
    return rows


def plus_minus(spread: dict, digits: int = 3) -> str:
    """Mean and, where there are several values, deviation; a star where some were undefined. JSON has None for NaN."""
    text = number(spread["mean"], digits)
    if spread["std"] is not None and math.isfinite(spread["std"]):
        text += f" ± {spread['std']:.{digits}f}"
    return text + ("*" if spread["left_out"] and spread["n"] else "")


def survey_cell(row: dict) -> str:
    """Dice, sensitivity and specificity of the survey's Table III."""
    return " ".join(f"{value:.3f}" for value in row["survey"].values()) if row["survey"] else "-"


def score_table(rows: list[dict], title: str) -> Table:
    """The foreground's scores beside those that the survey prints."""
    columns = ("loss", *HEADINGS.values(), "loss ms", "of step", "survey D, Se, Sp")
    table = plain_table(f"{title}: foreground, mean ± deviation over subjects and seeds", columns, ("loss",))
    for row in rows:
        table.add_row(
            row["loss"] + ("" if row["complete"] else " (cut short)"),
            *(plus_minus(row["foreground"][metric], 1 if metric == "hd95_mm" else 3) for metric in METRICS),
            number(row["loss_ms"], 1),
            number(row["loss_share"] * 100, 1, " %"),
            survey_cell(row),
        )
    if rows:
        stars = any(row["foreground"][metric]["left_out"] for row in rows for metric in METRICS)
        note = "*: without subjects where it is undefined\n" if stars else ""
        table.caption = f"survey: skulls of NFBS, arXiv:2006.14822, Table III\n{note}{machine_line(rows[0])}"
    return table


def class_table(rows: list[dict]) -> Table:
    """Dice of every class."""
    classes = list(rows[0]["per_class"])
    table = plain_table("Dice of each class", ("loss", *classes), ("loss",))
    for row in rows:
        table.add_row(row["loss"], *(plus_minus(row["per_class"][name]["dice"]) for name in classes))
    return table


def write_csv(folder: Path, rows: list[dict]) -> None:
    """`scores.csv`, a line for each loss, seed, subject and class, and `summary.csv`, one for each loss and class."""
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("loss", "seed", "subject", "class", *METRICS))
        for run in (run for row in rows for run in row["runs"]):
            for line in run["scores"]:
                values = ("" if math.isnan(line[m]) else line[m] for m in METRICS)
                writer.writerow((run["loss"], run["seed"], line["subject"], line["class"], *values))
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("loss", "class", *(f"{m}_{part}" for m in METRICS for part in ("mean", "std", "n"))))
        for row in rows:
            for name, scores in (row["per_class"] | {"foreground": row["foreground"]}).items():
                values = (finite(scores[m][part]) for m in METRICS for part in ("mean", "std", "n"))
                writer.writerow((row["loss"], name, *("" if value is None else value for value in values)))
