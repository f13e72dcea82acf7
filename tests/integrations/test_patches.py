"""Patches of image, labels and maps: the same place and flips for all, stacked."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import fastloss
from fastloss.integrations.patches import FlippedPatches, join_patches
from fastloss.precompute import LabelMaps, MapsDataset

SHAPE = (7, 8, 9)


def sample(number=0):
    """Each voxel of image and maps has a number of its own, by which its place is known."""
    places = torch.arange(float(np.prod(SHAPE))).reshape(SHAPE)
    labels = ((places.long() + number) % 3).to(torch.uint8)
    return {
        "image": places[None].clone(),
        "label": labels,
        "maps": torch.stack([places, -places]),
        "name": f"s{number}",
    }


def test_all_tensors_are_cut_at_the_same_place_and_flipped_alike():
    found = FlippedPatches((3, 4, 5), patches=6)(sample())
    assert found["image"].shape == (6, 1, 3, 4, 5) and found["label"].shape == (6, 3, 4, 5)
    assert found["maps"].shape == (6, 2, 3, 4, 5) and found["name"] == "s0"
    assert torch.equal(found["image"][:, 0], found["maps"][:, 0]) and torch.equal(
        found["image"][:, 0], -found["maps"][:, 1]
    )
    assert torch.equal(found["label"], (found["image"][:, 0].long() % 3).to(torch.uint8))
    starts = found["image"].flatten(1).min(1).values
    assert len(starts.unique()) > 1


def test_every_place_and_every_flip_occurs():
    windows, turned = set(), set()
    for _ in range(200):
        patch = FlippedPatches((7, 7, 9), flips=(1,))(sample())["image"][0, 0]
        windows.add(float(patch.min()))
        turned.add(bool(patch[0, 0, 0] > patch[0, -1, 0]))
        assert patch[0, 0, 0] < patch[-1, 0, 0] and patch[0, 0, 0] < patch[0, 0, -1]
    assert windows == {0.0, 9.0} and turned == {True, False}


def test_a_flipped_map_is_the_map_of_the_flipped_labels():
    loss = fastloss.BoundaryLoss(spacing=(3.0, 1.0, 1.0))
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[1:4, 2:7, 3:5] = 1
    maps = LabelMaps(loss, channels=2, label="label")
    for _ in range(8):
        found = FlippedPatches(SHAPE, keys=("label", "maps"))(maps({"label": labels}))
        assert torch.equal(found["maps"][0], maps({"label": found["label"][0]})["maps"])


def test_a_loader_joins_the_patches_of_its_samples_and_repeats_with_the_seed():
    def batches():
        generator = torch.Generator().manual_seed(3)
        dataset = MapsDataset([sample(n) for n in range(4)], FlippedPatches((3, 3, 3), patches=2))
        options = {"collate_fn": join_patches, "generator": generator, "num_workers": 1}
        return list(DataLoader(dataset, batch_size=2, **options))

    first, again = batches(), batches()
    assert [batch["image"].shape for batch in first] == [(4, 1, 3, 3, 3)] * 2 and first[0]["name"] == ["s0", "s1"]
    assert all(torch.equal(a["maps"], b["maps"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_arrays_are_taken():
    found = FlippedPatches((4, 4), keys=("image",))({"image": np.ones((3, 5, 6))[:, ::-1]})
    assert found["image"].shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlippedPatches((3, 3, 10))(sample()), r"size: got \[3, 3, 10\] for a volume of \[7, 8, 9\]"),
        (lambda: FlippedPatches((3, 3, 3), flips=(3,)), r"flips: got \[3\], expected axes from 0 to 2"),
        (lambda: FlippedPatches((3, 3, 3), keys=("image", "seg"))(sample()), "keys: the sample has no 'seg'"),
        (lambda: FlippedPatches((3, 3))({**sample(), "maps": 1}), r"maps: expected a NumPy array or a torch tensor"),
        (
            lambda: FlippedPatches((3, 3, 3))({**sample(), "label": torch.zeros(7, 8, 8)}),
            r"label: got shape \[7, 8, 8\], expected \[\*S\] or \[C, \*S\] with \[7, 8, 9\], as image has",
        ),
        (lambda: FlippedPatches((3, 3.5, 3)), "size: "),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
