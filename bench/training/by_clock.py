"""Training of the survey's U-Net, once per loss: scores on held-out slices and the loss's share of a step."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context

import torch
from rich.table import Table
from torch.optim.lr_scheduler import ReduceLROnPlateau

import fastloss
from bench.losses.peers import Loss
from bench.losses.registry import LOSSES
from bench.machine import machine, notes_on_others, synchronise, watch_others
from bench.output import machine_line, number, plain_table
from bench.training.datasets.icbm152 import CLASSES, Slices
from bench.training.unet import UNet
from fastloss.metrics import confusion_counts

Batch = tuple[torch.Tensor, torch.Tensor]
GOOD_DICE = 0.85  # of white matter; below it a table owes a reason


@dataclass(frozen=True)
class Schedule:
    """Adam and reduce-on-plateau as in the survey; batches below its 32 give more steps from 93 slices."""

    epochs: int = 12
    batch_size: int = 4
    learning_rate: float = 1e-3
    smallest_rate: float = 1e-8
    patience: int = 2
    seed: int = 0
    seconds: float = math.inf  # training stops after the step that ends later


@dataclass
class StepTime:
    """Seconds of one training step, and of them in the loss alone."""

    step: float
    loss: float


def train_step(model, optimiser, loss: Loss, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, StepTime]:
    """One step of the optimiser with the loss's forward and backward on a clock of their own.

    The loss is differentiated by the detached logits, and the gradient then handed to the network's backward.
    """
    device = images.device
    synchronise(device)
    begin = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    logits = model(images)
    leaf = logits.detach().requires_grad_()
    synchronise(device)
    before = time.perf_counter()
    value = loss(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    synchronise(device)
    after = time.perf_counter()
    logits.backward(gradient)
    optimiser.step()
    synchronise(device)
    return float(value.detach()), StepTime(time.perf_counter() - begin, after - before)


@torch.no_grad()
def predict(model, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Logits of all images, in the model's evaluation mode."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(batch_size)])


def to_device(data: dict[str, Slices], device: torch.device) -> dict[str, Slices]:
    """The slices on the device, images and labels."""
    return {k: Slices(s.images.to(device), s.labels.to(device), s.positions) for k, s in data.items()}


def run_epoch(
    model, optimiser, loss: Loss, batches: Iterable[Batch], deadline: float, advance: Callable[[], None]
) -> tuple[float, list[StepTime]]:
    """One pass over the batches, cut short after the step that passes the deadline; gives the mean loss."""
    model.train()
    values, times = [], []
    for images, labels in batches:
        value, took = train_step(model, optimiser, loss, images, labels)
        values.append(value)
        times.append(took)
        advance()
        if time.perf_counter() > deadline:
            break
    return sum(values) / len(values), times


def fit(
    model, loss: Loss, data: dict[str, Slices], schedule: Schedule, advance: Callable[[int, float], None]
) -> tuple[list[dict], list[StepTime]]:
    """Train in place; gives a history line per epoch and the time of every step.

    `advance(epoch, validation loss)` is called after every step, with the last epoch's validation loss.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate)
    plateau = ReduceLROnPlateau(optimiser, patience=schedule.patience, min_lr=schedule.smallest_rate)
    shuffle = torch.Generator().manual_seed(schedule.seed)
    train, held_out = data["train"], data["val"]
    history: list[dict] = []
    times: list[StepTime] = []
    deadline, validation = time.perf_counter() + schedule.seconds, math.nan
    for epoch in range(schedule.epochs):
        order = torch.randperm(len(train.labels), generator=shuffle).to(train.labels.device)
        batches = ((train.images[i], train.labels[i]) for i in order.split(schedule.batch_size))
        mean, took = run_epoch(model, optimiser, loss, batches, deadline, partial(advance, epoch, validation))
        times += took
        with torch.no_grad():
            logits = predict(model, held_out.images, schedule.batch_size)
            validation = float(loss(logits, held_out.labels))
        rate = optimiser.param_groups[0]["lr"]
        history.append({"train": mean, "validation": validation, "learning_rate": rate})
        plateau.step(validation)
        if time.perf_counter() > deadline:
            break
    return history, times


def loss_share(times: list[StepTime]) -> float:
    """The loss's share of the steps' time, without the first step, which warms up, where there are others."""
    steady = times[1:] or times
    return sum(t.loss for t in steady) / sum(t.step for t in steady)


