"""Folders as people have them: whose a volume is, links, odd names, nnU-Net's files, and paths that lead elsewhere."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

import nibabel

from bench.training.datasets import DataError, open_dataset, prepare
from bench.training.datasets.globs import groups, wild
from bench.training.datasets.samples import SPLITS, split


def save(path, seed=0, factor=1):
    """An image, or labels 0 to 2 times a factor, of 4 x 5 x 6 voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 3, (4, 5, 6)).astype(np.uint8) * factor
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def load(spec, cache, skip_bad=False):
    return prepare(open_dataset(spec, cache, skip_bad), cache, skip_bad)


def sides(data):
    """The persons on each side of the split."""
    return {name: {data.entries[part.entry].group for part in parts} for name, parts in split(data, 2).items()}


def bids(root, persons, sessions):
    for person in persons:
        for session in sessions:
            name = f"sub-{person}_ses-{session}"
            save(root / f"sub-{person}/ses-{session}/anat/{name}_T1w.nii.gz", seed=person)
            save(root / f"derivatives/f/sub-{person}/{name}_dseg.nii.gz", seed=person)


def by_person(root, persons, sessions):
    for person in persons:
        for session in sessions:
            save(root / f"p{person}/s{session}/t1.nii.gz", seed=person)
            save(root / f"p{person}/s{session}/seg.nii.gz", seed=person)


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (bids, "bids:{0}"),
        (by_person, "pairs:{0}/*/*/t1.nii.gz,{0}/*/*/seg.nii.gz"),
        (by_person, "pairs:{0}/**/t1.nii.gz,{0}/**/seg.nii.gz"),
        (by_person, "pairs:{1}/*/p*/s*/t1.nii.gz,{1}/*/p*/s*/seg.nii.gz"),  # the first wildcard is the same for all
        (by_person, "pairs:{0}/p[0-9]/s?/t1.nii.gz,{0}/p[0-9]/s?/seg.nii.gz"),
    ],
)
def test_no_person_is_on_two_sides_of_a_split(tmp_path, make, spec):
    make(tmp_path / "d", range(6), range(2))
    data = load(spec.format(tmp_path / "d", tmp_path), tmp_path / "cache")
    found = sides(data)
    assert len(data.entries) == 12 and [len(found[name]) for name in SPLITS] == [4, 1, 1]
    assert len(set.union(*found.values())) == 6
    counts = {name: sum(1 for _ in parts) for name, parts in split(data, 2).items()}
    assert counts == {"train": 8, "val": 2, "test": 2}


def test_volumes_of_two_persons_are_split_by_slices(tmp_path):
    by_person(tmp_path / "d", range(2), range(3))
    data = load(f"pairs:{tmp_path}/d/*/*/t1.nii.gz,{tmp_path}/d/*/*/seg.nii.gz", tmp_path)
    runs = split(data, 2)
    assert {(p.entry, z) for own in runs.values() for p in own for z in range(p.start, p.stop)} == {
        (entry, z) for entry in range(6) for z in range(6)
    }


def test_persons_are_what_first_differs():
    assert groups([("a", "1"), ("a", "2"), ("b", "1")]) == ["a", "a", "b"]
    assert groups([("all", "a", "1"), ("all", "b", "1")]) == ["a", "b"]
    assert groups([("site/a/1/", "x"), ("site/b/1/", "x")]) == ["a", "b"]
    assert groups([()]) == [""] and groups([("", "x"), ("b", "x")]) == ["", "b"]


