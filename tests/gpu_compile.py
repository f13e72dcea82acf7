"""Run as a script, in a process whose Triton compiles: facts of the machine code, as one line of JSON.

``gpu_compile.py inspect TARGET [all]`` compiles the matrix of kernels and reads registers, spills and widths;
``gpu_compile.py execute FOLDER`` runs compiled PTX on the CPU with the tools in FOLDER.
Kernels, arguments and configuration come from the back end's own launch functions.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton
import triton.language as tl
from fastloss.kernels import gpu, reference
from gpu_common import DICE_CE, make_problem
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from fastloss.terms import KINDS, POWER_KINDS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ACTIVATIONS = ("softmax", "sigmoid", "none")
BF16 = torch.bfloat16
REGION = ("p", "py", "y", "count")
UNIONS = {  # the terms that losses ask for
    "dice and cross-entropy": DICE_CE,
    "focal": ("count", "focal_pos(2.0)"),
    "focal of both sides": ("count", "focal_pos(2.0)", "focal_neg(2.0)"),
    "fractional focal": ("count", "focal_pos(1.5)", "focal_pos(0.5)"),
    "dice and focal": (*REGION, "focal_pos(2.0)"),
    "dice, cross-entropy and focal": (*REGION, "ce_pos", "focal_pos(2.0)"),
    "exponential logarithmic": (*REGION, "log_power_pos(0.3)"),
    "combo": (*REGION, "ce_pos", "ce_neg"),
    "squared error": ("py", "p2", "p2y", "y", "count"),
    "smoothed cross-entropy": ("ce_pos", "nll_pos", "y", "count"),
    "unified focal": (*REGION, "ce_neg", "focal_neg(1.5)", "miss_pos(1.5)"),
    "every term": (*KINDS, *(f"{kind}(1.5)" for kind in POWER_KINDS)),
}


class PretendedDriver:
    """Says that the GPU is one of TARGETS, so that the launcher compiles for it."""

    def __init__(self, name):
        self.name = name

    def get_current_target(self):
        return TARGETS[self.name]

    def get_current_device(self):
        return list(TARGETS).index(self.name)  # Triton keeps compiled kernels by device

    def get_current_stream(self, device):
        return 0


def compile_launch(launch):
    return launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.constants)


def cases(everything=False):
    """Name -> options of :func:`make_problem`, plus what the pass needs besides."""
    found = {}

    def add(activation, channels, dtype, union="dice and cross-entropy", **options):
        shown = " ".join(str(v).removeprefix("torch.") for v in (activation, channels, dtype, union, *options.values()))
        found[shown] = {
            "activation": activation,
            "channels": channels,
            "dtype": dtype,
            "terms": UNIONS[union],
            **options,
        }

    add_essentials(add)
    if everything:
        add_product(add)
    return found


def add_essentials(add):
    """What a change is most likely to break: the losses' unions of terms, and one of each family and layout."""
    for union in ("dice and cross-entropy", "focal", "dice and focal", "exponential logarithmic", "combo"):
        add("softmax", 4, BF16, union)
    add("softmax", 40, BF16, "dice and focal")
    add("softmax", 3, torch.float32, "dice and focal", mask="weight", map_channels=1)
    add("softmax", 3, torch.float64, "exponential logarithmic")
    add("sigmoid", 3, BF16, "focal of both sides", ignore=(0, 255))
    add("none", 4, torch.float16, "dice and focal", dense=True)


def add_product(add):
    for activation, channels in itertools.product(ACTIVATIONS, (3, 4, 40)):
        for dense, dtype in itertools.product((False, True), (BF16, torch.float16, torch.float32)):
            add(activation, channels, dtype, dense=dense)
        add(activation, channels, torch.float64)
        add(activation, channels, BF16, ignore=(0, 255), mask="bool")
        add(activation, channels, torch.float32, mask="weight", map_channels=1)
    for channels, dtype in itertools.product((2, 5, 8, 12, 16, 150), (BF16, torch.float32)):
        add("softmax", channels, dtype)
    for union in UNIONS:
        for activation, channels, dtype in (
            *itertools.product(("softmax",), (2, 3, 4, 5), (BF16, torch.float32)),
            ("softmax", 40, BF16),
            ("sigmoid", 4, BF16),
        ):
            add(activation, channels, dtype, union)
        add("softmax", 4, BF16, union, dense=True)
    for volume in ("huge", "sliced"):
        add("softmax", 4, BF16, volume=volume)
    add("softmax", 4, BF16, shape=(16, 16, 33))
    add("softmax", 4, BF16, "every term", map_channels=4, target_dtype=torch.int64)
    add("sigmoid", 1, BF16, "every term")


def launches(options):
    """The forward and the backward launch of a case."""
    options = {"shape": (16, 16, 32), "target_dtype": torch.uint8, **options}
    volume = options.pop("volume", "plain")
    if options.get("dense"):
        options["target_dtype"] = torch.float32
    problem = make_problem(**options)
    if volume == "sliced":
        problem = problem._replace(logits=problem.logits[..., 1:-1], target=problem.target[..., 1:-1])
    forward, partial = gpu.forward_launch(*problem[:5])
    backward, grad = gpu.backward_launch(problem.grad_sums, *problem[:5])
    if volume == "huge":
        forward.constants["INDEX"] = backward.constants["INDEX"] = tl.int64
    return problem, (forward, partial), (backward, grad)


