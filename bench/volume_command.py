"""`python -m bench volume`: the loss of a volume that is too large for its logits."""

from pathlib import Path

import click

from bench.options import RESULTS, device_option, json_option, losses_option, numbers_of, threads_option


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

    from bench.datasets import DataError, open_dataset, prepare
    from bench.model import UNet
    from bench.registry import LOSSES
    from bench.report import console, number, plain_table, progress, write_json
    from bench.volume import Tiled, measure, why_not

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
    built = {name: LOSSES[name].build("softmax", len(found.classes)).to(device) for name in losses}
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
