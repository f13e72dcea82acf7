"""Losses with distances: against MONAI and brute force, maps known beforehand, and what comes in wrong."""

import oracle
import plain
import pytest
import torch
from oracle import close, value_and_gradient
from rows import LOSSES

import fastloss
from fastloss.losses.spatial.fields import contours, predicted_masks

DISTANCES = [row for row in LOSSES if row.has_distances]
every_distance = pytest.mark.parametrize("loss", DISTANCES, ids=str)


def blobs(space, channels=3, batch=2):
    """Logits that mostly agree with labels of smooth regions."""
    noise = torch.randn(batch, channels, *space)
    mean = {1: torch.nn.functional.avg_pool2d, 2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}
    smooth = mean[len(space)](noise, 5, stride=1, padding=2)
    return 12 * smooth + torch.randn_like(noise), smooth.argmax(1).to(torch.uint8)


# Other libraries


@pytest.mark.parametrize("alpha", [2.0, 1.0, 2.5])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("space", [(14, 17), (10, 11, 12)])
def test_hausdorff_equals_monai(alpha, include_background, space):
    losses = pytest.importorskip("monai.losses")
    logits, labels = blobs(space)
    common = {"alpha": alpha, "include_background": include_background}
    theirs = losses.HausdorffDTLoss(to_onehot_y=True, softmax=True, **common)
    expected, expected_gradient = oracle.gradient(lambda z: theirs(z, labels.long().unsqueeze(1)), logits)
    value, gradient = value_and_gradient(fastloss.HausdorffDTLoss(**common), logits, labels)
    close(value, expected, 1e-5)
    oracle.assert_close(gradient, expected_gradient, 2e-5)


# Geometry


def brute_force(mask, spacing):
    """Signed distance of every voxel to the nearest one on the other side, negative inside."""
    places = torch.stack(
        torch.meshgrid(*(s * torch.arange(n) for s, n in zip(spacing, mask.shape, strict=True)), indexing="ij"), -1
    )
    places, flat = places.reshape(-1, mask.ndim).double(), mask.flatten()
    far = torch.cdist(places, places)
    nearest = torch.where(flat[:, None] != flat[None, :], far, torch.inf).amin(1)
    return torch.where(flat, -nearest, nearest).reshape(mask.shape)


@pytest.mark.parametrize("spacing", [(1.0, 0.5), (3.0, 1.0, 0.5), (0.7,)])
def test_signed_maps_against_brute_force(spacing):
    labels = (torch.rand(2, *[9, 8, 7][: len(spacing)]) > 0.7).to(torch.int16)
    labels[:, :2] = 0
    labels[:, -1] = 1
    maps = fastloss.BoundaryLoss(spacing=spacing).label_map(labels, 2)
    assert not maps[:, 0].any()  # the background is left out
    for b in range(2):
        torch.testing.assert_close(maps[b, 1].double(), brute_force(labels[b] == 1, spacing), rtol=1e-6, atol=0)


def test_one_spacing_serves_all_axes_and_scales():
    logits, labels = blobs((9, 10, 11))
    once, twice = fastloss.BoundaryLoss()(logits, labels), fastloss.BoundaryLoss(spacing=2)(logits, labels)
    close(2 * once, twice)
    close(fastloss.HausdorffDTLoss(spacing=2)(logits, labels), 4 * fastloss.HausdorffDTLoss()(logits, labels))


def test_contours_have_a_face_neighbour_outside():
    masks = torch.rand(2, 3, 5, 6, 7) > 0.3
    expected = torch.stack([torch.stack([plain.contour(mask) for mask in sample]) for sample in masks])
    assert torch.equal(contours(masks), expected)
    full = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert not contours(full).any()  # the edge of the volume is no side


def test_penalty_is_one_to_two_and_falls_with_depth():
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, 2:9, 3:10] = 1
    maps = fastloss.DistancePenaltyLoss().label_map(labels, 2)
    assert maps.shape == (1, 1, 12, 12)
    assert maps[0, 0, 2, 3] == 2 and maps[0, 0, 5, 6] == 1  # the rim of the square, and its middle
    assert maps[0, 0, 1, 5] == 2 and maps[0, 0, 11, 0] == 1  # a neighbour of it, and the farthest corner
    assert torch.all((maps >= 1) & (maps <= 2))
    thin = torch.tensor([[0, 1, 0]], dtype=torch.uint8)
    assert fastloss.DistancePenaltyLoss().label_map(thin, 2).tolist() == [[[2.0, 2.0, 2.0]]]


