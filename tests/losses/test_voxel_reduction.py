"""Losses with a value for each voxel, and with masks of each channel."""

import oracle
import pytest
import torch
import torch.nn.functional as F
from rows import ON_SUMS_ALONE, every_loss

import fastloss

SPACE = (5, 6)


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_voxels_add_up_to_the_sum(loss, activation):
    if not loss.of_voxels:
        with pytest.raises(ValueError, match="reduction: got 'voxel', expected 'mean', 'sum' or 'none'"):
            loss(activation, reduction="voxel")
        return
    logits, labels = oracle.make(activation, 3, SPACE, dtype=torch.float64)
    labels[:, 2] = 255
    options = {"ignore_index": 255, "class_weight": [0.5, 1.0, 2.0]}
    mask, weights = torch.rand(2, *SPACE), None

    def each(z):
        nonlocal weights
        voxels = loss(activation, **options, reduction="voxel")(z, labels, mask=mask)
        weights = voxels.detach()
        return voxels.sum()

    found, gradient = oracle.gradient(each, logits)
    expected, expected_gradient = oracle.gradient(
        lambda z: loss(activation, **options, reduction="sum")(z, labels, mask=mask), logits
    )
    assert weights.shape == ((2, 3, *SPACE) if activation == "sigmoid" else (2, *SPACE))
    assert weights.any() and not weights[..., 2, :].any()
    oracle.close(found, expected, 1e-11)
    oracle.close(gradient, expected_gradient, 1e-11)


