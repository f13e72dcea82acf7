"""What uses distances stays on the device: read are spacings, sizes of surfaces and what is wrong, no volume."""

import math
import os

import numpy as np
import pytest
import torch
from copies import counted
from distance_common import random_mask

import fastloss
from fastloss import distance
from fastloss.metrics import confusion_counts, confusion_matrix, surface_distances
from fastloss.metrics import inputs as metric_inputs
from fastloss.precompute import LabelMaps

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, on infinities
]

LOSSES = {
    "boundary": lambda **options: fastloss.BoundaryLoss(spacing=(3, 1), **options),
    "hausdorff": lambda **options: fastloss.HausdorffDTLoss(**options),
    "hausdorff of roots": lambda **options: fastloss.HausdorffDTLoss(alpha=1.5, **options),
    "penalty": lambda **options: fastloss.DistancePenaltyLoss(**options),
    "shape": lambda **options: fastloss.ShapeAwareLoss(**options),
    "convolution": lambda **options: fastloss.HausdorffConvLoss(hard=True, radii=(1, 2), **options),
}


def volumes(reads):
    """Those of more than a table's values: a loss on the CPU reads some of its own."""
    return [(name, values) for name, values in reads if values > 12]


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.from_numpy(random_mask((2, 6, 7), 0.6, seed).astype(np.uint8))
    target[1, :, 4:] = 2
    return torch.randn((2, 3, 6, 7), generator=generator).requires_grad_(), target


def losses_of(make):
    """The loss, its gradient, and the labels' map where it has one."""
    logits, target = problem()
    loss = make(validate=False)
    value = loss(logits, target)
    value.backward()
    maps = loss.label_map(target, 3) if isinstance(loss, fastloss.losses.spatial.maps.DistanceLoss) else value
    return value.detach(), logits.grad, maps.detach()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_maps_read_nothing(name):
    wanted = losses_of(LOSSES[name])
    with fastloss.backend("triton"), counted() as reads:
        found = losses_of(LOSSES[name])
    assert volumes(reads) == []
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_maps_of_a_sample_read_nothing():
    _, target = problem()
    maps = LabelMaps(fastloss.BoundaryLoss(), 3)
    wanted = maps({"label": target[0]})["maps"]
    with fastloss.backend("triton"), counted() as reads:
        found = maps({"label": target[0]})["maps"]
    assert torch.equal(found, wanted) and volumes(reads) == []


def test_transforms_read_nothing():
    masks = torch.from_numpy(random_mask((2, 4, 5, 6), 0.8))
    with fastloss.backend("triton"), counted() as reads:
        for field in (distance.edt, distance.edt_squared, distance.signed_edt, distance.label_edt):
            field(masks, 0.7, spatial_axes=3)
        distance.edt(masks, spatial_axes=3, black_border=True, return_indices=True)
    assert reads == []


FORMS = {
    "labels": {"classes": 3},
    "masks": {},
    "logits": {"activation": "softmax"},
    "ignored": {"classes": 3, "ignore_index": 2},
}


def segmentations(form, shape=(2, 5, 6, 7)):
    random = np.random.default_rng(1)
    guess, truth = (torch.from_numpy(random.choice(3, shape, p=(0.5, 0.4, 0.1))) for _ in range(2))
    guess[0][guess[0] == 2], truth[1][truth[1] == 2] = 1, 0  # in one of both alone
    truth[0, 1:4, 1:5, 1:4], guess[1, 1:4, 1:5, 1:4] = 1, 1  # where all around is of the class, the other's surface is
    if form == "masks":
        return tuple(torch.stack([x == c for c in range(3)], 1) for x in (guess, truth))
    if form == "logits":
        return torch.nn.functional.one_hot(guess).movedim(-1, 1).float(), truth
    return guess, truth


def tables_of(form, guess, truth, use_subvoxels):
    options = FORMS[form]
    surfaces = surface_distances(guess, truth, (3.0, 1.0, 0.7), use_subvoxels=use_subvoxels, **options)
    counts = confusion_counts(guess, truth, **options)
    tables = [
        surfaces.hausdorff(), surfaces.hausdorff(95), surfaces.hausdorff(33.3, pooled=True),
        surfaces.hausdorff(50, one_sided=True), surfaces.average(), surfaces.average(one_sided=True),
        surfaces.surface_dice(1.0), surfaces.surface_dice([0, 1, 3]),
        counts.dice(), counts.sensitivity(), counts.specificity(), counts.precision(),
    ]  # fmt: skip
    return [*tables, confusion_matrix(guess, truth, **options)] if form != "masks" else tables


@pytest.mark.parametrize("use_subvoxels", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_metrics_read_a_few_numbers(form, use_subvoxels, monkeypatch):
    given = segmentations(form)
    wanted = tables_of(form, *given, use_subvoxels)
    at_once = []
    read = metric_inputs.to_host
    monkeypatch.setattr(metric_inputs, "to_host", lambda numbers: (at_once.append(numbers.numel()), read(numbers))[1])
    with fastloss.backend("triton"), counted() as reads:
        found = tables_of(form, *given, use_subvoxels)
    assert len(at_once) <= 3 and max(at_once) <= 2 * (2 * 2 + 2), at_once  # sizes of surfaces, and what is wrong
    assert [read for read in reads if read[0] not in ("tolist", "aten._to_copy")] == [] and volumes(reads) == []
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0, equal_nan=True)
    for ours, theirs in zip(found[:4], wanted[:4], strict=True):
        assert torch.equal(ours.nan_to_num(-1, math.inf), theirs.nan_to_num(-1, math.inf))


@pytest.mark.parametrize("what", ["prediction", "target", "nan"])
def test_bad_values_are_named_as_on_the_cpu(what):
    guess, truth = segmentations("logits" if what == "nan" else "labels")
    options = FORMS["logits" if what == "nan" else "labels"]
    if what == "nan":
        guess[1, 2, 3, 4, 5] = math.nan
    else:
        {"prediction": guess, "target": truth}[what][1, 2, 3, 4] = 7
    for metric in (confusion_counts, surface_distances):
        with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\)|\(1, 3, 4, 5\)") as on_cpu:
            metric(guess, truth, **options)
        with fastloss.backend("triton"), pytest.raises(ValueError) as on_device:
            metric(guess, truth, **options)
        assert str(on_device.value) == str(on_cpu.value)
        truth_mask = torch.ones_like(truth, dtype=torch.bool)
        truth_mask[1, 2:, 3:] = False
        with fastloss.backend("triton"):
            metric(guess, truth, mask=truth_mask, **options)
