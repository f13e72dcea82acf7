"""Distances of the labels computed in the workers of a DataLoader, and kept on disk."""

import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fastloss
from fastloss.precompute import LabelMaps, MapsDataset

LOSS = fastloss.BoundaryLoss(spacing=(2, 1))


class Volumes(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": torch.zeros(1, 8, 9), "label": self.labels[index], "number": index}


@pytest.fixture
def labels():
    return torch.randint(0, 3, (4, 8, 9), dtype=torch.uint8)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_maps_of_the_batch(labels, workers):
    fastloss.DiceLoss()(torch.randn(4, 3, 8, 9), labels)  # kernels ran before the workers are forked
    loader = DataLoader(MapsDataset(Volumes(labels), LabelMaps(LOSS, 3)), batch_size=4, num_workers=workers)
    (batch,) = loader
    assert torch.equal(batch["maps"], LOSS.label_map(labels, 3))
    logits = torch.randn(4, 3, 8, 9)
    assert LOSS(logits, batch["label"], maps=batch["maps"]) == LOSS(logits, labels)


def test_samples_that_are_tuples_or_arrays(labels):
    expected = LOSS.label_map(labels[:1], 3)[0]
    sample = (torch.zeros(1, 8, 9), labels[0].numpy())
    image, truth, maps = LabelMaps(LOSS, 3, label=1)(sample)
    assert image is sample[0] and truth is sample[1]
    assert torch.equal(maps, expected)
    assert torch.equal(LabelMaps(LOSS, 3)({"label": labels[:1]})["maps"], expected)


def test_the_cache_is_read_and_follows_labels_and_options(labels, tmp_path, monkeypatch):
    def cached(loss=LOSS, truth=labels[0]):
        return LabelMaps(loss, 3, cache=lambda _: tmp_path / "case.nii.gz")({"label": truth})["maps"]

    first = cached()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("case.nii.gz.maps-")
    with monkeypatch.context() as patched:
        patched.setattr(LabelMaps, "_compute", lambda *_: pytest.fail("computed again"))
        assert torch.equal(cached(), first)
        assert torch.equal(cached(fastloss.HausdorffDTLoss(spacing=(2, 1))), first)  # the same map
    other = cached(truth=labels[1])
    assert torch.equal(other, LOSS.label_map(labels[1:2], 3)[0])
    finer = fastloss.BoundaryLoss(spacing=(1, 1))
    assert torch.equal(cached(finer), finer.label_map(labels[:1], 3)[0])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_named(labels, tmp_path):
    transform = LabelMaps(LOSS, 3, cache=lambda _: tmp_path / "case.nii")
    transform({"label": labels[0]})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"cache: {path} holds no map"):
        transform({"label": labels[0]})


def test_a_failed_write_leaves_nothing(labels, tmp_path, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        LabelMaps(LOSS, 3, cache=lambda _: tmp_path / "case.nii")({"label": labels[0]})
    assert not list(tmp_path.iterdir())


def write(folder, labels):
    LabelMaps(LOSS, 3, cache=lambda _: folder / "case.nii")({"label": labels})


def test_processes_share_a_file(labels, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(tmp_path, labels[0])) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    (path,) = tmp_path.iterdir()
    assert torch.equal(torch.from_numpy(np.load(path)), LOSS.label_map(labels[:1], 3)[0])


def test_wrong_arguments(labels):
    with pytest.raises(TypeError, match="loss: got DiceLoss"):
        LabelMaps(fastloss.DiceLoss(), 3)
    with pytest.raises(TypeError, match="cache: got 'folder'"):
        LabelMaps(LOSS, 3, cache="folder")
    with pytest.raises(ValueError, match="label: the sample has no 'label'"):
        LabelMaps(LOSS, 3)({"seg": labels[0]})
