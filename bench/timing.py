"""Interleaved timing of forward and backward, and the spread of what was measured."""

import gc
import math
import random
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bench.machine import keep_freed_memory, synchronise

WARM_UP = 3
TRIALS = 3  # of each way to call a peer, before its best is chosen
SLOW_SECONDS = 1.0  # what takes longer is tried once
FEWEST = 3  # rounds, however long they take


def timed(call: Callable, device: torch.device) -> tuple[object, float]:
    """The call's result and its milliseconds: CUDA events on a GPU, the wall clock elsewhere."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = call()
        return result, (time.perf_counter() - start) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    synchronise(device)
    begin.record()
    result = call()
    end.record()
    end.synchronize()
    return result, begin.elapsed_time(end)


@dataclass
class Samples:
    """Milliseconds of every round."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    @property
    def total(self) -> list[float]:
        return [f + b for f, b in zip(self.forward, self.backward, strict=True)]


def quartiles(samples: list[float]) -> list[float]:
    """First quartile, median and third quartile."""
    return torch.tensor(samples, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()


@dataclass(frozen=True)
class Contestant:
    """A loss as a call on logits that require a gradient."""

    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    logits: torch.Tensor
    target: torch.Tensor

    def step(self, device: torch.device) -> tuple[float, float]:
        """Milliseconds of one forward, with its graph, and of one backward to the logits."""
        value, forward = timed(lambda: self.loss(self.logits, self.target), device)
        _, backward = timed(lambda: torch.autograd.grad(value, self.logits), device)
        return forward, backward


@dataclass(frozen=True)
class Copy:
    """`logits.clone()`, the yardstick: one read and one write of the logits into fresh memory."""

    logits: torch.Tensor

    def step(self, device: torch.device) -> tuple[float, float]:
        """Milliseconds of the copy; there is no backward."""
        return timed(self.logits.detach().clone, device)[1], 0.0


def fastest(ways: dict[str, Callable[[], object]]) -> str:
    """The name of the way whose best of TRIALS calls, in turn, is the shortest; each was called before."""
    if len(ways) == 1:
        return next(iter(ways))
    seconds = dict.fromkeys(ways, math.inf)
    with no_collection():
        for number in range(TRIALS):
            for name, call in ways.items():
                if number and seconds[name] > SLOW_SECONDS:
                    continue
                begin = time.perf_counter()
                call()
                seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return min(seconds, key=seconds.__getitem__)


@contextmanager
def no_collection():
    """Garbage collection off, so that no round pays for another's objects."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def interleave(
    contestants: dict[str, Contestant | Copy],
    repeats: int,
    device: torch.device,
    seconds: float = math.inf,
    tuned: bool = True,
) -> dict[str, Samples]:
    """Time all contestants in turn, `repeats` rounds over: they share whatever the machine does meanwhile.

    The order is drawn anew each round: who follows another finds its memory, and what the system does every few
    seconds meets all alike. After `seconds` no further round begins, but for the first FEWEST. `tuned`: this process
    keeps freed memory.
    """
    if tuned:
        keep_freed_memory()
    for contestant in contestants.values():
        begin = time.perf_counter()
        for _ in range(WARM_UP):
            contestant.step(device)
            if time.perf_counter() - begin > seconds:
                break
    samples = {name: Samples() for name in contestants}
    order, shuffle = list(contestants.items()), random.Random(0).shuffle
    begin = time.perf_counter()
    with no_collection():
        for done in range(repeats):
            if done >= FEWEST and time.perf_counter() - begin > seconds:
                break
            shuffle(order)
            for name, contestant in order:
                forward, backward = contestant.step(device)
                samples[name].forward.append(forward)
                samples[name].backward.append(backward)
    return samples
