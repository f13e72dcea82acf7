"""`python -m bench gpu`."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from bench.options import json_option

WORKERS = 8  # processes that compile ahead of the stages that need it


@click.command("gpu")
@json_option
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="The tables as Markdown.")
@click.option("--minutes", type=click.FloatRange(0.1), default=7.5, show_default=True, help="After which it ends.")
@click.option("--toy", is_flag=True, help="Toy sizes on the CPU, in Triton's interpreter: whether the command works.")
@click.option("--all", "everything", is_flag=True, help="Every variant of every kernel, not only one of each kind.")
def gpu_command(json_file, markdown, minutes, toy, everything):
    """All that runs on a GPU: right, how fast beside its bytes and other libraries, in how much memory.

    Stage by stage, the most important first; the result file is written after each.
    """
    end = time.monotonic() + 60 * minutes
    if toy:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not importlib.util.find_spec("triton"):
        raise click.ClickException("Triton is not installed here, and it is what compiles the kernels")
    if not toy and not torch.cuda.is_available():
        raise click.ClickException("torch sees no GPU here; --toy runs toy sizes on the CPU")
    from bench.gpu import table
    from bench.gpu.stages import Run, faults, run_stages
    from bench.output import console, write_json
    from fastloss.passes.backends import backend

    run = Run(torch.device("cpu" if toy else "cuda"), toy, end)

    def keep(result):
        if json_file:
            write_json(json_file, result)
        if markdown:
            markdown.write_text(table.markdown(result))
        if result["stages"][-1]["rows"] or result["stages"][-1]["error"]:
            console.print(table.tables(result)[-1])

    workers = [] if toy else compile_ahead(everything)
    try:
        with backend("triton"):
            result = run_stages(run, plan(everything), keep)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if wrong := faults(result):
        raise click.ClickException("\n".join(["not as it should be:", *wrong]))


def compile_ahead(everything: bool) -> list[subprocess.Popen]:
    """Processes that fill Triton's cache for this device, each with a share of the kernels."""
    from bench.gpu.compiled import target_here

    target = target_here()
    if target is None:
        return []
    command = [sys.executable, "-W", "ignore", "-m", "bench.gpu.compiled", target, *(["--all"] if everything else [])]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [subprocess.Popen([*command, "--turn", f"{k}/{WORKERS}"], **quiet) for k in range(WORKERS)]


def plan(everything: bool):
    """The stages, the most important first."""
    from bench.gpu import compiled, kernels, losses, transforms

    return (
        ("copy", kernels.copy),
        ("kernels of common losses", kernels.stage(kernels.common)),
        ("losses beside their peers", losses.beside_peers),
        ("transforms against all pairs", transforms.right),
        ("CUDA graphs", losses.graphs),
        ("every loss", losses.every_loss),
        ("transforms beside their peers", transforms.beside_peers),
        ("more than 2^31 elements", kernels.large),
        ("every kind of kernel", kernels.stage(lambda: kernels.every(everything))),
        ("losses beside compiled peers", losses.beside_compiled_peers),
        ("kernels of many classes with other tiles", kernels.choices),
        ("machine code", lambda run: compiled.rows(run, everything)),
    )
