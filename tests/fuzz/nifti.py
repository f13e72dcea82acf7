"""NIfTI files with anything in their headers: the reader refuses them by name, or reads what the standard says.

`one_input` is one such file. The fields, the voxels and their places are those of nifti1.h and nifti2.h, read here with
struct and NumPy alone.
"""

import gzip
import itertools
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastloss.metrics.nifti import DataError, NiftiFile

# each with the form of an element, as of struct, and their number
FIELDS = {
    1: """sizeof_hdr i1 data_type c10 db_name c18 extents i1 session_error h1 regular c1 dim_info B1 dim h8 intent_p f3
    intent_code h1 datatype h1 bitpix h1 slice_start h1 pixdim f8 vox_offset f1 scl_slope f1 scl_inter f1 slice_end h1
    slice_code B1 xyzt_units B1 cal f2 slice_duration f1 toffset f1 glmax i1 glmin i1 descrip c80 aux_file c24
    qform_code h1 sform_code h1 quatern f3 qoffset f3 srow f12 intent_name c16 magic c4""",
    2: """sizeof_hdr i1 magic c8 datatype h1 bitpix h1 dim q8 intent_p d3 pixdim d8 vox_offset q1 scl_slope d1
    scl_inter d1 cal d2 slice_duration d1 toffset d1 slice_start q1 slice_end q1 descrip c80 aux_file c24 qform_code i1
    sform_code i1 quatern d3 qoffset d3 srow d12 slice_code i1 xyzt_units i1 intent_code i1 intent_name c16 dim_info B1
    unused c15""",
}
LENGTH = {1: 348, 2: 540}
FIRST = {1: 352, 2: 544}  # where voxels may start
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
REFUSED = (1, 32, 128, 1792, 2048, 2304)  # bits, complex numbers and colours
# of these voxels and places follow: a file in which others are spoiled is as good as before
READ = {
    *("sizeof_hdr", "magic", "dim", "datatype", "pixdim", "vox_offset", "scl_slope", "scl_inter", "xyzt_units"),
    *("qform_code", "sform_code", "quatern", "qoffset", "srow"),
}
MEMORY = 4 << 20, 64  # bytes of any file, and times what it holds


@dataclass
class Header:
    """Fields as lists of numbers, or bytes; in NIfTI-1 or 2, of either order of bytes."""

    version: int
    order: str
    fields: dict[str, list | bytes]

    def places(self) -> Iterator[tuple[str, str, int, int]]:
        """Name, form, count and offset of each field."""
        at = 0
        words = FIELDS[self.version].split()
        for name, form in zip(words[::2], words[1::2], strict=True):
            yield name, form[0], int(form[1:]), at
            at += int(form[1:]) * (1 if form[0] == "c" else struct.calcsize("=" + form[0]))

    def packed(self) -> bytearray:
        """The header's 348 or 540 bytes."""
        block = bytearray(LENGTH[self.version])
        for name, form, count, at in self.places():
            value = self.fields[name]
            if form == "c":
                block[at : at + count] = value.ljust(count, b"\0")
            else:
                struct.pack_into(f"{self.order}{count}{form}", block, at, *value)
        return block


def plain(rng: np.random.Generator, version: int, shape: tuple[int, ...]) -> Header:
    """A header without fault."""
    header = Header(version, str(rng.choice(["<", ">"])), {})
    header.fields = {n: b"" if form == "c" else [0] * count for n, form, count, _ in header.places()}
    code = int(rng.choice(list(TYPES)))
    known = {
        "sizeof_hdr": [LENGTH[version]],
        "magic": {1: b"n+1\0", 2: b"n+2\0\r\n\032\n"}[version],
        "dim": [len(shape), *shape, *[1] * (7 - len(shape))],
        "datatype": [code],
        "bitpix": [np.dtype(TYPES[code]).itemsize * 8],
        "pixdim": [float(rng.choice([-1, 1])), *(float(x) for x in rng.choice([0.5, 1.0, 2.5], 3)), 0.0, 0.0, 0.0, 0.0],
        "vox_offset": [FIRST[version] + 16 * int(rng.integers(2))],
        "xyzt_units": [int(rng.choice([0, 1, 2, 3, 10]))],
        "scl_slope": [float(rng.choice([0.0, 1.0, 0.25, -3.0, np.nan]))],
        "scl_inter": [float(rng.choice([0.0, 7.0]))],
        "qform_code": [int(rng.choice([0, 1, 4]))],
        "sform_code": [int(rng.choice([0, 0, 2, 3]))],
        "quatern": rng.uniform(-0.5, 0.5, 3).astype(np.float32).tolist(),
        "qoffset": rng.uniform(-90, 90, 3).astype(np.float32).tolist(),
        "srow": (np.eye(3, 4)[rng.permutation(3)] * 1.5 + rng.uniform(-0.2, 0.2, (3, 4))).ravel().tolist(),
    }
    header.fields |= known
    return header


def spoil(rng: np.random.Generator, header: Header) -> str:
    """One element of a field becomes something else; the field's name."""
    places = [place for place in header.places() if place[0] in READ or rng.random() < 0.2]
    name, form, count, _ = places[rng.integers(len(places))]
    if form == "c":
        header.fields[name] = rng.bytes(count)
        return name
    value = list(header.fields[name])
    if form in "fd":
        odd = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-38, 1e30, -3e38, 352.5, float(rng.normal() * 100)]
    else:
        bits = 8 * struct.calcsize("=" + form)
        signed = form.islower()
        odd = [0, 1, 2, 3, 7, 8, 127, 2 ** (bits - signed) - 1, *((-1, -(2 ** (bits - 1))) if signed else ())]
        odd += [int(rng.integers(0, 2 ** min(bits - 1, 62))), int(rng.choice([*TYPES, *REFUSED])) if bits > 8 else 5]
    value[rng.integers(count)] = odd[rng.integers(len(odd))]
    header.fields[name] = value
    return name


