"""Command line: `python -m bench COMMAND`, see `--help`. A command imports what it needs."""

import math
import time
from pathlib import Path

import click

from bench.kernels_command import kernels_command
from bench.options import RESULTS, device_option, json_option, losses_option, shape_of, threads_option
from bench.report_command import report_command
from bench.train_command import train
from bench.volume_command import volume


@click.group()
def cli():
    """Benchmarks of fastloss: training on real MRI, and speed and memory beside other libraries."""


for command in (kernels_command, report_command, train, volume):
    cli.add_command(command)


def print_notes(rows: list[dict]) -> None:
    """What to know about the rows of a table."""
    from bench.report import console

    for row in rows:
        for note in row["notes"]:
            console.print(f"{row['loss']}: {note}", markup=False)


def run_training(names: list[str], device: str, schedule, seconds: float, limit: float = math.inf) -> list[dict]:
    """Train every loss within `seconds` altogether, with a bar for each, and print the table.

    The seconds count once the kernels are compiled, and end where `time.monotonic()` reaches `limit`.
    """
    from dataclasses import replace

    import torch

    from bench.data import icbm152
    from bench.report import console, progress, train_table
    from bench.train import compile_ahead, to_device, train_loss, warm_up

    try:
        data = to_device(icbm152(), torch.device(device))
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
    begin = time.monotonic()
    with progress() as bars:
        bar = bars.add_task("compiling the kernels, once for this machine", total=len(names), status="")
        for group in compile_ahead(names) if device == "cpu" else ():
            bars.update(bar, advance=len(group), status=", ".join(group))
        bars.update(bar, completed=0, status="", description="loading the kernels")
        for name in names:
            bars.update(bar, status=name)
            warm_up(name, data)
            bars.update(bar, advance=1, status="")
    console.print(f"kernels ready after {time.monotonic() - begin:.1f} s")
    steps = schedule.epochs * math.ceil(len(data["train"].labels) / schedule.batch_size)
    end, rows = min(time.monotonic() + seconds, limit), []
    with progress() as bars:
        for number, name in enumerate(names):
            bar = bars.add_task(name, total=steps, status="")

            def advance(epoch: int, validation: float, bar=bar):
                bars.update(bar, advance=1, status=f"epoch {epoch + 1}, validation loss {validation:.4f}")

            share = (end - time.monotonic()) / (len(names) - number)
            rows.append(train_loss(name, data, replace(schedule, seconds=share), advance))
            bars.update(bar, total=rows[-1]["steps"], status=f"test Dice {rows[-1]['dice']:.3f}")
    console.print(train_table(rows))
    print_notes(rows)
    return rows


def run_speed(names: list[str], case, effort, end: float = math.inf) -> list[dict]:
    """Measure every loss, with a bar over the losses, and print the table.

    Where `time.monotonic()` nears `end`, what costs most is left out, and the row says so.
    """
    from bench.report import console, progress, speed_table
    from bench.speed import BARE_SECONDS, affordable, measure

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


def refuse(rows: list[dict]) -> None:
    """Fail where a loss was not timed because a peer computes something else."""
    refused = [f"{row['loss']}: {row['refused']}" for row in rows if row["refused"]]
    if refused:
        raise click.ClickException("not timed, as values or gradients disagree: " + "; ".join(refused))


@cli.command()
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
    from bench.case import Case
    from bench.report import write_json
    from bench.speed import Effort

    if activation == "softmax" and shape[1] < 2:
        raise click.BadParameter("softmax needs at least two classes", param_hint="--shape")
    case = Case("", shape, dtype, label_dtype, activation, backend, device, threads)
    rows = run_speed(losses, case, Effort(repeats, compiled, memory, seconds, tuned=tuned))
    if json_file:
        write_json(json_file, rows)
    refuse(rows)


@cli.command()
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
    from bench.case import Case
    from bench.memory import can_measure
    from bench.patch import measure, patch_table
    from bench.report import console, progress, write_json

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


