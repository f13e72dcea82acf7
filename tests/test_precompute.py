"""Distances of the labels computed in the workers of a DataLoader, and kept on disk."""

import inspect
import multiprocessing
import os
import pickle
from pathlib import Path

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


def test_one_door_for_labels(labels, tmp_path):
    expected = LOSS.label_map(labels[:1], 3)[0]
    array, device = labels[0].numpy(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    read_only = array.copy()
    read_only.flags.writeable = False
    given = {
        "negative strides": np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
        "big-endian": array.astype(">i4"),
        "read only": read_only,
        "unaligned": np.frombuffer(b"0" + array.astype("<i2").tobytes(), np.uint8)[1:].view("<i2").reshape(8, 9),
        "Fortran order": np.asfortranarray(array),
        "a view of a tensor": torch.stack([labels[0], labels[0]], 2)[:, :, 1],
        "on a device": labels[0].to(device),
    }
    for name, truth in given.items():
        for cache in (None, lambda _, name=name: tmp_path / name):  # computed, kept and read
            transform = LabelMaps(LOSS, 3, cache=cache)
            for _ in range(2):
                found = transform({"label": truth})["maps"]
                assert torch.equal(found.cpu(), expected), name
            assert found.device.type == (truth.device.type if isinstance(truth, torch.Tensor) else "cpu")
    with torch.device("meta"):
        assert torch.equal(LabelMaps(LOSS, 3)({"label": array})["maps"], expected)


@pytest.mark.parametrize("value", [0, 1])
def test_labels_of_one_class_have_no_distances(value):
    for dtype in (np.uint8, bool):
        assert not LabelMaps(LOSS, 2)({"label": np.full((8, 9), value, dtype)})["maps"].any()


def test_a_spacing_for_each_sample(labels, tmp_path):
    for cache in (None, "path"):
        transform = LabelMaps(fastloss.BoundaryLoss(), 3, spacing="mm", cache=cache)
        for spacing in ((2, 1), np.float32(0.5), torch.tensor([0.7, 1.3])):
            sample = {"label": labels[0], "mm": spacing, "path": tmp_path / "case.nii"}
            numbers = np.broadcast_to(np.asarray(spacing, float), 2).tolist()
            expected = fastloss.BoundaryLoss(spacing=numbers).label_map(labels[:1], 3)[0]
            for _ in range(2):
                assert torch.equal(transform(sample)["maps"], expected)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match="spacing: the sample has no 'mm'"):
        transform({"label": labels[0]})


def test_a_volume_of_one_slice(labels):
    volume = labels[:1]  # [1, 8, 9]: or a slice with an axis of channels
    flat = LabelMaps(LOSS, 3)({"label": volume})["maps"]
    assert torch.equal(flat, LOSS.label_map(labels[:1], 3)[0]) and flat.shape == (3, 8, 9)
    thick = fastloss.BoundaryLoss(spacing=(5, 2, 1))
    for transform in (
        LabelMaps(thick, 3),
        LabelMaps(fastloss.BoundaryLoss(), 3, spacing="mm"),
    ):
        found = transform({"label": volume, "mm": (5, 2, 1)})["maps"]
        assert torch.equal(found, flat[:, None])
    assert LabelMaps(fastloss.BoundaryLoss(), 3, spatial_axes=3)({"label": volume})["maps"].shape == (3, 1, 8, 9)
    assert LabelMaps(fastloss.BoundaryLoss(), 3)({"label": volume})["maps"].shape == (3, 8, 9)


