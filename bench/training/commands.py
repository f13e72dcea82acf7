"""`python -m bench train`, to choose a loss for data of one's own, and `volume`."""

import math
from pathlib import Path

import click

from bench.options import RESULTS, device_option, json_option, losses_option, numbers_of, several, threads_option


@click.command()
@click.option(
    "--data",
    default="icbm152",
    show_default=True,
    help="icbm152[:wm], nfbs:PATH, msd:PATH, nnunet:PATH, bids:PATH, pairs:IMAGES,LABELS, synthetic[:N[,SIZE]].",
)
@click.option("--dims", type=click.Choice(["2", "3"]), default="2", show_default=True, help="Slices or patches.")
@losses_option
@click.option("--seeds", "--seed", callback=several(0), default="0", show_default=True, help="As 0,1,2.")
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
    from bench.output import console, write_json
    from bench.training import parallel
    from bench.training.datasets import DataError, open_dataset, prepare
    from bench.training.plan import Plan, train_all
    from bench.training.results import class_table, score_table
    from bench.training.settings import Settings

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
    """Sizes that the network can halve, to more than the one voxel, of which its norms know no deviation."""
    multiple, patch = 2 ** (len(settings.widths) - 1), settings.patch
    if settings.dims == 3 and (len(patch) != 3 or any(n % multiple or n < 1 for n in patch) or max(patch) == multiple):
        raise click.BadParameter(
            f"got {','.join(map(str, patch))}, expected three multiples of {multiple}, not all {multiple}",
            param_hint="--patch",
        )


@click.command()
@click.option("--data", default="icbm152", show_default=True, help="As of `train`; its first subject is repeated.")
@click.option("--shape", callback=numbers_of, default="512,512,512", show_default=True, help="Of the whole volume.")
@click.option("--window", callback=numbers_of, default="96,96,96", show_default=True, help="What is seen at once.")
@click.option("--margin", type=click.IntRange(0), default=16, show_default=True, help="Around each window.")
@click.option("--widths", callback=numbers_of, default="8,16,32,64,96", show_default=True, help="Of the 3D U-Net.")
@click.option("--skip-bad", is_flag=True, help="Leave out subjects whose files are bad or missing.")
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), default=RESULTS / "cache", help="Of prepared data."
)
@losses_option
@device_option
@threads_option
@json_option
def volume(data, shape, window, margin, widths, skip_bad, cache, losses, device, threads, json_file):
    """Exact loss and gradient of a whole volume, added up window by window."""
    import torch

    from bench.losses.registry import LOSSES
    from bench.output import console, number, plain_table, progress, write_json
    from bench.training.datasets import DataError, open_dataset, prepare
    from bench.training.unet import UNet
    from bench.training.volume import Tiled, measure, why_not

    multiple = 2 ** (len(widths) - 1)
    if len(shape) != 3 or min(shape) < 1:
        raise click.BadParameter(f"got {shape}, expected three positive sizes", param_hint="--shape")
    if len(window) != 3 or min(window) < 1 or any((n + 2 * margin) % multiple for n in window):
        raise click.BadParameter(
            f"got {window}, expected three sizes that with two margins of {margin} are multiples of {multiple}",
            param_hint="--window",
        )
    try:
        found = prepare(open_dataset(data, cache, skip_bad), cache, skip_bad)
    except DataError as error:
        raise click.ClickException(str(error)) from None
    tiled = Tiled(found, 0, tuple(shape), tuple(window), margin)
    torch.manual_seed(0)
    model = UNet(found.channels, len(found.classes), widths, dims=3).to(device)
    given = {"ignore_index": found.ignore_index}
    built = {name: LOSSES[name].build("softmax", len(found.classes), **given).to(device) for name in losses}
    refused = {name: reason for name, loss in built.items() if (reason := why_not(name, loss))}
    for reason in refused.values():
        console.print(f"left out: {reason}", markup=False)
    usable = {name: loss for name, loss in built.items() if name not in refused}
    if not usable:
        raise click.ClickException("no loss is left")
    rows = []
    with progress() as bars:
        for name, loss in usable.items():
            bar = bars.add_task(name, total=2 * len(tiled), status="")
            advance = lambda stage, bar=bar: bars.update(bar, advance=1, status=stage)  # noqa: E731
            rows.append(measure(name, loss, model, tiled, torch.device(device), advance))
    where = "the GPU's tensors" if device == "cuda" else "the whole process"
    title = f"{'x'.join(map(str, shape))} voxels in {len(tiled)} windows, peak of {where}"
    table = plain_table(title, ("loss", "value", "|gradient|", "s", "peak GiB", "its logits alone GiB"), ("loss",))
    for row in rows:
        peak = None if row["peak_bytes"] is None else row["peak_bytes"] / 2**30
        cells = (number(row["value"], 6), number(row["gradient_norm"], 6), number(row["seconds"], 1), number(peak))
        table.add_row(row["loss"], *cells, number(row["logits_bytes"] / 2**30))
    console.print(table)
    if json_file:
        write_json(json_file, rows)
