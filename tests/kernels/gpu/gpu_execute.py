"""Run as a script, in a process whose Triton compiles: runs compiled PTX on the CPU with the tools in a folder.

``gpu_execute.py FOLDER sums|ranked|stencils`` prints one line of JSON: each kernel's error and what it moved.
"""

import json
import sys

import torch
from fastloss.kernels.reference import stencils as reference_stencil

from bench.kernels.code import pretend
from bench.kernels.instructions import run_on_cpu
from bench.kernels.problems import DICE_CE
from bench.kernels.stencils import instead_of_running, run_losses, stencil_problem
from bench.kernels.traffic import nbytes
from bench.kernels.variants import UNIONS, Variant, expected, ranked_variants, voxel_variants

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


if __name__ == "__main__":
    folder, what = sys.argv[1:]
    runs = {"sums": execute, "ranked": execute_ranked, "stencils": execute_stencils}
    print(json.dumps(runs[what](folder)))