def test_the_same_file_twice_is_one_person(tmp_path):
    entries = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in "aabbcd"]
    for n in "abcd":
        save(tmp_path / f"imagesTr/{n}.nii.gz"), save(tmp_path / f"labelsTr/{n}.nii.gz")
    labels = {"0": "background", "1": "x", "2": "y"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    found = sides(load(f"msd:{tmp_path}", tmp_path / "cache"))
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 4


def test_a_derivative_of_another_run_is_none(tmp_path):
    save(tmp_path / "d/sub-1/anat/sub-1_T1w.nii.gz")
    save(tmp_path / "d/derivatives/f/sub-1_run-2_dseg.nii.gz")
    with pytest.raises(DataError, match=r"sub-1_T1w.nii.gz: expected one _dseg in derivatives, found none"):
        open_dataset(f"bids:{tmp_path / 'd'}", tmp_path)


@pytest.mark.parametrize("folder", ["a,b", "scan[1]", "[x]", "c, d[2]", "star*"])
def test_folders_of_odd_names(tmp_path, folder):
    for person in range(2):
        save(tmp_path / folder / f"images/{person}.nii.gz", seed=person)
        save(tmp_path / folder / f"labels/{person}.nii.gz", seed=person)
    data = load(f"pairs:{tmp_path}/{folder}/images/*.nii.gz,{tmp_path}/{folder}/labels/*.nii.gz", tmp_path / "cache")
    assert [entry.group for entry in data.entries] == ["0", "1"]


def test_wildcards_stand_for_what_they_match(tmp_path):
    for name in ("a1/x_t1", "a2/y_t1", "b1/x_t1", "[1]/x_t1"):
        save(tmp_path / f"{name}.nii")

    def names(pattern):
        return {key: str(path.relative_to(tmp_path)) for key, path in wild(f"{tmp_path}/{pattern}").items()}

    assert names("a[0-9]/*_t1.nii") == {("1", "x"): "a1/x_t1.nii", ("2", "y"): "a2/y_t1.nii"}
    assert names("[!a]1/x_t1.nii") == {("b",): "b1/x_t1.nii"}
    assert names("[1]/?_t1.nii") == {("x",): "[1]/x_t1.nii"}
    assert names("[[]1]/*") == {("x_t1.nii",): "[1]/x_t1.nii"}
    assert names("**/y_t1.nii") == {("a2/",): "a2/y_t1.nii"}
    with pytest.raises(DataError, match=r"expected pairs:IMAGES,LABELS, two globs .* that match files"):
        open_dataset(f"pairs:{tmp_path}/no,where/*,{tmp_path}/*", tmp_path)


def test_linked_derivatives_are_found_once(tmp_path):
    bids(tmp_path / "elsewhere", range(3), ["1"])
    (tmp_path / "d").mkdir()
    for person in range(3):
        (tmp_path / f"d/sub-{person}").symlink_to(tmp_path / f"elsewhere/sub-{person}")
    (tmp_path / "d/derivatives").mkdir()
    (tmp_path / "d/derivatives/PIPELINE").symlink_to(tmp_path / "elsewhere/derivatives/f")
    (tmp_path / "d/derivatives/again").symlink_to(tmp_path / "elsewhere/derivatives/f")
    (tmp_path / "elsewhere/derivatives/f/loop").symlink_to(tmp_path / "d/derivatives")
    assert len(load(f"bids:{tmp_path / 'd'}", tmp_path / "cache").entries) == 3


def nnunet(root, about, channels=2, cases=4, ending=".nii.gz", top=1):
    for case in range(cases):
        for channel in range(channels):
            save(root / f"imagesTr/case_{case}_{channel:04d}{ending}", seed=case + 10 * channel)
        save(root / f"labelsTr/case_{case}{ending}", seed=case, factor=top)
    (root / "dataset.json").write_text(json.dumps(about))
    return f"nnunet:{root}"


V2 = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "core": 1, "ignore": 2}}
V1 = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "core", "2": "ignore"}, "name": "Old"}


@pytest.mark.parametrize("about", [V2 | {"file_ending": ".nii.gz"}, V1])
def test_nnunet_has_a_file_for_each_channel_and_an_ignored_label(tmp_path, about):
    data = load(nnunet(tmp_path / "d", about), tmp_path)
    assert data.classes == ("background", "core") and data.channels == 2 and data.ignore_index == 255
    entry = data.entries[1]
    labels = np.asarray(nibabel.load(tmp_path / "d/labelsTr/case_1.nii.gz").dataobj).transpose(2, 0, 1)
    assert (data.classes_of(entry.labels(), entry) == np.where(labels == 2, 255, labels)).all()
    assert (labels[tuple(entry.foreground().T)] == 1).all()  # patches are not centred on what is ignored
    second = np.asarray(nibabel.load(tmp_path / "d/imagesTr/case_1_0001.nii.gz").dataobj).transpose(2, 0, 1)
    assert np.corrcoef(entry.image()[:, 1].ravel(), second.ravel())[0, 1] > 0.9999


