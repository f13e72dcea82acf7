"""One image and its labels from files as people have them, checked against each other."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from fastloss.metrics.nifti import DEFLATE, DataError, NiftiFile, naming

WHOLE = 1e-3  # how far a label may be from a whole number
APART = 0.1  # of a voxel that the corners of an image and its labels may be apart
IGNORED = -(2**15)  # a label of no class, whose voxels do not count


@dataclass(frozen=True)
class Volume:
    """An image and its labels, axes turned to inferior-superior, left-right, posterior-anterior: slices come first."""

    image: np.ndarray  # float32 [Z, channels, X, Y], of mean 0 and deviation 1 inside of the background
    labels: np.ndarray  # int16 [Z, X, Y], the values of the file, or 0 and 1 of a mask
    spacing: tuple[float, float, float]  # mm along Z, X, Y
    fractional: str = ""  # of a mask that was found to be one: where it holds no whole number


@dataclass(frozen=True)
class FilePair:
    """NIfTI files of one grid; `labels_are` says `mask`, `labels`, or `auto` for what the values look like.

    The `group` is what a split must not part: all volumes of one person.
    """

    subject: str
    group: str
    images: tuple[Path, ...]  # each of one channel or more
    label: Path
    labels_are: str = "auto"
    ignored: int | None = None  # the file's label of voxels that do not count

    def key(self) -> str:
        """What changes where the files do."""
        stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files()]
        return repr((stats, self.labels_are, self.ignored))

    def files(self) -> tuple[Path, ...]:
        for path in (*self.images, self.label):
            with naming(path):
                if not path.is_file():
                    raise DataError(f"{self.subject}: {path} is missing")
        return *self.images, self.label

    def read(self) -> Volume:
        """All files, on one grid. Headers are compared first, so that what the labels take follows from the images."""
        images, label = [NiftiFile.open(path) for path in self.images], NiftiFile.open(self.label)
        if len(label.shape) != 3:
            raise DataError(f"{self.label}: labels of shape {label.shape}, expected three axes")
        for image in images:
            check_same_place(image, label)
        channels = []
        for image in images:
            voxels = image.canonical(image.voxels())
            parts = [voxels] if voxels.ndim == 3 else [voxels[..., c] for c in range(voxels.shape[3])]
            channels += [normalise(part) for part in parts]
        labels, fractional = decode_labels(label.voxels(DEFLATE), self.label, self.labels_are)
        if self.ignored is not None:
            labels[labels == self.ignored] = IGNORED
        sizes = nibabel.affines.voxel_sizes(images[0].affine).tolist()
        return Volume(
            np.ascontiguousarray(np.stack(channels).transpose(3, 0, 1, 2)),
            np.ascontiguousarray(label.canonical(labels).transpose(2, 0, 1)),
            (sizes[2], sizes[0], sizes[1]),
            fractional,
        )


def check_same_place(image: NiftiFile, label: NiftiFile) -> None:
    """Whether the volumes have as many voxels, and their outer corners lie in the same places."""
    both = f"image {image.path} and labels {label.path}"
    if image.turned_shape != label.turned_shape:
        raise DataError(f"{both} differ in shape: {image.turned_shape} and {label.turned_shape}")
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in image.turned_shape))))
    places = [nibabel.affines.apply_affine(file.affine, corners) for file in (image, label)]
    apart_mm = float(np.linalg.norm(places[0] - places[1], axis=1).max())
    most_mm = APART * float(nibabel.affines.voxel_sizes(image.affine).min())
    if apart_mm > most_mm:
        raise DataError(
            f"{both} differ in place: corners are {apart_mm:.3g} mm apart, expected at most {most_mm:.3g}, "
            f"{APART:g} of a voxel\n{image.affine}\n{label.affine}"
        )


def decode_labels(values: np.ndarray, path: Path, labels_are: str) -> tuple[np.ndarray, str]:
    """int16 labels; of `auto` masks also where they are no whole number. A mask is what exceeds half of its maximum."""
    strange, finite = "", bool(np.isfinite(values).all())
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(values - np.rint(values)) <= WHOLE)  # NaN and infinities are, too
        if off.any():
            where = tuple(int(i) for i in np.argwhere(off)[0])
            strange = f"{path}: holds {values[where]:g} at voxel {where}"
    if finite and (labels_are == "mask" or (labels_are == "auto" and strange and _is_mask(values))):
        return (values > values.max() / 2).astype(np.int16), strange
    if strange:
        expected = "a mask of finite numbers" if labels_are == "mask" else "labels, which are whole numbers"
        raise DataError(f"{strange}, expected {expected}")
    if values.min() <= IGNORED or values.max() >= 2**15:
        raise DataError(f"{path}: labels from {values.min()} to {values.max()}, expected less than 32768")
    return np.rint(values).astype(np.int16), ""


def _is_mask(values: np.ndarray) -> bool:
    """Whether values that are no whole numbers are shares of a voxel, or of two kinds alone, and not labels."""
    return values.min() >= 0 and bool(values.max() <= 1 or len(np.unique(values[values > 0])) == 1)


def normalise(channel: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over what lies above the background, the least value; float32.

    Sums and differences are taken in float64, since intensities may have an offset of many times their spread.
    """
    wide = channel.astype(np.float64)
    good = np.isfinite(wide)
    if not good.all():
        wide[~good] = wide[good].min() if good.any() else 0.0
    # by a power of two, which changes no digit: squares and sums of what is left are finite
    wide = np.ldexp(wide, -np.frexp(np.abs(wide).max())[1])
    above = wide[wide > wide.min()]
    if not above.size:
        return np.zeros(wide.shape, np.float32)
    wide -= above.mean()
    # of one value the mean is off by its rounding, which is no spread
    wide /= above.std() if above.min() < above.max() else 1.0
    return wide.astype(np.float32)
