"""nilearn's packaged ICBM152 head with tissue labels, the data that is always there."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from bench.training.datasets.reading import Volume
from fastloss.metrics.nifti import NiftiFile

CLASSES = ("background", "CSF", "GM", "WM")
FILE_PATTERN = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


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
    file = NiftiFile.open(path)
    return file.canonical(file.voxels())


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


def icbm152_head() -> tuple[np.ndarray, np.ndarray, tuple[slice, ...]]:
    """The normalised T1, its four tissue labels, and the brain's box, all right-anterior-superior."""
    volumes = {kind: read_canonical(path) for kind, path in icbm152_files().items()}
    labels = tissue_labels(volumes["t1"], volumes["gm"], volumes["wm"])
    brain = labels > 0
    t1 = volumes["t1"].astype(np.float32)
    # intensities of the brain get mean 0 and deviation 1, and everything around it stays 0
    t1 = np.where(brain, (t1 - t1[brain].mean()) / t1[brain].std(), 0).astype(np.float32)
    return t1, labels, ndimage.find_objects(brain.astype(np.uint8))[0]


@dataclass(frozen=True)
class Icbm152:
    """nilearn's head; `task` is `tissue` (four classes) or `wm` (white matter against the rest)."""

    task: str
    subject: str = "icbm152"
    group: str = "icbm152"

    def key(self) -> str:
        return repr((self.task, [(str(path), path.stat().st_size) for path in icbm152_files().values()]))

    def read(self) -> Volume:
        head, tissue, box = icbm152_head()
        labels = tissue == CLASSES.index("WM") if self.task == "wm" else tissue
        if self.task == "wm":  # 0, the brain's mean, would make what is around the brain look like a tissue
            head = np.where(tissue > 0, head, head.min())
        image = np.ascontiguousarray(head[box].transpose(2, 0, 1))[:, None]
        return Volume(image, np.ascontiguousarray(labels[box].transpose(2, 0, 1)).astype(np.int16), (1.0, 1.0, 1.0))
