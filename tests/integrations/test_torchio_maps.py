"""Maps of labels as a TorchIO transform, and what follows it."""

import pytest
import torch

pytest.importorskip("torchio")

import torchio

import fastloss
from fastloss.integrations.torchio import AddLabelMaps
from fastloss.precompute import LabelMaps

SPACING = (3.0, 1.0, 0.5)


def subject(dtype=torch.uint8):
    labels = torch.zeros(1, 8, 9, 10, dtype=dtype)
    labels[:, 2:6, 3:8, 1:5], labels[:, 6:, :4, 6:] = 1, 2
    affine = torch.diag(torch.tensor([*SPACING, 1.0])).numpy()
    image = torchio.ScalarImage(tensor=torch.rand(1, 8, 9, 10), affine=affine)
    return torchio.Subject(image=image, label=torchio.LabelMap(tensor=labels, affine=affine))


def maps_of(labels, spacing):
    loss = fastloss.BoundaryLoss(spacing=spacing)
    return LabelMaps(loss, 3, spatial_axes=3)({"label": labels})["maps"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_maps_at_the_voxel_size_of_the_file_or_of_the_loss(dtype):
    labels = subject()["label"].data
    found = AddLabelMaps(fastloss.BoundaryLoss(), 3)(subject(dtype))
    assert torch.equal(found["maps"].data, maps_of(labels, SPACING)) and found["maps"].data.dtype == torch.float32
    assert found["maps"].spacing == SPACING
    own = AddLabelMaps(fastloss.BoundaryLoss(spacing=2.0), 3, use_spacing=False)(subject(dtype))
    assert torch.equal(own["maps"].data, maps_of(labels, 2.0))


@pytest.mark.parametrize("seed", range(3))
def test_flips_carry_the_maps_along_and_intensities_leave_them_alone(seed):
    torch.manual_seed(seed)
    steps = [AddLabelMaps(fastloss.BoundaryLoss(), 3), torchio.RandomFlip((0, 1, 2)), torchio.RandomNoise(std=5)]
    found = torchio.Compose(steps)(subject())
    assert torch.equal(found["maps"].data, maps_of(found["label"].data, SPACING))


def test_crops_keep_the_distances_to_what_was_cut_off():
    found = torchio.Compose([AddLabelMaps(fastloss.BoundaryLoss(), 3), torchio.Crop((1, 2, 0, 3, 2, 1))])(subject())
    assert torch.equal(found["maps"].data, maps_of(subject()["label"].data, SPACING)[:, 1:6, 0:6, 2:9])


def test_a_loader_gives_what_the_loss_takes():
    loss = fastloss.BoundaryLoss(spacing=SPACING)
    dataset = torchio.SubjectsDataset([subject()] * 2, transform=AddLabelMaps(loss, 3))
    batch = next(iter(torchio.SubjectsLoader(dataset, batch_size=2)))
    logits, labels = torch.randn(2, 3, 8, 9, 10), batch["label"][torchio.DATA]
    torch.testing.assert_close(loss(logits, labels, maps=batch["maps"][torchio.DATA]), loss(logits, labels))


def test_errors_name_what_came():
    with pytest.raises(ValueError, match="label: the subject has no 'seg', expected one of image, label"):
        AddLabelMaps(fastloss.BoundaryLoss(), 3, label="seg")(subject())
    blurred = subject(torch.float32)
    blurred["label"].set_data(blurred["label"].data + 0.5)
    with pytest.raises(ValueError, match="label: got floats that are not whole"):
        AddLabelMaps(fastloss.BoundaryLoss(), 3)(blurred)
