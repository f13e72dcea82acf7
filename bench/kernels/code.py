"""The machine code of the Triton kernels, compiled for a target that need not be there.

``python -m bench.kernels.code TARGET [--all] [--turn K/N]`` prints a line of JSON for each variant: registers, spills,
shared memory, occupancy, widths of accesses, and faults. Kernels, arguments and configuration come from the back end's
own launch functions.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton

from bench.kernels.distances import distance_variants
from bench.kernels.epilogue import epilogue_variants
from bench.kernels.resample import resample_variants
from bench.kernels.stencils import StencilVariant, stencil_variants
from bench.kernels.targets import TARGETS, compile_launch, pretend
from bench.kernels.variants import Variant, variants

MOST_REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_100": 255, "gfx942": 256}
SHARED_KIB = {"sm_80": 164, "sm_90": 228, "sm_100": 228, "gfx942": 64}  # of a multiprocessor
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def read_sass(kernel) -> dict:
    """Registers, spilled bytes, local accesses within loops, and the widths of global accesses of an NVIDIA kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([BINARIES / tool, *flags, file.name], capture_output=True, text=True, check=True).stdout
            for tool, flags in (("cuobjdump", ["-res-usage"]), ("nvdisasm", ["-c"]))
        )
    registers, stack, local = map(int, re.search(r"REG:(\d+)\s+STACK:(\d+).*LOCAL:(\d+)", usage).groups())
    widths = Counter()
    for access, flags in re.findall(r"\b(LDG|STG|LDL|STL)\b([.\w]*)", sass):
        bits = next((f for f in flags.split(".") if f in ("U8", "S8", "U16", "S16", "64", "128")), "32")
        widths[f"{access}.{bits}"] += 1
    spilled = stack + local + sum(n for access, n in widths.items() if access[:3] in ("LDL", "STL"))
    return {"registers": registers, "spilled": spilled, "in_loops": in_loops(sass), "widths": dict(widths)}


def in_loops(sass: str) -> int:
    """Loads and stores of the stack between a label and a branch back to it."""
    lines = sass.splitlines()
    labels = {found[1]: i for i, line in enumerate(lines) if (found := re.match(r"\s*(\.L_\w+):", line))}
    branches = ((i, re.search(r"\bBRA\b.*`\((\.L_\w+)\)", line)) for i, line in enumerate(lines))
    loops = [range(labels[found[1]], i) for i, found in branches if found and labels[found[1]] < i]
    return sum(
        bool(re.search(r"\b(LDL|STL)\b", line)) for i, line in enumerate(lines) if any(i in loop for loop in loops)
    )


def read_gcn(kernel) -> dict:
    """The same of an AMD kernel."""
    text = kernel.asm["amdgcn"]
    fact = {n: int(re.search(rf"\.{n}:\s+(\d+)", text)[1]) for n in ("vgpr_count", "vgpr_spill_count")}
    scratch = int(re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)[1])
    names = {"load": "LDG", "store": "STG"}
    bits = {"dwordx4": "128", "dwordx3": "96", "dwordx2": "64", "dword": "32", "sbyte": "S8", "sshort": "S16"}
    bits |= {"ubyte": "U8", "byte": "U8", "ushort": "U16", "short": "U16"}
    widths = Counter(
        f"{names[kind]}.{bits[size.split('_')[0]]}"  # "d16" and "hi" say which half of a register
        for kind, size in re.findall(r"\b(?:global|buffer|flat)_(load|store)_(\w+)", text)
    )
    return {
        "registers": fact["vgpr_count"],
        "spilled": fact["vgpr_spill_count"] + scratch,
        "in_loops": None,
        "widths": dict(widths),
    }


def occupancy(target: str, registers: int, shared: int, warps: int) -> float:
    """The share of a multiprocessor's warps that its registers, shared memory and blocks let run at once."""
    if target.startswith("gfx"):  # four SIMDs of at most 8 waves, with 512 registers a lane in steps of 8
        most, blocks = 32, 4 * min(8, 512 // (-(-registers // 8) * 8)) // warps
    else:  # a warp's registers come in steps of 256, and a block takes 1 KiB of shared memory besides
        most, blocks = 64, min(32, 65536 // (-(-registers * 32 // 256) * 256) // warps)
        shared += 1024
    by_shared = SHARED_KIB[target] * 1024 // shared if shared else blocks
    return min(blocks, by_shared, most // warps) * warps / most


def facts(target: str, variant: Variant | StencilVariant, launch, kernel) -> dict:
    """What is to be known of a variant's code, and what is wrong with it."""
    read = read_gcn if target.startswith("gfx") else read_sass
    fact = {"name": variant.name, "target": target, **read(kernel), "shared": kernel.metadata.shared}
    fact["occupancy"] = occupancy(target, fact["registers"], fact["shared"], kernel.metadata.num_warps)
    return fact | {"faults": faults(variant, launch.constants, fact)}


def faults(variant: Variant | StencilVariant, constants: dict, fact: dict) -> list[str]:
    """What is wrong with a kernel's code; empty if nothing."""
    widths, found = fact["widths"], []
    # ptxas puts some numbers aside before a loop, with registers to spare, and takes them back after it
    spilled = fact["spilled"] if fact["in_loops"] is None else fact["in_loops"]
    if spilled > (40 if "every term" in variant.name else 0):  # no loss sums every term
        found.append("spills")
    if not 0 < fact["registers"] <= MOST_REGISTERS[fact["target"]]:
        found.append("registers")
    if variant.wide:
        size = variant.options["dtype"].itemsize
        vector = constants.get("VECTOR", 16 // size)  # voxels of a thread
        if widths.get(f"LDG.{min(128, 8 * size * vector)}", 0) < constants.get("CHUNK", constants.get("PIECES", 1)):
            found.append("narrow loads of the logits")
        size = size if variant.direction == "backward" else max(4, size)
        # one loss a voxel, of a tile whose channels lie with several threads, is left to whom the reduction leaves it
        shared = variant.direction in ("losses", "totals") and "ROWS" in constants
        store = {f"STG.{64 if shared else min(128, 8 * size * vector)}"}
        if variant.direction != "forward" and {w for w in widths if w.startswith("STG")} != store:
            found.append("narrow stores")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--turn", help="K/N: of the variants each N-th alone, from K on")
    options = parser.parse_args()
    pretend(options.target)
    first, step = map(int, (options.turn or "0/1").split("/"))
    others = *stencil_variants(), *distance_variants(options.all), *resample_variants(), *epilogue_variants()
    for variant in [*variants(options.all), *others][first::step]:
        _, launch, _ = variant.launch(variant.problem())
        print(json.dumps(facts(options.target, variant, launch, compile_launch(launch))), flush=True)


if __name__ == "__main__":
    main()
