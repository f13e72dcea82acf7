"""What each public loss owes on each back end: the rows of ``failure_cases.py`` that any class could break."""

import pytest
import torch
from oracle import close, make, one_hot, value_and_gradient
from rows import EVERY_CLASS

import fastloss

SPACE = (5, 6)

every_class = pytest.mark.parametrize("loss", EVERY_CLASS, ids=str)


def same(found, expected):
    """Value and gradient, to the last bit."""
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


@every_class
def test_nothing_counts(each_backend, loss):
    logits, labels = make("softmax", 3, SPACE)
    unknown = logits * torch.nan
    ignored = value_and_gradient(loss(ignore_index=9), unknown, torch.full_like(labels, 9))
    masked = value_and_gradient(loss(), unknown, labels, mask=torch.zeros(labels.shape))
    for value, gradient in (ignored, masked):
        assert value == 0 and not gradient.any()


@every_class
def test_ignored_voxels_are_masked_ones(each_backend, loss):
    """Whatever their logits, for one label that is no class, one that is, and several."""
    logits, labels = make("softmax", 3, SPACE)
    labels[:, ::3] = 255
    for ignored in (255, [2, 255]):
        counts = labels != 255 if ignored == 255 else labels < 2
        unknown = torch.where(counts.unsqueeze(1), logits, torch.nan)
        found = value_and_gradient(loss(ignore_index=ignored), unknown, labels)
        expected = value_and_gradient(loss(), unknown, labels.masked_fill(~counts, 255), mask=counts)
        assert found[0].isfinite() and found[1].isfinite().all()
        assert not found[1][~counts.unsqueeze(1).expand_as(logits)].any()
        close(found[0], expected[0])
        close(found[1], expected[1])


@every_class
def test_strides(each_backend, loss):
    logits, labels = make("softmax", 3, SPACE)
    mask = torch.rand(labels.shape) > 0.2
    expected = value_and_gradient(loss(), logits, labels, mask=mask)
    last = logits.to(memory_format=torch.channels_last), labels.mT.contiguous().mT, mask.mT.contiguous().mT
    sliced = [torch.nn.functional.pad(x, (1, 2, 3, 0))[..., 3:, 1:-2] for x in (logits, labels, mask)]
    for z, y, m in (last, sliced):
        same(value_and_gradient(loss(), z, y, mask=m), expected)
    first = [x[:1].expand_as(x) for x in (logits, labels, mask)]
    leaf = first[0].detach().requires_grad_()
    value = loss()(leaf, first[1], mask=first[2])
    (gradient,) = torch.autograd.grad(value, leaf)
    same((value, gradient), value_and_gradient(loss(), *(x.contiguous() for x in first[:2]), mask=first[2]))


@every_class
def test_no_voxel_and_one(each_backend, loss):
    for shape in ((0, *SPACE), (2, 0, 4)):
        value, gradient = value_and_gradient(loss(), torch.zeros(shape[0], 3, *shape[1:]), torch.zeros(shape).byte())
        assert value == 0 and gradient.shape == (shape[0], 3, *shape[1:])
    value, gradient = value_and_gradient(loss(), *make("softmax", 3, (1, 1), batch=1))
    assert value.isfinite() and gradient.isfinite().all()


@every_class
def test_labels_of_any_dtype(each_backend, loss):
    logits, labels = make("softmax", 3, SPACE)
    expected = value_and_gradient(loss(), logits, labels)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        same(value_and_gradient(loss(), logits, labels.to(dtype)), expected)
    same(value_and_gradient(loss(), logits, labels.float().unsqueeze(1)), expected)
    dense = one_hot(labels, 3)
    found = value_and_gradient(loss(), logits, dense)
    close(found[0], expected[0])
    close(found[1], expected[1])
    same(value_and_gradient(loss(), logits, dense.byte() * 255), found)
    two = value_and_gradient(loss(), logits, labels > 0)
    same(value_and_gradient(loss(), logits, (labels > 0).byte()), two)


@every_class
def test_graphs(each_backend, loss):
    """Without a gradient, twice through one graph, two losses of the same logits; inputs stay."""
    logits, labels = make("softmax", 3, SPACE)
    before = logits.clone(), labels.clone()
    value, gradient = value_and_gradient(loss(), logits, labels)
    with torch.no_grad():
        assert torch.equal(loss()(logits.requires_grad_(), labels), value)
    assert torch.equal(loss()(logits.detach(), labels), value)
    leaf = logits.detach().clone().requires_grad_()
    z = leaf * 1.0
    first, second = loss()(z, labels), loss()(z, labels)
    (first + second).backward(retain_graph=True)
    close(leaf.grad, 2 * gradient)
    leaf.grad = None
    (3 * first).backward()
    close(leaf.grad, 3 * gradient)
    same((logits, labels), before)


@every_class
def test_a_sum_of_a_table_has_weights(each_backend, loss):
    """backward of a weighted sum of ``reduction="none"`` is that of its parts."""
    if loss.name in ("topk", "dice_topk"):
        pytest.skip("ranks all voxels at once: it has no table")
    logits, labels = make("softmax", 3, SPACE)
    leaf = logits.clone().requires_grad_()
    table = loss(reduction="none")(leaf, labels)
    weights = torch.rand(table.shape)
    (found,) = torch.autograd.grad((table * weights).sum(), leaf, retain_graph=True)
    parts = [
        torch.autograd.grad(entry, leaf, retain_graph=True)[0] * weight
        for entry, weight in zip(table.flatten(), weights.flatten(), strict=True)
        if entry.requires_grad
    ]
    close(found, sum(parts), 1e-5)


@every_class
@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
def test_what_is_no_number_is_not_hidden(each_backend, loss, bad):
    logits, labels = make("softmax", 3, SPACE)
    labels[:] = 1
    logits[0, :, 2, 3] = bad
    assert loss()(logits, labels).isnan()
    with pytest.raises(ValueError, match=r"logits: (nan|inf) at index \(0, 0, 2, 3\)"):
        loss(validate=True)(logits, labels)


@every_class
def test_half_precision_is_the_loss_of_its_float32(each_backend, loss):
    logits, labels = make("softmax", 3, SPACE, dtype=torch.float16)
    value, gradient = value_and_gradient(loss(), logits, labels)
    expected, slope = value_and_gradient(loss(), logits.float(), labels)
    assert value.dtype == torch.float32 and gradient.dtype == torch.float16
    close(value, expected)
    torch.testing.assert_close(gradient.float(), slope, rtol=2**-10, atol=1e-7)


@pytest.mark.parametrize("loss", [row for row in EVERY_CLASS if issubclass(row.cls, fastloss.SumLoss)], ids=str)
def test_a_loss_on_sums_keeps_nothing_of_the_logits_size(loss):
    logits, labels = make("softmax", 3, (40, 50))
    leaf, kept = logits.requires_grad_(), []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in given:
            kept.append(tensor.numel())
        return tensor

    given = {x.untyped_storage().data_ptr() for x in (leaf, labels)}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()(leaf, labels)
    has_map = loss.has_distances or loss.cls is fastloss.StructuralSimilarityLoss
    assert kept and sum(kept) <= has_map * logits.numel() + 1000
    value.backward()
    assert leaf.grad.any()