def test_a_volume_of_one_region_has_plain_losses():
    logits, _ = oracle.make("softmax", 3, (6, 7))
    labels = torch.ones(2, 6, 7, dtype=torch.uint8)
    cross_entropy = fastloss.CrossEntropyLoss()(logits, labels)
    close(fastloss.DistancePenaltyLoss()(logits, labels), cross_entropy)
    close(fastloss.ShapeAwareLoss()(logits, labels), cross_entropy)
    assert fastloss.BoundaryLoss()(logits, labels) == 0
    assert fastloss.HausdorffDTLoss(one_sided=True)(logits, labels) == 0


def test_a_perfect_prediction_costs_nothing():
    _, labels = blobs((8, 9))
    logits = 200 * (oracle.one_hot(labels, 3).float() - 0.5)
    assert fastloss.HausdorffDTLoss()(logits, labels) == 0
    assert fastloss.BoundaryLoss()(logits, labels) < 0
    close(fastloss.ShapeAwareLoss()(logits, labels), torch.zeros(()))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_a_probability_of_one_half_is_not_foreground(activation):
    """So nothing is predicted, and the two-sided loss has the labels' distances alone."""
    logits = torch.zeros(1, 2, 6, 7)
    logits[:, 0, :, 3:], logits[:, 1, :, 3:] = 5, -5
    if activation is None:
        logits = logits.softmax(1)
    labels = (torch.rand(1, 6, 7) > 0.5).to(torch.uint8)
    both, one = (
        fastloss.HausdorffDTLoss(activation=activation, one_sided=one_sided)(logits, labels)
        for one_sided in (False, True)
    )
    assert one > 0
    close(both, one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_predictions_of_half_precision_are_not_rounded(dtype):
    """A softmax in it says 1/2 of what is more."""
    logits = torch.tensor([[[2**-11, -(2**-11), 0, 1]], [[0, 0, 0, 0]]], dtype=dtype).movedim(0, 1)
    assert predicted_masks(logits, "softmax").tolist() == [[[True, False, False, True], [False, True, False, False]]]


def test_small_errors_keep_their_digits():
    """(p - y)² of confident voxels is the difference of numbers near 1."""
    _, labels = blobs((16, 16, 16))
    logits = 9 * (oracle.one_hot(labels, 3).float() - 0.5)
    exact, exact_gradient = value_and_gradient(fastloss.HausdorffDTLoss(), logits.double(), labels)
    value, gradient = value_and_gradient(fastloss.HausdorffDTLoss(), logits, labels)
    assert value.double().item() == pytest.approx(exact.item(), rel=1e-5)
    oracle.assert_close(gradient, exact_gradient, 1e-3)  # a softmax of float32 has no more: 1 - p loses what p rounds


# Maps known beforehand


@every_distance
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_maps_known_beforehand_change_nothing(loss, activation):
    logits, labels = blobs((7, 8, 9))
    labels[:, 1] = 255
    ours = loss(activation, ignore_index=255, spacing=(3, 1, 0.5))
    maps = ours.label_map(labels, 3)
    before = maps.clone()
    expected, expected_gradient = value_and_gradient(ours, logits, labels)
    value, gradient = value_and_gradient(ours, logits, labels, maps=maps)
    close(value, expected, 1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)
    assert torch.equal(maps, before)


@every_distance
def test_forms_of_the_target_have_one_map(loss):
    _, labels = blobs((7, 8))
    ours = loss()
    expected = ours.label_map(labels, 3)
    dense = oracle.one_hot(labels, 3)
    for target in (labels.long(), labels.unsqueeze(1), dense.float(), labels.flip(1).flip(1)):
        assert torch.equal(ours.label_map(target, 3), expected)
    close(ours.label_map(labels, 3, torch.float64), expected, 1e-6)


def test_a_step_with_maps_computes_no_distance(monkeypatch):
    logits, labels = blobs((7, 8))

    def computed(volumes, *_, **__):
        assert not volumes, "a distance was computed"
        return []

    monkeypatch.setattr("fastloss.losses.spatial.boundary.fields_of", computed)
    for loss in (fastloss.BoundaryLoss(), fastloss.HausdorffDTLoss(one_sided=True)):
        loss(logits, labels, maps=torch.ones(2, 3, 7, 8))
    fastloss.DistancePenaltyLoss()(logits, labels, maps=torch.ones(2, 1, 7, 8))
    fastloss.ShapeAwareLoss()(logits, labels, maps=torch.ones(2, 3, 7, 8))


# Beside other losses


def test_a_compound_loss_shares_the_pass():
    logits, labels = blobs((7, 8, 9))
    loss, dice = fastloss.BoundaryLoss(spacing=(3, 1, 1)), fastloss.DiceCELoss()
    both = fastloss.CompoundLoss([dice, loss], weights=[1.0, 0.1])
    expected = dice(logits, labels) + 0.1 * loss(logits, labels)
    close(both(logits, labels), expected)
    close(both(logits, labels, maps=loss.label_map(labels, 3)), expected)


def test_two_maps_do_not_fit_in_one_pass():
    with pytest.raises(ValueError, match=r"losses: .* at most one in a pass"):
        fastloss.CompoundLoss([fastloss.BoundaryLoss(), fastloss.HausdorffDTLoss()])


@every_distance
def test_compiles_without_breaks_in_any_size(loss):
    ours = loss(ignore_index=255)
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (6, 9):
        logits, labels = blobs((size, 8))
        close(compiled(logits, labels), ours(logits, labels))


def test_operator_checks():
    masks = torch.rand(2, 3, 5, 6) > 0.5
    spacings = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    for mode, root, signed, double in (("mask", True, False, False), ("sides", False, False, True)):
        arguments = ([masks, ~masks], spacings, 2, mode, root, signed, double)
        torch.library.opcheck(torch.ops.fastloss.distance_fields, arguments)


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": -1.0}, "spacing: expected positive"),
        ({"spacing": (1.0, float("nan"))}, "spacing: expected positive"),
        ({"spacing": "wide"}, "spacing: expected"),
        ({"alpha": 0}, "alpha: got 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastloss.HausdorffDTLoss(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"maps": torch.ones(2, 3, 7, 9)}, r"maps: got shape \[2, 3, 7, 9\]"),
        ({"maps": torch.ones(2, 3, 7, 8, dtype=torch.int32)}, "maps: got torch.int32"),
        ({"maps": 3.0}, "maps: got float"),
        ({"weight_map": torch.ones(2, 1, 7, 8)}, "weight_map: given, but BoundaryLoss"),
    ],
)
def test_wrong_maps(call, message):
    logits, labels = blobs((7, 8))
    with pytest.raises((TypeError, ValueError), match=message):
        fastloss.BoundaryLoss()(logits, labels, **call)


def test_a_map_of_one_channel_is_that_of_class_one():
    _, labels = blobs((7, 8))
    maps = [fastloss.BoundaryLoss().label_map(labels, channels) for channels in (1, 3)]
    assert torch.equal(maps[0], maps[1][:, 1:2])


def test_wrong_calls():
    logits, labels = blobs((7, 8))
    with pytest.raises(ValueError, match="spacing: expected one number or 2"):
        fastloss.BoundaryLoss(spacing=(1, 1, 1))(logits, labels)
    for spacing in (10**400, torch.ones(2).to_sparse(), torch.ones(2, device="meta")):
        with pytest.raises((TypeError, ValueError), match=r"^spacing: "):
            fastloss.BoundaryLoss()(logits, labels, spacing=spacing)
    with pytest.raises(ValueError, match="maps: given, but DiceLoss takes no distances"):
        fastloss.DiceLoss()(logits, labels, maps=torch.ones(2, 3, 7, 8))
    with pytest.raises(ValueError, match="channels: got 0"):
        fastloss.BoundaryLoss().label_map(labels, 0)
    with pytest.raises(ValueError, match="target: got"):
        fastloss.BoundaryLoss().label_map(labels[0, 0], 3)
