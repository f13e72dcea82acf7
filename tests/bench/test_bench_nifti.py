"""NIfTI files from anywhere: read right or refused by name, within memory that follows from their size."""

import gzip
import logging
import struct
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="the benchmarks need nibabel")

import nibabel
from fuzz.nifti import one_input

from bench.training.datasets.reading import FilePair
from fastloss.metrics.nifti import DataError, NiftiFile

DIM, DATATYPE, PIXDIM, VOX_OFFSET, UNITS, QFORM, MAGIC = 40, 70, 76, 108, 123, 252, 344  # of NIfTI-1's header


def save(path, voxels, affine=None, unit="mm"):
    image = nibabel.Nifti1Image(voxels, np.diag([2.0, 1.0, 3.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def patched(path, at, form, *values):
    """The file with some bytes of its header replaced."""
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    struct.pack_into("<" + form, content, at, *values)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path):
    file = NiftiFile.open(path)
    return file.canonical(file.voxels())


@pytest.mark.parametrize("seed", range(4))
def test_headers_of_anything_are_refused_or_read_right(tmp_path, seed, caplog):
    caplog.set_level(logging.CRITICAL, logger="nibabel.global")
    for number in range(150):
        one_input(np.random.default_rng((seed, number)), tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("at", "form", "values", "message"),
    [
        (DATATYPE, "h", (7777,), "data code 7777 not recognized"),
        (DATATYPE, "h", (32,), "voxels of type complex64, expected numbers"),
        (DATATYPE, "h", (1,), "data code 1 not supported"),
        (DATATYPE, "h", (128,), "voxels of type .*, expected numbers"),
        (DIM + 2, "h", (-4,), r"shape \(-4, 5, 6\) of 3 axes, expected two axes"),
        (DIM + 2, "h", (0,), r"shape \(0, 5, 6\) of 3 axes, expected two axes"),
        (DIM, "h", (1,), r"shape \(4,\) of 1 axes, expected two axes"),
        (
            DIM,
            "8h",
            (5, 4, 5, 1, 2, 3, 1, 1),
            r"shape \(4, 5, 1, 2, 3\), expected \(X, Y, Z\), .*\(X, Y, Z, 1, channels\)",
        ),
        (DIM + 2, "3h", (32767, 32767, 32767), "the header tells of 70362301923678 bytes, expected at most"),
        (VOX_OFFSET, "f", (float("nan"),), "vox_offset is nan"),
        (VOX_OFFSET, "f", (0.0,), "vox_offset is 0.0, expected a whole number of at least 352"),
        (VOX_OFFSET, "f", (352.5,), "vox_offset is 352.5"),
        (VOX_OFFSET, "f", (-400.0,), "vox_offset is -400.0"),
        (VOX_OFFSET, "f", (1e30,), "the header tells of"),
        (QFORM + 2, "h", (99,), "sform_code is 99 in the header"),
        (0, "i", (347,), "sizeof_hdr is 347 in the header"),
        (MAGIC, "4s", (b"ni1\0",), "expected b'n.1', one file of both"),
        (MAGIC, "4s", (b"none",), "no header of NIfTI-1 or NIfTI-2"),
    ],
)
def test_headers_that_lie_are_refused_by_name(tmp_path, suffix, at, form, values, message):
    path = patched(save(tmp_path / f"x{suffix}", np.ones((4, 5, 6), np.int16)), at, form, *values)
    with pytest.raises(DataError, match=rf"(?s){path}.*{message}"):
        read(path)


@pytest.mark.parametrize("count", [0, 8, 32767, -1])
def test_more_axes_than_nifti_has(tmp_path, count):
    """Of which nibabel takes seven, where the bytes are swapped."""
    path = tmp_path / "x.nii"
    nibabel.Nifti1Image(np.ones((4, 5, 6), ">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">")).to_filename(path)
    assert read(path).shape == (4, 5, 6)
    content = bytearray(path.read_bytes())
    assert content[DIM : DIM + 2] == b"\0\3"
    struct.pack_into(">h", content, DIM, count)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){path}.*(of {count} axes, expected two|sizeof_hdr is|cannot be read)"):
        read(path)


def test_sizes_that_are_none_are_refused_where_they_are_used(tmp_path):
    path = save(tmp_path / "x.nii", np.ones((4, 5, 6), np.int16))
    assert read(patched(path, PIXDIM + 4, "f", 0.0)).shape == (4, 5, 6)  # the matrix has the sizes
    with pytest.raises(DataError, match=r"pixdim is .*expected sizes above 0"):
        read(patched(path, QFORM, "2h", 1, 0))


def test_a_flipped_bit_is_seen_by_gzip(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 255, (20, 20, 20), np.uint8)
    path = save(tmp_path / "x.nii.gz", voxels)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: cannot be read"):
        read(path)


def peak_of(call, *of):
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as raised:
            call(*of)
        return tracemalloc.get_traced_memory()[1], str(raised.value)
    finally:
        tracemalloc.stop()


def test_bombs_and_lies_are_refused_before_memory_is_taken(tmp_path):
    shape = (512, 512, 512)  # 128 MiB of zeros, in 128 KiB
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)).to_bytes()))
    peak, said = peak_of(read, bomb)
    assert f"the header tells of {352 + 2**27} bytes, expected at most {2**26}" in said and "unpack it first" in said
    assert peak < 2**20
    small = save(tmp_path / "small.nii.gz", np.ones((4, 5, 6), np.uint8))
    # labels may be a thousand times smaller than their file says: but only of the image's shape, which was read before
    peak, said = peak_of(FilePair("x", "x", (small,), bomb, "labels").read)
    assert "differ in shape: (4, 5, 6) and (512, 512, 512)" in said and peak < 2**20
    lies = patched(small, DIM + 2, "3h", 400, 400, 400)  # less than any file may inflate to
    peak, said = peak_of(read, lies)
    assert "may be truncated: it holds 472 of 64000352 bytes" in said and peak < 2**22
    follows = tmp_path / "follows.nii.gz"
    content = nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)).to_bytes()
    follows.write_bytes(gzip.compress(content + bytes(2**25)))
    peak, said = peak_of(read, follows)
    assert "more than 1048576 bytes follow the 472 that the header tells of" in said and peak < 2**22


