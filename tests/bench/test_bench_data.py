"""The training data: real files, tissue labels, disjoint splits; and the blobs of the speed table."""

import sys
import types

import numpy as np
import pytest
import torch

pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from bench.speed.blobs import blobs
from bench.training.datasets import icbm152, open_dataset, prepare
from bench.training.datasets.samples import Slices, common_size, split


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return prepare(open_dataset("icbm152", cache), cache)


@pytest.fixture(scope="module")
def slices(head):
    """Images `[N, 1, H, W]` and labels `[N, H, W]` of each split."""
    found = {name: Slices(head, parts, common_size(head, 16)) for name, parts in split(head, 2).items()}
    return {
        name: [torch.stack(column) for column in zip(*map(own.__getitem__, range(len(own))), strict=True)]
        for name, own in found.items()
    }


def test_splits_are_disjoint_blocks_of_60_20_20(head):
    parts = split(head, 2)
    positions = {name: {z for part in own for z in range(part.start, part.stop)} for name, own in parts.items()}
    total = set.union(*positions.values())
    assert sum(map(len, positions.values())) == len(total)
    assert [len(positions[name]) for name in ("train", "val", "test")] == [93, 31, 31]
    for name in ("val", "test"):  # whole blocks: few slices have a neighbour in another split
        lonely = [p for p in positions[name] if not {p - 1, p + 1} & positions[name]]
        assert not lonely


def test_slices_are_normalised_and_hold_every_tissue(slices):
    brain = []
    for images, labels in slices.values():
        assert images.dtype == torch.float32 and labels.dtype == torch.uint8
        assert images.shape == (len(labels), 1, 160, 192)
        assert labels.shape[1:] == (160, 192)
        assert labels.unique().tolist() == [0, 1, 2, 3]
        assert not images[:, 0][labels == 0].any()
        brain.append(images[:, 0][labels > 0])
    values = torch.cat(brain)
    assert abs(values.mean()) < 1e-4 and abs(values.std() - 1) < 1e-4


def test_tissues_have_the_brightness_of_a_t1(slices):
    images, labels = slices["train"]
    csf, grey, white = (images[:, 0][labels == c].mean() for c in (1, 2, 3))
    assert csf < grey < white


def test_padding_meets_the_multiple(head):
    assert common_size(head, 32) == (160, 192) and common_size(head, 64) == (192, 192)


def test_labels_from_maps_worked_by_hand():
    t1 = np.zeros((9, 5, 5), np.uint8)
    t1[1:6, 1:4, 1:4] = 100
    t1[3, 2, 2] = 0  # a hole, to be filled
    t1[8, 4, 4] = 100  # a speck, to be dropped
    grey, white = np.zeros_like(t1), np.zeros_like(t1)
    grey[1], white[2] = 200, 255
    grey[8], grey[0] = 255, 255  # outside the brain
    labels = icbm152.tissue_labels(t1, grey, white)
    assert labels.dtype == np.uint8
    expected = np.zeros_like(t1)
    expected[1, 1:4, 1:4], expected[2, 1:4, 1:4], expected[3:6, 1:4, 1:4] = 2, 3, 1
    assert (labels == expected).all()


def test_missing_nilearn_and_missing_files_are_named(monkeypatch, tmp_path):
    empty = types.ModuleType("nilearn")
    empty.__spec__ = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "nilearn", empty)
    with pytest.raises(FileNotFoundError, match=r"lacks mni_icbm152_t1.*mni_icbm152_gm.*mni_icbm152_wm"):
        icbm152.icbm152_files()
    monkeypatch.setattr(icbm152.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install nilearn"):
        icbm152.icbm152_files()


@pytest.mark.parametrize("shape", [(2, 3, 24, 24, 24), (1, 5, 64, 48), (2, 2, 200)])
def test_blobs_are_connected_regions_of_every_class(shape):
    logits, labels = blobs(shape)
    assert logits.shape == shape and logits.dtype == torch.float32
    assert labels.shape == (shape[0], *shape[2:]) and labels.dtype == torch.uint8
    assert labels.unique().tolist() == list(range(shape[1]))
    assert (labels[..., 1:] == labels[..., :-1]).double().mean() > 0.8
    assert (logits.argmax(1) == labels).double().mean() > 0.5
    again = blobs(shape)
    assert torch.equal(logits, again[0]) and torch.equal(labels, again[1])
