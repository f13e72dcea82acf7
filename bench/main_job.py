"""`python -m bench main`: train once per loss, then the speed table."""

import math
import time
from pathlib import Path

import click

from bench.options import RESULTS, device_option, threads_option
from bench.speed.commands import refuse, run_speed


def run_training(names: list[str], device: str, schedule, seconds: float, limit: float = math.inf) -> list[dict]:
    """Train every loss within `seconds` altogether, with a bar for each, and print the table.

    The seconds count once the kernels are compiled, and end where `time.monotonic()` reaches `limit`.
    """
    from dataclasses import replace

    import torch

    from bench.output import console, print_notes, progress
    from bench.training.by_clock import compile_ahead, to_device, train_loss, train_table, warm_up
    from bench.training.datasets.icbm152 import icbm152

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


@click.command("main")
@click.option("--quick", is_flag=True, help="Two losses, a smaller volume, fewer steps: at most 90 seconds.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder for JSON.")
@device_option
@threads_option
def main_job(quick, out, device, threads):
    """The main job: train once per loss, then the speed table; at most 10 minutes on two cores."""
    end = time.monotonic() + (76 if quick else 440)  # and the rest of ten minutes for a first installation
    from bench.losses.registry import LOSSES
    from bench.output import console, write_json
    from bench.speed.case import Case
    from bench.speed.measure import Effort
    from bench.training.by_clock import Schedule

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
