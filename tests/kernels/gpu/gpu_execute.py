"""Run as a script, in a process whose Triton compiles: runs compiled PTX on the CPU with the tools in a folder.

``gpu_execute.py FOLDER sums|ranked|stencils|distances`` prints one line of JSON: each kernel's error and what it moved.
"""

import json
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from fastloss.kernels.gpu import distances as gpu_distances
from fastloss.kernels.reference import stencils as reference_stencil

from bench.kernels.distances import CASES as DISTANCES
from bench.kernels.distances import GENERAL
from bench.kernels.instructions import run_on_cpu
from bench.kernels.problems import DICE_CE
from bench.kernels.stencils import instead_of_running, run_losses, stencil_problem
from bench.kernels.targets import pretend
from bench.kernels.traffic import nbytes
from bench.kernels.variants import UNIONS, Variant, expected, ranked_variants, voxel_variants
from fastloss.distance.transforms import distance_field

CASES = (
    (4, "softmax", torch.bfloat16, DICE_CE, (32, 32, 32)),
    (4, "softmax", torch.float32, DICE_CE, (32, 32, 32)),
    (4, "softmax", torch.bfloat16, UNIONS["focal"], (32, 32, 32)),
    (4, "softmax", torch.bfloat16, UNIONS["dice and focal"], (32, 32, 32)),
    (4, "softmax", torch.float16, ("count", "p2", "p2y", "ce_neg"), (16, 16, 33)),
    (20, "softmax", torch.bfloat16, DICE_CE, (16, 16, 17)),
    (20, "softmax", torch.float32, ("p2", "ce_neg"), (16, 16, 17)),
    (12, "softmax", torch.bfloat16, DICE_CE, (16, 16, 32)),
    (40, "softmax", torch.float32, UNIONS["dice and focal"], (16, 16, 17)),
    (118, "softmax", torch.bfloat16, DICE_CE, (16, 16, 32)),
    (1400, "softmax", torch.bfloat16, DICE_CE, (8, 8, 16)),
    (3, "sigmoid", torch.bfloat16, (*DICE_CE, "ce_neg"), (16, 16, 32)),
    (3, "none", torch.float32, (*DICE_CE, "ce_neg"), (16, 16, 32)),
    (4, "softmax", torch.bfloat16, UNIONS["a user's"], (32, 32, 32)),
    (20, "softmax", torch.bfloat16, UNIONS["a user's powers"], (16, 16, 17)),
    (3, "sigmoid", torch.bfloat16, UNIONS["a user's powers"], (16, 16, 32)),
)


def execute(folder):
    rows = []
    for channels, activation, dtype, terms, shape in CASES:
        # The executor knows no comparison of packed bfloat16, which sm_90 uses for the sign of a logit.
        pretend("sm_90" if activation == "softmax" else "sm_80")
        options = {"channels": channels, "activation": activation, "dtype": dtype, "terms": terms, "shape": shape}
        for direction in ("forward", "backward"):
            variant = Variant(direction, options)
            problem, launch, out = variant.launch(variant.problem())
            out.fill_(float("nan"))
            stats = run_on_cpu(folder, launch)
            got = out.sum(1, dtype=torch.float64) if direction == "forward" else out.double()
            want = expected(variant, problem)
            step = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 0) if direction == "backward" else 0
            due = nbytes(problem.logits) * (1 if direction == "forward" else 2) + nbytes(problem.target)
            rows.append({
                "name": f"{direction} C={channels} {activation} {dtype} {' '.join(terms)}",
                "error": float(((got - want).abs() - step * want.abs()).max() / want.abs().max()),
                "moved": (stats.unique_load_bytes + stats.unique_store_bytes) / due,
                "reread": stats.l1_reuse,
                "partial": nbytes(out) / nbytes(problem.logits) if direction == "forward" else 0.0,
                "small": channels <= 8,
            })  # fmt: skip
    return rows


