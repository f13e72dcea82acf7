"""Instructions that the compiled Triton kernels issue, counted by executing their PTX on the CPU.

``python -m bench.kernels.instructions TOOLS [--all] [--shape B,D,H,W]`` prints a line of JSON
for each variant; TOOLS is the folder of ``ptxrun.py``.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from bench.kernels.targets import compile_launch, pretend
from bench.kernels.variants import SHAPE, Variant, shape_of, variants
from bench.machine import ROOT

PROGRAMS = 4  # that are executed of a launch
LARGEST = 2 << 30  # bytes of logits: the executor makes a copy of all that a launch is given
TARGETS = ("sm_90", "sm_80")  # the second where the executor does not know an instruction of the first


def tools_folder() -> Path | None:
    """Where the PTX executor lies, if it is there: FASTLOSS_TOOLS, or beside the checkout."""
    folder = Path(os.environ.get("FASTLOSS_TOOLS", ROOT.parent / "shared" / "tools"))
    return folder if (folder / "ptxrun.py").exists() else None


def flatten(args):
    """Arguments as the compiled kernel takes them."""
    for arg in args:
        if isinstance(arg, tuple):
            yield from flatten(arg)
        elif arg is not None and not (isinstance(arg, int) and arg == 1):  # a 1 is compiled in
            yield arg


def arguments(launch):
    """Those of a launch's kernel, of which some are never compiled in."""
    for param, arg in zip(launch.kernel.params, launch.args, strict=False):  # constants come after
        yield from [arg] if param.do_not_specialize else flatten([arg])


def run_on_cpu(folder: Path | str, launch, programs: int | None = None):
    """The counts of the PTX executor in the folder, which runs all of the launch or some programs of it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    from ptxrun import run_ptx

    kernel = compile_launch(launch)
    meta = kernel.metadata
    threads = meta.num_warps * 32
    return run_ptx(kernel.asm["ptx"], meta.name, launch.grid, threads, [*arguments(launch)], meta.shared, ctas=programs)


def executed_shape(variant: Variant, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The batch and volume, or of very many classes the first samples and planes of it."""
    options = variant.full_options()
    most = LARGEST // (options["channels"] * options["dtype"].itemsize)
    batch = max(1, min(shape[0], most // math.prod(shape[1:])))
    return (batch, max(1, min(shape[1], most // math.prod(shape[2:]))), *shape[2:])


def instructions(folder: Path, variant: Variant, shape: tuple[int, ...]) -> dict:
    """Instructions that a thread issues for a voxel of the volume, moves and parameters left out.

    Counted in a few programs of the launch for this very volume: how far a program walks follows from it.
    """
    batch, *space = executed_shape(variant, shape)
    found = {"name": variant.name, "instructions": None, "why_not": ""}
    for target in TARGETS:
        pretend(target)
        problem, launch, _ = variant.launch(variant.blank(batch, tuple(space)))
        try:
            counts = run_on_cpu(folder, launch, PROGRAMS)
        except Exception as error:  # the executor's own, whose class is known once it is imported
            found["why_not"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        issued = counts.warp_insts - counts.mix["mov"] - counts.mix["param"]
        return found | {"instructions": issued * 32 / problem.logits[:, 0].numel(), "why_not": ""}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tools", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--shape", type=shape_of, default=SHAPE)
    options = parser.parse_args()
    for variant in variants(options.all):
        if variant.wide:
            print(json.dumps(instructions(options.tools, variant, options.shape)), flush=True)


if __name__ == "__main__":
    main()
