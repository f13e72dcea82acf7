"""Surface and overlap metrics beside MONAI's: agreement first, then time."""

import statistics
import time
import warnings

import torch
from rich.table import Table
from scipy import ndimage

from bench.machine import machine, notes_on_others, watch_others
from bench.output import machine_line, number, plain_table
from bench.timing import fastest, no_collection
from fastloss.metrics import confusion_counts, surface_distances

TOLERANCE = 1e-5  # relative; MONAI interpolates percentiles in float32
TOLERANCE_MM = 1.0
# of MONAI's one-hot masks: the fastest is timed; its counts overflow in uint8 and bool
MONAI_DTYPES = {"surface": (torch.float32, torch.uint8, torch.bool), "overlap": (torch.float32, torch.int32)}
LEFT = ("metrics", "shape", "given")
Metrics = dict[str, torch.Tensor]


def blob_noise(shape: tuple[int, ...], seed: int, spread: float) -> torch.Tensor:
    """Smoothed noise of each class, `[C, *S]`, with a standard deviation of 1; a voxel's class has the largest."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    smooth = torch.stack([torch.from_numpy(ndimage.gaussian_filter(x, spread, mode="wrap")) for x in noise])
    return smooth / smooth.std()


def label_pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs of a sixteenth of the size, and a prediction that differs along their borders (a Dice of about 0.8)."""
    batch, classes, *space = shape
    pairs = []
    for sample in range(batch):
        truth = blob_noise((classes, *space), 2 * sample, min(space) / 16)
        error = blob_noise((classes, *space), 2 * sample + 1, min(space) / 32)
        pairs.append([x.argmax(0).to(torch.uint8) for x in (truth + 0.3 * error, truth)])
    prediction, target = (torch.stack(volumes)[:, None] for volumes in zip(*pairs, strict=True))
    return prediction, target


class Fastloss:
    """Label maps as they are; one set of transforms for all metrics of a surface."""

    def __init__(self, prediction, target, spacing, classes: int):
        self.given, self.spacing, self.classes = (prediction, target), spacing, classes

    def surface(self) -> Metrics:
        surfaces = surface_distances(*self.given, self.spacing, classes=self.classes)
        return {
            "hd95": surfaces.hausdorff(95),
            "average": surfaces.average(),
            "surface_dice": surfaces.surface_dice(TOLERANCE_MM),
        }

    def overlap(self) -> Metrics:
        counts = confusion_counts(*self.given, classes=self.classes)
        return {name: getattr(counts, name)() for name in ("dice", "sensitivity", "specificity")}


class Monai:
    """The functions behind MONAI's metrics, on the one-hot masks that they want, made beforehand."""

    def __init__(self, prediction, target, spacing, classes: int, dtype: torch.dtype):
        from monai.networks.utils import one_hot

        self.given, self.spacing = [one_hot(labels, classes, dtype=dtype) for labels in (prediction, target)], spacing
        self.foreground = classes - 1

    def surface(self) -> Metrics:
        from monai import metrics

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            options = {"spacing": self.spacing}
            tolerances = [TOLERANCE_MM] * self.foreground
            return {
                "hd95": metrics.compute_hausdorff_distance(*self.given, percentile=95, **options),
                "average": metrics.compute_average_surface_distance(*self.given, symmetric=True, **options),
                "surface_dice": metrics.compute_surface_dice(*self.given, tolerances, **options),
            }

    def overlap(self) -> Metrics:
        from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix

        counts = get_confusion_matrix(*self.given)
        names = {"dice": "f1 score", "sensitivity": "sensitivity", "specificity": "specificity"}
        return {name: compute_confusion_matrix_metric(metric, counts) for name, metric in names.items()}


def differences(ours: Metrics, theirs: Metrics) -> dict[str, float]:
    """The largest relative difference of each metric."""
    return {name: float(((ours[name] - x).abs() / x.abs().clamp_min(1e-6)).max()) for name, x in theirs.items()}


def measure(kind: str, shape: tuple[int, ...], spacing: tuple[float, ...], repeats: int) -> dict:
    """A row: medians of interleaved rounds, how many times faster fastloss is, the differences found."""
    given = *label_pair(shape), spacing, shape[1]
    ours = getattr(Fastloss(*given), kind)
    ways = {str(dtype).split(".")[1]: getattr(Monai(*given, dtype), kind) for dtype in MONAI_DTYPES[kind]}
    expected = ours()
    each = [differences(expected, call()) for call in ways.values()]
    found = {name: max(differing[name] for differing in each) for name in each[0]}
    row = {"kind": kind, "shape": list(shape), "spacing_mm": list(spacing), "repeats": repeats, "device": "cpu"}
    row |= {"differences": found, "machine": machine(), "refused": None, "notes": []}
    if not max(found.values()) <= TOLERANCE:
        return row | {"refused": f"differences of {found}"}
    way = fastest(ways)
    calls, samples = (ours, ways[way]), ([], [])
    with watch_others() as watched, no_collection():
        for _ in range(repeats):
            for call, times in zip(calls, samples, strict=True):
                begin = time.perf_counter()
                call()
                times.append((time.perf_counter() - begin) * 1e3)
    ours_ms, theirs_ms = map(statistics.median, samples)
    row["notes"] += notes_on_others(watched["others"])
    return row | {"fastloss_ms": ours_ms, "monai_ms": theirs_ms, "faster": theirs_ms / ours_ms, "monai_given": way}


def metrics_table(rows: list[dict]) -> Table:
    """fastloss beside MONAI."""
    table = plain_table("metrics, median ms", ("metrics", "shape", "fastloss", "MONAI", "given", "faster"), LEFT)
    for row in rows:
        cells = [", ".join(row["differences"]), "x".join(map(str, row["shape"]))]
        if row["refused"]:
            table.add_row(*cells, f"[red]not timed: {row['refused']}")
        else:
            table.add_row(
                *cells,
                number(row["fastloss_ms"], 1),
                number(row["monai_ms"], 1),
                row["monai_given"],
                f"{row['faster']:.1f}x",
            )
    table.caption = machine_line(rows[0])
    return table
