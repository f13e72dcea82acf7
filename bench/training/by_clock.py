"""Every loss trained on nilearn's head for a share of the time, from one seed; nothing is kept but the scores."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from rich.table import Table

from bench.losses.registry import LOSSES
from bench.machine import notes_on_others, watch_others
from bench.output import console, machine_line, number, plain_table, print_notes, progress
from bench.training.datasets import Prepared
from bench.training.run import Progress, Run, Samples
from bench.training.scores import means, score
from bench.training.settings import Settings
from bench.training.warm_up import make_ready

SEED = 0
GOOD_DICE = 0.85  # of white matter; below it a table owes a reason
SHOWN = ("dice", "sensitivity", "specificity")


def train_within(
    names: list[str], data: Prepared, settings: Settings, device: torch.device, seconds: float, limit: float = math.inf
) -> list[dict]:
    """Train every loss within `seconds` altogether, with a bar for each, and print the table.

    The seconds count once the kernels are compiled, and end where `time.monotonic()` reaches `limit`.
    """
    samples = Samples.of(data, settings, SEED)
    batch_size = settings.batch_of(len(samples.train))
    labels = torch.stack([samples.train[i][1] for i in range(batch_size)]).to(device)
    make_ready(names, labels, len(data.classes))
    steps = settings.epochs * math.ceil(len(samples.train) / batch_size)
    end, rows = min(time.monotonic() + seconds, limit), []
    with progress() as bars:
        for done, name in enumerate(names):
            bar = bars.add_task(name, total=steps, status="")

            def advance(at: Progress, bar=bar):
                bars.update(bar, advance=1, status=str(at))

            share = (end - time.monotonic()) / (len(names) - done)
            rows.append(train_loss(name, samples, settings, device, share, advance))
            bars.update(bar, total=rows[-1]["steps"], status=f"test Dice {rows[-1]['dice']:.3f}")
    console.print(train_table(rows))
    print_notes(rows)
    return rows


def train_loss(
    name: str,
    samples: Samples,
    settings: Settings,
    device: torch.device,
    seconds: float = math.inf,
    advance: Callable[[Progress], None] = lambda at: None,
) -> dict:
    """Train one loss for at most `seconds`, and score it on the test slices."""
    classes = samples.data.classes
    loss = LOSSES[name].build("softmax", len(classes)).to(device)
    run = Run(samples, settings, loss, loss, SEED, None, device)
    with watch_others() as watched:
        run.train(time.perf_counter() + seconds, advance)
    scores, _ = score(run, surfaces=False)
    foreground = means([row for row in scores if row["class"] != classes[0]])
    row = {
        "loss": name,
        **{metric: foreground[metric] for metric in SHOWN},
        "per_class": {metric: {row["class"]: row[metric] for row in scores} for metric in SHOWN},
        **run.about(),
        "first_step_ms": run.at.first_seconds * 1e3,
        "others_busy_cores": watched["others"],
        "schedule": asdict(settings) | {"batch_size": run.batch_size, "seed": SEED, "seconds": seconds},
        "test_slices": [z for part in samples.parts["test"] for z in range(part.start, part.stop)],
    }
    return row | {"notes": [*notes_on_others(watched["others"]), *unfinished(row)]}


def unfinished(row: dict) -> list[str]:
    """What to know of a loss that the clock stopped before white matter was segmented well."""
    found = row["per_class"]["dice"]["WM"]
    if found >= GOOD_DICE or row["complete"]:
        return []
    after = f"{row['epochs']} of {row['schedule']['epochs']} epochs, {row['seconds']:.0f} s"
    longer = f"`python -m bench train --losses {row['loss']}` trains on"
    return [f"white matter's Dice is {found:.2f} after {after}; {longer}"]


def train_table(rows: list[dict]) -> Table:
    """Scores and times per loss."""
    columns = (
        "loss",
        "Dice",
        "of WM",
        "sensitivity",
        "specificity",
        "loss ms",
        "step ms",
        "loss / step",
        "epochs",
        "s",
    )
    table = plain_table("2D U-Net on ICBM152: mean over CSF, GM and WM on the test slices", columns, ("loss",))
    for row in rows:
        table.add_row(
            row["loss"],
            number(row["dice"], 3),
            number(row["per_class"]["dice"]["WM"], 3),
            *(number(row[metric], 3) for metric in ("sensitivity", "specificity")),
            number(row["loss_ms"]),
            number(row["step_ms"], 1),
            number(row["loss_share"] * 100, 1, " %"),
            str(row["epochs"]),
            number(row["seconds"], 1),
        )
    table.caption = machine_line(rows[0])
    return table
