"""The losses: their options, against plain PyTorch versions and torch's own."""

import inspect
import itertools

import oracle
import plain
import pytest
import torch
import torch.nn.functional as F
from oracle import close, value_and_gradient
from rows import LOSSES, ON_SUMS_ALONE, RANKED, every_loss, loss_class, one_of_each, region_loss
from torch.utils._python_dispatch import TorchDispatchMode

import fastloss


def test_every_loss_has_a_row():
    losses = {getattr(fastloss, name) for name in fastloss.__all__ if name.endswith("Loss")}
    stencils = {loss_class(name) for name in plain.STENCILS}  # which have tests of their own
    stencils.add(fastloss.LovaszHingeLoss)  # which has none of the activations, and tests of its own
    bases = {fastloss.SegmentationLoss, fastloss.SumLoss, fastloss.CompoundLoss}
    assert losses - bases == {row.cls for row in LOSSES + RANKED} | stencils


# Against the plain versions


def test_defaults_are_those_of_the_plain_versions():
    """Also of options whose default no test of values uses, such as large balls."""
    for name, plain_version in plain.KNOWN.items():
        wanted = inspect.signature(plain_version).parameters
        for option, parameter in inspect.signature(loss_class(name)).parameters.items():
            defaults = [parameter.default, wanted[option].default] if option in wanted else [None]
            if None not in defaults and parameter.empty not in defaults:
                assert defaults[0] == defaults[1], (name, option)


def check_plain(row, activation, logits, target, weight=None, call=None, options=None, **build):
    """Value and gradient of the loss against its plain version in float64."""
    options, call = options or {}, call or {}
    weight = oracle.counted(logits[:, 0]) if weight is None else weight
    ours = row(activation, logits.shape[1], **options, **build)
    value, gradient = value_and_gradient(ours, logits, target, **call)
    clean = torch.where(weight.unsqueeze(1) != 0, logits, 0.5).double()
    expected, expected_gradient = oracle.gradient(lambda z: row.plain(z, target, activation, weight, **options), clean)
    close(value, expected, 1e-5)
    oracle.assert_close(gradient, expected_gradient, 2e-5)