def build(name: str, device: torch.device) -> Loss:
    """The loss for the data's classes."""
    return LOSSES[name].build("softmax", len(CLASSES)).to(device)


def families(names: list[str]) -> list[list[str]]:
    """Losses whose kernels are compiled together: those on sums, which have most in common, and each of the others."""
    on_sums = [name for name in names if isinstance(LOSSES[name].build("softmax", len(CLASSES)), fastloss.SumLoss)]
    return [group for group in (on_sums, *([name] for name in names if name not in on_sums)) if group]


def compile_group(names: list[str]) -> list[str]:
    """Compiles the CPU's kernels of some losses; gives the names back."""
    losses = [LOSSES[name].build("softmax", len(CLASSES)) for name in names]
    fastloss.warmup(losses, classes=len(CLASSES), size=(160, 160))
    return names


def compile_ahead(names: list[str]) -> Iterator[list[str]]:
    """Fills the cache of the CPU's kernels, a process a thread of torch's; gives each group when it is ready."""
    groups = families(names)
    with ProcessPoolExecutor(min(len(groups), torch.get_num_threads()), get_context("spawn")) as pool:
        for done in as_completed([pool.submit(compile_group, group) for group in groups]):
            yield done.result()


def warm_up(name: str, data: dict[str, Slices]) -> float:
    """Seconds of a loss's first forward and backward, which compile or load the kernels."""
    labels = data["test"].labels[: Schedule.batch_size]
    shape = (len(labels), len(CLASSES), *labels.shape[1:])
    logits = torch.zeros(shape, device=labels.device, requires_grad=True)
    begin = time.perf_counter()
    build(name, labels.device)(logits, labels).backward()
    synchronise(labels.device)
    return time.perf_counter() - begin


def train_loss(
    name: str,
    data: dict[str, Slices],
    schedule: Schedule,
    advance: Callable[[int, float], None] = lambda *_: None,
) -> dict:
    """Train one loss from the same seed as every other, and score it on the test slices."""
    device = data["train"].images.device
    torch.manual_seed(schedule.seed)
    model = UNet(classes=len(CLASSES)).to(device)
    loss = build(name, device)
    begin = time.perf_counter()
    with watch_others() as watched:
        history, times = fit(model, loss, data, schedule, advance)
    took = time.perf_counter() - begin

    test = data["test"]
    prediction = predict(model, test.images, schedule.batch_size).argmax(1)
    # the slices as one volume: a score per slice would hang on slices that hold three voxels of a class
    counts = confusion_counts(prediction, test.labels, classes=len(CLASSES)).pooled()
    tables = {"dice": counts.dice(), "sensitivity": counts.sensitivity(), "specificity": counts.specificity()}
    steady = times[1:] or times
    return {
        "loss": name,
        **{metric: float(table[1:].nanmean()) for metric, table in tables.items()},
        "per_class": {metric: dict(zip(CLASSES, table.tolist(), strict=True)) for metric, table in tables.items()},
        "loss_share": loss_share(times),
        "loss_ms": sum(t.loss for t in steady) / len(steady) * 1e3,
        "step_ms": sum(t.step for t in steady) / len(steady) * 1e3,
        "first_step_ms": times[0].step * 1e3,
        "epochs": len(history),
        "steps": len(times),
        "seconds": took,
        "others_busy_cores": watched["others"],
        "notes": [*notes_on_others(watched["others"]), *unfinished(name, len(history), took, tables["dice"], schedule)],
        "history": history,
        "schedule": asdict(schedule) | {"seconds": None if math.isinf(schedule.seconds) else schedule.seconds},
        "test_slices": list(test.positions),
        "device": str(device),
        "machine": machine(),
    }


def unfinished(name: str, epochs: int, seconds: float, dice: torch.Tensor, schedule: Schedule) -> list[str]:
    """What to know of a loss that the clock stopped before white matter was segmented well."""
    found = float(dice[CLASSES.index("WM")])
    if found >= GOOD_DICE or epochs >= schedule.epochs:
        return []
    longer = f"`python -m bench train --losses {name}` trains on"
    return [f"white matter's Dice is {found:.2f} after {epochs} of {schedule.epochs} epochs, {seconds:.0f} s; {longer}"]


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
