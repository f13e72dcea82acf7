"""`python -m bench accuracy`."""

from dataclasses import replace
from pathlib import Path

import click

from bench.options import device_option, json_option, losses_option, several, threads_option
from bench.speed.commands import FIGURES


def dtypes_of(context, parameter, text: str) -> list[str]:
    """Checked dtype names of a comma-separated list."""
    from bench.speed.case import DTYPES

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in DTYPES]
    if unknown:
        raise click.BadParameter(f"unknown dtype {', '.join(map(repr, unknown))}; known: {', '.join(DTYPES)}")
    return names


@click.command("accuracy")
@losses_option
@click.option("--edges", callback=several(), default="32,64,128", show_default=True, help="Cubes, to 512.")
@click.option("--classes", type=click.IntRange(2), default=4, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--dtypes", callback=dtypes_of, default="float32,bfloat16,float16", show_default=True)
@click.option("--draws", type=click.IntRange(1), default=1, show_default=True, help="Of logits and labels: medians.")
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]), default="softmax", show_default=True)
@click.option(
    "--peers-to", type=click.IntRange(0), default=256, show_default=True, help="Longest edge for peers, for memory."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=FIGURES, help="For the plot.")
@device_option
@threads_option
@json_option
def accuracy(losses, edges, classes, batch, dtypes, draws, activation, peers_to, out, device, threads, json_file):
    """Errors of value and gradient against float64, beside MONAI's, torch's, kornia's and exacta's."""
    from bench.accuracy.measure import comparable, measure
    from bench.accuracy.report import accuracy_table, save
    from bench.output import console, print_notes, progress, write_json
    from bench.speed.case import Case

    rows = []
    with progress() as bars:
        bar = bars.add_task("accuracy", total=len(losses) * len(edges) * len(dtypes), status="")
        for loss in losses:
            case = Case(loss, (batch, classes, *[edges[0]] * 3), "float64", activation=activation, device=device)
            bars.update(bar, status=f"{loss}: peers in float64")
            peers, notes = comparable(case)
            for edge in edges:
                for dtype in dtypes:
                    bars.update(bar, status=f"{loss} {edge} {dtype}")
                    at = replace(case, shape=(batch, classes, edge, edge, edge), dtype=dtype, threads=threads)
                    rows.append(measure(at, peers if edge <= peers_to else [], notes, draws))
                    bars.update(bar, advance=1)
    console.print(accuracy_table(rows))
    print_notes([row for row in rows if row["shape"][2] == edges[0] and row["dtype"] == dtypes[0]])
    console.print("written: " + ", ".join(map(str, save(rows, out))), markup=False)
    if json_file:
        write_json(json_file, rows)
