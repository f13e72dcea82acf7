"""The test set: predictions of whole volumes, metrics of each subject and class, and slices to look at."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage

from bench.training.datasets.samples import Part, Slices, window
from bench.training.datasets.store import NO_CLASS, Prepared
from bench.training.run import Run
from fastloss.metrics import confusion_counts, surface_distances

METRICS = ("dice", "jaccard", "sensitivity", "specificity", "hd95_mm")
SHOWN = 3  # best and worst slices
ENOUGH = 0.005  # of a slice is foreground, for it to be shown


@torch.no_grad()
def predict(run: Run, part: Part) -> np.ndarray:
    """uint8 classes `[Z, X, Y]` of slices of a subject."""
    run.net.eval()
    data, size = run.samples.data, run.samples.size
    entry = data.entries[part.entry]
    if run.settings.dims == 3:
        image = torch.from_numpy(entry.image()[part.start : part.stop].transpose(1, 0, 2, 3).copy())[None]
        logits = sliding_window_inference(
            image.to(run.device), size, 1, run.net, overlap=0.25, mode="gaussian", cval=entry.floor
        )
        return logits[0].argmax(0).byte().numpy(force=True)
    slices = Slices(data, [part], size)
    batches = [list(range(i, min(i + run.batch_size, len(slices)))) for i in range(0, len(slices), run.batch_size)]
    found = [run.net(images).argmax(1).byte().numpy(force=True) for images, _ in run.loader(slices, batches)]
    start = [(n - length) // 2 for n, length in zip(size, entry.shape[2:], strict=True)]
    return window(np.concatenate(found), start, entry.shape[2:], 0)


def score(run: Run, surfaces: bool = True) -> tuple[list[dict], dict[str, np.ndarray]]:
    """A row for each subject and class of the test set, and the slices to show.

    Where test slices are a part of a volume, the overlap is theirs, and so are the voxels of surfaces that HD95 is of;
    but the whole volume is predicted for it, as a cut is no surface. Without `surfaces` HD95 is NaN.
    """
    data, seen, rows = run.samples.data, [], []
    for number, group in itertools.groupby(run.samples.parts["test"], lambda part: part.entry):
        entry, parts = data.entries[number], list(group)
        tested, predicted = np.zeros(entry.shape[0], bool), np.zeros((entry.shape[0], *entry.shape[2:]), np.uint8)
        for part in [Part(number, 0, entry.shape[0])] if surfaces else parts:
            predicted[part.start : part.stop] = predict(run, part)
        truth = data.classes_of(entry.labels(), entry)
        for part in parts:
            tested[part.start : part.stop] = True
            seen += slices_of(part, predicted, truth)
        pair = (torch.from_numpy(volume[tested])[None, None] for volume in (predicted, truth))
        table = confusion_counts(*pair, classes=len(data.classes), ignore_index=data.ignore_index)
        columns = [getattr(table, metric)()[0].tolist() for metric in METRICS[:4]]
        hd95 = hd95_mm(predicted, truth, tested, entry.spacing, data) if surfaces else [math.nan] * len(data.classes)
        for c, name in enumerate(data.classes):
            values = dict(zip(METRICS, [*(column[c] for column in columns), hd95[c]], strict=True))
            rows.append({"subject": entry.subject, "class": name, **values})
    return rows, shown(run, seen)


def hd95_mm(
    predicted: np.ndarray, truth: np.ndarray, tested: np.ndarray, spacing: Sequence[float], data: Prepared
) -> list[float]:
    """Of each class, from those voxels of the volumes' surfaces that lie in tested slices; NaN where there are none."""
    # the channel axis is given, for which a volume's only slice would be taken otherwise
    pair = (torch.from_numpy(volume)[None, None] for volume in (predicted, truth))
    options = {"classes": len(data.classes), "include_background": True, "ignore_index": data.ignore_index}
    found = surface_distances(*pair, spacing, **options)
    values = []
    for label, both in enumerate(zip(found.to_target[0], found.to_prediction[0], strict=True)):
        largest = []
        for volume, distances in zip((predicted, truth), both, strict=True):
            mask = (volume == label) & (truth != NO_CLASS)
            surface = mask & ~ndimage.binary_erosion(mask)
            own = distances[np.repeat(tested, surface.sum((1, 2)))].astype(np.float64)  # they come slice by slice
            if own.size:  # all are infinite where the other volume lacks the class
                largest.append(np.percentile(own, 95) if np.isfinite(own[0]) else math.inf)
        values.append(float(max(largest, default=math.nan)))
    return values


def slices_of(part: Part, predicted: np.ndarray, truth: np.ndarray) -> list[tuple]:
    """Dice of the foreground, place and maps of each of the part's slices with enough of it."""
    found = []
    for z in range(part.start, part.stop):
        true = np.where(truth[z] == NO_CLASS, 0, truth[z])
        ours = np.where(truth[z] == NO_CLASS, 0, predicted[z])
        if (true > 0).mean() >= ENOUGH:
            overlap = ((ours == true) & (true > 0)).sum()
            dice = 2 * overlap / ((ours > 0).sum() + (true > 0).sum())
            found.append((float(dice), part.entry, z, ours, true))
    return found


def shown(run: Run, seen: list[tuple]) -> dict[str, np.ndarray]:
    """The worst and the best slices, worst first, as arrays to be saved."""
    ordered = sorted(seen, key=lambda row: row[0])
    chosen = ordered[:SHOWN] + ordered[max(SHOWN, len(ordered) - SHOWN) :]
    arrays: dict[str, np.ndarray] = {}
    for number, (dice, entry, z, ours, true) in enumerate(chosen):
        arrays[f"image{number}"] = run.samples.data.entries[entry].image()[z, 0].astype(np.float16)
        arrays[f"predicted{number}"], arrays[f"true{number}"] = ours, true
        arrays[f"about{number}"] = np.array([dice, entry, z])
    return arrays


def mean(values: list[float]) -> float:
    """NaN of nothing."""
    return statistics.fmean(values) if values else math.nan


def means(rows: list[dict]) -> dict[str, float]:
    """Of each metric over rows, where it is finite."""
    return {metric: mean([row[metric] for row in rows if math.isfinite(row[metric])]) for metric in METRICS}


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation (n - 1) of what is finite, and how many values were not."""
    good = [value for value in values if math.isfinite(value)]
    deviation = statistics.stdev(good) if len(good) > 1 else math.nan
    return {"mean": mean(good), "std": deviation, "n": len(good), "left_out": len(values) - len(good)}


def summarise(rows: list[dict], classes: Iterable[str]) -> dict[str, dict]:
    """For each class, and for `foreground`, the spread of each metric over subjects and seeds.

    The foreground's value of a subject and seed is the mean over the classes but the first.
    """
    classes = list(classes)
    table = {name: {m: spread([row[m] for row in rows if row["class"] == name]) for m in METRICS} for name in classes}
    of_subject: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        if row["class"] in classes[1:]:
            of_subject[row["subject"], row.get("seed")].append(row)
    of_each = [means(own) for own in of_subject.values()]
    table["foreground"] = {metric: spread([own[metric] for own in of_each]) for metric in METRICS}
    return table
