"""The losses: options, identities, and plain PyTorch versions of the same."""

import itertools

import hypothesis.strategies as st
import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

import fastloss

LOSSES = [
    fastloss.CrossEntropyLoss,
    fastloss.DiceLoss,
    fastloss.JaccardLoss,
    fastloss.TverskyLoss,
    fastloss.DiceCELoss,
]
REGION = [fastloss.DiceLoss, fastloss.JaccardLoss, fastloss.TverskyLoss]
every_loss = pytest.mark.parametrize("loss_class", LOSSES, ids=lambda c: c.__name__)
region_loss = pytest.mark.parametrize("loss_class", REGION, ids=lambda c: c.__name__)


def close(actual, expected, tolerance=2e-6):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def value_and_gradient(loss, logits, target, **arguments):
    return oracle.gradient(lambda z: loss(z, target, **arguments), logits)


# Against torch


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_torchs(each_backend, reduction, weighted):
    logits, labels = oracle.make("softmax", 4, (5, 6, 7))
    labels[:, 1] = 255
    weight = torch.tensor([0.1, 2.0, 1.0, 0.5]) if weighted else None
    ours = fastloss.CrossEntropyLoss(ignore_index=255, class_weight=weight, reduction=reduction)
    value, gradient = value_and_gradient(ours, logits, labels)
    expected, expected_gradient = oracle.gradient(
        lambda z: F.cross_entropy(z, labels.long(), weight, ignore_index=255, reduction=reduction), logits
    )
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_binary_cross_entropy_is_torchs(each_backend, channels):
    logits, _ = oracle.make("sigmoid", channels, (5, 6))
    target = torch.rand(2, channels, 5, 6)
    value, gradient = value_and_gradient(fastloss.CrossEntropyLoss(activation="sigmoid"), logits, target)
    expected, expected_gradient = oracle.gradient(lambda z: F.binary_cross_entropy_with_logits(z, target), logits)
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 1e-5)


def test_soft_labels_are_torchs():
    logits, target = torch.randn(2, 3, 5, 6), torch.rand(2, 3, 5, 6).softmax(1)
    close(fastloss.CrossEntropyLoss()(logits, target), F.cross_entropy(logits, target))


def test_cross_entropy_of_probabilities_is_that_of_their_logits():
    for channels, activation in ((3, "softmax"), (1, "sigmoid")):
        logits, labels = oracle.make(activation, channels, (5, 6))
        p = oracle.probability(logits, activation)
        close(
            fastloss.CrossEntropyLoss(activation=None)(p, labels),
            fastloss.CrossEntropyLoss(activation=activation)(logits, labels),
            1e-5,
        )


# Options


@region_loss
@pytest.mark.parametrize(
    ("batch", "background", "weighted", "reduction"),
    list(itertools.product([False, True], [False, True], [False, True], ["mean", "sum", "none"])),
)
def test_reductions_of_the_table(loss_class, batch, background, weighted, reduction):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    weight = torch.tensor([1.0, 2.0, 0.5])
    loss = loss_class(
        batch=batch,
        include_background=background,
        class_weight=weight if weighted else None,
        reduction=reduction,
    )
    if batch:
        folded = logits.transpose(0, 1).reshape(1, 3, -1), labels.reshape(1, -1)
        table = loss_class(reduction="none")(*folded)
    else:
        table = loss_class(reduction="none")(logits, labels)
    assert table.shape == (1 if batch else 2, 3)
    table = table * weight if weighted else table
    table = table if background else table[:, 1:]
    expected = {"mean": table.mean(), "sum": table.sum(), "none": table}[reduction]
    close(loss(logits, labels), expected)


def test_tables_of_cross_entropy_add_up_to_the_sum():
    logits, labels = oracle.make("softmax", 3, (6, 7))
    table = fastloss.CrossEntropyLoss(reduction="none")(logits, labels)
    assert table.shape == (2, 3)
    close(table.sum(), F.cross_entropy(logits, labels.long(), reduction="sum"))


def test_dice_ce_is_its_parts_and_keeps_the_background_in_the_cross_entropy():
    logits, labels = oracle.make("softmax", 3, (6, 7))
    both = fastloss.DiceCELoss(dice_weight=2, ce_weight=0.5, include_background=False, smooth=1.0, batch=True)
    dice = fastloss.DiceLoss(include_background=False, smooth=1.0, batch=True)
    expected = 2 * dice(logits, labels) + 0.5 * F.cross_entropy(logits, labels.long())
    close(both(logits, labels), expected)


