"""`python -m bench train`: choose a loss for data of one's own."""

import math
from pathlib import Path

import click

from bench.options import RESULTS, device_option, json_option, losses_option, numbers_of, threads_option


@click.command()
@click.option(
    "--data",
    default="icbm152",
    show_default=True,
    help="icbm152[:wm], nfbs:PATH, msd:PATH, bids:PATH, pairs:IMAGES,LABELS (globs), synthetic[:N[,SIZE]].",
)
@click.option("--dims", type=click.Choice(["2", "3"]), default="2", show_default=True, help="Slices or patches.")
@losses_option
@click.option("--seeds", "--seed", callback=numbers_of, default="0", show_default=True, help="As 0,1,2.")
@click.option("--epochs", type=click.IntRange(1), default=12, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), help="[the survey's 32 (3D: 2), or less for 20 steps an epoch]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True)
@click.option("--patience", type=click.IntRange(0), default=2, show_default=True, help="Epochs before the rate falls.")
@click.option("--widths", callback=numbers_of, default="8,16,32,64,96", show_default=True, help="Channels per level.")
@click.option("--patch", callback=numbers_of, default="64,64,64", show_default=True, help="3D: size of a patch.")
@click.option("--patches", type=click.IntRange(1), default=8, show_default=True, help="3D: of a subject and epoch.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="2D: train on every n-th slice.")
@click.option("--skip-bad", is_flag=True, help="Leave out subjects whose files are bad or missing.")
@click.option(
    "--seconds", type=click.FloatRange(1), default=math.inf, help="For all runs together; may be gone on with."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of runs and results.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS / "cache",
    help="Folder of prepared data.",
)
@click.option("--tensorboard", is_flag=True, help="Logs for TensorBoard below --out.")
@device_option
@threads_option
@json_option
def train(losses, seeds, data, dims, seconds, out, cache, tensorboard, device, threads, json_file, **schedule):
    """Train the survey's U-Net once per loss and seed, and score it on held-out subjects.

    The same command goes on where it was stopped. torchrun --nproc_per_node=N -m bench train ... trains on N processes.
    """
    from bench import parallel
    from bench.datasets import DataError, open_dataset, prepare
    from bench.report import console, write_json
    from bench.results import class_table, score_table
    from bench.settings import Settings
    from bench.training import Plan, train_all

    schedule = {key: tuple(value) if isinstance(value, list) else value for key, value in schedule.items()}
    settings = Settings(data=data, dims=int(dims), **schedule)
    check_patch(settings)
    folder = out or settings.folder(RESULTS)
    place = parallel.start(device)
    try:

        def read():
            settings.claim(folder)
            return prepare(open_dataset(data, cache, settings.skip_bad), cache, settings.skip_bad)

        found = parallel.from_first(read)
        plan = Plan(settings, losses, seeds, folder, place, seconds, tensorboard)
        rows = train_all(plan, found)
    except DataError as error:
        raise click.ClickException(str(error)) from None
    finally:
        parallel.stop()
    if not rows:
        return
    title = f"{dims}D U-Net on {found.name}"
    console.print(score_table(rows, title))
    if len(found.classes) > 2:
        console.print(class_table(rows))
    for problem in found.problems:
        console.print(f"left out: {problem}", markup=False)
    for row in rows:
        for note in row["notes"]:
            console.print(f"{row['loss']}: {note}", markup=False)
    console.print(f"results: {folder}, to look at: {folder / 'report.html'}", markup=False)
    if json_file:
        write_json(json_file, rows)


def check_patch(settings) -> None:
    """Sizes that the network can halve."""
    multiple = 2 ** (len(settings.widths) - 1)
    if settings.dims == 3 and (len(settings.patch) != 3 or any(n % multiple or n < 1 for n in settings.patch)):
        raise click.BadParameter(
            f"got {','.join(map(str, settings.patch))}, expected three multiples of {multiple}", param_hint="--patch"
        )
