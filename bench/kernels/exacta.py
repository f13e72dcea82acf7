"""Instructions of exacta's compiled kernels, counted as our own are, where it is installed.

``python -m bench.kernels.exacta TOOLS [--distances] [--shape B,D,H,W]`` prints a line of JSON for each kernel of its
Dice + cross-entropy and focal losses, or of its distance transform, launched as it launches them; TOOLS is the folder
of ``ptxrun.py``.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from fastloss.kernels.gpu import sums as gpu
from triton.runtime.jit import JITFunction

from bench.kernels import distances
from bench.kernels.distances import masks
from bench.kernels.instructions import PROGRAMS, run_on_cpu
from bench.kernels.problems import DICE_CE
from bench.kernels.targets import pretend
from bench.kernels.traffic import nbytes
from bench.kernels.variants import SHAPE, UNIONS, Variant, shape_of
from fastloss.distance import edt_squared

CHANNELS = (4, 16, 118)
PASSES = ("scan", "rows", "planes")  # of its distance transform, along the first axis and each further
UNION = {"dice and cross-entropy": DICE_CE, "focal": UNIONS["focal"]}


@contextlib.contextmanager
def recorded() -> Iterator[list[gpu.Launch]]:
    """The launches within, of which none is run."""
    found: list[gpu.Launch] = []

    def record(kernel, *args, grid, warmup, **constants):
        found.append(gpu.Launch(kernel, grid, args, constants))

    with patch.object(JITFunction, "run", record), patch.object(torch.cuda, "device", contextlib.nullcontext):
        yield found


def launches(union: str, logits: torch.Tensor, target: torch.Tensor) -> list[gpu.Launch]:
    """The forward's and the backward's kernel, with the arguments that its losses give them."""
    from exacta import _triton_losses as theirs

    overlap = {"include_background": True, "batch_dice": False, "smooth": 1e-5, "lambda_dice": 1.0, "lambda_ce": 1.0}
    with recorded() as found:
        if union == "focal":
            value = theirs.focal_loss(logits, target, activation="softmax", one_hot=False, gamma=2.0, alpha=None)
        else:
            options = {"activation": "softmax", "one_hot": False, "cross_entropy": True}
            value = theirs.seg_loss(logits, target, **options, **overlap)
        value.backward()
    return found


def rows(folder: Path, shape: tuple[int, ...]) -> Iterator[dict]:
    """Of each kernel its instructions and bytes a voxel, the partial sums' included."""
    for channels in CHANNELS:
        for union, terms in UNION.items():
            options = {"activation": "softmax", "channels": channels, "dtype": torch.bfloat16, "terms": terms}
            blank = Variant("forward", options).blank(shape[0], shape[1:])
            logits, voxels = blank.logits.requires_grad_(), blank.target.numel()
            for direction, launch in zip(("forward", "backward"), launches(union, logits, blank.target), strict=True):
                counts = run_on_cpu(folder, launch, PROGRAMS)
                issued = counts.warp_insts - counts.mix["mov"] - counts.mix["param"]
                others = [x for x in launch.args if isinstance(x, torch.Tensor) and x.dtype == torch.float32]
                partial = max(map(nbytes, others), default=0) if direction == "forward" else 0
                least = nbytes(logits) * (1 if direction == "forward" else 2) + nbytes(blank.target)
                yield {
                    "name": f"exacta: {direction} softmax {channels} bfloat16 {union}",
                    "instructions": issued * 32 / voxels,
                    "moved": (least + 2 * partial) / voxels,
                    "compulsory": least / voxels,
                    "partial": 2 * partial / nbytes(logits),
                    "faults": [],
                }


def distance_rows(folder: Path, shape: tuple[int, ...]) -> Iterator[dict]:
    """Of each pass over each mask its instructions a voxel and the bytes it moves, those of its envelopes included."""
    from exacta import _triton_edt as theirs

    for kind, mask in masks(shape).items():
        with recorded() as found:
            theirs.edt_sq(mask == 0, [1.0] * len(shape))
        for axes, launch in enumerate(found, 1):
            counts = run_on_cpu(folder, launch, distances.PROGRAMS)
            issued = counts.warp_insts - counts.mix["mov"] - counts.mix["param"]
            least = 1 + 8 if axes == 1 else 8 + 8
            yield {
                "name": f"exacta: distance mask {kind} {PASSES[axes - 1]}",
                "instructions": issued * 32 / mask.numel(),
                "moved": max((counts.unique_load_bytes + counts.unique_store_bytes) / mask.numel(), least),
                "compulsory": least,
                "partial": 0.0,
                "faults": [],
            }
            if axes < len(shape):
                launch.args[1].copy_(squares_along(mask, axes))


def squares_along(mask: torch.Tensor, axes: int) -> torch.Tensor:
    """What all programs of a pass would have written: squared distances within so many of the first axes."""
    turned = mask.permute(*range(axes, mask.ndim), *range(axes)).contiguous()
    squares = edt_squared(turned, spatial_axes=axes, dtype=torch.float64)
    return squares.permute(*range(mask.ndim - axes, mask.ndim), *range(mask.ndim - axes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tools", type=Path)
    parser.add_argument("--distances", action="store_true")
    parser.add_argument("--shape", type=shape_of, default=SHAPE)
    options = parser.parse_args()
    pretend("sm_90")
    found = distance_rows(options.tools, options.shape[1:]) if options.distances else rows(options.tools, options.shape)
    for row in found:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
