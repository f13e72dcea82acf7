"""The exact loss of a whole volume, and its gradient, window by window: the volume's logits never exist at once.

Sums over voxels are additive. A first pass adds them up over the windows; the formula and its derivative by the sums
then take no memory; a second pass repeats each window, now with a graph, and hands that derivative to its sums.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bench.peak_memory import peak_so_far, reset_peak
from bench.training.datasets.samples import window
from bench.training.datasets.store import Prepared
from fastloss import SumLoss, voxel_sums
from fastloss.losses.base import as_loss
from fastloss.terms import is_constant, parse_term

Tensors = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Tiled:
    """A subject repeated to any shape, read window by window; each window's image has a margin around its labels."""

    data: Prepared
    entry: int
    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    margin: int = 0

    def places(self) -> Iterator[tuple[int, ...]]:
        """The windows' first voxels."""
        return itertools.product(*(range(0, n, step) for n, step in zip(self.shape, self.window, strict=True)))

    def __len__(self) -> int:
        return int(np.prod([-(-n // step) for n, step in zip(self.shape, self.window, strict=True)]))

    def read(self, place: Sequence[int]) -> Tensors:
        """The image `[1, channels, *window + 2 margins]` and the labels `[1, *what of the window the volume has]`."""
        entry = self.data.entries[self.entry]
        size = [min(step, n - at) for at, step, n in zip(place, self.window, self.shape, strict=True)]
        image = self.part(entry.image().transpose(1, 0, 2, 3), place, self.window, self.margin, entry.floor)
        labels = self.part(entry.labels(), place, size, 0, 0)
        return torch.from_numpy(image)[None], torch.from_numpy(self.data.classes_of(labels, entry))[None]

    def part(
        self, array: np.ndarray, place: Sequence[int], size: Sequence[int], margin: int, fill: float
    ) -> np.ndarray:
        """A part of the repeated array; beyond the volume it is filled."""
        start, stop, outside = [], [], []
        for at, n, full in zip(place, size, self.shape, strict=True):
            first, last = max(0, at - margin), min(full, at + n + margin)
            start.append(first)
            stop.append(last)
            outside.append(first - (at - margin))
        indices = [
            np.arange(first, last) % length for first, last, length in zip(start, stop, array.shape[-3:], strict=True)
        ]
        lead = [np.arange(length) for length in array.shape[:-3]]
        inner = array[np.ix_(*lead, *indices)]
        return window(inner, [-n for n in outside], [n + 2 * margin for n in size], fill)


def why_not(name: str, loss: nn.Module) -> str | None:
    """Why the loss is more than sums over voxels, or None."""
    if not isinstance(loss, SumLoss) or type(loss).forward is not SumLoss.forward:
        return f"loss: {name} ranks voxels or looks at neighbours, expected a loss on sums"
    if any(parse_term(term).mapped for term in loss.terms):
        return f"loss: {name} has distances, which need the whole volume, expected a loss on sums alone"
    return None


def sums_of(model: nn.Module, loss: SumLoss, image: torch.Tensor, labels: torch.Tensor, margin: int) -> torch.Tensor:
    """The sums `[1, C, K]` of a window."""
    core = (..., *(slice(margin, margin + n) for n in labels.shape[1:]))
    return voxel_sums(
        model(image)[core],
        labels,
        loss.terms,
        activation=None if loss.activation == "none" else loss.activation,
        ignore_index=loss.ignore_index or None,
    )


def from_sums(loss: SumLoss, sums: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The loss of the whole volume; counts have no gradient, which a formula may make infinite."""
    named = dict(zip(loss.terms, sums.unbind(-1), strict=True))
    return as_loss(loss.from_sums({k: v.detach() if is_constant(k) else v for k, v in named.items()}), like)


def whole_volume_loss(
    model: nn.Module,
    loss: SumLoss,
    volume: Tiled,
    device: torch.device,
    advance: Callable[[str], None] = lambda stage: None,
) -> torch.Tensor:
    """The loss of the volume's logits, whose gradient is added to the model's parameters.

    Logits are those of the windows side by side, each from its window and the margin around it.
    """
    total = None
    with torch.no_grad():
        for place in volume.places():
            image, labels = (tensor.to(device) for tensor in volume.read(place))
            sums = sums_of(model, loss, image, labels, volume.margin)
            total = sums if total is None else total + sums
            advance("sums")
    total.requires_grad_()
    value = from_sums(loss, total, torch.empty(0, dtype=next(model.parameters()).dtype))
    (coefficients,) = torch.autograd.grad(value, total)
    for place in volume.places():
        image, labels = (tensor.to(device) for tensor in volume.read(place))
        sums_of(model, loss, image, labels, volume.margin).backward(coefficients)
        advance("gradient")
    return value.detach()


def measure(
    name: str, loss: SumLoss, model: nn.Module, volume: Tiled, device: torch.device, advance: Callable[[str], None]
) -> dict:
    """Loss, norm of the gradient, seconds, and peak memory beside what the volume's logits alone would take."""
    model.zero_grad(set_to_none=True)
    reset_peak(device)
    begin = time.perf_counter()
    value = whole_volume_loss(model, loss, volume, device, advance)
    gradients = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    logits = len(volume.data.classes) * int(np.prod(volume.shape)) * 4
    return {
        "loss": name,
        "value": float(value),
        "gradient_norm": float(torch.stack(gradients).sum().sqrt()),
        "seconds": time.perf_counter() - begin,
        "peak_bytes": peak_so_far(device),
        "logits_bytes": logits,
        "shape": list(volume.shape),
        "window": list(volume.window),
        "margin": volume.margin,
        "windows": len(volume),
        "device": str(device),
    }