# Of each option of a loss with distances two values.
OPTIONS = {
    "activation": ("softmax", "sigmoid"),
    "alpha": (2.0, 3.0),
    "batch": (False, True),
    "class_weight": (None, [1.0, 2.0, 3.0]),
    "ignore_index": (None, 1),
    "include_background": (True, False),
    "one_sided": (False, True),
    "process_group": (None, "world"),
    "reduction": ("mean", "sum"),
    "spacing": (1.0, (2.0, 1.0)),
    "validate": (None, True),
}
# Which of them change the map of labels.
CHANGING = {
    fastloss.BoundaryLoss: {"ignore_index", "include_background", "spacing"},
    fastloss.HausdorffDTLoss: {"ignore_index", "include_background", "spacing"},
    fastloss.DistancePenaltyLoss: {"activation", "spacing"},
    fastloss.ShapeAwareLoss: {"ignore_index", "spacing"},
}
HARMLESS = set(OPTIONS) - set().union(*CHANGING.values())


def options_of(kind):
    """Of a loss, and of the bases to which it hands on what it does not know."""
    names = set()
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                return names
    raise AssertionError(f"{kind.__name__} takes any option")


def kept(transform, truth, folder):
    """The map, and the files that are new in the folder."""
    before = set(folder.iterdir())
    found = transform({"label": truth, "path": folder / "case.nii"})["maps"]
    return found, set(folder.iterdir()) - before


@pytest.mark.parametrize("kind", CHANGING)
def test_every_option_that_changes_the_map_changes_its_file(kind, labels, tmp_path):
    assert options_of(kind) <= set(OPTIONS), "an option without two values here"
    for name in sorted(options_of(kind)):
        folder = tmp_path / name
        folder.mkdir()
        losses = [kind(**{name: value}) for value in OPTIONS[name]]
        maps, new = zip(*(kept(LabelMaps(loss, 3, cache="path"), labels[0], folder) for loss in losses), strict=True)
        assert torch.equal(*maps) == (name not in CHANGING[kind]), name
        assert len(new[1]) == (0 if name in HARMLESS else 1), name


def test_a_loss_of_ones_own_has_its_own_file(labels, tmp_path):
    class Squashed(fastloss.BoundaryLoss):
        def __init__(self, scale, **options):
            super().__init__(**options)
            self.scale = scale

        def map_of(self, *arguments):
            return super().map_of(*arguments) * torch.as_tensor(self.scale).sum()

    plain, (_,) = kept(LabelMaps(fastloss.BoundaryLoss(), 3, cache="path"), labels[0], tmp_path)
    long, other = np.ones(5000), np.ones(5000)  # whose repr are the same
    other[2500] = 0
    for scale in (0.5, 0.25, torch.tensor([1.0, 2.0]), long, other):
        found, new = kept(LabelMaps(Squashed(scale), 3, cache="path"), labels[0], tmp_path)
        torch.testing.assert_close(found, plain * float(np.sum(np.asarray(scale))))
        assert len(new) == 1


def test_labels_and_channels_have_their_own_files(labels, tmp_path):
    def new(channels, truth):
        return len(kept(LabelMaps(LOSS, channels, cache="path"), truth, tmp_path)[1])

    changed = labels[0].clone()
    changed[3, 4] = 2 - changed[3, 4] // 2
    assert new(3, labels[0]) == 1 and new(4, labels[0]) == 1 and new(3, changed) == 1
    assert new(3, labels[0].reshape(9, 8)) == 1  # the same bytes
    assert new(3, labels[0].unsqueeze(0)) == 0 and new(3, labels[0].numpy()[::-1][::-1]) == 0


