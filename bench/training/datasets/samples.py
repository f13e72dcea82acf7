"""Splits of prepared data by subject, and their slices and patches as torch data sets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from bench.training.datasets.store import Prepared

SPLITS = ("train", "val", "test")
BLOCKS = 15  # of about ten slices each: a multiple of five, so that 60/20/20 comes out exactly
SPLIT_OF_BLOCK = ("train", "train", "val", "train", "test")
OF_FOREGROUND = 0.5  # of the patches are centred on a voxel of the foreground


@dataclass(frozen=True)
class Part:
    """Slices `start` to `stop` of a subject."""

    entry: int
    start: int
    stop: int


def split(data: Prepared, dims: int, seed: int = 0) -> dict[str, list[Part]]:
    """60/20/20 of the persons, shuffled, with all their volumes; of each volume's slices where there are fewer than 3.

    Slices are dealt out in blocks, since neighbours look alike, and for patches in three slabs, which hold them.
    """
    entries = data.entries
    groups = list(dict.fromkeys(entry.group for entry in entries))
    if len(groups) < 3:
        parts: dict[str, list[Part]] = {name: [] for name in SPLITS}
        for number, entry in enumerate(entries):
            for name, runs in _within(entry.shape[0], dims).items():
                parts[name] += [Part(number, start, stop) for start, stop in runs if stop > start]
        return parts
    order = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    held_out = max(1, round(0.2 * len(groups)))
    chosen = {"test": order[:held_out], "val": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    return {
        name: [Part(i, 0, entry.shape[0]) for i, entry in enumerate(entries) if entry.group in chosen[name]]
        for name in SPLITS
    }


def blocks(slices: int) -> dict[str, list[int]]:
    """Slices of one volume dealt out 60/20/20 in blocks."""
    chosen: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for number, block in enumerate(np.array_split(np.arange(slices), BLOCKS)):
        chosen[SPLIT_OF_BLOCK[number % len(SPLIT_OF_BLOCK)]] += block.tolist()
    return chosen


def _within(slices: int, dims: int) -> dict[str, list[tuple[int, int]]]:
    """Runs of slices of one volume for each split."""
    if dims == 3:
        first, second = round(0.6 * slices), round(0.8 * slices)
        return {"train": [(0, first)], "val": [(first, second)], "test": [(second, slices)]}
    runs = {}
    for name, chosen in blocks(slices).items():
        cuts = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
        runs[name] = [(int(run[0]), int(run[-1]) + 1) for run in cuts if len(run)]
    return runs


def common_size(data: Prepared, multiple: int) -> tuple[int, int]:
    """The least in-plane size that holds every subject, as a multiple, and two of them where norms need two voxels."""
    first, second = (-(-max(entry.shape[axis] for entry in data.entries) // multiple) for axis in (2, 3))
    return max(first, 2 if second == 1 else 1) * multiple, second * multiple


def window(array: np.ndarray, start: Sequence[int], size: Sequence[int], fill: float) -> np.ndarray:
    """A part of the last axes from `start`, which may lie outside of the array, filled up there."""
    lead, shape = array.ndim - len(size), array.shape[array.ndim - len(size) :]
    inside = tuple(slice(max(0, s), max(0, min(s + n, full))) for s, n, full in zip(start, size, shape, strict=True))
    out = np.full((*array.shape[:lead], *size), fill, array.dtype)
    to = tuple(slice(part.start - s, part.stop - s) for part, s in zip(inside, start, strict=True))
    out[(..., *to)] = array[(..., *inside)]
    return out


class Slices(Dataset):
    """Axial slices, images float32 `[channels, H, W]` and labels uint8 `[H, W]`, in the middle of a common size."""

    def __init__(self, data: Prepared, parts: Sequence[Part], size: tuple[int, int], every: int = 1):
        self.data, self.size = data, size
        self.places = [(part.entry, z) for part in parts for z in range(part.start, part.stop, every)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number, z = self.places[index]
        entry = self.data.entries[number]
        start = [-((n - length) // 2) for n, length in zip(self.size, entry.shape[2:], strict=True)]
        image = window(entry.image()[z], start, self.size, entry.floor)
        labels = self.data.classes_of(window(entry.labels()[z], start, self.size, 0), entry)
        return torch.from_numpy(image), torch.from_numpy(labels)


class Patches(Dataset):
    """Random cubes, images float32 `[channels, D, H, W]` and labels uint8; the same for the same seed and epoch."""

    def __init__(self, data: Prepared, parts: Sequence[Part], size: Sequence[int], each: int, seed: int):
        self.data, self.parts, self.size, self.each, self.seed, self.epoch = data, list(parts), size, each, seed, 0

    def __len__(self) -> int:
        return len(self.parts) * self.each

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = self.parts[index // self.each]
        entry = self.data.entries[part.entry]
        start = self._start(part, np.random.default_rng((self.seed, self.epoch, index)))
        image = entry.image()[part.start : part.stop].transpose(1, 0, 2, 3)
        labels = window(entry.labels()[part.start : part.stop], start, self.size, 0)
        return (
            torch.from_numpy(window(image, start, self.size, entry.floor)),
            torch.from_numpy(self.data.classes_of(labels, entry)),
        )

    def _start(self, part: Part, random: np.random.Generator) -> list[int]:
        """Of a cube around a voxel of the foreground, or anywhere; inside of the part where that is large enough."""
        entry = self.data.entries[part.entry]
        shape = (part.stop - part.start, *entry.shape[2:])
        centre = [random.integers(length) for length in shape]
        voxels = entry.foreground()
        voxels = voxels[(voxels[:, 0] >= part.start) & (voxels[:, 0] < part.stop)]
        if len(voxels) and random.random() < OF_FOREGROUND:
            z, x, y = voxels[random.integers(len(voxels))].tolist()
            centre = [z - part.start, x, y]
        return [
            min(max(0, int(c) - n // 2), length - n) if length >= n else -((n - length) // 2)
            for c, n, length in zip(centre, self.size, shape, strict=True)
        ]
