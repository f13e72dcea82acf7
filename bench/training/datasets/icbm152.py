"""Segmentation data for training: nilearn's packaged ICBM152 head, cut into axial slices."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage

CLASSES = ("background", "CSF", "GM", "WM")
FILE_PATTERN = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
BLOCKS = 15  # of about ten slices each: a multiple of five, so that 60/20/20 comes out exactly
SPLIT_OF_BLOCK = ("train", "train", "val", "train", "test")


@dataclass(frozen=True)
class Slices:
    """Axial slices of one split: `images` float32 `[N, 1, H, W]`, `labels` uint8 `[N, H, W]`."""

    images: torch.Tensor
    labels: torch.Tensor
    positions: tuple[int, ...]  # the slices' indices along the volume's inferior-superior axis


def icbm152_files() -> dict[str, Path]:
    """Paths of the T1, grey and white matter volumes inside the installed nilearn; nothing is downloaded."""
    spec = importlib.util.find_spec("nilearn")  # finds the files without nilearn's slow import
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the ICBM152 volumes ship with nilearn, which is not installed: pip install nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data"
    files = {kind: folder / FILE_PATTERN.format(kind) for kind in ("t1", "gm", "wm")}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"nilearn is installed, but {folder} lacks {', '.join(missing)}")
    return files


def read_canonical(path: Path) -> np.ndarray:
    """The volume's voxels with axes turned to right-anterior-superior."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


def tissue_labels(t1: np.ndarray, grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Labels 0 background, 1 CSF, 2 GM, 3 WM from tissue maps scaled to 0..255.

    The brain is the filled largest component of `t1 > 0`; CSF is what grey and white leave of 255.
    """
    components, _ = ndimage.label(t1 > 0)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0  # the background is no component
    brain = ndimage.binary_fill_holes(components == sizes.argmax())
    csf = np.clip(255 - grey.astype(np.int16) - white, 0, 255)
    tissue = np.argmax([csf, grey, white], axis=0) + 1
    return np.where(brain, tissue, 0).astype(np.uint8)


def crop_and_pad(volume: np.ndarray, box: tuple[slice, ...], multiple: int) -> np.ndarray:
    """The part of `volume` inside `box`, its first two axes zero-padded to a multiple of `multiple`."""
    part = volume[box]
    missing = [-length % multiple for length in part.shape[:2]]
    return np.pad(part, [(m // 2, m - m // 2) for m in missing] + [(0, 0)])


def blocks(slices: int) -> dict[str, list[int]]:
    """Slices of one volume dealt out 60/20/20 in blocks."""
    chosen: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for number, block in enumerate(np.array_split(np.arange(slices), BLOCKS)):
        chosen[SPLIT_OF_BLOCK[number % len(SPLIT_OF_BLOCK)]] += block.tolist()
    return chosen


def icbm152_head() -> tuple[np.ndarray, np.ndarray, tuple[slice, ...]]:
    """The normalised T1, its four tissue labels, and the brain's box, all right-anterior-superior."""
    volumes = {kind: read_canonical(path) for kind, path in icbm152_files().items()}
    labels = tissue_labels(volumes["t1"], volumes["gm"], volumes["wm"])
    brain = labels > 0
    t1 = volumes["t1"].astype(np.float32)
    # intensities of the brain get mean 0 and deviation 1, and everything around it stays 0
    t1 = np.where(brain, (t1 - t1[brain].mean()) / t1[brain].std(), 0).astype(np.float32)
    return t1, labels, ndimage.find_objects(brain.astype(np.uint8))[0]


def icbm152(multiple: int = 16) -> dict[str, Slices]:
    """ICBM152 as `{"train", "val", "test"}` of normalised T1 slices and their four tissue labels.

    Blocks of consecutive slices, not single slices, are dealt out 60/20/20: neighbours look alike.
    In-plane sizes are padded to a multiple of `multiple`, which the U-Net's poolings need.
    """
    t1, labels, box = icbm152_head()
    images = torch.from_numpy(crop_and_pad(t1, box, multiple).transpose(2, 0, 1).copy())[:, None]
    targets = torch.from_numpy(crop_and_pad(labels, box, multiple).transpose(2, 0, 1).copy())

    chosen = blocks(len(targets))
    first = box[2].start
    return {
        split: Slices(images[index], targets[index], tuple(first + i for i in index)) for split, index in chosen.items()
    }
