"""The kernels' machine code for the device that is there.

``python -m bench.gpu.compiled TARGET [--all] [--turn K/N]`` compiles them into Triton's cache, the common ones first,
without a word with the device.
"""

import argparse
from collections.abc import Iterator

from bench.gpu.kernels import common, every
from bench.gpu.stages import Run
from bench.kernels.code import facts
from bench.kernels.targets import TARGETS, compile_launch, pretend
from bench.kernels.variants import Variant


def chosen(everything: bool) -> list[Variant]:
    return [*common(), *every(everything)]


def target_here() -> str | None:
    """The name of this device among the known targets."""
    from triton.runtime import driver

    found = driver.active.get_current_target()
    return next((name for name, known in TARGETS.items() if known.arch == found.arch), None)


def rows(run: Run, everything: bool) -> Iterator[dict]:
    """Registers and spills of each kernel, from Triton's cache."""
    if run.device.type != "cuda":
        return
    target = target_here()
    for variant in chosen(everything) if target else ():
        _, launch, _ = variant.launch(variant.problem())
        row = facts(target, variant, launch, compile_launch(launch))
        yield {"kernel": row["name"], "target": target, "ok": not row["faults"], **row}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--turn", default="0/1")
    options = parser.parse_args()
    first, step = map(int, options.turn.split("/"))
    pretend(options.target)
    for variant in chosen(options.all)[first::step]:
        compile_launch(variant.launch(variant.problem())[1])


if __name__ == "__main__":
    main()
