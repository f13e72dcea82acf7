"""Saturated logits, absent classes, nothing to count, half precision: finite and right."""

import inspect
import math

import oracle
import pytest
import torch
from oracle import close, value_and_gradient
from rows import LOSSES, REGION, Row, every_loss, one_of_each, region_loss

import fastloss

ACTIVATIONS = ["softmax", "sigmoid", None]
GAMMAS = [
    *(Row("focal", {"gamma": gamma}) for gamma in (0.0, 0.5, 2.0, 5.0)),
    Row("poly", {"base": "focal", "gamma": 0.0}),
    Row("exp_log", {"gamma": 1.0, "smooth": 0.0}),
    Row("focal_tversky", {"gamma": 3.0, "smooth": 0.0}),
    Row("unified_focal", {"gamma": 0.9, "symmetric": True, "smooth": 0.0}),
    Row("mcc", {"smooth": 0.0}),
]


def check_finite(loss, logits, labels, **arguments):
    value, gradient = value_and_gradient(loss, logits, labels, **arguments)
    assert value.isfinite(), value
    assert gradient.isfinite().all()
    return value, gradient


# Saturation


def saturated(size, activation, case):
    """Logits of ±size (or probabilities 0 and 1), and labels that are right, wrong, random, or of one class."""
    z = torch.where(torch.rand(2, 3, 30) > 0.5, size, -size)
    right = z.argmax(1).to(torch.uint8)
    labels = {
        "right": right,
        "wrong": (right + 1) % 3,
        "random": torch.randint(0, 3, (2, 30), dtype=torch.uint8),
        "one class": torch.zeros_like(right),
    }[case]
    return (z if activation else oracle.one_hot(right, 3).float()), labels


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("loss", LOSSES + GAMMAS, ids=str)
@pytest.mark.parametrize("size", [100.0, 1e4, 1e8])
@pytest.mark.parametrize("case", ["right", "wrong", "one class"])
def test_saturated_logits(loss, size, case):
    for activation in ACTIVATIONS if size == 100 else ACTIVATIONS[:2]:
        logits, labels = saturated(size, activation, case)
        value, gradient = check_finite(loss(activation), logits, labels)
        exact, exact_gradient = check_finite(loss(activation), logits.double(), labels)
        close(value, exact, 1e-5)
        torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", GAMMAS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saturation_on_every_back_end(each_backend, loss, activation):
    for size in (100.0, 1e4, 1e8):
        logits, labels = saturated(size, activation, "random")
        value, gradient = check_finite(loss(activation), logits, labels)
        with fastloss.backend("reference"):
            expected, expected_gradient = check_finite(loss(activation), logits.double(), labels)
        close(value, expected, 1e-5)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6)