def test_compound_of_any_losses_equals_the_sum_with_gradients(each_backend):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    parts = [fastloss.DiceLoss(squared=True), fastloss.CrossEntropyLoss(), fastloss.TverskyLoss(batch=True)]
    weights = [1.0, 0.3, 2.0]
    value, gradient = value_and_gradient(fastloss.CompoundLoss(parts, weights), logits, labels)
    expected, expected_gradient = oracle.gradient(
        lambda z: sum(weight * part(z, labels) for weight, part in zip(weights, parts, strict=True)), logits
    )
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 1e-5)


def test_weighted_backward_of_a_table(each_backend):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    weights = torch.randn(2, 3)

    def plain(z):
        p, y = z.softmax(1).flatten(2), oracle.one_hot(labels, 3).double().flatten(2)
        dice = 1 - (2 * (p * y).sum(2) + 1e-5) / (p.sum(2) + y.sum(2) + 1e-5)
        return (dice * weights).sum()

    loss = fastloss.DiceLoss(reduction="none")
    _, gradient = oracle.gradient(lambda z: (loss(z, labels) * weights).sum(), logits)
    oracle.assert_close(gradient, oracle.gradient(plain, logits.double())[1], 1e-5)


@every_loss
def test_batch_equals_the_loop_over_samples(loss_class):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    labels[1] = 0  # two classes absent in one sample
    loss = loss_class(reduction="sum")
    close(loss(logits, labels), sum(loss(logits[b : b + 1], labels[b : b + 1]) for b in range(2)))


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_ignored_and_masked_voxels_are_as_if_cut_out(each_backend, loss_class, activation):
    logits, labels = oracle.make(activation, 3, (40,), batch=1)
    labels[:, 30:] = 255
    loss = loss_class(activation=activation, ignore_index=(255, -100))
    value, gradient = value_and_gradient(loss, logits, labels)
    expected, expected_gradient = value_and_gradient(
        loss_class(activation=activation), logits[..., :30].contiguous(), labels[:, :30]
    )
    close(value, expected)
    oracle.assert_close(gradient[..., :30], expected_gradient, 1e-5)
    assert not gradient[..., 30:].any()
    mask = (torch.arange(40) < 30).expand(1, 40)
    masked, masked_gradient = value_and_gradient(loss_class(activation=activation), logits, labels, mask=mask)
    assert torch.equal(masked, value)
    assert torch.equal(masked_gradient, gradient)


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_everything_ignored_is_zero_with_zero_gradient(each_backend, loss_class, activation):
    logits, labels = oracle.make(activation, 3, (6, 7))
    for smooth in ({}, {"smooth": 0.0} if loss_class is not fastloss.CrossEntropyLoss else {}):
        loss = loss_class(activation=activation, ignore_index=9, **smooth)
        value, gradient = value_and_gradient(loss, logits * torch.nan, torch.full_like(labels, 9))
        assert value == 0
        assert not gradient.any()


@region_loss
def test_absent_class_without_smoothing_is_finite(each_backend, loss_class):
    logits, labels = torch.zeros(1, 3, 8), torch.zeros(1, 8, dtype=torch.uint8)
    logits[:, 0] = 200.0
    value, gradient = value_and_gradient(loss_class(smooth=0.0), logits, labels)
    assert value.isfinite() and gradient.isfinite().all()


@every_loss
def test_one_voxel(each_backend, loss_class):
    logits, labels = oracle.make("softmax", 2, (1, 1, 1), batch=1)
    value, gradient = value_and_gradient(loss_class(), logits, labels)
    assert value.isfinite() and gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_empty_input_is_zero(each_backend, loss_class, shape):
    logits = torch.zeros(shape, requires_grad=True)
    value = loss_class()(logits, torch.zeros(shape[0], *shape[2:], dtype=torch.uint8))
    value.backward()
    assert value == 0
    assert logits.grad.shape == logits.shape


# Identities


@st.composite
def problems(draw):
    """Logits, labels and the mask of a random shape, dtype and layout."""
    channels = draw(st.integers(2, 6))
    space = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    logits, labels = oracle.make("softmax", channels, space, dtype=dtype, scale=draw(st.sampled_from([0.1, 3.0])))
    if draw(st.booleans()):
        logits = logits.transpose(1, -1).contiguous().transpose(1, -1)
    if draw(st.booleans()):
        labels = labels.to(draw(st.sampled_from([torch.int16, torch.int64])))
    ignored = draw(st.sampled_from([None, 0, channels - 1]))
    return logits, labels, ignored


