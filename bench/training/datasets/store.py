"""Volumes read, checked and normalised once, then mapped from disk: slices and patches cost what they hold."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.training.datasets.kinds import Dataset, Subject, listing
from bench.training.datasets.reading import IGNORED
from fastloss.metrics.nifti import DataError

FORMAT = 4  # of the files below; a change of what is written reads everything again
NO_CLASS = 255  # instead of a class, of voxels that do not count
REMEMBERED = 4096  # voxels of the foreground, for patches to be centred on


@dataclass(frozen=True)
class Entry:
    """A subject on disk."""

    subject: str
    group: str
    folder: Path
    shape: tuple[int, int, int, int]  # Z, channels, X, Y
    spacing: tuple[float, float, float]
    values: tuple[int, ...]
    fractional: str  # of a mask: where it holds no whole number
    floor: float  # the background's intensity, to pad with

    def image(self) -> np.ndarray:
        """float32 `[Z, channels, X, Y]`, mapped."""
        return _mapped(self.folder / "image.npy")

    def labels(self) -> np.ndarray:
        """int16 `[Z, X, Y]` as in the file, or IGNORED, mapped."""
        return _mapped(self.folder / "labels.npy")

    def foreground(self) -> np.ndarray:
        """Some voxels of the foreground, int32 `[n, 3]`."""
        return _mapped(self.folder / "foreground.npy")

    @property
    def is_mask(self) -> bool:
        """Whether there is no more than a background, 0, and one label."""
        return bool(self.fractional) or (min(self.values) >= 0 and len({*self.values} - {0}) <= 1)


@lru_cache(maxsize=64)
def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


@dataclass(frozen=True)
class Prepared:
    """A data set on disk, with its classes."""

    name: str
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    values: tuple[int, ...]  # of the classes in the files
    masks: bool = False  # labels are what exceeds half of the maximum
    problems: list[str] = field(default_factory=list)

    @property
    def ignore_index(self) -> int | None:
        """Of losses and metrics: the class of voxels that do not count, where there are any."""
        return NO_CLASS if any(IGNORED in entry.values for entry in self.entries) else None

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.entries[0].shape[1]

    def classes_of(self, labels: np.ndarray, entry: Entry) -> np.ndarray:
        """uint8 classes of a part of an entry's labels, NO_CLASS where they are ignored."""
        if self.masks:
            return (labels > max(entry.values) / 2).astype(np.uint8)
        classes = np.searchsorted(self.values, labels).astype(np.uint8)
        classes[labels == IGNORED] = NO_CLASS
        return classes


def prepare(
    dataset: Dataset,
    cache: Path,
    skip_bad: bool = False,
    advance: Callable[[str], None] = lambda subject: None,
) -> Prepared:
    """Reads every subject that `cache` does not hold yet; bad files raise, or are left out with `skip_bad`."""
    entries, problems, bad = [], list(dataset.problems), []
    for subject in dataset.subjects:
        try:
            entries.append(_entry(subject, cache))
        except DataError as error:
            bad.append(str(error))
        advance(subject.subject)
    masks = dataset.values is None and any(entry.fractional for entry in entries)
    if masks and not all(entry.is_mask for entry in entries):  # then it is the fractions that are wrong
        labelled = next(entry.subject for entry in entries if not entry.is_mask)
        bad += [f"{e.fractional}, expected whole numbers as in {labelled}" for e in entries if e.fractional]
        entries, masks = [entry for entry in entries if not entry.fractional], False
    if dataset.values is not None:
        strange = {entry: sorted({*entry.values} - {*dataset.values, IGNORED}) for entry in entries}
        bad += [
            f"{e.subject} holds the labels {own}, expected {list(dataset.values)}" for e, own in strange.items() if own
        ]
        entries = [entry for entry, own in strange.items() if not own]
    if bad and not skip_bad:
        raise DataError(listing(bad))
    if not entries:
        raise DataError(f"{dataset.name}: no subject can be used\n{listing(bad)}".rstrip())
    channels = {entry.shape[1] for entry in entries}
    if len(channels) > 1:
        raise DataError(f"{dataset.name}: images of {sorted(channels)} channels, expected as many in all")
    classes, values = _classes(dataset, entries, masks)
    return Prepared(dataset.name, tuple(entries), classes, values, masks, problems + bad)


def _classes(dataset: Dataset, entries: list[Entry], masks: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and values of the classes: those that the data set names, or that its files hold."""
    if masks:
        return ("background", "mask"), (0, 1)
    held = {value for entry in entries for value in entry.values} - {IGNORED}
    values = tuple(sorted(held | {0})) if dataset.values is None else dataset.values
    if not 2 <= len(values) <= NO_CLASS:
        raise DataError(f"{dataset.name}: the files hold {len(values)} labels, expected from 2 to {NO_CLASS}")
    return dataset.classes or tuple(f"label {value}" if value else "background" for value in values), values


def faces(image: np.ndarray) -> np.ndarray:
    """The first channel's voxels on the sides of a slice, and the first and last slice."""
    first = image[:, 0]
    sides = (first[:, :1], first[:, -1:], first[:, :, :1], first[:, :, -1:], first[:1], first[-1:])
    return np.concatenate([side.ravel() for side in sides])


def _entry(subject: Subject, cache: Path) -> Entry:
    """The subject's files below `cache`, read if they are not there."""
    digest = hashlib.sha256(f"{FORMAT} {subject.key()}".encode()).hexdigest()[:24]
    folder = cache / digest
    if not folder.is_dir():
        volume = subject.read()
        partial = cache / f"{digest}.{os.getpid()}"
        partial.mkdir(parents=True, exist_ok=True)
        found = np.argwhere(volume.labels > 0).astype(np.int32)
        chosen = np.random.default_rng(0).permutation(len(found))[:REMEMBERED]
        np.save(partial / "image.npy", volume.image)
        np.save(partial / "labels.npy", volume.labels)
        np.save(partial / "foreground.npy", found[chosen])
        about = {
            "shape": volume.image.shape,
            "spacing": volume.spacing,
            "values": np.unique(volume.labels).tolist(),
            "fractional": volume.fractional,
            "floor": float(np.median(faces(volume.image))),
        }
        (partial / "about.json").write_text(json.dumps(about))
        try:
            partial.rename(folder)  # whole or not at all
        except OSError:  # another process was faster
            for file in partial.iterdir():
                file.unlink()
            partial.rmdir()
    about = json.loads((folder / "about.json").read_text())
    return Entry(
        subject.subject,
        subject.group,
        folder,
        tuple(about["shape"]),
        tuple(about["spacing"]),
        tuple(about["values"]),
        about["fractional"],
        about["floor"],
    )
