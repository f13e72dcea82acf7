import pytest
import torch
import torch.nn.functional as F

import fastloss

from .record import record


def test_draws():
    with fastloss.backend("reference"):
        found = record("torch", 0, 200)
    assert not found["differing"]
    assert found["share"] > 0.85


LOGITS = torch.randn(2, 3, 4, 5)
LABELS = torch.randint(0, 3, (2, 4, 5))
SOFT = torch.rand(2, 3, 4, 5)
W = torch.tensor([0.5, 1.0, 2.0])
SIDE_BY_SIDE = [  # docs/drop-in.md
    (
        lambda: F.cross_entropy(LOGITS, LABELS, W, ignore_index=1, label_smoothing=0.1),
        lambda: fastloss.CrossEntropyLoss(class_weight=W, ignore_index=1, label_smoothing=0.1)(LOGITS, LABELS),
    ),
    (
        lambda: F.cross_entropy(LOGITS, SOFT, W),
        lambda: fastloss.CrossEntropyLoss(class_weight=W, reduction="sum")(LOGITS, SOFT) / LABELS.numel(),
    ),
    (
        lambda: F.cross_entropy(LOGITS, LABELS, reduction="none"),
        lambda: fastloss.CrossEntropyLoss(reduction="voxel")(LOGITS, LABELS),
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(LOGITS, SOFT),
        lambda: fastloss.CrossEntropyLoss(activation="sigmoid")(LOGITS, SOFT),
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(LOGITS, SOFT, pos_weight=torch.tensor(3.0)),
        lambda: fastloss.WeightedCrossEntropyLoss(activation="sigmoid", beta=3.0)(LOGITS, SOFT),
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(LOGITS, SOFT, reduction="none"),
        lambda: fastloss.voxel_losses(LOGITS, SOFT, {"ce_pos": 1, "ce_neg": 1}, activation="sigmoid", per_class=True),
    ),
]


@pytest.mark.parametrize("theirs, ours", SIDE_BY_SIDE)
def test_options_side_by_side(theirs, ours):
    with fastloss.backend("reference"):
        torch.testing.assert_close(ours(), theirs())


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_mean_of_no_voxels(backend):
    logits, options = LOGITS.clone().requires_grad_(), {"weight": W, "label_smoothing": 0.1}
    with fastloss.backend(backend), fastloss.accelerate("torch") as handle:
        value = F.cross_entropy(logits, torch.full_like(LABELS, -100), **options)
        value.backward()
    assert handle.report()["cross_entropy"].fused == 1
    assert value.isnan() and not logits.grad.any()


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mean_of_classes_of_weight_0_alone(backend, smoothing):
    """NaN in the gradient of the voxels that count, not of those that are ignored."""
    labels = torch.full_like(LABELS, -100)
    labels[0, 0] = 1
    options = {"weight": torch.tensor([1.0, 0.0, 1.0]), "label_smoothing": smoothing}

    def outcome():
        logits = LOGITS.clone().requires_grad_()
        value = F.cross_entropy(logits, labels, **options)
        value.backward()
        return value.detach(), logits.grad

    expected = outcome()
    with fastloss.backend(backend), fastloss.accelerate("torch"):
        torch.testing.assert_close(outcome(), expected, equal_nan=True)
