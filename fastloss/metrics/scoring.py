"""The scores of a folder of segmentations against another: ``python -m fastloss.metrics score``."""

from __future__ import annotations

import csv
import html
import math
import struct
import sys
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .counts import confusion_counts
from .nifti import SUFFIXES, DataError, NiftiFile, printable
from .surface import surface_distances

SCORES = ("dice", "hd95_mm", "hausdorff_mm", "average_mm", "surface_dice", "truth_ml", "prediction_ml")
# none, truth, predicted, both
COLOURS = np.array([[24, 24, 24], [0, 170, 60], [220, 50, 40], [240, 210, 60]], np.uint8)


class Score(NamedTuple):
    """A label of a case: what the columns of the CSV file hold."""

    case: str
    label: int
    values: tuple[float, ...]  # of SCORES; NaN where there is nothing to measure


class Case(NamedTuple):
    """Truth and prediction as labels 0 to n of few bytes, which stand for `labels`."""

    name: str
    truth: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    labels: list[int]


def pairs(truth: Path, prediction: Path) -> list[tuple[str, Path, Path]]:
    """The cases: files of the same name in both folders, with either suffix. A truth without prediction is an error."""
    found = []
    for folder in (truth, prediction):
        if not folder.is_dir():
            raise DataError(f"{folder}: is no folder")
        files = {_stem(file): file for file in sorted(folder.iterdir()) if file.name.endswith(SUFFIXES)}
        found.append(files)
    missing = sorted(found[0].keys() - found[1].keys())
    if missing or not found[0]:
        what = f"no prediction of {', '.join(missing)}" if missing else "no NIfTI files"
        raise DataError(f"{prediction if missing else truth}: {what}")
    return [(name, file, found[1][name]) for name, file in found[0].items()]


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def read(name: str, truth: Path, prediction: Path, spacing_mm: Sequence[float] | None) -> Case:
    """Both files, on one grid; labels are whole numbers, and 0 is the background."""
    files = [NiftiFile.open(path) for path in (truth, prediction)]
    if files[0].turned_shape != files[1].turned_shape or not np.allclose(files[0].affine, files[1].affine, atol=1e-2):
        raise DataError(f"{prediction}: has not the grid of {truth}: {files[1].turned_shape}, {files[0].turned_shape}")
    volumes = []
    for file in files:
        voxels = file.canonical(file.voxels())
        whole = np.rint(voxels)
        if voxels.ndim != 3 or not np.array_equal(whole, voxels) or whole.min() < 0:
            raise DataError(f"{file.path}: expected one volume of labels, whole numbers of at least 0")
        volumes.append(whole.astype(np.int64))
    labels = sorted(set(np.unique(volumes[0]).tolist()) | set(np.unique(volumes[1]).tolist()) | {0})
    small = [np.searchsorted(labels, volume).astype(np.min_scalar_type(len(labels))) for volume in volumes]
    sizes = np.sqrt((files[0].affine[:3, :3] ** 2).sum(0)) if spacing_mm is None else spacing_mm
    return Case(name, small[0], small[1], tuple(float(size) for size in sizes), labels[1:])


def scores_of(case: Case, tolerance_mm: float) -> list[Score]:
    """The scores of each label that truth or prediction has."""
    if not case.labels:
        return []
    prediction, truth = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in (case.prediction, case.truth))
    classes = len(case.labels) + 1
    counts = confusion_counts(prediction, truth, classes=classes, include_background=False)
    surfaces = surface_distances(prediction, truth, case.spacing_mm, classes=classes)
    ml = math.prod(case.spacing_mm) / 1000
    columns = (
        counts.dice(),
        surfaces.hausdorff(95),
        surfaces.hausdorff(),
        surfaces.average(),
        surfaces.surface_dice(tolerance_mm),
        (counts.true_positive + counts.false_negative) * ml,
        (counts.true_positive + counts.false_positive) * ml,
    )
    table = torch.stack([column[0].double() for column in columns], 1).tolist()
    return [Score(case.name, label, tuple(row)) for label, row in zip(case.labels, table, strict=True)]


