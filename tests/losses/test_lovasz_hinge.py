"""The Lovász hinge: against the authors' steps in plain PyTorch, on every back end; options, errors of 0, refusals."""

import oracle
import pytest
import torch
from oracle import close, value_and_gradient
from plain import lovasz_of_class

import fastloss


def plain_table(z, y, weight, per_sample=True):
    """``[B or 1, C]``, one problem at a time."""
    groups = [[b] for b in range(len(z))] if per_sample else [list(range(len(z)))]
    rows = []
    for samples in groups:
        counted = weight[samples] != 0
        w, row = weight[samples][counted], []
        for c in range(z.shape[1]):
            logit, truth = z[samples, c][counted], y[samples, c][counted].to(z.dtype)
            errors = torch.relu(1 - logit * (2 * truth - 1))
            row.append(lovasz_of_class(errors, truth, w) if len(w) else 0 * logit.sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def check(logits, target, *, per_sample=True, weight=None, call=None, **options):
    y = target if target.shape == logits.shape else oracle.one_hot(target, logits.shape[1])
    weight = (oracle.counted(logits[:, 0]) if weight is None else weight).double()
    loss = fastloss.LovaszHingeLoss(per_sample=per_sample, **options)
    value, gradient = value_and_gradient(loss, logits, target, **(call or {}))
    clean = torch.where(weight.unsqueeze(1) != 0, logits, 0.5).double()
    expected, derivative = oracle.gradient(lambda z: plain_table(z, y, weight, per_sample).mean(), clean)
    close(value, expected, 1e-5)
    oracle.assert_close(gradient, derivative, 2e-5)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize(("channels", "weights"), [(1, "bool"), (3, "float"), (6, "bool")])
def test_labels_with_ignored_and_masked_voxels(each_backend, channels, weights, per_sample):
    logits, labels = oracle.make("sigmoid", channels, (3, 6, 7))
    labels[:, 1] = 255
    mask = torch.rand(2, 3, 6, 7) > 0.3
    mask = mask * torch.rand(2, 3, 6, 7) if weights == "float" else mask
    weight = oracle.counted(labels, (255,), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    check(logits, labels, per_sample=per_sample, weight=weight, call={"mask": mask}, ignore_index=255)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_channels_that_overlap(each_backend, dtype):
    """The foreground of one channel is nowhere, that of another everywhere."""
    target = torch.rand(2, 4, 6, 7) > 0.5
    target[0, 1], target[:, 2] = False, True
    check(2 * torch.randn(2, 4, 6, 7), target.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(each_backend, dtype):
    """Half precision takes steps so large that many errors agree: the value alone does not depend on their order."""
    logits, labels = oracle.make("sigmoid", 2, (40,), dtype=dtype)
    value, gradient = value_and_gradient(fastloss.LovaszHingeLoss(), logits, labels)
    expected = plain_table(logits.double(), oracle.one_hot(labels, 2), oracle.counted(labels)).mean()
    close(value, expected, 1e-5)
    assert gradient.dtype == dtype and value.dtype == (dtype if dtype == torch.float64 else torch.float32)


def test_gradcheck(each_backend):
    logits, labels = oracle.make("sigmoid", 2, (5, 4), dtype=torch.float64)
    labels[:, 0] = 255
    loss = fastloss.LovaszHingeLoss(ignore_index=255)
    fast = each_backend == "triton"
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_(), eps=1e-7, fast_mode=fast)


def test_an_error_of_zero_has_no_gradient(each_backend):
    """Logits on the right side of the margin, or on it, and a channel where all are."""
    logits = torch.tensor([[[1.0, 1.5, -1.0, -40.0, 0.5, -0.5], [3.0, 3.0, -3.0, -3.0, 3.0, -3.0]]])
    target = torch.tensor([[[1, 1, 0, 0, 1, 0]] * 2], dtype=torch.uint8).reshape(1, 2, 6)
    value, gradient = value_and_gradient(fastloss.LovaszHingeLoss(reduction="sum"), logits, target)
    # of 3 foreground voxels two are wrong by 1/2, the first of them first: 1/2 (1/3 + 1/4 2/3)
    close(value, torch.tensor(0.5 * (1 / 3 + 2 / 3 / 4)))
    close(gradient, torch.tensor([[[0, 0, 0, 0, -1 / 3, 1 / 6], [0] * 6]]))
    absent, of_absent = value_and_gradient(fastloss.LovaszHingeLoss(), logits[:, :1] - 9, torch.zeros(1, 1, 6).bool())
    assert absent == 0 and not of_absent.any()


def test_table_and_options():
    logits, labels = oracle.make("sigmoid", 3, (6, 7))
    table = fastloss.LovaszHingeLoss(reduction="none")(logits, labels)
    plain = plain_table(logits.double(), oracle.one_hot(labels, 3), oracle.counted(labels))
    close(table, plain, 1e-5)
    weighted = fastloss.LovaszHingeLoss(class_weight=[9.0, 2.0, 0.5], include_background=False, reduction="sum")
    close(weighted(logits, labels), (plain * torch.tensor([0, 2.0, 0.5])).sum(), 1e-5)
    assert fastloss.LovaszHingeLoss(per_sample=False, reduction="none")(logits, labels).shape == (1, 3)
    assert fastloss.LovaszHingeLoss()(logits[:0], labels[:0]) == 0


def test_large_volume_and_threads():
    logits, labels = oracle.make("sigmoid", 2, (70, 60, 50), batch=1)
    value, gradient = value_and_gradient(fastloss.LovaszHingeLoss(), logits, labels)
    with fastloss.backend("reference"):
        expected, derivative = value_and_gradient(fastloss.LovaszHingeLoss(), logits.double(), labels)
    close(value, expected, 1e-6)
    assert (gradient.double() - derivative).norm() < 1e-4 * derivative.norm()


def test_logits_are_no_probabilities():
    """Values of any size pass where probabilities would not; NaN is named."""
    logits, labels = 30 * torch.randn(1, 1, 9), torch.randint(0, 2, (1, 9))
    loss = fastloss.LovaszHingeLoss(validate=True)
    loss(logits, labels)
    logits[0, 0, 3] = torch.nan
    with pytest.raises(ValueError, match=r"logits: nan at index \(0, 0, 3\).*expected finite values"):
        loss(logits, labels)
    assert fastloss.LovaszHingeLoss()(logits, labels).isnan()
    with pytest.raises(TypeError, match="activation: is no option of LovaszHingeLoss, which takes logits"):
        fastloss.LovaszHingeLoss(activation="sigmoid")
    with pytest.raises(TypeError, match="batch: is no option of LovaszHingeLoss, whose per_sample=False"):
        fastloss.LovaszHingeLoss(batch=True)
    with pytest.raises(ValueError, match=r"target: got a torch\.float32 tensor, expected labels or a bool"):
        fastloss.LovaszHingeLoss()(logits, torch.rand(1, 1, 9))


def test_one_compiled_graph():
    logits, labels = oracle.make("sigmoid", 1, (6, 7))
    loss = fastloss.LovaszHingeLoss()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    for ours, theirs in zip(*(value_and_gradient(f, logits, labels) for f in (compiled, loss)), strict=True):
        assert torch.equal(ours, theirs)