WEIGHT = [0.2, 1.0, 3.0]
SAME = {  # with torch: ours, theirs
    "cross-entropy": (
        {"class_weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.1},
        lambda z, y: F.cross_entropy(z, y, torch.tensor(WEIGHT), ignore_index=2, label_smoothing=0.1, reduction="none"),
    ),
    "binary cross-entropy": (
        {"activation": "sigmoid", "class_weight": WEIGHT},
        lambda z, y: F.binary_cross_entropy_with_logits(
            z, oracle.one_hot(y, 3).float(), torch.tensor(WEIGHT).view(3, 1, 1), reduction="none"
        ),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_torchs_losses_of_each_voxel(each_backend, case):
    options, theirs = SAME[case]
    logits, labels = oracle.make("softmax", 3, SPACE)
    incoming = torch.randn(2, *SPACE) if case == "cross-entropy" else torch.randn(2, 3, *SPACE)
    ours = fastloss.CrossEntropyLoss(**options, reduction="voxel")
    oracle.close(ours(logits, labels), theirs(logits, labels.long()))
    (_, gradient), (_, expected) = (
        oracle.gradient(lambda z, f=function, y=y: (f(z, y) * incoming).sum(), logits)
        for function, y in ((ours, labels), (theirs, labels.long()))
    )
    oracle.close(gradient, expected)


@pytest.mark.parametrize("softmax", [False, True])
def test_monais_and_kornias_focal_losses_of_each_voxel_and_class(softmax):
    monai, kornia = pytest.importorskip("monai"), pytest.importorskip("kornia")
    logits, labels = oracle.make("softmax", 3, SPACE)
    y = oracle.one_hot(labels, 3).float()
    terms = {"focal_pos(2.0)": 1.0} | ({} if softmax else {"focal_neg(2.0)": 1.0})
    found = fastloss.voxel_losses(logits, labels, terms, per_class=True, activation="softmax" if softmax else "sigmoid")
    oracle.close(found, monai.losses.FocalLoss(use_softmax=softmax, reduction="none")(logits, y))
    theirs = kornia.losses.focal_loss if softmax else kornia.losses.binary_focal_loss_with_logits
    oracle.close(found, theirs(logits, labels.long() if softmax else y, alpha=None, reduction="none"))


def test_learned_weights_of_each_voxel():
    logits, labels = oracle.make("softmax", 3, SPACE)
    weight = torch.nn.Parameter(torch.tensor(WEIGHT))
    voxels = fastloss.CrossEntropyLoss(class_weight=weight, reduction="voxel")(logits, labels)
    incoming = torch.randn_like(voxels)
    (voxels * incoming).sum().backward()
    plain = F.cross_entropy(logits, labels.long(), reduction="none") * incoming
    expected = torch.stack([plain[labels == c].sum() for c in range(3)])
    oracle.close(weight.grad, expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_linear_terms_are_those_of_the_table(activation):
    """By which a GPU finishes a mean in one step."""
    for loss in (
        fastloss.CrossEntropyLoss(activation=activation),
        fastloss.CrossEntropyLoss(activation=activation, label_smoothing=0.1),
        fastloss.FocalLoss(activation=activation, gamma=1.5),
    ):
        exclusive = loss.exclusive(3)
        sums = {name: torch.rand(2, 3, dtype=torch.float64) for name in loss.terms}
        found = sum(factor * sums[name] for name, factor in loss.linear_terms(exclusive, 3).items())
        torch.testing.assert_close(found, loss.voxel_table(sums, exclusive))


def test_parts_of_voxels_and_others():
    poly = fastloss.PolyLoss(epsilon=2.0, reduction="voxel")
    logits, labels = oracle.make("softmax", 3, SPACE)
    p = logits.softmax(1).gather(1, labels.long().unsqueeze(1))[:, 0]
    oracle.close(poly(logits, labels), -p.log() + 2 * (1 - p))
    with pytest.raises(ValueError, match="expected 'voxel' in all or none"):
        fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.CrossEntropyLoss(reduction="voxel")])
    with pytest.raises(ValueError, match="process_group: given with reduction='voxel'"):
        fastloss.CrossEntropyLoss(reduction="voxel", process_group="world")
    with pytest.raises(ValueError, match="reduction: got 'voxel', expected 'mean', 'sum' or 'none'"):
        fastloss.StructuralSimilarityLoss(reduction="voxel")
    with pytest.raises(ValueError, match="loss: got PolyLoss with reduction='voxel'"):
        fastloss.DeepSupervision(poly)


# Masks of each channel


@pytest.mark.parametrize("loss", ON_SUMS_ALONE, ids=str)
@pytest.mark.parametrize("weights", ["bool", "float"])
def test_a_mask_of_each_channel_makes_each_a_problem_of_its_own(loss, weights):
    if loss.zero_is_special or loss.whole_batch or loss.name == "generalized_dice":
        pytest.skip("a channel is not on its own")
    logits, target = torch.randn(2, 3, *SPACE), torch.rand(2, 3, *SPACE) > 0.5
    mask = torch.rand(2, 3, *SPACE) > 0.3
    mask = mask * torch.rand(2, 3, *SPACE) if weights == "float" else mask
    logits = torch.where(mask != 0, logits, torch.nan)
    ours = loss("sigmoid", reduction="none")
    found, gradient = oracle.gradient(lambda z: ours(z, target, mask=mask).sum(), logits)
    expected = []
    for c in range(3):
        options = {"target": target[:, c], "mask": mask[:, c]}
        expected.append(oracle.gradient(lambda z, o=options: ours(z, **o).sum(), logits[:, c : c + 1]))
    oracle.close(found, sum(value for value, _ in expected))
    oracle.close(gradient, torch.cat([derivative for _, derivative in expected], 1))


def test_a_mean_divides_by_the_weights_of_the_channels(each_backend):
    logits, target, mask = torch.randn(2, 3, *SPACE), torch.rand(2, 3, *SPACE), torch.rand(2, 3, *SPACE)
    found = fastloss.CrossEntropyLoss(activation="sigmoid")(logits, target, mask=mask)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    oracle.close(found, (each * mask).sum() / mask.sum())


def test_where_a_voxel_counts_for_all_channels_or_none():
    logits, labels = oracle.make("softmax", 3, SPACE)
    mask, probabilities = torch.ones(2, 3, *SPACE), logits.softmax(1)
    for loss in (fastloss.DiceLoss(), fastloss.TopKLoss(activation="sigmoid"), fastloss.CrossEntropyLoss()):
        with pytest.raises(ValueError, match=r"mask: got shape \[2, 3, 5, 6\], one for each channel"):
            loss(logits, labels, mask=mask)
    for loss in (fastloss.CrossEntropyLoss(activation=None), fastloss.DiceCELoss(activation=None)):
        with pytest.raises(ValueError, match="probabilities are the classes of a voxel"):
            loss(probabilities, labels, mask=mask)
    oracle.close(
        fastloss.DiceLoss(activation=None)(probabilities, labels, mask=mask),
        fastloss.DiceLoss(activation=None)(probabilities, labels),
    )


@pytest.mark.parametrize("name", ["BoundaryLoss", "HausdorffDTLoss", "ShapeAwareLoss"])
def test_losses_with_distances_take_masks_of_channels(name):
    logits, target = torch.randn(1, 2, 6, 7), torch.rand(1, 2, 6, 7) > 0.5
    mask = torch.rand(1, 2, 6, 7) > 0.2
    loss = getattr(fastloss, name)(activation="sigmoid", reduction="none")
    together, last = loss(logits, target, mask=mask), loss(logits[:, 1:], target[:, 1], mask=mask[:, 1])
    oracle.close(together[:, -1:], last)
