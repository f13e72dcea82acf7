"""`python -m bench speed`, `memory` and `scaling`."""

import math
import time
from pathlib import Path

import click

from bench.options import device_option, json_option, losses_option, refuse, several, shape_of, threads_option

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


def run_speed(names: list[str], case, effort, end: float = math.inf) -> list[dict]:
    """Measure every loss, with a bar over the losses, and print the table.

    Where `time.monotonic()` nears `end`, what costs most is left out, and the row says so.
    """
    from bench.output import console, print_notes, progress
    from bench.speed.measure import BARE_SECONDS, affordable, measure
    from bench.speed.table import speed_table

    rows = []
    with progress() as bars:
        bar = bars.add_task("speed", total=len(names), status="")
        for name in names:

            def advance(stage: str, name=name):
                bars.update(bar, status=f"{name}: {stage}")

            advance("inputs")
            others = BARE_SECONDS * (len(names) - len(rows) - 1)
            within = affordable(effort, end - time.monotonic() - others)
            try:
                rows.append(measure(case.for_loss(name), within, advance))
            except ValueError as error:
                if case.backend == "auto":
                    raise
                raise click.ClickException(str(error)) from error  # a forced back end that cannot run
            bars.update(bar, advance=1, status="")
    console.print(speed_table(rows))
    print_notes(rows)
    return rows


@click.command()
@losses_option
@click.option("--shape", callback=shape_of, default="2,4,96,96,96", show_default=True, help="B,C and spatial sizes.")
@click.option("--dtype", type=click.Choice(["float32", "float64", "float16", "bfloat16"]), default="float32")
@click.option(
    "--label-dtype",
    type=click.Choice(["uint8", "int64"]),
    default="uint8",
    help="For fastloss; peers: int64.",
)
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]), default="softmax", show_default=True)
@click.option("--backend", type=click.Choice(["auto", "numba", "reference", "triton"]), default="auto")
@click.option("--repeats", type=click.IntRange(1), default=30, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", type=click.FloatRange(0), default=30, show_default=True, help="No new round after these.")
@click.option("--compile/--no-compile", "compiled", default=True, help="Peers under torch.compile as well.")
@click.option("--memory/--no-memory", default=True, help="Peak memory, in a process per loss.")
@click.option("--tuned/--untuned", default=True, help="Whether the C library keeps freed memory, or decides itself.")
@device_option
@threads_option
@json_option
def speed(
    losses,
    shape,
    dtype,
    label_dtype,
    activation,
    backend,
    repeats,
    seconds,
    compiled,
    memory,
    tuned,
    device,
    threads,
    json_file,
):
    """Time and memory of each loss beside the same loss of MONAI or torch, eager and compiled."""
    from bench.output import write_json
    from bench.speed.case import Case
    from bench.speed.measure import Effort

    if activation == "softmax" and shape[1] < 2:
        raise click.BadParameter("softmax needs at least two classes", param_hint="--shape")
    case = Case("", shape, dtype, label_dtype, activation, backend, device, threads)
    rows = run_speed(losses, case, Effort(repeats, compiled, memory, seconds, tuned=tuned))
    if json_file:
        write_json(json_file, rows)
    refuse(rows, "loss", "values or gradients")


@click.command()
@losses_option
@click.option("--shape", callback=shape_of, default="1,4,80,80,80", help="B and C count; cubes are measured.")
@click.option("--dtype", type=click.Choice(["float32", "float64", "float16", "bfloat16"]), default="float32")
@click.option("--label-dtype", type=click.Choice(["uint8", "int64"]), default="uint8", help="For fastloss.")
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]), default="softmax", show_default=True)
@click.option("--budget", type=click.FloatRange(0.05), default=2.0, show_default=True, help="GiB for a training step.")
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="Compiled peers as well.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Run fastloss at its largest cube.")
@device_option
@threads_option
@json_option
def memory(losses, shape, dtype, label_dtype, activation, budget, compiled, verify, device, threads, json_file):
    """Peak memory of each loss and its peers, and the largest cubic patch within a budget."""
    from bench.output import console, print_notes, progress, write_json
    from bench.speed.case import Case
    from bench.speed.memory import can_measure
    from bench.speed.patch import measure, patch_table

    case = Case("", shape, dtype, label_dtype, activation, "auto", device, threads)
    if reason := can_measure(case):
        raise click.ClickException(reason)
    rows = []
    with progress() as bars:
        bar = bars.add_task("memory", total=len(losses), status="")
        for name in losses:

            def advance(stage: str, name=name):
                bars.update(bar, status=f"{name}: {stage}")

            rows.append(measure(case.for_loss(name), budget * 2**30, compiled, verify, advance))
            bars.update(bar, advance=1, status="")
    console.print(patch_table(rows))
    print_notes(rows)
    if json_file:
        write_json(json_file, rows)


@click.command("scaling")
@losses_option
@click.option("--edges", callback=several(), default="32,48,64,96,128,192,256,384", help="Cubes [32 to 384].")
@click.option("--classes", callback=several(), default="2,4,8,16,32", show_default=True, help="Counts, at 64^3.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64", "float16", "bfloat16"]), default="float32")
@click.option("--seconds", type=click.FloatRange(1), default=math.inf, help="No new point after these.")
@click.option(
    "--point-seconds", type=click.FloatRange(0), default=2, show_default=True, help="No new round after these."
)
@click.option("--memory/--no-memory", default=True, help="Peak memory, in a process per point.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=FIGURES, help="For plots.")
@device_option
@threads_option
@json_option
def scaling(losses, edges, classes, batch, dtype, seconds, point_seconds, memory, out, device, threads, json_file):
    """Time and memory against volume, classes and threads: plots, and a table with the machine's limits."""
    try:
        from bench.speed.plots import save, scaling_table
    except ImportError:
        raise click.ClickException("the plots need matplotlib: pip install 'fastloss[bench]'") from None
    from bench.output import console, print_notes, progress, write_json
    from bench.speed.case import Case
    from bench.speed.scaling import Series, measure

    end = time.monotonic() + seconds
    counts = sorted({1, threads}) if device == "cpu" else []
    series = Series(edges, [n for n in classes if n > 1], counts, point_seconds, memory=memory)
    cases = [Case(loss, (batch, 4, 8, 8, 8), dtype, device=device, threads=threads) for loss in losses]
    with progress() as bars:
        bar = bars.add_task("scaling", total=sum(len(series.cases(case)) for case in cases), status="roofline")
        result = measure(cases, series, end, lambda name: bars.update(bar, advance=1, status=name))
    console.print(scaling_table(result))
    print_notes(result["points"], "")
    if result["left_out"]:
        console.print(f"left out for want of time: {'; '.join(result['left_out'])}", markup=False)
    files = save(result, out)
    if json_file:
        write_json(json_file, result)
    console.print("written: " + ", ".join(map(str, files)), markup=False)
