"""`python -m bench kernels`."""

import importlib.util

import click

from bench.options import json_option, shape_of

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


@click.command("kernels")
@click.option("--all", "everything", is_flag=True, help="Every variant (long), not only one of each kind.")
@click.option("--target", "targets", type=click.Choice(TARGETS), multiple=True, help="[all four]")
@click.option("--shape", callback=shape_of, default="2,4,128,128,128", help="Of the times; C is each kernel's own.")
@click.option("--bandwidth", type=click.FloatRange(0.01), help="TB/s of a copy [3.0, an H100's].")
@json_option
def kernels_command(everything, targets, shape, bandwidth, json_file):
    """Triton kernels: compiled code, bytes and instructions a voxel, predicted time; with a GPU, measured time."""
    import torch

    if not importlib.util.find_spec("triton"):
        raise click.ClickException("Triton is not installed here, and it is what compiles the kernels")
    from bench.kernels.instructions import tools_folder
    from bench.kernels.measure import BANDWIDTH, code_table, epilogue_table, faults, jobs, measure, time_table
    from bench.kernels.variants import variants
    from bench.output import console, progress, write_json

    tools, volume = tools_folder(), (shape[0], *shape[2:])
    work = jobs(targets or TARGETS, everything, volume, tools, torch.cuda.is_available())
    plain = [variant for variant in variants(everything) if variant.wide]
    listed = ("traffic", "instructions", "timing")
    with progress() as bars:
        tasks = {
            # there are the stencils', the distances' and exacta's kernels besides, which only the worker can list
            job.title: bars.add_task(job.title, total=len(plain) if what in listed else None, status="")
            for what, job in work.items()
        }

        def advance(title: str, name: str) -> None:
            bars.update(tasks[title], advance=1, status=name)

        try:
            result = measure(work, volume, bandwidth or BANDWIDTH, advance)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
    console.print(code_table(result))
    console.print(time_table(result))
    console.print(epilogue_table(result))
    if not tools:
        console.print("instructions left out: no ptxrun.py, which executes PTX (FASTLOSS_TOOLS names its folder)")
    if json_file:
        write_json(json_file, result)
    if wrong := faults(result):
        raise click.ClickException("\n".join(["not as it should be:", *wrong]))
