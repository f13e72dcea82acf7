"""The gallery of losses: the gradient that each sends to the pixels of one small case, and its value against a growing
error, drawn by the library itself.

    python docs/extensions/gallery.py docs/figures/gradients.png    # the overview, which README shows
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import fastloss
from fastloss import CompoundLoss, SegmentationLoss, SumLoss

BASES = (SegmentationLoss, SumLoss, CompoundLoss)
REQUIRED = {"WeightedCrossEntropyLoss": {"beta": [1.0, 3.0]}}  # options without a default
FAMILIES = {  # by the modules of losses
    "distribution": "Cross-entropies",
    "focal": "Focal and polynomial cross-entropies",
    "region": "Overlap",
    "confusion": "Overlap with weights of classes, and true negatives",
    "compound": "Overlap and cross-entropy",
    "unified": "Focal cross-entropy and focal Tversky",
    "ranked": "Ranked pixels",
    "boundary": "Distances",
    "hausdorff": "Hausdorff distance on stencils",
    "cldice": "Centrelines",
    "structural": "Local structure",
}
SIZE, PIXELS = 64, np.arange(0, 10.5, 0.5)
LARGE, SMALL, ELSEWHERE = (25.0, 26.0, 11.0), (46.0, 43.0, 4.0), (14.0, 50.0, 4.0)  # row, column, radius
ERRORS = {"shifted": "#0072b2", "a lesion missed": "#d55e00", "a false positive": "#009e73"}


def losses() -> list[type]:
    """The classes of losses, by family."""
    found = [getattr(fastloss, name) for name in fastloss.__all__]
    found = [kind for kind in found if isinstance(kind, type) and issubclass(kind, BASES[0]) and kind not in BASES]
    return sorted(found, key=lambda kind: list(FAMILIES).index(family(kind)))


def family(kind: type) -> str:
    """The module of a loss, in `fastloss.losses`."""
    return kind.__module__.rpartition(".")[2]


def build(kind: type, **options) -> SegmentationLoss:
    """A loss with its defaults but for the options."""
    return kind(**REQUIRED.get(kind.__name__, {}), **options)


def inside(*discs: tuple[float, float, float]) -> torch.Tensor:
    """The distance to the edge of the discs' union, positive inside, ``[SIZE, SIZE]``."""
    row, column = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float64)] * 2, indexing="ij")
    return torch.stack([r - torch.hypot(row - y, column - x) for y, x, r in discs]).amax(0)


def truth(*discs) -> torch.Tensor:
    """Labels ``[1, SIZE, SIZE]``."""
    return (inside(*discs) > 0).to(torch.uint8)[None]


def logits(*discs) -> torch.Tensor:
    """Of background and foreground, ``[1, 2, SIZE, SIZE]``: sure but for two pixels along the edges."""
    z = (1.5 * inside(*discs)).clamp(-4, 4)
    return torch.stack([-z / 2, z / 2])[None]


CASE = truth(LARGE, SMALL), logits((LARGE[0] + 4, LARGE[1] + 3, LARGE[2]), ELSEWHERE)


def push(loss: SegmentationLoss) -> np.ndarray:
    """Where a step against the gradient raises (above 0) the foreground's logit, relative to the largest."""
    labels, z = CASE[0], CASE[1].clone().requires_grad_()
    loss(z, labels).backward()
    field = -z.grad[0, 1].numpy()
    return field / (np.abs(field).max() or 1.0)


def curves(loss: SegmentationLoss, pixels=PIXELS) -> dict[str, list[float]]:
    """Values against the pixels of a shift, and the radius of a lesion that is missed or made up."""
    found = {name: [] for name in ERRORS}
    for radius in pixels:
        lesion = (*SMALL[:2], radius)
        calls = (
            (logits((LARGE[0], LARGE[1] + radius, LARGE[2])), truth(LARGE)),
            (logits(LARGE), truth(LARGE, lesion)),
            (logits(LARGE, lesion), truth(LARGE)),
        )
        for name, call in zip(found, calls, strict=True):
            found[name].append(loss(*call).item())
    return found


def show(axes, field: np.ndarray) -> None:
    """The field, the truth's outline in full and the prediction's dotted."""
    axes.imshow(field, cmap="RdBu_r", norm=matplotlib.colors.SymLogNorm(0.02, vmin=-1, vmax=1, base=10))
    axes.contour(CASE[0][0], [0.5], colors="black", linewidths=0.9)
    axes.contour(CASE[1][0, 1], [0.0], colors="black", linewidths=0.9, linestyles="dotted")
    axes.set_axis_off()


def picture(kind: type) -> Figure:
    """A loss's gradient beside its curves."""
    figure = Figure(figsize=(6.4, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    loss = build(kind)
    show(left, push(loss))
    for (name, values), colour in zip(curves(loss).items(), ERRORS.values(), strict=True):
        right.plot(PIXELS, values, color=colour, label=name, linewidth=1.6)
    right.set(xlabel="pixels of the shift, or of the lesion's radius", ylabel="loss")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    return figure


def overview() -> Figure:
    """The gradients of all losses."""
    kinds, across = losses(), 7
    down = -(-len(kinds) // across)
    figure = Figure(figsize=(1.5 * across, 1.72 * down), layout="constrained")
    for axes in figure.subplots(down, across).flat:
        axes.set_axis_off()
    for axes, kind in zip(figure.axes, kinds, strict=False):
        show(axes, push(build(kind)))
        axes.set_title(kind.__name__.removesuffix("Loss"), fontsize=7.5)
    return figure


def draw(folder: Path) -> None:
    """The overview and the picture of each loss."""
    folder.mkdir(parents=True, exist_ok=True)
    with fastloss.backend("reference"):  # which compiles nothing
        overview().savefig(folder / "overview.png", dpi=130)
        for kind in losses():
            picture(kind).savefig(folder / f"{kind.__name__}.png", dpi=130)


torch.set_num_threads(1)  # images as small as these gain nothing from more

if __name__ == "__main__":
    with fastloss.backend("reference"):
        overview().savefig(sys.argv[1], dpi=130)
