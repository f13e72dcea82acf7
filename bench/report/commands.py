"""`python -m bench report`, which makes tables and plots of measurements, and `results`, which measures."""

import json
import subprocess
import sys
import time
from pathlib import Path

import click

from bench.machine import ROOT
from bench.report.measurements import MEASUREMENTS, RESULTS

FIGURES = ROOT / "docs" / "figures"
results_option = click.option(
    "--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder of JSON."
)


@click.command("report")
@results_option
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), default=ROOT, help="Of README and docs.")
@click.option("--figures", type=click.Path(file_okay=False, path_type=Path), default=FIGURES, help="For plots.")
@click.option("--check", is_flag=True, help="Write nothing, fail where a table is not that of the JSON.")
def report_command(results, root, figures, check):
    """Every table of README and docs, and every plot, from the JSON of measurements; see `results`."""
    from bench.output import console
    from bench.report.documents import UnknownBlock, documents, filled, read_results

    found, stale = read_results(results), []
    for file in documents(root):
        text, name = file.read_text(), str(file.relative_to(root))
        try:
            new, missing = filled(text, found, name)
        except UnknownBlock as error:
            raise click.ClickException(str(error)) from None
        for what in missing:
            console.print(f"{name}: left as it is: {what}", markup=False)
        if new != text:
            stale.append(name)
            if not check:
                file.write_text(new)
    if check:
        if stale:
            raise click.ClickException(f"not made of the JSON: {', '.join(stale)}; `python -m bench report` makes them")
        return
    written = [*stale, *plots(found, figures)]
    console.print(f"written: {', '.join(map(str, written)) or 'nothing new'}", markup=False)


def plots(found: dict, figures: Path) -> list[Path]:
    """The plots of the measurements that have any."""
    files = []
    if "scaling" in found:
        from bench.speed.plots import save

        files += save(found["scaling"], figures)
    if "accuracy" in found:
        from bench.accuracy.report import save as save_accuracy

        files += save_accuracy(found["accuracy"], figures)
    return files


def names_of(context, parameter, text: str) -> list[str]:
    """Checked names of measurements."""
    names = list(MEASUREMENTS) if text == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        what = ", ".join(map(repr, unknown))
        raise click.BadParameter(f"unknown measurement {what}; known: all, {', '.join(MEASUREMENTS)}")
    return names


@click.command("results")
@results_option
@click.option("--only", callback=names_of, default="all", show_default=True, help="Some of the measurements.")
@click.option("--list", "listing", is_flag=True, help="Print the commands and what they take, and run nothing.")
def results_command(results, only, listing):
    """Measure all that `report` shows, one after the other, on an idle machine: two and a half hours."""
    from bench.output import console

    results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in only:
        measurement, file = MEASUREMENTS[name], results / f"{name}.json"
        console.print(f"{name}: {measurement.command} --json {file}, {measurement.minutes:g} minutes", markup=False)
        if listing:
            continue
        begin = time.monotonic()
        command = [sys.executable, "-m", "bench", *measurement.arguments.split(), "--json", str(file.resolve())]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
        elif not json.loads(file.read_text()):
            failed.append(f"{name} (empty)")
        console.print(f"{name}: {(time.monotonic() - begin) / 60:.1f} minutes", markup=False)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")