def execute_ranked(folder):
    rows = []
    for variant in (*ranked_variants(), *voxel_variants()):
        options, what = variant.options, variant.direction
        if what == "own" or options["dtype"] == torch.float64:
            continue
        pretend("sm_80" if options["activation"] == "sigmoid" else "sm_90")  # as above
        problem, launch, out = variant.launch(variant.problem())
        out.fill_(float("nan"))
        stats = run_on_cpu(folder, launch)
        want = expected(variant, problem)
        if what == "errors" and problem.mask is not None:  # of no meaning where a voxel does not count
            out = torch.where(problem.mask.unsqueeze(1) != 0, out, want.to(out.dtype))
        due = sum(nbytes(x) for x in (*problem[:4], out) if x is not None)
        rows.append({
            "name": variant.name,
            "error": float((out.double() - want).abs().max() / want.abs().max()),
            "moved": (stats.unique_load_bytes + stats.unique_store_bytes) / due,
        })  # fmt: skip
    return rows


def execute_stencils(folder):
    """The losses on stencils, every kernel executed; the volumes are small, as a program's tile is not."""
    pretend("sm_90")
    rows = []
    for space in ((6, 9, 16), (11, 21), (4, 5, 7)):
        problem = stencil_problem(space, torch.float32)
        kernels = set()

        def execute(launch, kernels=kernels):
            kernels.add(launch.kernel.fn.__name__)
            run_on_cpu(folder, launch)

        with instead_of_running(execute):
            found = run_losses(problem)
        wanted = run_losses(problem, reference_stencil)
        errors = {name: (found[name] - want).abs().max() / want.abs().max() for name, want in wanted.items()}
        rows.append({"space": space, "kernels": sorted(kernels), "errors": {n: float(e) for n, e in errors.items()}})
    return rows


def execute_distances(folder):
    """The transforms of each kind, every pass executed: what is not as the CPU has it, and what moves, of the least."""
    pretend("sm_90")
    rows = []
    shapes = (9, 20, 64), (10, 17, 33), (9, 130), (7, 10, 40), (6, 9, 20)
    for case, shape in zip(DISTANCES, shapes, strict=False):
        case = replace(case, spacing=case.spacing[: len(shape)])
        labels = torch.from_numpy(np.random.default_rng(0).choice(3, shape, p=(0.03, 0.9, 0.07))).to(case.dtype)
        labels[: shape[0] // 2] = 1
        launches, out, sites = case.launches(labels)
        with patch.object(gpu_distances, "LONGEST_LINE", 64):  # longer lines are scanned part by part
            counts = [run_on_cpu(folder, launch) for _, launch in launches]
        signed = case.mode == "sides"
        want = distance_field(labels, list(case.spacing), case.mode, root=True, signed=signed, double=False)
        away = (out.view(torch.int32).long() - want.view(torch.int32).long()).abs()
        wrong = int((away > (1 if case.spacing == GENERAL else 0)).sum())
        if case.sites:
            places, voxels = np.stack(np.unravel_index(sites.numpy(), shape)), np.indices(shape)
            mm = np.array(case.spacing).reshape(-1, *[1] * len(shape))
            there = np.sqrt((((places - voxels) * mm) ** 2).sum(0)).astype(np.float32)
            wrong += int((~np.isclose(there, out.numpy(), rtol=2e-7) | (labels.numpy()[tuple(places)] != 0)).sum())
        moved = sum(count.unique_load_bytes + count.unique_store_bytes for count in counts) / 17 / labels.numel()
        rows.append({"name": f"{case.name} {shape}", "wrong": wrong, "moved": moved if case == DISTANCES[0] else 1.0})
    return rows


if __name__ == "__main__":
    folder, what = sys.argv[1:]
    runs = {"sums": execute, "ranked": execute_ranked, "stencils": execute_stencils, "distances": execute_distances}
    print(json.dumps(runs[what](folder)))
