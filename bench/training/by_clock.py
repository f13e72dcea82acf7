"""Losses trained on nilearn's head within a given time: all for the same number of steps, from the same seeds.

The runs go on in rounds, an epoch of each, so that all have had the same when the time is over. How many epochs there
are follows from the first round; the learning rate falls along them like a cosine.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table

from bench.machine import notes_on_others, watch_others
from bench.output import console, machine_line, number, plain_table, print_notes, progress
from bench.training.datasets import Prepared
from bench.training.plan import Plan, keep, make_run, report, write_results
from bench.training.results import plus_minus, survey_cell
from bench.training.run import Progress, Run, Samples
from bench.training.settings import Settings
from bench.training.warm_up import make_ready

SEEDS = (0, 1)
WORTH = 6  # epochs that a run should have before there is a second seed
FOR_SCORES = 0.06  # of the time, for predictions and pictures
GOOD_DICE = 0.85  # of white matter; below it a table owes a reason


@dataclass(frozen=True)
class Clock:
    """When training ends; ``left`` seconds are its own, without those for scores."""

    end: float

    @classmethod
    def of(cls, seconds: float, limit: float) -> "Clock":
        return cls(time.monotonic() + (1 - FOR_SCORES) * (min(time.monotonic() + seconds, limit) - time.monotonic()))

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def schedule(left: float, round_seconds: float, most: int) -> tuple[int, int]:
    """Epochs and seeds that fit after the first round: two seeds where each run has WORTH epochs at least."""
    rounds = left / round_seconds
    for seeds in (len(SEEDS), 1):
        epochs = min(most, int((rounds + 1) / seeds))
        if epochs >= min(WORTH, most):
            break
    return max(1, epochs), seeds


def train_within(
    names: list[str],
    data: Prepared,
    settings: Settings,
    device: torch.device,
    folder: Path,
    clock: Callable[[], Clock],
    ready: list[str] | None = None,
) -> list[dict]:
    """Train the losses, print the table and write ``report.html`` and all numbers into the folder.

    ``clock`` starts once the kernels of ``ready``, or else of the losses, are compiled.
    """
    plan = Plan(settings, names, list(SEEDS), folder, device)
    shutil.rmtree(folder / "runs", ignore_errors=True)  # another time's, which might have had more seeds
    samples = Samples.of(data, settings, SEEDS[0])
    labels = torch.stack([samples.train[i][1] for i in range(settings.batch_of(len(samples.train)))]).to(device)
    make_ready(ready or names, labels, len(data.classes))
    time_left = clock()
    with watch_others() as watched:
        runs = train_rounds(plan, data, time_left)
    plan = replace(plan, seeds=sorted({seed for _, seed in runs}))
    notes = notes_on_others(watched["others"])
    for (loss, _), run in runs.items():
        keep(plan, run, loss, None, notes, surfaces=False)
    rows = write_results(plan)
    for row in rows:
        row["notes"] += unfinished(row)
    report(plan, data, rows)
    console.print(train_table(rows))
    print_notes(rows)
    return rows


def train_rounds(plan: Plan, data: Prepared, clock: Clock) -> dict[tuple[str, int], Run]:
    """The trained runs by loss and seed, each with the same number of epochs."""
    runs = {(loss, SEEDS[0]): make_run(plan, data, loss, SEEDS[0]) for loss in plan.losses}
    with bars(plan.losses) as (advance, expect):
        took = one_round(runs, advance)
        epochs, seeds = schedule(clock.left, took, plan.settings.epochs)
        expect(epochs * seeds * next(iter(runs.values())).batches_per_epoch)
        for seed in SEEDS[1:seeds]:
            late = {(loss, seed): make_run(plan, data, loss, seed) for loss in plan.losses}
            one_round(late, advance)
            runs |= late
        for run in runs.values():
            run.settings, run.cosine = replace(run.settings, epochs=epochs), True
            run.set_cosine()
        while any(not run.complete for run in runs.values()) and clock.left > 0.9 * took:
            took = one_round(runs, advance)
    return runs


def one_round(runs: dict[tuple[str, int], Run], advance: Callable[[str, Progress, int], None]) -> float:
    """An epoch of every run; its seconds."""
    begin = time.monotonic()
    for (loss, _), run in runs.items():
        run.epoch(float("inf"), lambda at, loss=loss: advance(loss, at, 1))
        advance(loss, run.at, 0)  # with its validation
    return time.monotonic() - begin


@contextmanager
def bars(names: list[str]):
    """A bar for each loss: what to call after a step, and once the number of steps is known."""
    with progress() as shown:
        of_loss = {name: shown.add_task(name, total=None, status="") for name in names}

        def advance(loss: str, at: Progress, steps: int) -> None:
            shown.update(of_loss[loss], advance=steps, status=str(at))

        def expect(steps: int) -> None:
            for bar in of_loss.values():
                shown.update(bar, total=steps)

        yield advance, expect


def unfinished(row: dict) -> list[str]:
    """What to know of a loss that the clock stopped before white matter was segmented well."""
    found = row["per_class"]["WM"]["dice"]["mean"]
    if found >= GOOD_DICE:
        return []
    longer = f"`python -m bench train --losses {row['loss']}` trains on"
    return [f"white matter's Dice is {found:.2f} after {row['epochs']} epochs, {row['steps']} steps; {longer}"]


def train_table(rows: list[dict]) -> Table:
    """Scores and times per loss, beside the survey's."""
    columns = ("loss", "Dice", "of WM", "sens.", "spec.", "loss ms", "share", "survey")
    first = rows[0]
    title = (
        f"2D U-Net on {first['runs'][0]['dataset']}: CSF, GM and WM on the test slices, mean ± deviation over "
        f"{len(first['seeds'])} seed{'s'[: len(first['seeds']) - 1]}\n"
        f"{first['steps']} steps of each loss ({first['epochs']} epochs), Adam 1e-3 along a cosine"
    )
    table = plain_table(title, columns, ("loss",))
    for row in rows:
        table.add_row(
            row["loss"],
            plus_minus(row["foreground"]["dice"]),
            plus_minus(row["per_class"]["WM"]["dice"]),
            *(number(row["foreground"][metric]["mean"], 3) for metric in ("sensitivity", "specificity")),
            number(row["loss_ms"]),
            number(row["loss_share"] * 100, 1, " %"),
            survey_cell(row)[:11],
        )
    survey = "survey: Dice and sensitivity of skulls (NFBS), arXiv:2006.14822, Table III"
    table.caption = f"share: of the loss in a step; {survey}\n{machine_line(first)}"
    return table