@every_loss
@pytest.mark.parametrize(
    ("activation", "channels"), [("softmax", 3), ("sigmoid", 3), ("sigmoid", 1), (None, 3), (None, 1)]
)
def test_labels_with_ignored_and_masked_voxels(loss, activation, channels):
    logits, labels = oracle.make(activation, channels, (3, 6, 7))
    labels[:, 1] = 255
    mask = torch.rand(2, 3, 6, 7) * (torch.rand(2, 3, 6, 7) > 0.3)
    weight = oracle.counted(labels, (255,), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    check_plain(loss, activation, logits, labels, weight, {"mask": mask}, ignore_index=255)


@every_loss
@pytest.mark.parametrize("kind", ["soft", "bool"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_dense_targets(loss, activation, kind):
    if kind == "soft" and loss.options.get("variant") == "squared_error":
        pytest.skip("labels and bool targets only")
    logits, _ = oracle.make(activation, 3, (6, 7))
    target = torch.rand(2, 3, 6, 7)
    target = target / target.sum(1, keepdim=True) if kind == "soft" else target > 0.5
    check_plain(loss, activation, logits, target)


@one_of_each
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_on_every_back_end(each_backend, loss, activation):
    logits, labels = oracle.make(activation, 4, (5, 9))
    check_plain(loss, activation, logits, labels)


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "option", [{"class_weight": [1.0, 2.0, 0.5]}, {"batch": True}, {"include_background": False}], ids=str
)
def test_options(loss, activation, option):
    logits, labels = oracle.make(activation, 3, (6, 7))
    of_a_volume = "class_weight" not in option
    if of_a_volume and (loss.of_voxels or (loss.name == "unified_focal" and "batch" not in option)):
        with pytest.raises(TypeError, match=next(iter(option))):
            loss(activation, **option)
    else:
        check_plain(loss, activation, logits, labels, options=option)


# Against torch


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_torchs(each_backend, reduction, weighted, smoothing):
    logits, labels = oracle.make("softmax", 4, (5, 6, 7))
    labels[:, 1] = 255
    weight = torch.tensor([0.1, 2.0, 1.0, 0.5]) if weighted else None
    options = {"ignore_index": 255, "reduction": reduction, "label_smoothing": smoothing}
    losses = [fastloss.CrossEntropyLoss(class_weight=weight, **options)]
    if weighted:
        losses.append(fastloss.WeightedCrossEntropyLoss(beta=weight, **options))
    expected, expected_gradient = oracle.gradient(
        lambda z: F.cross_entropy(z, labels.long(), weight, **options), logits
    )
    for ours in losses:
        value, gradient = value_and_gradient(ours, logits, labels)
        close(value, expected)
        oracle.assert_close(gradient, expected_gradient, 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("beta", [None, 2.5])
def test_binary_cross_entropy_is_torchs(each_backend, channels, beta):
    logits, _ = oracle.make("sigmoid", channels, (5, 6))
    target = torch.rand(2, channels, 5, 6)
    if beta is None:
        ours, pos_weight = fastloss.CrossEntropyLoss(activation="sigmoid"), None
    else:
        ours, pos_weight = fastloss.WeightedCrossEntropyLoss(activation="sigmoid", beta=beta), torch.tensor(beta)
    value, gradient = value_and_gradient(ours, logits, target)
    expected, expected_gradient = oracle.gradient(
        lambda z: F.binary_cross_entropy_with_logits(z, target, pos_weight=pos_weight), logits
    )
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 1e-5)


def test_smoothed_targets_of_channels_are_torchs():
    logits, target, s = torch.randn(2, 3, 5, 6), (torch.rand(2, 3, 5, 6) > 0.3).float(), 0.2
    options = {"activation": "sigmoid", "label_smoothing": s}
    smoothed = (1 - s) * target + s / 2
    for beta in (1.0, 2.5):
        ours = fastloss.WeightedCrossEntropyLoss(beta=beta, **options)(logits, target)
        expected = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=torch.tensor(beta))
        close(ours, expected)
    share = 1 - target.mean((2, 3), keepdim=True)
    weighted = smoothed * share * -F.logsigmoid(logits) + (1 - smoothed) * (1 - share) * -F.logsigmoid(-logits)
    close(fastloss.BalancedCrossEntropyLoss(**options)(logits, target), weighted.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_soft_labels_are_torchs(smoothing):
    logits, target = torch.randn(2, 3, 5, 6), torch.rand(2, 3, 5, 6).softmax(1)
    ours = fastloss.CrossEntropyLoss(label_smoothing=smoothing)
    close(ours(logits, target), F.cross_entropy(logits, target, label_smoothing=smoothing))


def test_one_weight_for_each_channel():
    logits, target = torch.randn(2, 3, 5, 6), torch.rand(2, 3, 5, 6)
    beta = torch.tensor([0.5, 1.0, 3.0])
    ours = fastloss.WeightedCrossEntropyLoss(activation="sigmoid", beta=beta)(logits, target)
    close(ours, F.binary_cross_entropy_with_logits(logits, target, pos_weight=beta[:, None, None]))


def test_classes_of_frequency_zero_have_no_weight():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    options = {"dice_weight": 0, "ce_weight": 1, "gamma": 1.0}
    ours = fastloss.ExpLogLoss(class_frequency=[0, 0.5, 0.5], **options)(logits, labels)
    weight = torch.tensor([0, 2**0.5, 2**0.5])
    close(ours, F.cross_entropy(logits, labels.long(), weight, reduction="sum") / labels.numel())
    target = (labels == 1).float().unsqueeze(1)
    for frequency, counted in ((0.0, 1 - target), (1.0, target)):
        ours = fastloss.ExpLogLoss(class_frequency=[frequency], activation="sigmoid", **options)(logits[:, :1], target)
        close(ours, F.binary_cross_entropy_with_logits(logits[:, :1], target, counted))


# Reductions


@region_loss
@pytest.mark.parametrize(
    ("batch", "background", "weighted", "reduction"),
    list(itertools.product([False, True], [False, True], [False, True], ["mean", "sum", "none"])),
)
def test_reductions_of_the_table(loss, batch, background, weighted, reduction):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    weight = torch.tensor([1.0, 2.0, 0.5])
    ours = loss(
        batch=batch, include_background=background, class_weight=weight if weighted else None, reduction=reduction
    )
    if batch:
        folded = logits.transpose(0, 1).reshape(1, 3, -1), labels.reshape(1, -1)
        table = loss(reduction="none")(*folded)
    else:
        table = loss(reduction="none")(logits, labels)
    assert table.shape == (1 if batch else 2, 3)
    table = table * weight if weighted else table
    table = table if background else table[:, 1:]
    expected = {"mean": table.mean(), "sum": table.sum(), "none": table}[reduction]
    close(ours(logits, labels), expected)


@every_loss
def test_tables_add_up_to_the_sum(loss):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    ours = loss(reduction="none")
    table = ours(logits, labels)
    assert table.shape == (2, 1 if loss.name == "generalized_dice" else 3 if ours.include_background else 2)
    close(table.sum(), loss(reduction="sum")(logits, labels))


def test_weighted_backward_of_a_table(each_backend):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    weights = torch.randn(2, 3)

    def of_plain(z):
        v = plain.voxels(z, oracle.one_hot(labels, 3), oracle.counted(labels), "softmax")
        return (plain.dice_table(v) * weights).sum()

    loss = fastloss.DiceLoss(reduction="none")
    _, gradient = oracle.gradient(lambda z: (loss(z, labels) * weights).sum(), logits)
    oracle.assert_close(gradient, oracle.gradient(of_plain, logits.double())[1], 1e-5)


# Compounds


def test_dice_ce_is_its_parts_and_keeps_the_background_in_the_cross_entropy():
    logits, labels = oracle.make("softmax", 3, (6, 7))
    both = fastloss.DiceCELoss(dice_weight=2, ce_weight=0.5, include_background=False, smooth=1.0, batch=True)
    dice = fastloss.DiceLoss(include_background=False, smooth=1.0, batch=True)
    cross_entropy = F.cross_entropy(logits, labels.long())
    close(both(logits, labels), 2 * dice(logits, labels) + 0.5 * cross_entropy)
    unweighted = fastloss.CompoundLoss([dice, fastloss.CrossEntropyLoss()])
    close(unweighted(logits, labels), dice(logits, labels) + cross_entropy)
    close(fastloss.CompoundLoss([dice], [2.0])(logits, labels), 2 * dice(logits, labels))


def test_compound_of_any_losses_equals_the_sum_with_gradients():
    logits, labels = oracle.make("softmax", 3, (6, 7))
    parts = [*(row() for row in ON_SUMS_ALONE), fastloss.HausdorffDTLoss()]
    weights = torch.rand(len(parts)).tolist()
    value, gradient = value_and_gradient(fastloss.CompoundLoss(parts, weights), logits, labels)
    expected, expected_gradient = oracle.gradient(
        lambda z: sum(weight * part(z, labels) for weight, part in zip(weights, parts, strict=True)), logits
    )
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 1e-5)


class Overlap(fastloss.SumLoss):
    """A user's loss."""

    terms = ("py", "p2y")

    def formula(self, sums):
        return -sums["py"] - sums["p2y"]


class Operators(TorchDispatchMode):
    """The names of the package's operators that ran."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fastloss":
            self.found.append(function._schema.name.removeprefix("fastloss::"))
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        self.found = []
        return super().__enter__()


@pytest.mark.parametrize("whole", [False, True])
def test_one_pass_forward_and_one_backward(whole):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    parts = [fastloss.DiceLoss(), fastloss.CrossEntropyLoss(label_smoothing=0.1), fastloss.FocalLoss(), Overlap()]
    loss = fastloss.CompoundLoss([*parts, *(row() for row in ON_SUMS_ALONE)] if whole else parts)
    logits.requires_grad_()
    with Operators() as forward:
        value = loss(logits, labels)
    with Operators() as backward:
        value.backward()
    assert forward.found == ["voxel_sums"]
    assert backward.found == ["voxel_sums_backward"]
    assert len(loss.terms) == len(set(loss.terms))


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


def test_half_precision_modules_keep_their_weights():
    frequency = [0.1, 0.2, 0.7]
    loss = fastloss.ExpLogLoss(class_weight=frequency, class_frequency=frequency).half()
    assert sorted(name for name, _ in loss.named_buffers()) == [
        "losses.0.class_weight",
        "losses.1.class_frequency",
        "losses.1.class_weight",
    ]
    for buffer in loss.buffers():
        assert buffer.dtype == torch.float64
        assert buffer.tolist() == frequency


def test_modules_move_their_weights():
    weight = [0.1, 0.2, 0.7]
    loss = fastloss.ExpLogLoss(class_weight=weight, class_frequency=weight).to("meta")
    assert not loss.state_dict()  # what is not learned is no state
    assert {buffer.device.type for buffer in loss.buffers()} == {"meta"}