def one_input(rng: np.random.Generator, folder: Path) -> None:
    """Writes one file below the folder and reads it.

    Raises AssertionError where a good file is refused, a bad one read as something else, something but DataError is
    raised, or reading takes more memory than follows from what the file holds.
    """
    version, shape = int(rng.integers(1, 3)), tuple(rng.integers(1, 6, rng.integers(2, 4)).tolist())
    shape += ((), (1,), (2,), (1, 3))[rng.integers(4)] if len(shape) == 3 else ()
    header = plain(rng, version, shape)
    spoiled = {spoil(rng, header) for _ in range(int(rng.choice([0, 1, 1, 1, 2, 4])))}
    offset, code = max(0, int(np.nan_to_num(header.fields["vox_offset"][0]))), header.fields["datatype"][0]
    size = int(np.prod(shape)) * np.dtype(TYPES.get(code, "u1")).itemsize
    content = bytes(header.packed()) + bytes(min(offset, 4096))
    content = content[: max(offset, FIRST[version])] + rng.bytes(size)
    cut = rng.random() < 0.1
    content = content[: rng.integers(len(content))] if cut else content + rng.bytes(int(rng.integers(3)))
    path = folder / ("x.nii.gz" if rng.random() < 0.5 else "x.nii")
    written = gzip.compress(content, 1) if path.suffix == ".gz" else content
    path.write_bytes(written)
    told = f"{header} of {len(written)} bytes, spoiled: {sorted(spoiled)}"
    tracemalloc.start()
    try:
        file = NiftiFile.open(path)
        voxels = file.voxels()
        turned = file.canonical(np.arange(voxels.size).reshape(voxels.shape))
    except DataError as error:
        assert str(path) in str(error), f"{error!r} does not name the file: {told}"
        assert cut or spoiled & READ, f"refused, {error}: {told}"
        return
    except Exception as error:
        raise AssertionError(f"{error!r}: {told}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= MEMORY[0] + MEMORY[1] * len(content), f"{peak} bytes of memory: {told}"
    check_voxels(header, content, voxels, told)
    check_places(header, voxels.shape, turned, file.affine, told)


def check_voxels(header: Header, content: bytes, voxels: np.ndarray, told: str) -> None:
    """Whether the voxels are those of the file."""
    fields = header.fields
    count, *lengths = fields["dim"]
    kept = [n for axis, n in enumerate(lengths[:count]) if axis < 3 or n > 1]
    kept += [1] * (3 - len(kept))
    assert list(voxels.shape) == kept, f"shape {voxels.shape}: {told}"
    dtype = np.dtype(header.order + TYPES[fields["datatype"][0]])
    offset = fields["vox_offset"][0]
    assert offset >= FIRST[header.version] and int(offset) == offset, f"voxels from {offset} on: {told}"
    raw = np.frombuffer(content, dtype, voxels.size, int(offset)).reshape(kept, order="F")
    (slope,), (inter,) = (fields[name] for name in ("scl_slope", "scl_inter"))
    if header.version == 1:
        slope, inter = float(np.float32(slope)), float(np.float32(inter))
    if slope == 0 or not np.isfinite(slope):
        assert np.array_equal(voxels, raw, equal_nan=raw.dtype.kind == "f"), f"voxels: {told}"
        return
    with np.errstate(all="ignore"):
        expected = raw.astype(np.float64) * slope + inter
        off = np.abs(voxels - expected) / (np.abs(raw * np.float64(slope)) + abs(inter))
    good = (off < 1e-6) | (voxels == expected) | (np.isnan(voxels) & np.isnan(expected))
    assert good.all(), f"scaled voxels: {told}"


def check_places(header: Header, shape: tuple[int, ...], turned: np.ndarray, affine: np.ndarray, told: str) -> None:
    """Whether the corners lie where the header says, in mm; `turned` holds each voxel's number in the file's axes."""
    fields = header.fields
    unit = {1: 1000.0, 3: 0.001}.get(fields["xyzt_units"][0] & 7, 1.0)
    if fields["sform_code"][0] > 0:
        expected = np.array(fields["srow"]).reshape(3, 4)
    elif fields["qform_code"][0] > 0:
        expected = of_quaternion(fields)
    else:  # no place at all: the sizes alone
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(0))
        right = np.array(fields["pixdim"][1:4]) * unit
        assert fields["dim"][0] < 3 or np.allclose(sizes, right), f"sizes {sizes}, not {right}: {told}"
        return
    for corner in itertools.product(*((0, n - 1) for n in shape[:3])):
        number = np.ravel_multi_index((*corner, *(0,) * (len(shape) - 3)), shape)
        place = affine @ [*np.argwhere(turned == number)[0][:3], 1]
        right = expected @ [*corner, 1] * unit
        assert np.allclose(place[:3], right, rtol=1e-4, atol=1e-4 * np.abs(affine).max()), (
            f"{corner} at {place}, not {right}: {told}"
        )


def of_quaternion(fields: dict) -> np.ndarray:
    """Method 2 of nifti1.h."""
    b, c, d = fields["quatern"]
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = np.array(fields["pixdim"][1:4]) * (1, 1, -1 if fields["pixdim"][0] < 0 else 1)
    if fields["dim"][0] < 3 and sizes[2] == 0:
        sizes[2] = 1
    return np.column_stack([turn * sizes, fields["qoffset"]])
