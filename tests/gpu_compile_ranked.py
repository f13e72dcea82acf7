"""Run as a script, in a process whose Triton compiles: as ``gpu_compile.py``, of the pass that writes what is ranked.

``gpu_compile_ranked.py inspect TARGET`` reads registers, spills and widths; ``execute FOLDER`` runs compiled PTX.
"""

import json
import sys

import torch
from fastloss.kernels import gpu_ranked, reference_ranked
from gpu_common import make_problem
from gpu_compile import BF16, PretendedDriver, compile_launch, driver, flatten, nbytes, read_gcn, read_sass

CASES = [
    {"what": what, "activation": activation, "channels": channels, "dtype": dtype, **options}
    for what, activation, channels, dtype, options in (
        ("losses", "softmax", 4, BF16, {}),
        ("losses", "softmax", 3, torch.float32, {"ignore": (0, 255), "mask": "weight"}),
        ("losses", "softmax", 4, torch.float64, {}),
        ("losses", "softmax", 4, BF16, {"dense": True, "target_dtype": torch.float32}),
        ("losses", "softmax", 40, BF16, {}),
        ("losses", "sigmoid", 3, BF16, {"ignore": (0,)}),
        ("own", "none", 3, torch.float32, {}),
        ("errors", "softmax", 4, BF16, {}),
        ("errors", "softmax", 4, torch.float32, {"mask": "bool"}),
        ("errors", "softmax", 40, BF16, {}),
        ("errors", "sigmoid", 1, BF16, {}),
    )
]


def launch_of(case, shape=(16, 16, 32)):
    options = {"shape": shape, "target_dtype": torch.uint8, "terms": ("count",), **case}
    what = options.pop("what")
    problem = make_problem(**options)
    double = problem.logits.dtype == torch.float64
    one = what == "losses" and case["activation"] == "softmax"
    out = problem.logits[:, :1] if one else problem.logits
    out = torch.full(out.shape, torch.nan, dtype=torch.float64 if double else torch.float32)
    return problem, *gpu_ranked.values_launch(*problem[:3], problem.plan, out, what)


def inspect(target):
    driver.set_active(PretendedDriver(target))
    read = read_gcn if target.startswith("gfx") else read_sass
    facts = {}
    for case in CASES:
        _, launch, _ = launch_of(case)
        # one loss a voxel, of a tile whose channels lie with several threads, is left to whom the reduction leaves it
        store = "STG.64" if case["what"] == "losses" and "ROWS" in launch.constants else "STG.128"
        planned = {"sites": launch.constants.get("CHUNK", 1), "store": store}
        facts[" ".join(map(str, case.values()))] = {**read(compile_launch(launch)), **planned}
    return facts


def expected(problem, what):
    logits = problem.logits.double()
    if what == "errors":
        return reference_ranked.voxel_errors(logits, *problem[1:3], problem.plan)[0]
    return reference_ranked.voxel_losses(logits, *problem[1:3], problem.plan, True)


def execute(folder):
    sys.path.insert(0, folder)
    from ptxrun import run_ptx

    rows = []
    for case in CASES:
        if case["what"] == "own" or case["dtype"] == torch.float64 or case["activation"] == "sigmoid":
            continue
        driver.set_active(PretendedDriver("sm_90"))
        problem, launch, out = launch_of(case)
        kernel = compile_launch(launch)
        meta = kernel.metadata
        args = [*flatten(launch.args[:-2]), *launch.args[-2:]]  # the last two are not specialised
        stats = run_ptx(kernel.asm["ptx"], meta.name, launch.grid, meta.num_warps * 32, args, meta.shared)
        want = expected(problem, case["what"])
        if case["what"] == "errors" and problem.mask is not None:  # of no meaning where a voxel does not count
            out = torch.where(problem.mask.unsqueeze(1) != 0, out, want.to(out.dtype))
        due = nbytes(problem.logits) + nbytes(problem.target) + nbytes(out)
        due += 0 if problem.mask is None else nbytes(problem.mask)
        rows.append({
            "name": " ".join(map(str, case.values())),
            "error": float((out.double() - want).abs().max() / want.abs().max()),
            "moved": (stats.unique_load_bytes + stats.unique_store_bytes) / due,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    print(json.dumps(execute(argument) if command == "execute" else inspect(argument)))