def read_sass(kernel):
    """Registers, spilled bytes and the widths of global accesses of an NVIDIA kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([TOOLS / tool, *flags, file.name], capture_output=True, text=True, check=True).stdout
            for tool, flags in (("cuobjdump", ["-res-usage"]), ("nvdisasm", ["-c"]))
        )
    registers, stack, local = map(int, re.search(r"REG:(\d+)\s+STACK:(\d+).*LOCAL:(\d+)", usage).groups())
    widths = Counter()
    for access, flags in re.findall(r"\b(LDG|STG|LDL|STL)\b([.\w]*)", sass):
        bits = next((f for f in flags.split(".") if f in ("U8", "S8", "U16", "S16", "64", "128")), "32")
        widths[f"{access}.{bits}"] += 1
    spilled = stack + local + sum(n for access, n in widths.items() if access[:3] in ("LDL", "STL"))
    return {"registers": registers, "spilled": spilled, "widths": dict(widths)}


def read_gcn(kernel):
    """The same of an AMD kernel."""
    text = kernel.asm["amdgcn"]
    fact = {n: int(re.search(rf"\.{n}:\s+(\d+)", text)[1]) for n in ("vgpr_count", "vgpr_spill_count")}
    scratch = int(re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)[1])
    names = {"load": "LDG", "store": "STG"}
    bits = {"dwordx4": "128", "dwordx3": "96", "dwordx2": "64", "dword": "32"}
    widths = Counter(
        f"{names[kind]}.{bits.get(size, size)}"
        for kind, size in re.findall(r"\b(?:global|buffer|flat)_(load|store)_(\w+)", text)
    )
    return {
        "registers": fact["vgpr_count"],
        "spilled": fact["vgpr_spill_count"] + scratch,
        "widths": dict(widths),
    }


def inspect(target, everything):
    driver.set_active(PretendedDriver(target))
    facts = {}
    for name, options in cases(everything).items():
        _, *passes = launches(options)
        for direction, (launch, _) in zip(("forward", "backward"), passes, strict=True):
            read = read_gcn if target.startswith("gfx") else read_sass
            fact = read(compile_launch(launch))
            facts[f"{direction} {name}"] = {**fact, **planned(launch, options)}
    return facts


def planned(launch, options):
    """Whether wide accesses are due, and of how many logits at least in the code."""
    constants = launch.constants
    wide = "volume" not in options and options.get("shape", (16,))[-1] % 16 == 0
    return {"wide": wide, "sites": constants.get("CHUNK", 1)}


def flatten(args):
    for arg in args:
        if isinstance(arg, tuple):
            yield from flatten(arg)
        elif arg is not None and not (isinstance(arg, int) and arg == 1):  # a 1 is compiled in
            yield arg


def execute(folder):
    sys.path.insert(0, folder)
    from ptxrun import run_ptx

    rows = []
    for channels, activation, dtype, terms, shape in (
        (4, "softmax", torch.bfloat16, DICE_CE, (32, 32, 32)),
        (4, "softmax", torch.float32, DICE_CE, (32, 32, 32)),
        (4, "softmax", torch.bfloat16, UNIONS["focal"], (32, 32, 32)),
        (4, "softmax", torch.bfloat16, UNIONS["dice and focal"], (32, 32, 32)),
        (4, "softmax", torch.float16, ("count", "p2", "p2y", "ce_neg"), (16, 16, 33)),
        (20, "softmax", torch.bfloat16, DICE_CE, (16, 16, 17)),
        (20, "softmax", torch.float32, ("p2", "ce_neg"), (16, 16, 17)),
        (3, "sigmoid", torch.bfloat16, (*DICE_CE, "ce_neg"), (16, 16, 32)),
        (3, "none", torch.float32, (*DICE_CE, "ce_neg"), (16, 16, 32)),
    ):
        # The executor knows no comparison of packed bfloat16, which sm_90 uses for the sign of a logit.
        driver.set_active(PretendedDriver("sm_90" if activation == "softmax" else "sm_80"))
        problem, *passes = launches(
            {"channels": channels, "activation": activation, "dtype": dtype, "terms": terms, "shape": shape}
        )
        for direction, (launch, out) in zip(("forward", "backward"), passes, strict=True):
            out.fill_(float("nan"))
            kernel = compile_launch(launch)
            meta = kernel.metadata
            args = [*flatten(launch.args[:-2]), *launch.args[-2:]]  # the last two are not specialised
            threads = meta.num_warps * 32
            stats = run_ptx(kernel.asm["ptx"], meta.name, launch.grid, threads, args, meta.shared)
            got = out.sum(1, dtype=torch.float64) if direction == "forward" else out.double()
            want = getattr(problem.doubled(), direction)(reference)
            step = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 0) if direction == "backward" else 0
            due = nbytes(problem.logits) * (1 if direction == "forward" else 2) + nbytes(problem.target)
            rows.append({
                "name": f"{direction} C={channels} {activation} {dtype} {' '.join(terms)}",
                "error": float(((got - want).abs() - step * want.abs()).max() / want.abs().max()),
                "moved": (stats.unique_load_bytes + stats.unique_store_bytes) / due,
                "reread": stats.l1_reuse,
                "partial": nbytes(out) / nbytes(problem.logits) if direction == "forward" else 0.0,
                "instructions_per_voxel": stats.warp_insts * 32 / problem.target.numel(),
                "small": channels <= 16,
            })  # fmt: skip
    return rows


def nbytes(tensor):
    return tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    command, argument, *rest = sys.argv[1:]
    print(json.dumps(execute(argument) if command == "execute" else inspect(argument, rest == ["all"])))