def test_nnunet_lists_cases_where_it_says_so(tmp_path):
    cases = {"first": {"images": [f"imagesTr/case_0_000{c}.nii.gz" for c in "10"], "label": "labelsTr/case_1.nii.gz"}}
    spec = nnunet(tmp_path / "d", V2 | {"dataset": cases})
    (entry,) = load(spec, tmp_path, skip_bad=True).entries
    assert entry.subject == "first" and entry.shape == (6, 2, 4, 5)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (V2 | {"labels": {"background": 0, "whole": [1, 2]}}, "a whole number for each class .regions are not read."),
        (V2 | {"labels": {"background": 0, "x": 1.5}}, "a whole number for each class"),
        (V2 | {"labels": {"background": 0, "x": 1, "y": 1}}, "a value of its own for each"),
        (V2 | {"labels": {"x": 1, "y": 2}}, "expected a background, 0"),
        (V2 | {"labels": {"background": 0, "\x1b[31m": 1}}, r"'\\x1b\[31m' is no name"),
        (V2 | {"labels": [0, 1]}, "a whole number for each class"),
        (V2 | {"file_ending": ".nrrd"}, "file_ending '.nrrd', expected one of .nii.gz, .nii"),
        ({"labels": V2["labels"]}, "expected `channel_names`"),
        (V2 | {"channel_names": {"0": "T1"}}, "imagesTr/case_0_0001.nii.gz: of no case with labels and 1 channels"),
        (V2 | {"channel_names": dict.fromkeys("012", "T")}, "imagesTr/case_0_0002.nii.gz, named by .* is missing"),
        (V2 | {"dataset": {"a": {"images": ["../../x.nii.gz"], "label": "y.nii.gz"}}}, "leads out of the folder"),
        (V2 | {"dataset": {"a": {"images": ["x" * 5000], "label": "y\0"}}}, "y.x00, named by .* is missing"),
        (V2 | {"dataset": {"a": ["x.nii.gz"]}}, "`images` and `label` of each case"),
    ],
)
def test_what_a_dataset_json_may_not_say(tmp_path, about, message):
    spec = nnunet(tmp_path / "d", about, cases=1)
    with pytest.raises(DataError, match=rf"(?s)dataset.json.*{message}|{message}.*"):
        open_dataset(spec, tmp_path)


@pytest.mark.parametrize("path", ["../out/x.nii.gz", "/etc/hostname", "imagesTr/../../x.nii.gz", "./../x.nii"])
def test_paths_of_a_dataset_json_stay_in_its_folder(tmp_path, path):
    save(tmp_path / "out/x.nii.gz"), save(tmp_path / "d/labelsTr/x.nii.gz")
    for entry in ({"image": path, "label": "labelsTr/x.nii.gz"}, {"image": "labelsTr/x.nii.gz", "label": path}):
        about = {"labels": {"0": "a", "1": "b"}, "training": [entry]}
        (tmp_path / "d/dataset.json").write_text(json.dumps(about))
        with pytest.raises(DataError, match=r"dataset.json: '.*' leads out of the folder, expected a path below it"):
            open_dataset(f"msd:{tmp_path / 'd'}", tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"labels": {"0": "a"}, "training": [1]}', "\xff", "null"])
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"dataset.json: expected"):
        open_dataset(f"msd:{tmp_path}", tmp_path)


def test_the_decathlon_says_where_nnunet_is_meant(tmp_path):
    spec = nnunet(tmp_path / "d", V1)
    with pytest.raises(DataError, match="imagesTr has a file for each channel, as nnU-Net's; expected nnunet:"):
        open_dataset(spec.replace("nnunet", "msd"), tmp_path)


def test_names_of_files_command_no_terminal(tmp_path):
    for person in range(2):
        save(tmp_path / f"d/images/\x1b[31m{person}.nii.gz")
    save(tmp_path / "d/labels/\x1b[31m0.nii.gz")
    with pytest.raises(DataError) as raised:
        open_dataset(f"pairs:{tmp_path}/d/images/*.nii.gz,{tmp_path}/d/labels/*.nii.gz", tmp_path)
    assert r"images/\x1b[31m1.nii.gz has no labels" in str(raised.value) and "\x1b" not in str(raised.value)


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    spec = f"pairs:{tmp_path}/d/images/*.nii.gz,{tmp_path}/d/labels/*.nii.gz"
    for person in range(2):
        save(tmp_path / f"d/images/{person}.nii.gz"), save(tmp_path / f"d/labels/{person}.nii.gz")
    path = tmp_path / "d/labels/1.nii.gz"
    path.unlink()
    os.mkdir(path)
    with pytest.raises(DataError, match=r"labels/1.nii.gz is missing"):
        load(spec, tmp_path)
    assert len(load(spec, tmp_path, skip_bad=True).entries) == 1
