"""One training run, of a loss and a seed, that can be killed at any moment and goes on from its last checkpoint."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from bench.losses.peers import Loss
from bench.machine import machine, synchronise
from bench.training import parallel
from bench.training.datasets.samples import SPLIT_OF_BLOCK, Part, Patches, Slices, common_size, split
from bench.training.datasets.store import Prepared
from bench.training.settings import Settings
from bench.training.unet import UNet
from fastloss.metrics import confusion_counts
from fastloss.metrics.nifti import DataError

SAVE_SECONDS = 20  # between the checkpoints within an epoch


@dataclass
class Progress:
    """How far a run has come: plain values, which the checkpoint holds beside the network and the optimiser."""

    epoch: int = 0
    step: int = 0  # of the epoch
    total: float = 0.0  # the epoch's losses
    history: list[dict] = field(default_factory=list)
    steps: int = 0
    step_seconds: float = 0.0  # without the first step of a process, which warms up
    loss_seconds: float = 0.0
    timed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        last = self.history[-1] if self.history else {"validation": math.nan, "validation_dice": math.nan}
        return f"epoch {self.epoch + 1}, validation loss {last['validation']:.4f} Dice {last['validation_dice']:.3f}"


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


@dataclass(frozen=True)
class Samples:
    """The splits of a data set as a run needs them."""

    data: Prepared
    parts: dict[str, list[Part]]
    train: Slices | Patches
    val: Slices | Patches
    size: tuple[int, ...]  # of an image

    @classmethod
    def of(cls, data: Prepared, settings: Settings, seed: int) -> "Samples":
        """Slices or patches; the split is the same for every seed, so that losses and seeds are tested alike."""
        parts = split(data, settings.dims)
        if lacking := [name for name, own in parts.items() if not own]:
            slices = sum(entry.shape[0] for entry in data.entries)
            raise DataError(
                f"{data.name}: {len(data.entries)} volumes of {slices} slices leave none for {', '.join(lacking)}; "
                f"expected volumes of three persons, or one of at least {len(SPLIT_OF_BLOCK)} slices"
            )
        multiple = 2 ** (len(settings.widths) - 1)
        if settings.dims == 2:
            size = common_size(data, multiple)
            train, val = (Slices(data, parts[name], size, settings.every) for name in ("train", "val"))
        else:
            size = settings.patch
            train = Patches(data, parts["train"], size, settings.patches, seed)
            val = Patches(data, parts["val"], size, settings.patches, seed=-1 % 2**32)
        return cls(data, parts, train, val, tuple(size))


class Run:
    """A network in training. `folder` holds its checkpoint; without one there is none."""

    def __init__(
        self,
        samples: Samples,
        settings: Settings,
        loss: Loss,
        plain: Loss,
        seed: int,
        folder: Path | None,
        device: torch.device,
    ):
        self.samples, self.settings, self.loss, self.plain, self.seed = samples, settings, loss, plain, seed
        self.file, self.device = folder and folder / "checkpoint.pt", device
        torch.manual_seed(seed)
        self.net = UNet(samples.data.channels, len(samples.data.classes), settings.widths, settings.dims).to(device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=settings.learning_rate)
        self.cosine = False  # whether the rate falls along all epochs, in place of on a plateau
        self.plateau = ReduceLROnPlateau(self.optimiser, patience=settings.patience, min_lr=settings.smallest_rate)
        self.at = Progress()
        self.batch_size = settings.batch_of(len(samples.train))
        self.batches_per_epoch = len(self.batches(0))
        if self.file and self.file.is_file():
            self.load()
        self.model = parallel.wrap(self.net)

    def load(self) -> None:
        """Go on where the checkpoint was written."""
        state = torch.load(self.file, map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.plateau.load_state_dict(state["plateau"])
        self.at = Progress(**state["progress"])

    def save(self) -> None:
        """A whole checkpoint or none, whenever the process is killed."""
        if not self.file or not parallel.is_first():
            return
        state = {
            "model": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "plateau": self.plateau.state_dict(),
            "progress": asdict(self.at),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = self.file.with_suffix(".partial")
        torch.save(state, partial_file)
        os.replace(partial_file, self.file)

    def batches(self, epoch: int) -> list[list[int]]:
        """The order of an epoch, which follows from seed and epoch alone."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.samples.train)).tolist()
        cut = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [batch for batch in cut if len(batch) >= parallel.world_size()] or cut

    def loader(self, samples: Slices | Patches, batches: list[list[int]]) -> Iterator[list[torch.Tensor]]:
        """The batches on the device."""
        for batch in DataLoader(samples, batch_sampler=batches):
            yield [tensor.to(self.device, non_blocking=True) for tensor in batch]

    @property
    def complete(self) -> bool:
        """Whether no epoch is left."""
        return self.at.epoch >= self.settings.epochs

    def train(self, deadline: float, advance: Callable[[Progress], None]) -> bool:
        """Train until the last epoch, or the step that passes `deadline`; True where no epoch is left."""
        while not self.complete:
            if not self.epoch(deadline, advance):
                return False
        return True

    def epoch(self, deadline: float, advance: Callable[[Progress], None]) -> bool:
        """The rest of an epoch, its validation and a checkpoint; False where the time is over."""
        if isinstance(self.samples.train, Patches):
            self.samples.train.epoch = self.at.epoch
        self.model.train()
        begin = saved = time.perf_counter()
        own = [parallel.share(batch) for batch in self.batches(self.at.epoch)[self.at.step :]]
        for number, (images, labels) in enumerate(self.loader(self.samples.train, own)):
            value, took = train_step(self.model, self.optimiser, self.loss, images, labels)
            self.at.total += value
            self.at.step += 1
            self.at.steps += 1
            if number or len(own) == 1:
                self.at.step_seconds += took.step
                self.at.loss_seconds += took.loss
                self.at.timed += 1
            advance(self.at)
            now = time.perf_counter()
            over = math.isfinite(deadline) and parallel.agreed(now > deadline)
            if over or now - saved > SAVE_SECONDS:
                saved = time.perf_counter()
                self.at.seconds += saved - begin
                begin = saved
                self.save()
            if over and self.at.step < self.batches_per_epoch:
                return False
        self.finish_epoch()
        self.at.seconds += time.perf_counter() - begin
        self.save()
        over = math.isfinite(deadline) and parallel.agreed(time.perf_counter() > deadline)
        return not over or self.complete

    def finish_epoch(self) -> None:
        """Validation, the learning rate after it, and a line of the history."""
        validation, dice = parallel.from_first(self.validate)
        self.at.history.append(
            {
                "train": self.at.total / self.at.step,
                "validation": validation,
                "validation_dice": dice,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
            }
        )
        self.at.epoch, self.at.step, self.at.total = self.at.epoch + 1, 0, 0.0
        if self.cosine:
            self.set_cosine()
        else:
            self.plateau.step(validation)

    def set_cosine(self) -> None:
        """The rate of the epoch to come, from the first's to none after the last."""
        done = self.at.epoch / self.settings.epochs
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * (1 + math.cos(math.pi * done)) / 2

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """The mean loss over the batches of the held-out samples, and their Dice of the foreground."""
        self.net.eval()
        indices = list(range(len(self.samples.val)))
        batches = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        total, tables = 0.0, []
        for images, labels in self.loader(self.samples.val, batches):
            logits = self.net(images)
            total += float(self.plain(logits, labels)) * len(labels)
            counts = confusion_counts(
                logits.argmax(1), labels, classes=logits.shape[1], ignore_index=self.samples.data.ignore_index
            )
            tables.append(torch.stack([counts.true_positive, counts.false_positive, counts.false_negative]).sum(1))
        synchronise(self.device)
        hits, extra, missed = torch.stack(tables).sum(0)[:, 1:].double()
        return total / max(1, len(indices)), float((2 * hits / (2 * hits + extra + missed)).nanmean())

    def about(self) -> dict:
        """What a result says of the training."""
        at = self.at
        timed = at.timed or math.nan  # the first step warms up: where there is no other, no time is known
        return {
            "history": at.history,
            "epochs": at.epoch,
            "steps": at.steps,
            "complete": self.complete,
            "loss_ms": at.loss_seconds / timed * 1e3,
            "step_ms": at.step_seconds / timed * 1e3,
            "loss_share": at.loss_seconds / (at.step_seconds or math.nan),
            "seconds": at.seconds,
            "device": str(self.device),
            "machine": machine(),
        }
