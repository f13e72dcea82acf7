"""What holds for losses whatever the shape, dtype and layout."""

import hypothesis.strategies as st
import oracle
import plain
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from oracle import close, value_and_gradient
from rows import LOSSES, ON_SUMS_ALONE, every_loss

import fastloss

few = settings(max_examples=4)


@st.composite
def problems(draw, ignored=True):
    """Logits, labels and an ignored label, of a random shape, dtype and layout."""
    channels = draw(st.integers(2, 6))
    space = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    logits, labels = oracle.make("softmax", channels, space, dtype=dtype, scale=draw(st.sampled_from([0.1, 3.0])))
    if draw(st.booleans()):
        logits = logits.transpose(1, -1).contiguous().transpose(1, -1)
    if draw(st.booleans()):
        labels = labels.to(draw(st.sampled_from([torch.int16, torch.int64])))
    return logits, labels, draw(st.sampled_from([None, 0, channels - 1])) if ignored else None


# Special cases of one another


@given(problems())
def test_tversky_of_halves_is_dice_and_of_ones_is_jaccard(problem):
    logits, labels, ignored = problem
    tversky = fastloss.TverskyLoss(alpha=0.5, beta=0.5, smooth=0.5, ignore_index=ignored)
    close(tversky(logits, labels), fastloss.DiceLoss(smooth=1.0, ignore_index=ignored)(logits, labels))
    tversky = fastloss.TverskyLoss(alpha=1, beta=1, ignore_index=ignored)
    close(tversky(logits, labels), fastloss.JaccardLoss(ignore_index=ignored)(logits, labels))


@few
@given(problems(), st.sampled_from(["softmax", "sigmoid"]))
def test_limits_of_the_parameters(problem, activation):
    logits, labels, ignored = problem
    common = {"activation": activation, "ignore_index": ignored}
    cross_entropy = fastloss.CrossEntropyLoss(**common)
    focal = fastloss.FocalLoss(gamma=1.5, **common)
    tversky = fastloss.TverskyLoss(**common)
    dice = fastloss.DiceLoss(smooth=1.0, **common)
    for special, general in [
        (cross_entropy, fastloss.FocalLoss(gamma=0, **common)),
        (cross_entropy, fastloss.PolyLoss(epsilon=0, **common)),
        (focal, fastloss.PolyLoss(base="focal", gamma=1.5, epsilon=0, **common)),
        (fastloss.FocalLoss(**common), fastloss.PolyLoss(base="focal", epsilon=0, **common)),
        (tversky, fastloss.FocalTverskyLoss(gamma=1, **common)),
        (dice, fastloss.ComboLoss(alpha=0, **common)),
    ]:
        expected, expected_gradient = value_and_gradient(special, logits, labels)
        value, gradient = value_and_gradient(general, logits, labels)
        close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@given(problems(ignored=False))
def test_focal_of_a_sigmoid_without_gamma_is_torchs_binary_cross_entropy(problem):
    logits, labels, _ = problem
    target = oracle.one_hot(labels, logits.shape[1]).to(logits.dtype)
    ours = fastloss.FocalLoss(activation="sigmoid", gamma=0)(logits, labels)
    close(ours, F.binary_cross_entropy_with_logits(logits, target))


@every_loss
@few
@given(problem=problems(ignored=False))
def test_two_classes_of_a_softmax_are_a_sigmoid_of_the_difference(loss, problem):
    if loss.as_sigmoid is None:
        pytest.skip("the softmax divides by its weights")
    logits, labels, _ = problem
    pair, labels = logits[:, :2], labels.clamp_max(1)
    foreground = loss("sigmoid", 1)(pair[:, 1:] - pair[:, :1], labels)
    close(foreground, loss("softmax", 2, **loss.as_sigmoid)(pair, labels), 1e-5)


@every_loss
@few
@given(problem=problems(ignored=False))
def test_one_hot_target_equals_labels(loss, problem):
    logits, labels, _ = problem
    ours = loss(channels=logits.shape[1])
    dense = oracle.one_hot(labels, logits.shape[1])
    expected, expected_gradient = value_and_gradient(ours, logits, labels)
    soft = [] if loss.options.get("variant") == "squared_error" else [dense.float()]
    for target in (dense, dense.to(torch.uint8), *soft):
        value, gradient = value_and_gradient(ours, logits, target)
        close(value, expected, 1e-6)
        torch.testing.assert_close(gradient, expected_gradient, rtol=2e-5, atol=1e-7)


