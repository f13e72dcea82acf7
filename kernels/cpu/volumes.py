"""Logits and targets of any layout as plain volumes, for stencils, whose neighbours lie in other tiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastloss.terms import Plan, Term

from .forms import PROBABILITIES, SQUARES, TARGETS, WEIGHTS
from .sums import write_target, write_voxels
from .tensors import real_of


class Volumes(NamedTuple):
    """One call's tensors and plan."""

    inputs: tuple[Tensor, Tensor, Tensor | None]
    plan: Plan
    dtype: torch.dtype  # float32, or float64 for float64 logits
    real: np.dtype  # the same
    grid: tuple[int, int, int]  # the volume as planes, rows, voxels
    logits: int  # how many there are

    def samples(self, first: int, stop: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tensors of some samples."""
        logits, target, mask = self.inputs
        return logits[first:stop], target[first:stop], None if mask is None else mask[first:stop]


def volumes(logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan) -> Volumes:
    """What :func:`errors`, :func:`probabilities` and :func:`target_volume` take."""
    dtype = real_of(logits.dtype)
    plan = plan._replace(terms=(Term(),))  # the weight of a sample
    return Volumes((logits, target, mask), plan, dtype, np.dtype(str(dtype)[6:]), grid_of(logits), logits.numel())


def grid_of(logits: Tensor) -> tuple[int, int, int]:
    """The spatial sizes as planes, rows and voxels of a row; an image's rows are planes, to be shared among threads."""
    space = tuple(logits.shape[2:])
    planes, lines, length = ((1, 1, *space), (space[0], 1, space[-1]), space)[len(space) - 1]
    return planes, lines, length


def errors(v: Volumes, out: np.ndarray) -> tuple[np.ndarray, int]:
    """Writes w (p - y)^2 into out ``[B, C, V]``; the sums of w ``[B]`` and the number of bad labels."""
    return _write(SQUARES, v, out, 0)


def probabilities(v: Volumes, out: np.ndarray, weights: np.ndarray, first: int = 0) -> tuple[np.ndarray, int]:
    """Writes p into out ``[B, C, V]`` and w into weights ``[B, V]``, of the samples from ``first`` on.

    Returns the sums of w and the number of bad labels.
    """
    _, target, mask = v.samples(first, first + len(out))
    space = v.inputs[0].shape[2:]
    write_target(WEIGHTS, target, mask, v.plan, torch.from_numpy(weights).view(-1, 1, *space), 0, v.inputs[0].shape[1])
    return _write(PROBABILITIES, v, out, first)


def target_volume(v: Volumes, out: np.ndarray, b: int, c: int) -> None:
    """Writes y of class c of sample b into out ``[V]``, of the kernel's own type."""
    logits, target, mask = v.samples(b, b + 1)
    write_target(TARGETS, target, mask, v.plan, torch.from_numpy(out).view(1, 1, *logits.shape[2:]), c, logits.shape[1])


def _write(output: int, v: Volumes, out: np.ndarray, first: int) -> tuple[np.ndarray, int]:
    logits, target, mask = v.samples(first, first + len(out))
    sums, bad = write_voxels(output, logits, target, mask, v.plan, torch.from_numpy(out).view(logits.shape))
    return sums[:, 0, 0].numpy(), bad
