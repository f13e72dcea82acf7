"""Runs of all losses and seeds in a folder that keeps them: what is finished stays, the rest goes on."""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import fastloss
from bench.losses.registry import LOSSES
from bench.machine import notes_on_others, watch_others
from bench.output import write_json
from bench.peak_memory import CLEAR_REFS, peak_bytes, peak_so_far, reset_peak
from bench.timing import Contestant
from bench.training import parallel
from bench.training.datasets import Prepared
from bench.training.html import write_report
from bench.training.live import Live
from bench.training.results import read_runs, rows_of, write_csv
from bench.training.run import Progress, Run, Samples
from bench.training.scores import score
from bench.training.settings import Settings

REPORT_SECONDS = 120  # between the reports of a training that goes on


@dataclass(frozen=True)
class Plan:
    """What to train, where to keep it, and what to write of it."""

    settings: Settings
    losses: list[str]
    seeds: list[int]
    folder: Path
    device: torch.device
    seconds: float = math.inf  # for all runs together
    tensorboard: bool = False

    def folder_of(self, loss: str, seed: int) -> Path:
        return self.folder / "runs" / f"{loss}-seed{seed}"

    def is_complete(self, loss: str, seed: int) -> bool:
        """Whether the run has been to its end."""
        file = self.folder_of(loss, seed) / "result.json"
        return file.is_file() and json.loads(file.read_text())["complete"]


def shares_sums(name: str) -> bool:
    """Whether the loss is one on sums, which processes can add up; of others each has its own part of the batch."""
    cls = getattr(fastloss, LOSSES[name].cls)
    return issubclass(cls, fastloss.SumLoss) and cls.forward is fastloss.SumLoss.forward


def train_all(plan: Plan, data: Prepared) -> list[dict]:
    """Train what is not finished, seed after seed, so that every loss soon has a result; rows in the losses' order."""
    waiting = [(loss, seed) for seed in plan.seeds for loss in plan.losses if not plan.is_complete(loss, seed)]
    waiting = parallel.from_first(lambda: waiting)
    end, reported = time.monotonic() + plan.seconds, -math.inf
    with Live(plan, len(waiting)) as live:
        for number, (loss, seed) in enumerate(waiting):
            share = (end - time.monotonic()) / (len(waiting) - number)
            result = train_one(plan, data, loss, seed, share, live)
            if parallel.is_first():
                live.finished(result)
                rows = write_results(plan)
                if time.monotonic() - reported > REPORT_SECONDS:  # all pictures are drawn anew
                    report(plan, data, rows)
                    reported = time.monotonic()
    if not parallel.is_first():
        return []
    rows = write_results(plan)
    report(plan, data, rows)
    return rows


def report(plan: Plan, data: Prepared, rows: list[dict]) -> None:
    """The HTML page of the rows."""
    write_report(plan.folder, rows, f"{plan.settings.dims}D U-Net on {data.name}", data.problems)


def write_results(plan: Plan) -> list[dict]:
    """The rows so far, also as JSON and CSV."""
    rows = rows_of(read_runs(plan.folder, plan.losses, plan.seeds))
    write_json(plan.folder / "results.json", rows)
    write_csv(plan.folder, rows)
    return rows


def make_run(plan: Plan, data: Prepared, loss: str, seed: int, folder: Path | None = None) -> Run:
    """A run of the plan, which keeps its checkpoints in the folder."""

    def build(**more):
        return LOSSES[loss].build("softmax", len(data.classes), ignore_index=data.ignore_index, **more).to(plan.device)

    plain = build()
    shared = parallel.is_parallel() and shares_sums(loss)
    over_all = build(process_group="world") if shared else plain
    return Run(Samples.of(data, plan.settings, seed), plan.settings, over_all, plain, seed, folder, plan.device)


def train_one(plan: Plan, data: Prepared, loss: str, seed: int, seconds: float, live: Live) -> dict:
    """Train or go on with one run for at most `seconds`, score it, and keep the result."""
    run = make_run(plan, data, loss, seed, plan.folder_of(loss, seed))
    board = writer(plan, loss, seed, run.at)
    live.begin(loss, seed, run)
    loss_peak = loss_peak_bytes(run)
    reset_peak(plan.device)
    known = len(run.at.history)

    def advance(at: Progress) -> None:
        nonlocal known
        live.advance(at)
        if board and len(at.history) > known:
            known = log(board, at, known)

    with watch_others() as watched:
        run.train(time.perf_counter() + seconds, advance)
    if board:
        log(board, run.at, known)
        board.close()
    return parallel.from_first(lambda: keep(plan, run, loss, loss_peak, notes_on_others(watched["others"])))


def keep(plan: Plan, run: Run, loss: str, loss_peak: int | None, notes: list[str], surfaces: bool = True) -> dict:
    """Score the run and write its result, the slices first: where the result is, all is."""
    data, folder = run.samples.data, plan.folder_of(loss, run.seed)
    peak = peak_so_far(plan.device)
    scores, slices = score(run, surfaces)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "slices.npz", **slices)
    if parallel.is_parallel() and not shares_sums(loss):
        notes = [*notes, "no loss on sums: each process has that of its own part of a batch"]
    result = {
        "loss": loss,
        "seed": run.seed,
        "classes": list(data.classes),
        "scores": scores,
        **run.about(),
        "peak_bytes": peak,
        "loss_peak_bytes": loss_peak,
        "batch_size": run.batch_size,
        "processes": parallel.world_size(),
        "dataset": data.name,
        "subjects": {
            name: sorted({data.entries[p.entry].subject for p in ps}) for name, ps in run.samples.parts.items()
        },
        "settings": asdict(run.settings) | {"rate": "cosine" if run.cosine else "plateau"},
        "notes": notes,
    }
    partial = folder / "result.partial"
    write_json(partial, result)
    os.replace(partial, folder / "result.json")
    return result


def loss_peak_bytes(run: Run) -> int | None:
    """What a loss's forward and backward takes beyond the logits and labels of a batch."""
    if run.device.type != "cuda" and not os.access(CLEAR_REFS, os.W_OK):
        return None
    labels = torch.stack([run.samples.train[i][1] for i in run.batches(0)[0]]).to(run.device)
    shape = (len(labels), len(run.samples.data.classes), *labels.shape[1:])
    return peak_bytes(
        Contestant(run.plain, torch.zeros(shape, device=run.device, requires_grad=True), labels), run.device
    )


def writer(plan: Plan, loss: str, seed: int, at: Progress):
    """TensorBoard's log of the run, without what a killed run wrote beyond its checkpoint."""
    if not plan.tensorboard or not parallel.is_first():
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(plan.folder / "tensorboard" / f"{loss}-seed{seed}", purge_step=at.epoch)


def log(board, at: Progress, known: int) -> int:
    """Write the epochs after the `known`; how many are known then."""
    for epoch, line in enumerate(at.history[known:], known):
        for name, value in line.items():
            board.add_scalar(name, value, epoch)
    board.flush()
    return len(at.history)