# Invariances


@every_loss
@few
@given(problem=problems())
def test_softmax_gradient_sums_to_zero_and_a_constant_changes_nothing(loss, problem):
    logits, labels, ignored = problem
    ours = loss(channels=logits.shape[1], ignore_index=ignored)
    value, gradient = value_and_gradient(ours, logits, labels)
    largest = gradient.abs().max().clamp_min(1e-12)
    assert gradient.sum(1).abs().max() <= 4e-6 * largest
    shift = torch.randn(2, 1, *logits.shape[2:], dtype=logits.dtype)
    close(ours(logits + shift, labels), value, 5e-6)


@every_loss
@few
@given(problem=problems(), seed=st.integers(0, 10**6))
def test_ignored_voxels_may_be_nan_and_have_no_gradient(loss, problem, seed):
    logits, labels, _ = problem
    torch.manual_seed(seed)
    out = torch.rand(labels.shape) < 0.4
    held = torch.where(out.unsqueeze(1), torch.nan, logits)
    ours = loss(channels=logits.shape[1], ignore_index=(99, -1))
    value, gradient = value_and_gradient(ours, held, labels.to(torch.int16).masked_fill(out, 99))
    assert not gradient[out.unsqueeze(1).expand_as(gradient)].any()
    assert value.isfinite() and gradient.isfinite().all()
    if not loss.has_distances:  # an ignored label has no region, a masked one has
        masked, masked_gradient = value_and_gradient(ours, held, labels, mask=~out)
        close(masked, value, 1e-6)
        torch.testing.assert_close(masked_gradient, gradient, rtol=1e-5, atol=1e-7)


@every_loss
@few
@given(problem=problems(ignored=False), random=st.randoms(use_true_random=False))
def test_class_permutation(loss, problem, random):
    logits, labels, _ = problem
    order = list(range(1, logits.shape[1]))
    random.shuffle(order)
    order.insert(0 if loss.zero_is_special else random.randrange(logits.shape[1]), 0)
    inverse = torch.empty(len(order), dtype=labels.dtype)
    inverse[order] = torch.arange(len(order), dtype=labels.dtype)
    ours = loss(channels=logits.shape[1])
    expected, gradient = value_and_gradient(ours, logits, labels)
    value, permuted = value_and_gradient(ours, logits[:, order], inverse[labels.long()])
    close(value, expected, 5e-6)
    torch.testing.assert_close(permuted, gradient[:, order], rtol=2e-5, atol=1e-7)


# Additivity


@pytest.mark.parametrize("loss", ON_SUMS_ALONE, ids=str)
@few
@given(problem=problems(), share=st.floats(0, 1))
def test_sums_of_two_parts_of_a_volume_add_up(loss, problem, share):
    logits, labels, ignored = problem
    ours = loss(channels=logits.shape[1], ignore_index=ignored)
    cut = int(share * logits.shape[2])
    halves = [(logits[:, :, :cut], labels[:, :cut]), (logits[:, :, cut:], labels[:, cut:])]
    a, b = (fastloss.voxel_sums(z, y, ours.terms, ignore_index=ignored) for z, y in halves)
    together = dict(zip(ours.terms, (a + b).unbind(-1), strict=True))
    close(ours.from_sums(together), ours(logits, labels), 5e-6)


@every_loss
@few
@given(problem=problems())
def test_batch_equals_the_loop_over_samples(loss, problem):
    logits, labels, ignored = problem
    labels = labels.clone()
    labels[1] = 0  # classes absent in one sample
    given_frequency = {"class_frequency": [1.0] * logits.shape[1]} if loss.whole_batch else {}
    ours = loss(channels=logits.shape[1], ignore_index=ignored, reduction="sum", **given_frequency)
    close(ours(logits, labels), sum(ours(logits[b : b + 1], labels[b : b + 1]) for b in range(2)))


@given(problems(), st.sampled_from([row for row in LOSSES if row.name in plain.TABLES]))
def test_batch_as_one_volume(problem, loss):
    logits, labels, ignored = problem
    folded = logits.transpose(0, 1).flatten(1).unsqueeze(0), labels.flatten().unsqueeze(0)
    close(loss(batch=True, ignore_index=ignored)(logits, labels), loss(ignore_index=ignored)(*folded))