def masks_of(context, parameter, text: str | None) -> list[str]:
    """Checked mask names of a comma-separated list."""
    from bench.edt_masks import MASKS

    names = list(MASKS) if text is None else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in MASKS]
    if unknown:
        raise click.BadParameter(f"unknown mask {', '.join(map(repr, unknown))}; known: {', '.join(MASKS)}")
    return names


@cli.command("edt")
@click.option("--quick", is_flag=True, help="64^3 and three rounds: some seconds.")
@click.option("--kind", type=click.Choice(["unsigned", "signed"]), multiple=True, help="[both]")
@click.option("--size", type=click.IntRange(8), multiple=True, help="Voxels along each axis [128 and 256].")
@click.option("--masks", callback=masks_of, help="Names, separated by commas [all].")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Interleaved rounds.")
@threads_option
@json_option
def edt_command(quick, kind, size, masks, repeats, threads, json_file):
    """Distance transforms beside those of edt, SimpleITK and SciPy, where installed."""
    from bench.edt import all_cases, run
    from bench.edt_report import edt_table
    from bench.report import console, progress, write_json

    kinds, sizes = kind or ("unsigned", "signed"), size or ((64,) if quick else (128, 256))
    cases = all_cases(kinds, sizes, masks, threads, min(repeats, 3) if quick else repeats)
    with progress() as bars:
        bar = bars.add_task("edt", total=len(cases), status="")
        rows = run(cases, lambda row: bars.update(bar, advance=1, status=f"{row['kind']} {row['mask']}"))
    console.print(edt_table(rows))
    notes = {note for row in rows for note in row["notes"]}
    for note in sorted(notes):
        console.print(note, markup=False)
    if json_file:
        write_json(json_file, rows)
    refused = [f"{row['mask']}: {row['refused']}" for row in rows if row["refused"]]
    if refused:
        raise click.ClickException("not timed, as fields disagree: " + "; ".join(refused))


@cli.command("metrics")
@click.option("--shape", callback=shape_of, default="1,4,128,128,128", show_default=True, help="B,C and spatial sizes.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Interleaved rounds.")
@threads_option
@json_option
def metrics_command(shape, repeats, threads, json_file):
    """Metrics of blob label maps beside MONAI's."""
    from bench.metrics_speed import measure, metrics_table
    from bench.report import console, write_json

    spacing = (3.0, 1.0, 1.0)[: len(shape) - 2]
    rows = [measure(kind, shape, spacing, repeats) for kind in ("surface", "overlap")]
    console.print(metrics_table(rows))
    for note in sorted({note for row in rows for note in row["notes"]}):
        console.print(note, markup=False)
    if json_file:
        write_json(json_file, rows)
    refused = [f"{row['kind']}: {row['refused']}" for row in rows if row["refused"]]
    if refused:
        raise click.ClickException("not timed, as values disagree: " + "; ".join(refused))


@cli.command("main")
@click.option("--quick", is_flag=True, help="Two losses, a smaller volume, fewer steps: at most 90 seconds.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder for JSON.")
@device_option
@threads_option
def main_job(quick, out, device, threads):
    """The main job: train once per loss, then the speed table; at most 10 minutes on two cores."""
    end = time.monotonic() + (76 if quick else 440)  # and the rest of ten minutes for a first installation
    from bench.case import Case
    from bench.registry import LOSSES
    from bench.report import console, write_json
    from bench.speed import Effort
    from bench.train import Schedule

    names = ["cross_entropy", "dice_ce"] if quick else list(LOSSES)
    schedule = Schedule(epochs=3) if quick else Schedule()
    rows = run_training(names, device, schedule, seconds=16 if quick else 180, limit=end)
    write_json(out / "train.json", rows)
    shape = (1, 4, 48, 48, 48) if quick else (2, 4, 96, 96, 96)
    case = Case("", shape, device=device, threads=threads)
    speeds = run_speed(names, case, Effort(10 if quick else 20, seconds=3.0, slow_peers=False), end)
    write_json(out / "speed.json", speeds)
    console.print(f"results: {out / 'train.json'}, {out / 'speed.json'}", markup=False)
    refuse(speeds)


if __name__ == "__main__":
    cli(prog_name="python -m bench")
