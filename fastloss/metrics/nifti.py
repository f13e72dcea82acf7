"""A NIfTI file from anywhere: its header is checked before a voxel is read, and memory follows from the file's size."""

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling

SUFFIXES = (".nii.gz", ".nii")
IN_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # the units of length, by NIfTI's code; mm where it tells of none
SIZES_MM = (1e-6, 1e6)  # least and most of a voxel
HARMLESS = 1 << 26  # bytes that any file may inflate to
RATIO = 256  # what inflates to more times its size is no image
DEFLATE = 1032  # no file inflates to more times its size
PART = 1 << 20  # bytes that are read at once
TRAILING = 1 << 20  # bytes that may follow the voxels


class DataError(ValueError):
    """Files that cannot be used as they are; the message names them."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text of which a terminal takes nothing as a command, whatever file names and JSON files hold."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever a reader raises becomes a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # readers raise anything, MemoryError included
        raise DataError(f"{path}: cannot be read, it may be truncated ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class NiftiFile:
    """A header that was read and checked. Axes are those of the file until `canonical` turns them."""

    path: Path
    header: nibabel.Nifti1Header
    shape: tuple[int, ...]  # X, Y, Z, and channels where there is an axis of them
    affine: np.ndarray  # of the turned axes, in mm
    orientation: np.ndarray  # nibabel's, to right-anterior-superior

    @classmethod
    def open(cls, path: Path) -> "NiftiFile":
        """Reads the header; no field of it is repaired where that changes what the file holds."""
        with naming(path), np.errstate(all="ignore"):
            if not path.name.endswith(SUFFIXES):
                raise DataError(f"{path}: expected a NIfTI file, .nii or .nii.gz")
            with _opened(path) as file:
                block = file.read(540)
            header = _checked(block, path)
            shape = _shape(header, path)
            affine = header.get_best_affine()
            affine[:3] *= IN_MM.get(int(header["xyzt_units"]) & 7, 1.0)
            sizes = nibabel.affines.voxel_sizes(affine)
            if not (np.isfinite(affine).all() and sizes.min() >= SIZES_MM[0] and sizes.max() <= SIZES_MM[1]):
                raise DataError(f"{path}: the affine is {affine}, expected voxels of {SIZES_MM} mm")
            orientation = nibabel.io_orientation(affine)
            if not np.isfinite(orientation).all() or np.linalg.matrix_rank(affine[:3, :3] / sizes) < 3:
                raise DataError(f"{path}: the affine is {affine}, expected one that can be inverted")
            turned = affine @ nibabel.orientations.inv_ornt_aff(orientation, shape[:3])
            return cls(path, header, shape, turned, orientation)

    @property
    def turned_shape(self) -> tuple[int, ...]:
        """X, Y, Z of the turned axes."""
        return tuple(self.shape[int(axis)] for axis in np.argsort(self.orientation[:, 0]))

    def voxels(self, ratio: int = RATIO) -> np.ndarray:
        """The scaled voxels, read to the end of the file, so that gzip's checksum is seen.

        A compressed file may inflate to `ratio` times its size. Where the shape is known to be honest that is DEFLATE.
        """
        with naming(self.path), np.errstate(all="ignore"):
            dtype, offset = self.header.get_data_dtype(), self.header.get_data_offset()
            if dtype.kind not in "iuf":
                raise DataError(f"{self.path}: voxels of type {dtype}, expected numbers")
            told, size = offset + math.prod(self.shape) * dtype.itemsize, self.path.stat().st_size
            most = max(HARMLESS, ratio * size) if self.path.suffix == ".gz" else size
            if told > most:
                more = "; where that is right, unpack it first" if self.path.suffix == ".gz" else ""
                raise DataError(
                    f"{self.path}: the header tells of {told} bytes, expected at most {most} of a file of {size}{more}"
                )
            held = bytearray()
            with _opened(self.path) as file:  # by parts, so that memory is that of what there is
                while len(held) < told and (part := file.read(min(told - len(held), PART))):
                    held += part
                if len(held) < told:
                    raise DataError(
                        f"{self.path}: cannot be read, it may be truncated: it holds {len(held)} of {told} bytes"
                    )
                if len(file.read(TRAILING + 1)) > TRAILING:
                    raise DataError(
                        f"{self.path}: more than {TRAILING} bytes follow the {told} that the header tells of"
                    )
            slope, inter = self.header.get_slope_inter()
            values = np.ndarray(self.shape, dtype, held, offset, order="F")
            return values if slope is None else apply_read_scaling(values, slope, inter)

    def canonical(self, voxels: np.ndarray) -> np.ndarray:
        """The voxels with axes turned to right-anterior-superior."""
        return nibabel.apply_orientation(voxels, self.orientation)


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _checked(block: bytes, path: Path) -> nibabel.Nifti1Header:
    """The header, where what nibabel would repair does not matter to what is read."""
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(block)), None)
    if kind is None:
        raise DataError(f"{path}: cannot be read, it has no header of NIfTI-1 or NIfTI-2")
    given = kind(block[: kind.sizeof_hdr], check=False)
    if given["magic"].item()[:3] != kind.single_magic[:3]:
        raise DataError(f"{path}: magic {given['magic'].item()!r}, expected {kind.single_magic!r}, one file of both")
    offset, least = given["vox_offset"].item(), kind.single_vox_offset
    if not (offset >= least and float(offset).is_integer()):
        raise DataError(f"{path}: vox_offset is {offset}, expected a whole number of at least {least}")
    header = given.copy()
    header.check_fix()
    for field in ("sizeof_hdr", "datatype", "qform_code", "sform_code"):
        if given[field] != header[field]:
            raise DataError(f"{path}: {field} is {given[field]} in the header, as it is in no NIfTI file")
    if header["sform_code"] == 0:  # the sizes are used, and qfac
        sizes = given["pixdim"][1 : 1 + min(3, int(given["dim"][0]))]
        if not (sizes > 0).all() or (header["qform_code"] > 0 and given["pixdim"][0] not in (-1, 0, 1)):
            raise DataError(f"{path}: pixdim is {given['pixdim']}, expected sizes above 0, after a sign, -1, 0 or 1")
    return header


def _shape(header: nibabel.Nifti1Header, path: Path) -> tuple[int, ...]:
    """X, Y, Z and channels of what axes the file has, some of which may be of one voxel."""
    count, *lengths = header["dim"].tolist()
    held = tuple(lengths[:count])
    if not 2 <= count <= 7 or min(held) < 1:
        raise DataError(f"{path}: shape {held} of {count} axes, expected two axes to seven, of one voxel or more")
    shape = held + (1,) * (3 - count)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # vectors, as ITK writes them
        shape = (*shape[:3], shape[4])
    if len(shape) > 4:
        raise DataError(f"{path}: shape {held}, expected (X, Y, Z), (X, Y, Z, channels) or (X, Y, Z, 1, channels)")
    return shape
