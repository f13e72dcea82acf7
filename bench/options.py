"""Options that several commands share."""

from pathlib import Path

import click

RESULTS = Path(__file__).resolve().parent / "results"


def shape_of(context, parameter, text: str) -> tuple[int, ...]:
    """`2,4,96,96,96` as a tuple: batch, classes and one to three spatial axes."""
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise click.BadParameter(f"expected integers B,C,D,H,W, got {text!r}") from None
    if not 3 <= len(shape) <= 5 or min(shape) < 1:
        raise click.BadParameter(f"expected B,C and one to three spatial sizes, all positive, got {text!r}")
    return shape


def numbers_of(context, parameter, text: str, least: int = 1) -> list[int]:
    """`8,16,32` as a list of integers."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected integers, separated by commas, got {text!r}") from None
    if min(numbers) < least:
        raise click.BadParameter(f"expected integers of at least {least}, got {text!r}")
    return numbers


def several(least: int = 1):
    """The callback of numbers each of which is a case of its own: in order, without repeats."""
    return lambda context, parameter, text: sorted(set(numbers_of(context, parameter, text, least)))


def names_of(context, parameter, text: str) -> list[str]:
    """Checked loss names of a comma-separated list."""
    from bench.losses.registry import loss_names

    return loss_names(text)


def device_of(context, parameter, name: str) -> str:
    """`auto` resolved, and a GPU that is not there refused."""
    from bench.machine import default_device

    if name == "cuda" and default_device() != "cuda":
        raise click.BadParameter("torch sees no CUDA or ROCm device here")
    return default_device() if name == "auto" else name


def threads_of(context, parameter, count: int | None) -> int:
    """The number of CPU threads for torch, and through it for Numba."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def refuse(rows: list[dict], of: str, what: str) -> None:
    """Fail where a row, named by its key `of`, was not timed because a peer computes something else."""
    refused = [f"{row[of]}: {row['refused']}" for row in rows if row["refused"]]
    if refused:
        raise click.ClickException(f"not timed, as {what} disagree: " + "; ".join(refused))


losses_option = click.option("--losses", callback=names_of, default="all", show_default=True, help="Names, or all.")
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    callback=device_of,
    default="auto",
    show_default=True,
)
threads_option = click.option("--threads", type=click.IntRange(1), callback=threads_of, help="CPU threads [torch's].")
json_option = click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Result file.")
