"""What is drawn for the calls of several peers: logits in several widths and layouts, labels, dense targets."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor


def seeded(seed: int) -> random.Random:
    """The random numbers of one draw; torch's begin there, too."""
    torch.manual_seed(seed)
    return random.Random(seed)


def pick(rng: random.Random, *values: Any) -> Any:
    """One of them, the first more often than the others."""
    return values[0] if rng.random() < 0.3 else rng.choice(values)


def draw_dtype(rng: random.Random) -> torch.dtype:
    return rng.choice((torch.float32,) * 5 + (torch.float64, torch.float16, torch.bfloat16))


def draw_space(rng: random.Random, axes: tuple[int, ...] = (1, 2, 2, 3), least: int = 1) -> tuple[int, ...]:
    return tuple(rng.randint(least, 9) for _ in range(rng.choice(axes)))


def draw_logits(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normal logits of several widths, in one of several layouts."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * rng.choice((0.3, 1.0, 3.0, 8.0))
    logits = logits.to(dtype)
    layout = rng.random()
    if layout < 0.15 and len(shape) in (4, 5):
        form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        logits = logits.contiguous(memory_format=form)
    elif layout < 0.25:
        logits = torch.stack((logits, logits), -1)[..., 0]
    return logits


def draw_labels(rng: random.Random, shape: tuple[int, ...], classes: int, ignore: Any, dtype: torch.dtype) -> Tensor:
    """Labels, some of them ignored; sometimes classes are absent, all is ignored, or one label is no class."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    labels = torch.randint(0, rng.choice((classes, classes, max(1, classes - 1), 1)), shape, generator=generator)
    if ignore is not None:
        share = rng.choice((0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.7, 1.0))
        labels[torch.rand(shape, generator=generator) < share] = ignore
    if rng.random() < 0.03 and labels.numel():
        labels.view(-1)[0] = rng.choice((classes, classes + 3, -1))
    return labels.to(dtype)


def draw_dense(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype, soft: float = 0.1) -> Tensor:
    """0 and 1 for each channel; with the chance ``soft`` shares of a voxel."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    target = torch.rand(shape, generator=generator)
    if not (rng.random() < soft and dtype.is_floating_point):
        target = (target < rng.choice((0.5, 0.5, 0.1, 0.0, 1.1))).float()
    return target.to(dtype)
