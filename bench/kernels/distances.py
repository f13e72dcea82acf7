"""The Triton kernels of the distance transforms: their variants, and what they issue for masks of several kinds.

``python -m bench.kernels.distances TOOLS [--shape B,D,H,W]`` prints a line of JSON for each pass over each mask.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fastloss.kernels.gpu import distances as gpu_distances
from fastloss.kernels.gpu import sums as gpu

from bench.kernels.stencils import StencilVariant
from bench.kernels.variants import SHAPE, shape_of
from fastloss.distance.transforms import distance_field

PASSES = {3: ("scan", "rows", "planes"), 2: ("scan", "rows")}
GENERAL = (0.7123, 1.0, 0.8)  # mm, of no common length
PROGRAMS = 32  # that are executed of a launch
MOVED = {"scan": (1, 2), "rows": (2, 4), "planes": (4, 4)}  # bytes a voxel that are read and written


@dataclass(frozen=True)
class Case:
    """A transform whose kernels are inspected."""

    mode: str = "mask"
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    dtype: torch.dtype = torch.uint8
    sites: bool = False

    @property
    def name(self) -> str:
        kind = "whole" if self.spacing != GENERAL[: len(self.spacing)] else "general"
        return " ".join(["distance", self.mode, kind, *["sites"] * self.sites, str(self.dtype).removeprefix("torch.")])

    def launches(self, voxels: torch.Tensor) -> tuple[Iterator[tuple[str, gpu.Launch]], torch.Tensor, torch.Tensor]:
        """The calls in order, with the pass's name, the distances and the sites that they fill."""
        out = torch.full(voxels.shape, torch.nan, dtype=torch.float32)
        sites = torch.full(voxels.shape, -2) if self.sites else None
        of_sides = self.mode == "sides"
        passes = gpu_distances.Passes(voxels, list(self.spacing), self.mode, True, of_sides, out, sites)
        return zip(PASSES[len(passes.axes)], passes.launches(), strict=True), out, sites


CASES = (
    Case(),
    Case("sides"),
    Case("labels", dtype=torch.int32),
    Case(sites=True),
    Case("sides", GENERAL),
    Case(spacing=GENERAL),
    Case("labels", GENERAL, torch.int64),
    Case(spacing=GENERAL, sites=True),
)
ESSENTIAL = 3


def distance_variants(everything: bool = False) -> list[StencilVariant]:
    """Each pass of each case; none is run."""
    found = []
    for case in CASES[: None if everything else ESSENTIAL]:
        for name, launch in case.launches(torch.zeros((16, 32, 128), dtype=case.dtype))[0]:
            found.append(StencilVariant(f"{case.name} {name}", launch))
    return found


def masks(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """What is measured: smooth objects, a ball and how far it is from all voxels, one site near a corner."""
    from scipy import ndimage  # what only compiles the kernels does without

    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape, np.float32), 3)
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    ball = sum((x - size // 2) ** 2 for x, size in zip(grid, shape, strict=True)) > (shape[0] / 8) ** 2
    far = np.ones(shape, bool)
    far[1, 1, 1] = False
    found = {"blobs": noise > 0.3 * noise.std(), "ball": ball, "far": far}
    return {name: torch.from_numpy(mask.astype(np.uint8)) for name, mask in found.items()}


def counts(folder: Path, shape: tuple[int, ...]) -> Iterator[dict]:
    """Instructions a voxel of each pass over each mask, counted in some of its programs."""
    from bench.kernels.instructions import run_on_cpu
    from bench.kernels.targets import pretend

    pretend("sm_90")
    for kind, mask in masks(shape).items():
        for case in (Case(), Case("sides")):
            for name, launch in case.launches(mask)[0]:
                found = run_on_cpu(folder, launch, PROGRAMS)
                issued = found.warp_insts - found.mix["mov"] - found.mix["param"]
                moved = sum(MOVED[name])
                yield {
                    "name": f"{case.name} {kind} {name}",
                    "instructions": issued * 32 / mask.numel(),
                    "moved": moved,
                    "compulsory": moved,
                    "partial": 0.0,
                    "faults": [],
                }
                finish(name, launch, mask, case.mode)


def finish(name: str, launch: gpu.Launch, mask: torch.Tensor, mode: str) -> None:
    """Writes what all programs of a launch would have, by the transforms in C++ of so many axes."""
    if name == "planes":
        return
    axes, none = {"scan": (1, 2**15 - 1), "rows": (2, 2**30)}[name]
    field = distance_field(mask, [1.0] * axes, mode, root=False, signed=False, double=True)
    field = field.sqrt_() if name == "scan" else field
    nowhere = field == (torch.inf if mode == "mask" else 0)
    to = launch.args[1 if name == "scan" else 2]
    numbers = field.masked_fill_(nowhere, none).round_().to(to.dtype)
    to.copy_((numbers if mode == "mask" else torch.where(mask != 0, numbers, ~numbers)).view(-1))
    if name == "scan":
        lines = [(mask == 0).any(2), (mask != 0).any(2)][: 1 if mode == "mask" else 2]
        for side, found in enumerate(lines):
            slices, volumes = (spans.view(-1, len(lines), 2)[:, side] for spans in launch.args[2:4])
            for spans, there in ((slices, found), (volumes, found.any(1)[None])):
                place = torch.arange(1, there.shape[1] + 1)
                spans[:, 0] = (there * place.flip(0)).amax(1)
                spans[:, 1] = (there * place).amax(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tools", type=Path)
    parser.add_argument("--shape", type=shape_of, default=SHAPE)
    options = parser.parse_args()
    for row in counts(options.tools, options.shape[1:]):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
