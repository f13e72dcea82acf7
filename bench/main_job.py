"""`python -m bench main`: train once per loss, then the speed table."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.options import RESULTS, device_option, json_option, refuse, threads_option
from bench.speed.commands import run_speed


def run_training(names: list[str], device: str, schedule: dict, seconds: float, limit: float, folder: Path, ready):
    """A row for each loss, trained on nilearn's head within `seconds` altogether, `ready` compiled."""
    import torch

    from bench.training.by_clock import Clock, train_within
    from bench.training.datasets import DataError, open_dataset, prepare
    from bench.training.settings import Settings

    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        cache = Path(temporary)
        try:
            data = prepare(open_dataset("icbm152", cache), cache)
        except DataError as error:
            raise click.ClickException(str(error)) from None
        clock = lambda: Clock.of(seconds, limit)  # noqa: E731
        return train_within(names, data, Settings(**schedule), torch.device(device), folder, clock, ready)


@click.command("main")
@click.option("--quick", is_flag=True, help="Two losses, a smaller volume, fewer steps: at most 90 seconds.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder for results.")
@device_option
@threads_option
@json_option
def main_job(quick, out, device, threads, json_file):
    """The main job: train the survey's losses, then the speed table of all; at most 10 minutes on two cores."""
    end = time.monotonic() + (76 if quick else 440)  # and the rest of ten minutes for a first installation
    from bench.losses.registry import LOSSES
    from bench.output import console, write_json
    from bench.speed.case import Case
    from bench.speed.measure import Effort
    from bench.training.survey import TABLE_III

    names, timed = (["cross_entropy", "dice_ce"],) * 2 if quick else (list(TABLE_III), list(LOSSES))
    folder = out / "main"
    # every fourth slice: an epoch, of which there is one at least, is seven steps
    schedule = {"epochs": 2, "every": 4, "batch_size": 4} if quick else {"epochs": 40}
    rows = run_training(names, device, schedule, 12 if quick else 230, end, folder, timed)
    for file in filter(None, (out / "train.json", json_file)):
        write_json(file, rows)
    if not quick:
        console.print("the other losses, or longer: python -m bench train --losses all", markup=False)
    shape = (1, 4, 48, 48, 48) if quick else (2, 4, 96, 96, 96)
    case = Case("", shape, device=device, threads=threads)
    effort = Effort(10 if quick else 20, compiled=not quick, seconds=3.0, slow_peers=False)
    speeds = run_speed(timed, case, effort, end)
    write_json(out / "speed.json", speeds)
    console.print(f"results: {out / 'train.json'}, {out / 'speed.json'}", markup=False, soft_wrap=True)
    console.print(f"to look at: {folder / 'report.html'}", markup=False, soft_wrap=True)
    refuse(speeds, "loss", "values or gradients")
