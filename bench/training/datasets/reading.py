"""One image and its labels from files as people have them, checked against each other."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

WHOLE = 1e-3  # how far a label may be from a whole number
SAME_PLACE_MM = 1e-2  # how far the affines of an image and its labels may be apart


class DataError(ValueError):
    """Files that cannot be used as they are; the message names them."""


@dataclass(frozen=True)
class Volume:
    """An image and its labels, axes turned to inferior-superior, left-right, posterior-anterior: slices come first."""

    image: np.ndarray  # float32 [Z, channels, X, Y], of mean 0 and deviation 1 inside of the background
    labels: np.ndarray  # int16 [Z, X, Y], the values of the file, or 0 and 1 of a mask
    spacing: tuple[float, float, float]  # mm along Z, X, Y
    fractional: bool = False  # the labels were no whole numbers, and became a mask


@dataclass(frozen=True)
class FilePair:
    """A subject as two NIfTI files; `labels_are` says `mask`, `labels`, or `auto` for what the values look like."""

    subject: str
    image: Path
    label: Path
    labels_are: str = "auto"

    def key(self) -> str:
        """What changes where the files do."""
        stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files()]
        return repr((stats, self.labels_are))

    def files(self) -> tuple[Path, Path]:
        for path in (self.image, self.label):
            if not path.is_file():
                raise DataError(f"{self.subject}: {path} is missing")
        return self.image, self.label

    def read(self) -> Volume:
        """Both files, on one grid."""
        image, affine = read_nifti(self.image)
        label, label_affine = read_nifti(self.label)
        both = f"image {self.image} and labels {self.label}"
        if label.ndim != 3:
            raise DataError(f"{self.label}: labels of shape {label.shape}, expected three axes")
        if image.shape[:3] != label.shape:
            raise DataError(f"{both} differ in shape: {image.shape[:3]} and {label.shape}")
        if np.abs(affine - label_affine).max() > SAME_PLACE_MM:
            raise DataError(f"{both} differ in affine:\n{affine}\n{label_affine}")
        labels, fractional = decode_labels(label, self.label, self.labels_are)
        channels = image[..., None] if image.ndim == 3 else image
        scaled = np.stack([normalise(channels[..., c]) for c in range(channels.shape[3])])
        sizes = nibabel.affines.voxel_sizes(affine).tolist()
        return Volume(
            np.ascontiguousarray(scaled.transpose(3, 0, 1, 2)),
            np.ascontiguousarray(labels.transpose(2, 0, 1)),
            (sizes[2], sizes[0], sizes[1]),
            fractional,
        )


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The voxels `[X, Y, Z]` or `[X, Y, Z, channels]` turned to right-anterior-superior, and their affine."""
    try:
        loaded = nibabel.load(path)
        voxels = np.asanyarray(loaded.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise DataError(f"{path}: cannot be read, it may be truncated ({type(error).__name__}: {error})") from error
    if loaded.affine is None or not np.isfinite(loaded.affine).all() or np.linalg.det(loaded.affine[:3, :3]) == 0:
        raise DataError(f"{path}: the affine is {loaded.affine}, expected one that can be inverted")
    if voxels.dtype.fields or np.iscomplexobj(voxels):
        raise DataError(f"{path}: voxels of type {voxels.dtype}, expected numbers")
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    if not 3 <= voxels.ndim <= 4 or 0 in voxels.shape:
        raise DataError(f"{path}: shape {voxels.shape}, expected three axes, and channels where there are several")
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(as_known_dtype(voxels), loaded.affine))
    return np.asanyarray(canonical.dataobj), canonical.affine


def as_known_dtype(voxels: np.ndarray) -> np.ndarray:
    """bool and 64-bit integers as NIfTI knows them."""
    if voxels.dtype == np.bool_:
        return voxels.astype(np.uint8)
    return voxels.astype(np.float64) if voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8 else voxels


def decode_labels(values: np.ndarray, path: Path, labels_are: str) -> tuple[np.ndarray, bool]:
    """int16 labels, and whether the values were no whole numbers; a mask is what exceeds half of its maximum."""
    whole = np.nan_to_num(values) if values.dtype.kind == "f" else values
    rounded = np.rint(whole)
    off = np.abs(whole - rounded) > WHOLE
    fractional = bool(off.any())
    if labels_are == "mask" or (labels_are == "auto" and fractional):
        return (whole > whole.max() / 2).astype(np.int16), fractional
    if fractional:
        where = tuple(int(i) for i in np.argwhere(off)[0])
        raise DataError(f"{path}: holds {whole[where]} at voxel {where}, expected labels, which are whole numbers")
    if rounded.min() < -(2**15) or rounded.max() >= 2**15:
        raise DataError(f"{path}: labels from {rounded.min()} to {rounded.max()}, expected less than 32768")
    return rounded.astype(np.int16), False


def normalise(channel: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over what lies above the background, the least value; float32.

    Sums and differences are taken in float64, since intensities may have an offset of many times their spread.
    """
    wide = channel.astype(np.float64)
    good = np.isfinite(wide)
    if not good.all():
        wide[~good] = wide[good].min() if good.any() else 0.0
    above = wide[wide > wide.min()]
    if not above.size:
        return np.zeros(wide.shape, np.float32)
    wide -= above.mean()
    wide /= above.std() or 1.0
    return wide.astype(np.float32)