def test_the_cache_is_read_and_follows_labels_and_options(labels, tmp_path, monkeypatch):
    def cached(loss=LOSS, truth=labels[0]):
        return LabelMaps(loss, 3, cache=lambda _: tmp_path / "case.nii.gz")({"label": truth})["maps"]

    first = cached()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("case.nii.gz.maps-")
    with monkeypatch.context() as patched:
        patched.setattr(fastloss.BoundaryLoss, "map_of", lambda *_: pytest.fail("computed again"))
        patched.setattr(fastloss.HausdorffDTLoss, "map_of", lambda *_: pytest.fail("computed again"))
        assert torch.equal(cached(), first)
        assert torch.equal(cached(fastloss.HausdorffDTLoss(spacing=(2, 1))), first)  # the same map
    other = cached(truth=labels[1])
    assert torch.equal(other, LOSS.label_map(labels[1:2], 3)[0])
    finer = fastloss.BoundaryLoss(spacing=(1, 1))
    assert torch.equal(cached(finer), finer.label_map(labels[:1], 3)[0])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_appears_as_a_whole(labels, tmp_path, monkeypatch):
    """It is renamed within its folder, which no process sees halfway."""
    renamed, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (renamed.append(paths), replace(*paths)))
    LabelMaps(LOSS, 3, cache=lambda _: tmp_path / "case.nii")({"label": labels[0]})
    assert [{Path(path).parent for path in paths} for paths in renamed] == [{tmp_path}]


def test_floats_along_one_axis():
    rows = torch.randint(0, 3, (2, 9))
    loss = fastloss.BoundaryLoss()
    expected = loss.label_map(rows, 3)
    shares = torch.nn.functional.one_hot(rows, 3).mT.float()
    for row, share, maps in zip(rows, shares, expected, strict=True):
        assert torch.equal(LabelMaps(loss, 3)({"label": share})["maps"], maps)
        assert torch.equal(LabelMaps(loss, 3)({"label": row[None].float()})["maps"], maps)


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


def path_of(sample):
    return sample["path"]


def test_transforms_can_be_sent_to_workers(labels, tmp_path):
    sample = {"label": labels[0], "path": str(tmp_path / "case.nii"), "mm": (1, 2)}
    for cache in ("path", path_of):
        transform = LabelMaps(LOSS, 3, spacing="mm", cache=cache)
        expected, sent = transform(sample)["maps"], pickle.loads(pickle.dumps(transform))
        assert torch.equal(sent(sample)["maps"], expected)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_other_start_methods(labels, method, tmp_path):
    dataset = MapsDataset(Volumes(labels), LabelMaps(LOSS, 3))
    loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context=method)
    (batch,) = loader
    assert torch.equal(batch["maps"], LOSS.label_map(labels, 3))


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
    with pytest.raises(TypeError, match=r"cache: got 1\.5"):
        LabelMaps(LOSS, 3, cache=1.5)
    with pytest.raises(TypeError, match=r"spacing: got \(2, 1\), expected a key"):
        LabelMaps(LOSS, 3, spacing=(2, 1))
    for option in ("label", "maps"):
        with pytest.raises(TypeError, match=rf"{option}: got \[\], expected a key"):
            LabelMaps(LOSS, 3, **{option: []})
    with pytest.raises(TypeError, match=r"dtype: got array\(\[1, 2\]\), expected torch.float32 or torch.float64"):
        LOSS.label_map(labels[:1], 3, np.array([1, 2]))
    with pytest.raises(TypeError, match="spatial_axes: expected an int or None, got 'all'"):
        LabelMaps(LOSS, 3, spatial_axes="all")
    with pytest.raises(ValueError, match="label: the sample has no 'label'"):
        LabelMaps(LOSS, 3)({"seg": labels[0]})
    with pytest.raises(ValueError, match="cache: the sample has no 'path'"):
        LabelMaps(LOSS, 3, cache="path")({"label": labels[0]})
    with pytest.raises(TypeError, match="cache: got 7, expected the path"):
        LabelMaps(LOSS, 3, cache=lambda _: 7)({"label": labels[0]})
    with pytest.raises(ValueError, match=r"label: got shape \[8, 9\], expected 3 spatial axes"):
        LabelMaps(fastloss.BoundaryLoss(), 3, spatial_axes=3)({"label": labels[0]})
    with pytest.raises(TypeError, match="label: expected a NumPy array or a torch tensor, got list"):
        LabelMaps(LOSS, 3)({"label": [[0, 1]]})
