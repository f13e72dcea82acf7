"""The kernels' machine code for the device that is there.

``python -m bench.gpu.compiled [--all] [--turn K/N]`` compiles them into Triton's cache, the common ones first.
"""

import argparse
from collections.abc import Iterator

from bench.gpu.kernels import common, every
from bench.gpu.stages import Run
from bench.kernels.code import TARGETS, compile_launch, facts
from bench.kernels.variants import Variant


def chosen(everything: bool) -> list[Variant]:
    return [*common(), *every(everything)]


def rows(run: Run, everything: bool) -> Iterator[dict]:
    """Registers and spills of each kernel, from Triton's cache."""
    from triton.runtime import driver

    if run.device.type != "cuda":
        return
    found = driver.active.get_current_target()
    target = next((name for name, known in TARGETS.items() if known.arch == found.arch), None)
    for variant in chosen(everything) if target else ():
        _, launch, _ = variant.launch(variant.problem())
        row = facts(target, variant, launch, compile_launch(launch))
        yield {"kernel": row["name"], "target": target, "ok": not row["faults"], **row}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--turn", default="0/1")
    options = parser.parse_args()
    first, step = map(int, options.turn.split("/"))
    for variant in chosen(options.all)[first::step]:
        compile_launch(variant.launch(variant.problem())[1])


if __name__ == "__main__":
    main()
