"""`python -m bench edt` and `metrics`."""

import click

from bench.options import json_option, refuse, shape_of, threads_option


def masks_of(context, parameter, text: str | None) -> list[str]:
    """Checked mask names of a comma-separated list."""
    from bench.distances.masks import MASKS

    names = list(MASKS) if text is None else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in MASKS]
    if unknown:
        raise click.BadParameter(f"unknown mask {', '.join(map(repr, unknown))}; known: {', '.join(MASKS)}")
    return names


@click.command("edt")
@click.option("--quick", is_flag=True, help="64^3 and three rounds: some seconds.")
@click.option("--kind", type=click.Choice(["unsigned", "signed"]), multiple=True, help="[both]")
@click.option("--size", type=click.IntRange(8), multiple=True, help="Voxels along each axis [128 and 256].")
@click.option("--masks", callback=masks_of, help="Names, separated by commas [all].")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Interleaved rounds.")
@threads_option
@json_option
def edt_command(quick, kind, size, masks, repeats, threads, json_file):
    """Distance transforms beside those of edt, SimpleITK and SciPy, where installed."""
    from bench.distances.edt import all_cases, run
    from bench.distances.table import edt_table
    from bench.output import console, print_notes, progress, write_json

    kinds, sizes = kind or ("unsigned", "signed"), size or ((64,) if quick else (128, 256))
    cases = all_cases(kinds, sizes, masks, threads, min(repeats, 3) if quick else repeats)
    with progress() as bars:
        bar = bars.add_task("edt", total=len(cases), status="")
        rows = run(cases, lambda row: bars.update(bar, advance=1, status=f"{row['kind']} {row['mask']}"))
    console.print(edt_table(rows))
    print_notes(rows, "")
    if json_file:
        write_json(json_file, rows)
    refuse(rows, "mask", "fields")


@click.command("metrics")
@click.option("--shape", callback=shape_of, default="1,4,128,128,128", show_default=True, help="B,C and spatial sizes.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Interleaved rounds.")
@threads_option
@json_option
def metrics_command(shape, repeats, threads, json_file):
    """Metrics of blob label maps beside MONAI's."""
    from bench.distances.metrics import measure, metrics_table
    from bench.output import console, print_notes, write_json

    spacing = (3.0, 1.0, 1.0)[: len(shape) - 2]
    rows = [measure(kind, shape, spacing, repeats) for kind in ("surface", "overlap")]
    console.print(metrics_table(rows))
    print_notes(rows, "")
    if json_file:
        write_json(json_file, rows)
    refuse(rows, "kind", "values")