def progress(items: Sequence[Any]) -> Iterator[Any]:
    """The items, with a bar on a terminal."""
    shown = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        if shown:
            bar = "#" * (30 * done // len(items))
            print(f"\r[{bar:<30}] {done}/{len(items)}", end="\n" if done == len(items) else "", file=sys.stderr)


def write_csv(file: Path, scores: list[Score]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("case", "label", *SCORES))
        writer.writerows((score.case, score.label, *(f"{value:.6g}" for value in score.values)) for score in scores)


def summary(scores: list[Score]) -> list[tuple[str, ...]]:
    """Of each label the mean of each score over its cases, without the NaN; a header first."""
    rows: list[tuple[str, ...]] = [("label", "cases", *SCORES)]
    for label in sorted({score.label for score in scores}):
        table = np.array([score.values for score in scores if score.label == label])
        known = ~np.isnan(table)
        means = np.where(known, table, 0).sum(0) / np.maximum(known.sum(0), 1)
        cells = [f"{mean:.4g}" if any_known else "-" for mean, any_known in zip(means, known.any(0), strict=True)]
        rows.append((str(label), str(len(table)), *cells))
    return rows


def text_table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def worst(scores: list[Score], count: int) -> list[str]:
    """The cases with the least Dice of a label."""
    least: dict[str, float] = {}
    for score in scores:
        if not math.isnan(score.values[0]):
            least[score.case] = min(score.values[0], least.get(score.case, 1.0))
    return sorted(least, key=lambda case: least[case])[:count]


def picture(case: Case) -> bytes:
    """A PNG of the axial slice with the most wrong voxels: truth green, prediction red, where they agree yellow."""
    z = int((case.truth != case.prediction).sum((0, 1)).argmax())
    true, predicted = (volume[:, :, z] for volume in (case.truth, case.prediction))
    kinds = np.where(true == predicted, 3 * (true > 0), (true > 0) + 2 * ((predicted > 0) & (true == 0)))
    pixels = COLOURS[kinds].transpose(1, 0, 2)[::-1]
    zoom = max(1, 320 // max(pixels.shape[:2]))
    return png(pixels.repeat(zoom, 0).repeat(zoom, 1))


def png(pixels: np.ndarray) -> bytes:
    """``[height, width, 3]`` uint8 as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;"
    "padding:0 1rem}div{overflow-x:auto}table{border-collapse:collapse}"
    "td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8886}td:first-child,th:first-child"
    "{text-align:left}section{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;max-width:100%}"
    "figcaption{overflow-wrap:anywhere}img{max-width:100%}"
)


def report(scores: list[Score], pictures: dict[str, bytes]) -> str:
    """One HTML page that needs nothing else."""

    def table(rows: list[tuple[str, ...]]) -> str:
        head, *body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        lines = "".join(f"<tr>{row}</tr>" for row in body)
        return f"<div><table><tr>{head.replace('td>', 'th>')}</tr>{lines}</table></div>"

    every = sorted(scores, key=lambda score: (math.isnan(score.values[0]), score.values[0]))
    rows = [(score.case, str(score.label), *(f"{value:.4g}" for value in score.values)) for score in every]
    figures = "".join(
        f'<figure><figcaption>{html.escape(name)}</figcaption><img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{b64encode(data).decode()}"></figure>'
        for name, data in pictures.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>Scores</title><style>{STYLE}</style>'
        f"<h1>Scores</h1>{table(summary(scores))}<h2>Worst cases</h2><p>The slice with the most wrong voxels: green "
        f"is truth alone (or of another label), red prediction alone, yellow both.</p><section>{figures}</section>"
        f"<h2>All cases, the worst first</h2>{table([('case', 'label', *SCORES), *rows])}</html>\n"
    )


def score_folders(
    truth: Path,
    prediction: Path,
    spacing_mm: Sequence[float] | None,
    tolerance_mm: float,
    csv_file: Path,
    html_file: Path | None,
    worst_cases: int,
) -> None:
    """Scores all cases, writes the files and prints the means."""
    cases = pairs(truth, prediction)
    scores: list[Score] = []
    for name, true_file, predicted_file in progress(cases):
        scores += scores_of(read(name, true_file, predicted_file, spacing_mm), tolerance_mm)
    write_csv(csv_file, scores)
    if html_file is not None:
        files = {case[0]: case for case in cases}
        shown = {name: picture(read(*files[name], spacing_mm)) for name in worst(scores, worst_cases)}
        html_file.write_text(report(scores, shown))
    print(printable(text_table(summary(scores))))