@given(problems())
def test_tversky_of_halves_is_dice_and_of_ones_is_jaccard(problem):
    logits, labels, ignored = problem
    tversky = fastloss.TverskyLoss(alpha=0.5, beta=0.5, smooth=0.5, ignore_index=ignored)
    close(tversky(logits, labels), fastloss.DiceLoss(smooth=1.0, ignore_index=ignored)(logits, labels))
    tversky = fastloss.TverskyLoss(alpha=1, beta=1, ignore_index=ignored)
    close(tversky(logits, labels), fastloss.JaccardLoss(ignore_index=ignored)(logits, labels))


@given(problems(), st.sampled_from(LOSSES))
def test_softmax_gradient_sums_to_zero_and_a_constant_changes_nothing(problem, loss_class):
    logits, labels, ignored = problem
    loss = loss_class(ignore_index=ignored)
    value, gradient = value_and_gradient(loss, logits, labels)
    largest = gradient.abs().max().clamp_min(1e-12)
    assert gradient.sum(1).abs().max() <= 4e-6 * largest
    shift = torch.randn(2, 1, *logits.shape[2:], dtype=logits.dtype)
    close(loss(logits + shift, labels), value, 5e-6)


@given(problems(), st.sampled_from(LOSSES), st.randoms(use_true_random=False))
def test_class_permutation(problem, loss_class, random):
    logits, labels, _ = problem
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    inverse = torch.empty(len(order), dtype=labels.dtype)
    inverse[order] = torch.arange(len(order), dtype=labels.dtype)
    close(loss_class()(logits[:, order], inverse[labels.long()]), loss_class()(logits, labels), 5e-6)


@given(problems(), st.sampled_from(LOSSES))
def test_two_classes_of_a_softmax_are_a_sigmoid_of_the_difference(problem, loss_class):
    logits, labels, _ = problem
    pair, labels = logits[:, :2], labels.clamp_max(1)
    foreground = loss_class(activation="sigmoid")(pair[:, 1:] - pair[:, :1], labels)
    if loss_class in REGION:
        softmax = loss_class(include_background=False)(pair, labels)
    elif loss_class is fastloss.CrossEntropyLoss:
        softmax = loss_class()(pair, labels)
    else:
        softmax = loss_class(include_background=False)(pair, labels)
    close(foreground, softmax, 1e-5)


@given(problems(), st.sampled_from(LOSSES))
def test_one_hot_target_equals_labels(problem, loss_class):
    logits, labels, _ = problem
    dense = oracle.one_hot(labels, logits.shape[1])
    expected, expected_gradient = value_and_gradient(loss_class(), logits, labels)
    for target in (dense, dense.float(), dense.to(torch.uint8)):
        value, gradient = value_and_gradient(loss_class(), logits, target)
        close(value, expected, 1e-6)
        oracle.assert_close(gradient, expected_gradient, 1e-5)


# Inputs of other libraries


def test_monai_meta_tensors_are_unwrapped():
    meta = pytest.importorskip("monai.data").MetaTensor
    logits, labels = oracle.make("softmax", 3, (6, 7))
    leaf = logits.clone().requires_grad_()
    value = fastloss.DiceCELoss()(meta(leaf), meta(labels.unsqueeze(1)))
    value.backward()
    expected, gradient = value_and_gradient(fastloss.DiceCELoss(), logits, labels)
    assert type(value) is torch.Tensor
    assert torch.equal(value.detach(), expected) and torch.equal(leaf.grad, gradient)


def test_half_precision_modules_keep_their_class_weights():
    loss = fastloss.DiceLoss(class_weight=[0.1, 0.2, 0.7]).half()
    assert loss.class_weight.dtype == torch.float64
    assert loss.class_weight.tolist() == [0.1, 0.2, 0.7]


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
@pytest.mark.parametrize("size", [100.0, 1e4, 1e8])
def test_saturated_logits(each_backend, loss_class, size):
    logits = torch.where(torch.rand(1, 3, 30) > 0.5, size, -size)
    labels = torch.randint(0, 3, (1, 30), dtype=torch.uint8)
    for activation in ("softmax", "sigmoid"):
        loss = loss_class(activation=activation)
        value, gradient = value_and_gradient(loss, logits, labels)
        exact, exact_gradient = value_and_gradient(loss, logits.double(), labels)
        close(value, exact, 1e-5)
        assert gradient.isfinite().all()
        oracle.assert_close(gradient, exact_gradient, 1e-5)
