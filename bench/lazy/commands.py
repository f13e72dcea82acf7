"""`python -m bench head` and `resample`."""

import itertools

import click

from bench.options import device_option, json_option, threads_option


def _show(rows: list[dict], table, json_file) -> None:
    from bench.output import console, print_notes, write_json

    console.print(table)
    print_notes(rows, "name")
    if json_file:
        write_json(json_file, rows)


@click.command("head")
@click.option("--quick", is_flag=True, help="One small case, three rounds: some seconds.")
@click.option("--classes", type=click.IntRange(2), multiple=True, help="[4, 16 and 118]")
@click.option("--features", type=click.IntRange(1), default=32, show_default=True, help="Channels before the head.")
@click.option("--side", type=click.IntRange(4), multiple=True, help="Voxels along each axis [64 and 96].")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), multiple=True, help="[both]")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Interleaved rounds.")
@click.option("--compiled/--no-compiled", default=True, help="Whether plain heads are compiled as well.")
@click.option("--memory/--no-memory", default=True, help="Whether peaks are measured.")
@device_option
@threads_option
@json_option
def head_command(quick, classes, features, side, dtype, repeats, compiled, memory, device, threads, json_file):
    """A lazy head and its loss beside plain heads with fastloss's loss and MONAI's: time and peak memory."""
    from bench.lazy.head import Case, head_table, measure

    classes, side = classes or ((16,) if quick else (4, 16, 118)), side or ((32,) if quick else (64, 96))
    dtypes = dtype or (("float32",) if quick else ("float32", "bfloat16"))
    cases = [Case(c, features, n, kind, device, threads) for c, n, kind in itertools.product(classes, side, dtypes)]
    rows = [measure(case, min(repeats, 3) if quick else repeats, compiled and not quick, memory) for case in cases]
    _show(rows, head_table(rows), json_file)


@click.command("resample")
@click.option("--quick", is_flag=True, help="A small case, three rounds: some seconds.")
@click.option("--classes", type=click.IntRange(2), multiple=True, help="[118]")
@click.option("--side", type=click.IntRange(4), default=None, help="Voxels along each axis [96].")
@click.option("--to", type=click.IntRange(4), default=None, help="Of the labels [twice as many].")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Interleaved rounds.")
@click.option("--slow/--no-slow", default=True, help="Whether SciPy and skimage run, class by class, once.")
@click.option("--memory/--no-memory", default=True, help="Whether peaks are measured.")
@device_option
@threads_option
@json_option
def resample_command(quick, classes, side, to, repeats, slow, memory, device, threads, json_file):
    """`resample_argmax` beside interpolation and argmax: time and peak memory."""
    from bench.lazy.resample import Case, measure, resample_table

    side = side or (24 if quick else 96)
    cases = [Case(c, side, to or 2 * side, device, threads) for c in classes or ((8,) if quick else (118,))]
    rows = [measure(case, min(repeats, 3) if quick else repeats, slow, memory) for case in cases]
    _show(rows, resample_table(rows), json_file)