@region_loss
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dense", [False, True])
def test_one_class_fills_the_volume(each_backend, loss, activation, dense):
    """Σ p - Σ p y is then 0, and divided by the smoothing alone: p and p y must cancel to the last bit."""
    logits, labels = oracle.make(activation, 3, (16, 16, 16))
    labels.fill_(1)
    target = oracle.one_hot(labels, 3) > 0 if dense else labels
    value, gradient = value_and_gradient(loss(activation), logits, target)
    expected, expected_gradient = oracle.gradient(lambda z: loss.plain(z, labels, activation), logits.double())
    close(value, expected, 1e-5)
    oracle.assert_close(gradient, expected_gradient, 2e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_a_saturated_voxel(each_backend, gamma):
    """A right one costs nothing and pulls nowhere; a wrong one costs its whole cross-entropy."""
    logits, labels = torch.tensor([[[100.0, -100.0]]]), torch.tensor([[1, 1]])
    for activation, z in (("sigmoid", logits), ("softmax", torch.cat([-logits, logits], 1) / 2)):
        value, gradient = value_and_gradient(fastloss.FocalLoss(activation=activation, gamma=gamma), z, labels)
        assert value == 50
        assert gradient[..., 0].abs().max() <= torch.finfo().tiny  # sigmoid(-100), where γ = 0
        assert gradient[0, -1, 1].item() == pytest.approx(-0.5)


# Nothing to count


@every_loss
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_everything_ignored_is_zero_with_zero_gradient(loss, activation):
    logits, labels = oracle.make(activation, 3, (6, 7))
    smooth = [{}, {"smooth": 0.0}] if loss in REGION else [{}]
    for ours in (loss(activation, ignore_index=9, **options) for options in smooth):
        value, gradient = value_and_gradient(ours, logits * torch.nan, torch.full_like(labels, 9))
        assert value == 0
        assert not gradient.any()


@one_of_each
def test_everything_masked_on_every_back_end(each_backend, loss):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    nothing = torch.zeros(2, 6, 7, dtype=torch.bool)
    value, gradient = value_and_gradient(loss(), logits * torch.nan, labels, mask=nothing)
    assert value == 0
    assert not gradient.any()


@every_loss
def test_an_ignored_sample_adds_nothing(loss):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    labels[1] = 9
    ours = loss(ignore_index=9, reduction="sum")
    value, gradient = check_finite(ours, logits, labels)
    close(value, ours(logits[:1], labels[:1]))
    assert not gradient[1].any()


@every_loss
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_input_is_zero(loss, shape, reduction):
    logits = torch.zeros(shape, requires_grad=True)
    value = loss(reduction=reduction)(logits, torch.zeros(shape[0], *shape[2:], dtype=torch.uint8))
    value.sum().backward()
    assert not value.any()
    assert logits.grad.shape == logits.shape


# Little to count


@every_loss
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_absent_classes_and_one_voxel(loss, activation):
    for space in ((8,), (1, 1, 1)):
        logits, labels = oracle.make(activation, 3, space)
        for only in range(3):
            for smooth in ({}, {"smooth": 0.0}) if loss in REGION else ({},):
                check_finite(loss(activation, **smooth), logits, torch.full_like(labels, only))


def test_absent_class_takes_the_largest_weight_of_generalized_dice():
    logits, labels = torch.randn(1, 3, 12), torch.tensor([[0] * 10 + [1] * 2])
    loss, p = fastloss.GeneralizedDiceLoss(smooth=0.0), logits[0].double().softmax(0)
    omega = torch.tensor([1 / 100, 1 / 4, 1 / 4])
    above = 2 * (omega[0] * p[0, :10].sum() + omega[1] * p[1, 10:].sum())
    below = (omega * (p.sum(1) + torch.tensor([10, 2, 0]))).sum()
    close(loss(logits, labels), 1 - above / below)
    of_absent = fastloss.GeneralizedDiceLoss(class_weight=[0, 0, 1.0])
    assert of_absent(logits, labels) == pytest.approx(1.0, abs=1e-4)  # and not 0 / 0


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
def test_generalized_dice_without_foreground_weighs_by_one(weighting):
    logits, labels = torch.randn(1, 3, 12), torch.zeros(1, 12, dtype=torch.int64)
    predicted = logits.double().softmax(1)[:, 1:].sum()
    loss = fastloss.GeneralizedDiceLoss(weighting=weighting, smooth=2.0, include_background=False)
    close(loss(logits, labels), predicted / (predicted + 2))


@pytest.mark.parametrize("loss", [row for row in REGION if "smooth" in inspect.signature(row.cls).parameters], ids=str)
def test_a_class_that_is_nowhere_is_perfect_and_changes_no_other(loss):
    """Without smoothing: 0 / 0."""
    p = torch.rand(2, 3, 20).softmax(1)
    p[:, 2] = 0
    labels = torch.randint(0, 2, (2, 20))
    ours = loss(activation=None, smooth=0.0, reduction="none")
    table, gradient = ours(p, labels), oracle.gradient(lambda p: ours(p, labels).sum(), p)[1]
    close(table[:, :2], ours(p[:, :2], labels))
    close(table[:, 2], torch.zeros(2))
    assert gradient.isfinite().all()


# Precision


@pytest.mark.by_turns(3)
@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_half_precision_errs_no_more_than_plain_code(loss, activation, dtype):
    logits, labels = oracle.make(activation, 3, (12, 13), dtype=dtype, scale=3.0)
    value, gradient = value_and_gradient(loss(activation), logits, labels)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    exact, exact_gradient = oracle.gradient(lambda z: loss.plain(z, labels, activation), logits.double())
    weight = oracle.counted(labels).to(dtype)
    low, low_gradient = oracle.gradient(lambda z: loss.plain(z, labels, activation, weight), logits)
    assert (value - exact).abs() <= (low - exact).abs() + 1e-5 * exact.abs()

    def error(found):
        return (found.double() - exact_gradient).norm()

    rounding = torch.finfo(dtype).eps * exact_gradient.norm() + 6e-8 * math.sqrt(gradient.numel())
    assert error(gradient) <= error(low_gradient).nan_to_num(nan=0.0) + rounding


@pytest.mark.parametrize("side", [64, 128])
def test_half_precision_past_the_largest_half(side):
    """Sums of probabilities beyond 65504 (MONAI's Dice gives 1.0)."""
    logits = torch.randn(1, 2, side, side, 16)
    labels = torch.randint(0, 2, (1, side, side, 16), dtype=torch.uint8)
    for dtype in (torch.float16, torch.bfloat16):
        low = logits.to(dtype)
        value, gradient = value_and_gradient(fastloss.DiceCELoss(), low, labels)
        expected, expected_gradient = value_and_gradient(fastloss.DiceCELoss(), low.float(), labels)
        close(value, expected)
        assert gradient.dtype == dtype and gradient.isfinite().all()
        step = expected_gradient.abs().max() * 2**-8 + 6e-8  # a rounding of bfloat16, the least float16
        assert (gradient.float() - expected_gradient).abs().max() <= step


@every_loss
@pytest.mark.parametrize("classes", [(0,), (1, 2)], ids=str)
def test_formulas_of_the_sums_of_a_large_volume(loss, classes):
    """512^3 voxels, as their sums would be: no overflow, no cancellation to NaN."""
    voxels = 512.0**3
    for p in (0.0, 1e-30, 0.5, 1.0):
        ours, true = loss(), torch.tensor([[voxels / len(classes) * (c in classes) for c in range(3)]]).double()
        whole = torch.full_like(true, voxels)
        constant = {"y": true, "y2": true, "count": whole}
        known = {"py": true * p, "p2y": true * p * p, "p": whole * p, "p2": whole * p * p}
        sums = {name: known.get(name, true * (1 - p)).requires_grad_() for name in ours.terms}
        value = ours.from_sums(sums | {name: constant[name] for name in ours.terms if name in constant})
        value.backward()
        assert value.isfinite()
        assert all(total.grad is None or total.grad.isfinite().all() for total in sums.values())
