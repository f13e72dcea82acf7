"""``python -m fastloss.metrics score --truth DIR --prediction DIR``: scores of a folder of NIfTI segmentations."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path


def spacing(text: str) -> tuple[float, ...] | None:
    """None, for the files' own, or three numbers in mm."""
    if text == "from-header":
        return None
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected from-header or three numbers in mm, such as 1,1,3")
    return sizes


def tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number in mm of at least 0")
    return value


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of pictures of at least 0")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastloss.metrics", description="Scores of segmentations.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "score", help="Dice, HD95, Hausdorff and average surface distance, surface Dice and volumes of every label"
    )
    command.add_argument("--truth", type=Path, required=True, metavar="DIR", help=".nii or .nii.gz files of labels")
    command.add_argument("--prediction", type=Path, required=True, metavar="DIR", help="files of the same names")
    command.add_argument("--spacing", type=spacing, default=None, help="from-header (default), or X,Y,Z in mm (RAS)")
    command.add_argument(
        "--tolerance", type=tolerance, default=1.0, metavar="MM", help="of the surface Dice; default 1"
    )
    command.add_argument("--csv", type=Path, default=Path("scores.csv"), metavar="FILE", help="default scores.csv")
    command.add_argument("--html", type=Path, metavar="FILE", help="a report with pictures of the worst cases")
    command.add_argument("--worst", type=count, default=6, metavar="N", help="pictures in the report; default 6")
    given = parser.parse_args(arguments)
    try:
        from .nifti import DataError
        from .scoring import score_folders
    except ModuleNotFoundError as error:
        if error.name != "nibabel":
            raise
        print("NIfTI files are read by nibabel, which is not installed: pip install 'fastloss[score]'", file=sys.stderr)
        return 2
    try:
        score_folders(given.truth, given.prediction, given.spacing, given.tolerance, given.csv, given.html, given.worst)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
