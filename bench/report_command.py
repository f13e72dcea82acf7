"""`python -m bench report`."""

import math
import time
from pathlib import Path

import click

from bench.options import device_option, losses_option, threads_option

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"


def numbers_of(context, parameter, text: str) -> list[int]:
    """Positive integers, separated by commas."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"expected integers separated by commas, got {text!r}") from None
    if found[0] < 1:
        raise click.BadParameter(f"expected positive numbers, got {text!r}")
    return found


@click.command("report")
@losses_option
@click.option("--edges", callback=numbers_of, default="32,48,64,96,128,192,256,384", help="Cubes [32 to 384].")
@click.option("--classes", callback=numbers_of, default="2,4,8,16,32", show_default=True, help="Counts, at 64^3.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64", "float16", "bfloat16"]), default="float32")
@click.option("--seconds", type=click.FloatRange(1), default=math.inf, help="No new point after these.")
@click.option(
    "--point-seconds", type=click.FloatRange(0), default=2, show_default=True, help="No new round after these."
)
@click.option("--memory/--no-memory", default=True, help="Peak memory, in a process per point.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, help="For plots and JSON.")
@device_option
@threads_option
def report_command(losses, edges, classes, batch, dtype, seconds, point_seconds, memory, out, device, threads):
    """Time and memory against volume, classes and threads: plots, and a table with the machine's limits."""
    try:
        from bench.plots import save, scaling_table
    except ImportError:
        raise click.ClickException("the plots need matplotlib: pip install 'fastloss[bench]'") from None
    from bench.case import Case
    from bench.report import console, progress, write_json
    from bench.scaling import Series, measure

    end = time.monotonic() + seconds
    counts = sorted({1, threads}) if device == "cpu" else []
    series = Series(edges, [n for n in classes if n > 1], counts, point_seconds, memory=memory)
    cases = [Case(loss, (batch, 4, 8, 8, 8), dtype, device=device, threads=threads) for loss in losses]
    with progress() as bars:
        bar = bars.add_task("report", total=sum(len(series.cases(case)) for case in cases), status="roofline")
        result = measure(cases, series, end, lambda name: bars.update(bar, advance=1, status=name))
    console.print(scaling_table(result))
    for note in sorted({note for row in result["points"] for note in row["notes"]}):
        console.print(note, markup=False)
    if result["left_out"]:
        console.print(f"left out for want of time: {'; '.join(result['left_out'])}", markup=False)
    files = save(result, out)
    write_json(out / "report.json", result)
    console.print("written: " + ", ".join(map(str, [*files, out / "report.json"])), markup=False)
