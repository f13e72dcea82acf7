"""Kernels compiled, and every loss called once, before a clock starts."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

import fastloss
from bench.losses.registry import LOSSES
from bench.machine import synchronise
from bench.output import console, progress


def make_ready(names: list[str], labels: torch.Tensor, classes: int) -> None:
    """Compile or load the kernels of the losses for batches like `labels` `[B, *S]`, with a bar over the losses."""
    begin = time.monotonic()
    with progress() as bars:
        bar = bars.add_task("compiling the kernels, once for this machine", total=len(names), status="")
        for group in compile_ahead(names, classes, labels.shape[1:]) if labels.device.type == "cpu" else ():
            bars.update(bar, advance=len(group), status=", ".join(group))
        bars.update(bar, completed=0, status="", description="loading the kernels")
        logits = torch.zeros((len(labels), classes, *labels.shape[1:]), device=labels.device, requires_grad=True)
        for name in names:
            bars.update(bar, status=name)
            LOSSES[name].build("softmax", classes).to(labels.device)(logits, labels).backward()
            synchronise(labels.device)
            bars.update(bar, advance=1, status="")
    console.print(f"kernels ready after {time.monotonic() - begin:.1f} s")


def families(names: list[str], classes: int) -> list[list[str]]:
    """Losses whose kernels are compiled together: those on sums, which have most in common, and each of the others."""
    on_sums = [name for name in names if isinstance(LOSSES[name].build("softmax", classes), fastloss.SumLoss)]
    return [group for group in (on_sums, *([name] for name in names if name not in on_sums)) if group]


def compile_group(names: list[str], classes: int, size: tuple[int, ...]) -> list[str]:
    """Compiles the CPU's kernels of some losses; gives the names back."""
    fastloss.warmup([LOSSES[name].build("softmax", classes) for name in names], classes=classes, size=size)
    return names


def compile_ahead(names: list[str], classes: int, size: tuple[int, ...]) -> Iterator[list[str]]:
    """Fills the cache of the CPU's kernels, a process a thread of torch's; gives each group when it is ready."""
    groups = families(names, classes)
    with ProcessPoolExecutor(min(len(groups), torch.get_num_threads()), get_context("spawn")) as pool:
        for done in as_completed([pool.submit(compile_group, group, classes, tuple(size)) for group in groups]):
            yield done.result()