@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 5, 6, 1, 3), 3), ((4, 5, 6, 3), 3), ((4, 5, 6, 1), 1), ((4, 5), 1)]
)
def test_channels_of_itk_and_others(tmp_path, shape, channels):
    voxels = np.random.default_rng(0).integers(0, 99, shape).astype(np.float32)
    image = save(tmp_path / "x.nii.gz", voxels)
    spatial = (*shape[:3], 1)[:3]
    label = save(tmp_path / "y.nii.gz", np.ones(spatial, np.uint8))
    found = FilePair("x", "x", (image,), label).read().image
    assert found.shape == (spatial[2], channels, *spatial[:2])
    whole = voxels.reshape(*spatial, channels).transpose(2, 3, 0, 1)
    for c in range(channels):
        assert np.corrcoef(found[:, c].ravel(), whole[:, c].ravel())[0, 1] > 0.9999


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_of_length_become_mm(tmp_path, unit, factor):
    pair = [save(tmp_path / f"{name}.nii", np.ones((4, 5, 6), np.uint8), unit=unit) for name in "xy"]
    assert FilePair("x", "x", (pair[0],), pair[1]).read().spacing == pytest.approx(np.array([3.0, 2.0, 1.0]) * factor)


@pytest.mark.parametrize(
    "values", [(0.0, 1e308, 9e307, 8e307), (0.0, 0.1, 0.1, 0.1), (1.0, 1.0, 1.0, 1.0), (0.0, 1e-310, 3e-310, 2e-310)]
)
def test_intensities_at_the_ends_of_float64(tmp_path, values):
    voxels = np.repeat(np.array(values), 1001).reshape(4, 7, 143)
    pair = [save(tmp_path / "x.nii", voxels), save(tmp_path / "y.nii", np.ones((4, 7, 143), np.uint8))]
    found = FilePair("x", "x", (pair[0],), pair[1]).read().image
    above = found[found > found.min()].astype(np.float64)
    assert np.isfinite(found).all() and np.abs(found).max() < 12
    if len(set(values)) > 2:
        assert abs(above.mean()) < 1e-6 and abs(above.std() - 1) < 1e-6
