"""Every kind of data from files made here, and what real files hold: each error names the files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

import nibabel

from bench.training.datasets import DataError, open_dataset, prepare
from bench.training.datasets.reading import decode_labels
from bench.training.datasets.samples import Patches, Slices, common_size, split

RAS = np.diag([2.0, 1.0, 3.0, 1.0])


def head(shape=(8, 9, 10), seed=0):
    """An image whose brightness is its label, and labels 0 to 2; a corner differs from the others."""
    labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    labels[0, 0, 0] = 2
    return (labels * 100 + 50).astype(np.float32), labels


def save(path, voxels, affine=RAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def load(spec, cache, skip_bad=False):
    return prepare(open_dataset(spec, cache, skip_bad), cache, skip_bad)


def pair(folder, image, labels, affine=RAS, suffix=".nii.gz", number=0):
    save(folder / f"images/{number}{suffix}", image, affine)
    save(folder / f"labels/{number}{suffix}", labels, affine)
    return f"pairs:{folder}/images/*{suffix},{folder}/labels/*{suffix}"


def nfbs(folder, number, image, mask):
    name = f"A000{number}"
    save(folder / name / f"sub-{name}_ses-NFB3_T1w.nii.gz", image)
    save(folder / name / f"sub-{name}_ses-NFB3_T1w_brainmask.nii.gz", mask)


def test_nfbs_thresholds_masks_at_half_of_their_maximum(tmp_path):
    image, labels = head()
    mask = (labels > 0).astype(np.float32)
    mask[tuple(np.argwhere(labels > 0)[0])] = 0.75
    mask[tuple(np.argwhere(labels == 0)[0])] = 0.25
    nfbs(tmp_path / "d", 1, image, mask)
    nfbs(tmp_path / "d", 2, image, mask * 0.49999)
    save(tmp_path / "d/A0001/sub-A0001_ses-NFB3_T1w_brain.nii.gz", image)  # NFBS has this one besides
    data = load(f"nfbs:{tmp_path / 'd'}", tmp_path)
    assert data.classes == ("background", "brain") and len(data.entries) == 2
    for entry in data.entries:
        assert (data.classes_of(entry.labels(), entry) == (labels > 0).transpose(2, 0, 1)).all()
        assert entry.spacing == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_msd_takes_names_and_values_from_its_json(tmp_path, swapped):
    image, labels = head()
    labels[labels == 2] = 4
    save(tmp_path / "d/imagesTr/x.nii.gz", np.stack([image, image * 2], -1))
    save(tmp_path / "d/imagesTr/._x.nii.gz", image)
    save(tmp_path / "d/labelsTr/x.nii.gz", labels)
    names = {"0": "background", "1": "edema", "4": "tumour"}
    about = {"name": "Brain", "labels": {v: int(k) for k, v in names.items()} if swapped else names}
    about |= {} if swapped else {"training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}]}
    (tmp_path / "d/dataset.json").write_text(json.dumps(about))
    data = load(f"msd:{tmp_path / 'd'}", tmp_path)
    assert data.classes == ("background", "edema", "tumour") and data.channels == 2
    (entry,) = data.entries
    assert np.unique(data.classes_of(entry.labels(), entry)).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"holds the labels \[4\], expected \[0, 1\]"):
        (tmp_path / "d/dataset.json").write_text(json.dumps({"labels": {"0": "a", "1": "b"}}))
        load(f"msd:{tmp_path / 'd'}", tmp_path)
    save(tmp_path / "d/imagesTr/y.nii.gz", np.stack([image, image * 2], -1))
    save(tmp_path / "d/labelsTr/y.nii.gz", labels % 2)
    kept = load(f"msd:{tmp_path / 'd'}", tmp_path, skip_bad=True)
    assert [entry.subject for entry in kept.entries] == ["y"] and "x holds the labels [4]" in kept.problems[0]


@pytest.mark.parametrize("kind", ["dseg", "mask"])
def test_bids_finds_the_derivative_with_the_entities(tmp_path, kind):
    image, labels = head()
    for session in ("1", "2"):
        name = f"sub-01_ses-{session}"
        save(tmp_path / f"d/sub-01/ses-{session}/anat/{name}_T1w.nii", image)
        save(tmp_path / f"d/derivatives/f/sub-01/anat/{name}_desc-brain_{kind}.nii.gz", labels)
        save(tmp_path / f"d/derivatives/f/sub-01/anat/{name}_space-MNI_desc-brain_{kind}.nii.gz", labels[:2])
    data = load(f"bids:{tmp_path / 'd'}", tmp_path)
    assert [entry.subject for entry in data.entries] == ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w"]
    assert len(data.classes) == (3 if kind == "dseg" else 2)
    save(tmp_path / "d/sub-02/anat/sub-02_T1w.nii.gz", image)
    with pytest.raises(DataError, match=rf"sub-02_T1w.nii.gz: expected one _{kind} in derivatives, found none"):
        load(f"bids:{tmp_path / 'd'}", tmp_path)


def test_every_orientation_comes_out_the_same(tmp_path):
    image, labels = head()
    nifti = [nibabel.Nifti1Image(voxels, RAS) for voxels in (image, labels)]
    expected = None
    for number, axes in enumerate(["RAS", "PIR", "LPS", "SAR"]):
        target = nibabel.orientations.axcodes2ornt(axes)
        turned = [
            n.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(RAS), target)) for n in nifti
        ]
        pair(tmp_path / "d", turned[0].get_fdata(), np.asarray(turned[1].dataobj), turned[0].affine, number=number)
    data = load(f"pairs:{tmp_path}/d/images/*.nii.gz,{tmp_path}/d/labels/*.nii.gz", tmp_path)
    assert len(data.entries) == 4
    for entry in data.entries:
        found = entry.image().tobytes(), entry.labels().tobytes(), entry.spacing
        expected = expected or found
        assert found == expected
    assert (data.entries[0].labels() == labels.transpose(2, 0, 1)).all()


def test_a_trailing_axis_and_plain_files(tmp_path):
    image, labels = head()
    data = load(pair(tmp_path / "d", image[..., None], labels[..., None], suffix=".nii"), tmp_path)
    assert data.entries[0].shape == (10, 1, 8, 9) and data.values == (0, 1, 2)


def test_a_large_offset_leaves_the_contrast(tmp_path):
    _, labels = head()
    offset = labels.astype(np.float64) + 2.0**30
    data = load(pair(tmp_path / "d", offset, labels), tmp_path)
    values = data.entries[0].image()[:, 0][data.entries[0].labels() > 0]
    assert len(np.unique(values)) == 2 and abs(values.mean()) < 1e-5 and abs(values.std() - 1) < 1e-5


def test_values_that_are_not_finite_become_background(tmp_path):
    image, labels = head()
    image[0, 0, :2] = np.nan, np.inf
    data = load(pair(tmp_path / "d", image, labels), tmp_path)
    assert np.isfinite(data.entries[0].image()).all()


@pytest.mark.parametrize("mask", [np.float32(0.49999), np.uint8(255)])
def test_pairs_of_masks(tmp_path, mask):
    image, labels = head()
    data = load(pair(tmp_path / "d", image, (labels > 0) * mask), tmp_path)
    (entry,) = data.entries
    assert len(data.classes) == 2
    assert (data.classes_of(entry.labels(), entry) == (labels > 0).transpose(2, 0, 1)).all()


def broken(tmp_path, fault):
    """Two subjects, the first with a fault: the data set and what its error says."""
    image, labels = head()
    pair(tmp_path / "d", image, labels, number=0)
    spec = pair(tmp_path / "d", image, labels, number=1)
    files = r"image \S+images/0.nii.gz and labels \S+labels/0.nii.gz"
    if fault == "shape":
        save(tmp_path / "d/labels/0.nii.gz", labels[:-1])
        return spec, rf"{files} differ in shape: \(8, 9, 10\) and \(7, 9, 10\)"
    if fault == "affine":
        save(tmp_path / "d/labels/0.nii.gz", labels, RAS + np.eye(4, k=3))
        return spec, f"{files} differ in place: corners are 1 mm apart, expected at most 0.1"
    if fault == "truncated":
        path = tmp_path / "d/images/0.nii.gz"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return spec, r"images/0.nii.gz: cannot be read, it may be truncated"
    if fault == "no image":
        (tmp_path / "d/labels/0.nii.gz").write_bytes(gzip.compress(b"nothing"))
        return spec, r"labels/0.nii.gz: cannot be read"
    (tmp_path / "d/labels/0.nii.gz").unlink()
    return spec, r"images/0.nii.gz has no labels"


@pytest.mark.parametrize("fault", ["shape", "affine", "truncated", "no image", "missing"])
def test_bad_files_are_named_or_skipped(tmp_path, fault):
    spec, message = broken(tmp_path, fault)
    with pytest.raises(DataError, match=message):
        load(spec, tmp_path)
    data = load(spec, tmp_path, skip_bad=True)
    assert [entry.subject for entry in data.entries] == ["1"] and len(data.problems) == 1


def test_labels_that_are_no_whole_numbers(tmp_path):
    image, labels = head()
    save(tmp_path / "d/imagesTr/x.nii.gz", image)
    save(tmp_path / "d/labelsTr/x.nii.gz", labels * np.float32(0.3))
    (tmp_path / "d/dataset.json").write_text(json.dumps({"labels": {"0": "a", "1": "b"}}))
    with pytest.raises(DataError, match=r"labelsTr/x.nii.gz: holds 0\.\d+ at voxel \(\d, \d, \d\), expected labels"):
        load(f"msd:{tmp_path / 'd'}", tmp_path)


def pairs_of(folder, *labels):
    """Subjects 0, 1, ... with these labels."""
    for number, own in enumerate(labels):
        spec = pair(folder, head()[0], own, number=number)
    return spec


def test_one_voxel_that_is_no_label_turns_no_labels_into_masks(tmp_path):
    classes = np.random.default_rng(0).integers(0, 4, (8, 9, 10)).astype(np.float32)
    wrong = classes.copy()
    wrong[3, 2, 5] = 1.5
    spec = pairs_of(tmp_path / "d", classes, wrong, classes)
    with pytest.raises(DataError, match=r"labels/1.nii.gz: holds 1.5 at voxel \(3, 2, 5\), expected labels, which are"):
        load(spec, tmp_path)
    data = load(spec, tmp_path, skip_bad=True)
    assert data.values == (0, 1, 2, 3) and [entry.subject for entry in data.entries] == ["0", "2"]


def test_shares_are_masks_only_where_all_files_are(tmp_path):
    shares = np.random.default_rng(0).uniform(0, 1, (8, 9, 10)).astype(np.float32)
    binary, classes = (shares > 0.5).astype(np.uint8), head()[1]
    data = load(pairs_of(tmp_path / "a", shares, binary, binary * 255, binary * 0), tmp_path)
    assert data.masks and data.classes == ("background", "mask")
    for entry, sum_ in zip(
        data.entries, [(shares > shares.max() / 2).sum(), binary.sum(), binary.sum(), 0], strict=True
    ):
        assert data.classes_of(entry.labels(), entry).sum() == sum_
    spec = pairs_of(tmp_path / "b", classes, shares, classes)
    with pytest.raises(
        DataError, match=r"labels/1.nii.gz: holds 0.\d+ at voxel \(0, 0, 0\), expected whole .* as in 0"
    ):
        load(spec, tmp_path)
    assert load(spec, tmp_path, skip_bad=True).values == (0, 1, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["mask", "labels", "auto"])
def test_labels_and_masks_are_finite(value, kind):
    labels = head()[1].astype(np.float32)
    labels[1, 2, 3] = value
    with pytest.raises(DataError, match=rf"x.nii: holds {value} at voxel \(1, 2, 3\), expected"):
        decode_labels(labels, Path("x.nii"), kind)


@pytest.mark.parametrize(
    ("voxels", "affine", "apart_mm"),
    [
        ((400, 3, 3), np.diag([0.908, 0.9, 0.9, 1.0]), 3.2),
        ((400, 3, 3), np.diag([0.9, 0.9, 0.9, 1.0]) + 0.02 * np.eye(4, k=3), None),
        ((400, 3, 3), np.diag([0.9002, 0.9, 0.9, 1.0]), None),  # 0.08 mm at the far end
        ((4, 3, 3), np.diag([0.9, 0.9, 0.9, 1.0]) + 0.1 * np.eye(4, k=3), 0.1),
        ((4, 3, 1), np.diag([0.9, 0.9, 1.9, 1.0]), 0.5),  # the thickness of a slice
    ],
)
def test_places_are_compared_in_mm_at_the_corners(tmp_path, voxels, affine, apart_mm):
    save(tmp_path / "d/images/0.nii.gz", np.zeros(voxels, np.uint8), np.diag([0.9, 0.9, 0.9, 1.0]))
    save(tmp_path / "d/labels/0.nii.gz", np.eye(3, dtype=np.uint8)[0][:, None] * np.ones(voxels, np.uint8), affine)
    spec = f"pairs:{tmp_path}/d/images/*.nii.gz,{tmp_path}/d/labels/*.nii.gz"
    if apart_mm is None:
        assert len(load(spec, tmp_path).entries) == 1
    else:
        with pytest.raises(
            DataError, match=f"differ in place: corners are {apart_mm:.3g} mm apart, expected at most 0.09"
        ):
            load(spec, tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nfbs", "expected nfbs:PATH"),
        ("nfbs:/nowhere", "nfbs:/nowhere: expected"),
        ("msd:.", r"dataset.json: expected `labels`"),
        ("pairs:a", "two globs"),
        ("pairs:a*,b*", r"no file matches a\*"),
        ("icbm152:skull", "icbm152:tissue or icbm152:wm"),
        ("synthetic:many", "two integers"),
        ("synthetic:2,8", "at least 16 voxels"),
        ("dicom:.", "unknown kind 'dicom', expected icbm152, nfbs"),
        ("bids:bench", "no subject found"),
    ],
)
def test_unusable_specifications(tmp_path, spec, message):
    with pytest.raises(DataError, match=message):
        open_dataset(spec, tmp_path)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return load("synthetic:5,24", cache)


def test_phantoms_are_nfbs_files_of_differing_heads(phantoms):
    assert len(phantoms.entries) == 5 and phantoms.classes == ("background", "brain")
    masks = [phantoms.classes_of(entry.labels(), entry) for entry in phantoms.entries]
    assert all(0.05 < mask.mean() < 0.5 for mask in masks)
    assert (masks[0] != masks[1]).mean() > 0.005


def test_subjects_are_split_and_single_ones_by_blocks(phantoms, tmp_path):
    parts = split(phantoms, 2)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [3, 1, 1]
    assert len({part.entry for name in parts for part in parts[name]}) == 5
    image, labels = head((8, 9, 60))
    single = load(pair(tmp_path / "d", image, labels), tmp_path)
    for dims in (2, 3):
        runs = split(single, dims)
        slices = [z for name in runs for part in runs[name] for z in range(part.start, part.stop)]
        assert sorted(slices) == list(range(60))
        assert sum(part.stop - part.start for part in runs["train"]) == 36


def test_slices_and_patches_hold_image_and_labels_of_one_place(phantoms):
    size = common_size(phantoms, 16)
    slices = Slices(phantoms, split(phantoms, 2)["train"], size, every=3)
    assert size == (32, 32) and len(slices) == 3 * 8
    image, labels = slices[4]
    entry, z = slices.data.entries[slices.places[4][0]], slices.places[4][1]
    assert torch.equal(image[:, 4:28, 4:28], torch.from_numpy(entry.image()[z].copy()))
    assert labels.dtype == torch.uint8 and not labels[:4].any() and (image[:, :4] == entry.floor).all()
    patches = Patches(phantoms, split(phantoms, 3)["val"], (16, 16, 32), each=4, seed=1)
    first, again = patches[2], patches[2]
    assert first[0].shape == (1, 16, 16, 32) and first[1].shape == (16, 16, 32)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    patches.epoch = 1
    assert not torch.equal(first[0], patches[2][0])
