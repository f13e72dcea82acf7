"""One target of full resolution, read through strides."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from oracle import close
from rows import ON_SUMS_ALONE

import fastloss


def nearest(volume, size, channels, mode="nearest"):
    """What torch resizes to, for a volume with or without a channel axis."""
    axis = volume if channels else volume.unsqueeze(1)
    resized = F.interpolate(axis.float(), size=tuple(size), mode=mode).to(volume.dtype)
    return resized if channels else resized.squeeze(1)


def levels(factors, space=(8, 12, 4), channels=3):
    return [torch.randn(2, channels, *(n // f for n, f in zip(space, by, strict=True))) for by in factors]


ANISOTROPIC = [(1, 1, 1), (2, 2, 1), (4, 4, 2), (8, 4, 4)]


@pytest.mark.parametrize("loss", ON_SUMS_ALONE, ids=str)
def test_is_the_loss_on_nearest_labels(loss):
    logits, labels = levels(ANISOTROPIC), torch.randint(0, 3, (2, 8, 12, 4), dtype=torch.uint8)
    mask = torch.rand(2, 8, 12, 4) > 0.3
    weights = [0.5, 0.3, 0.2, 0.1]
    leaves, others = ([z.clone().requires_grad_() for z in logits] for _ in range(2))
    value = fastloss.DeepSupervision(loss(ignore_index=1), weights)(leaves, labels, mask=mask)
    value.backward()
    expected = sum(
        weight * loss(ignore_index=1)(z, nearest(labels, z.shape[2:], False), mask=nearest(mask, z.shape[2:], False))
        for weight, z in zip(weights, others, strict=True)
    )
    expected.backward()
    close(value, expected)
    for leaf, other in zip(leaves, others, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("form", ["channel axis", "soft", "multi-label"])
def test_other_forms_of_the_target(form):
    logits = levels(ANISOTROPIC)
    target = {
        "channel axis": torch.randint(0, 3, (2, 1, 8, 12, 4)),
        "soft": torch.rand(2, 3, 8, 12, 4),
        "multi-label": torch.rand(2, 3, 8, 12, 4) > 0.5,
    }[form]
    loss = fastloss.DiceLoss(activation="sigmoid")
    values = [loss(z, nearest(target, z.shape[2:], True)) for z in logits]
    close(fastloss.DeepSupervision(loss, [1] * 4)(logits, target), sum(values))


def test_distances_of_a_coarse_level_are_refused():
    with pytest.raises(ValueError, match="loss: got BoundaryLoss, whose distances"):
        fastloss.DeepSupervision(fastloss.BoundaryLoss())


def test_weight_maps_are_read_likewise():
    class Weighted(fastloss.SumLoss):
        terms = ("map*p", "y")

        def formula(self, sums):
            return sums["map*p"] / sums["y"].clamp_min(1)

    logits, labels = levels([(1, 1, 1), (2, 2, 2)]), torch.randint(0, 3, (2, 8, 12, 4))
    weight_map = torch.rand(2, 1, 8, 12, 4)
    value = fastloss.DeepSupervision(Weighted(), [1, 1])(logits, labels, weight_map=weight_map)
    coarse = (slice(None, None, 2),) * 3
    expected = Weighted()(logits[0], labels, weight_map=weight_map)
    expected += Weighted()(logits[1], labels[(..., *coarse)], weight_map=weight_map[(..., *coarse)])
    close(value, expected)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_any_factors(size, factors):
    factors = factors[: len(size)]
    labels = torch.randint(0, 3, (2, *(n * f for n, f in zip(size, factors, strict=True))))
    z = torch.randn(2, 3, *size)
    loss = fastloss.DiceCELoss()
    close(fastloss.DeepSupervision(loss)([z], labels), loss(z, nearest(labels, size, False)))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.data())
def test_nearest_exact_of_any_sizes(space, data):
    """Also of those that no stride gives."""
    size = [data.draw(st.integers(1, whole)) for whole in space]
    seen, labels, mask = [], torch.randint(0, 99, (2, 1, *space)), torch.rand(2, *space)
    wrapper = fastloss.DeepSupervision(
        lambda z, y, mask: (seen.extend([y, mask]), z.sum())[1], sampling="nearest-exact"
    )
    wrapper([torch.zeros(2, 3, *space), torch.zeros(2, 3, *size)], labels, mask=mask)
    assert torch.equal(seen[0], labels) and torch.equal(seen[1], mask)
    assert torch.equal(seen[2], nearest(labels, size, True, "nearest-exact"))
    assert torch.equal(seen[3], nearest(mask, size, False, "nearest-exact"))


def test_a_target_and_a_mask_for_each_level():
    """As nnU-Net's loader gives them, read as they are; what comes once is of full resolution."""
    logits, labels = levels(ANISOTROPIC), torch.randint(0, 3, (2, 1, 8, 12, 4))
    targets = [nearest(labels, z.shape[2:], True, "nearest-exact") for z in logits]
    loss, weights, mask = fastloss.DiceCELoss(), [0.4, 0.3, 0.2, 0.1], torch.rand(2, 8, 12, 4)
    masks = [nearest(mask, z.shape[2:], False, "nearest-exact") for z in logits]
    wrapper = fastloss.DeepSupervision(loss, weights, sampling="nearest-exact")
    expected = sum(w * loss(*pair) for w, *pair in zip(weights, logits, targets, strict=True))
    close(wrapper(logits, targets), expected)
    close(wrapper(logits, labels), expected)
    close(fastloss.DeepSupervision(loss, weights)(logits, tuple(targets)), expected)
    weighted = sum(w * loss(z, y, mask=m) for w, z, y, m in zip(weights, logits, targets, masks, strict=True))
    for target, of_target in ((targets, masks), (targets, mask), (labels, masks)):
        close(wrapper(logits, target, mask=of_target), weighted)
    close(wrapper(logits[0], targets[:1]), loss(logits[0], labels))


def test_default_weights_halve_and_add_up_to_one():
    wrapper = fastloss.DeepSupervision(fastloss.DiceLoss())
    assert wrapper.level_weights(1) == [1.0]
    assert wrapper.level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    logits, labels = levels(ANISOTROPIC[:2]), torch.randint(0, 3, (2, 8, 12, 4))
    close(wrapper(logits, labels), fastloss.DeepSupervision(fastloss.DiceLoss(), [2 / 3, 1 / 3])(logits, labels))


def test_a_level_of_weight_zero_is_not_computed():
    """Nor read: it may hold anything. Its gradient is 0, not missing, for which DistributedDataParallel would wait."""
    logits = [z.requires_grad_() for z in levels(ANISOTROPIC[:2])]
    logits[1].data[:] = torch.nan
    labels = torch.randint(0, 3, (2, 8, 12, 4))
    calls = []
    loss = fastloss.DeepSupervision(lambda z, y: (calls.append(z), fastloss.DiceLoss()(z, y))[1], [1, 0])
    value = loss(logits, labels)
    assert torch.equal(value, fastloss.DiceLoss()(logits[0], labels)) and len(calls) == 1
    value.backward()
    assert logits[0].grad.any() and torch.equal(logits[1].grad, torch.zeros_like(logits[1]))


@pytest.mark.parametrize("sampling", ["nearest", "nearest-exact"])
def test_target_is_not_copied(sampling):
    """The coarse labels that reach the loss share the memory of the full ones."""
    seen = []
    labels = torch.randint(0, 3, (2, 8, 12, 4), dtype=torch.uint8)
    loss = fastloss.DeepSupervision(lambda z, y: (seen.append(y), z.sum())[1], sampling=sampling)
    loss(levels(ANISOTROPIC), labels)
    assert len(seen) == 4
    assert all(y.untyped_storage().data_ptr() == labels.untyped_storage().data_ptr() for y in seen)


def test_one_tensor_is_the_loss_itself():
    """What a network gives in evaluation, without a weight."""
    (logits,), labels = levels(ANISOTROPIC[:1]), torch.randint(0, 3, (2, 8, 12, 4))
    mask = torch.rand(2, 8, 12, 4) > 0.3
    wrapper = fastloss.DeepSupervision(fastloss.DiceCELoss(), [0.5, 0.25])
    for target in (labels, labels.unsqueeze(1), torch.rand(2, 3, 8, 12, 4)):
        assert torch.equal(wrapper(logits, target, mask=mask), fastloss.DiceCELoss()(logits, target, mask=mask))


@pytest.mark.parametrize("space", [(8, 12, 4), (8, 12), (8,)])
def test_a_stack_of_levels(space):
    """As MONAI's DynUNet gives them: heads resized to the full resolution, along axis 1."""
    stack, labels = torch.randn(2, 3, 4, *space), torch.randint(0, 4, (2, *space))
    loss = fastloss.DiceLoss()
    expected = sum(weight * loss(stack[:, i], labels) for i, weight in enumerate((4 / 7, 2 / 7, 1 / 7)))
    for target in (labels, labels.unsqueeze(1)):
        close(fastloss.DeepSupervision(loss)(stack, target), expected)
    dense = torch.rand(2, 4, *space)
    expected = sum(weight * loss(stack[:, i], dense) for i, weight in enumerate((4 / 7, 2 / 7, 1 / 7)))
    close(fastloss.DeepSupervision(loss)(stack if len(space) == 3 else stack.unbind(1), dense), expected)
    if len(space) < 3:  # it could be the labels of one level, of one more axis, if they were integers
        with pytest.raises((ValueError, TypeError), match="target: got"):
            fastloss.DeepSupervision(loss)(stack, dense)


def test_levels_without_voxels_are_those_of_a_target_without():
    loss, stack = fastloss.DeepSupervision(fastloss.DiceCELoss()), [torch.ones(2, 3, 0, 4), torch.ones(2, 3, 0, 2)]
    assert loss(stack, torch.zeros(2, 0, 4, dtype=torch.uint8)) == 0
    with pytest.raises(ValueError, match=r"logits\[0\]: got spatial size \[0, 4\] for a target of \[8, 4\]"):
        loss(stack, torch.zeros(2, 8, 4, dtype=torch.uint8))


def test_odd_sizes_are_those_of_strided_convolutions():
    """13 voxels are 7, 4 and 2 after convolutions of stride 2, whose centres are every 2nd, 4th and 8th voxel."""
    volume = torch.randint(0, 3, (2, 13, 10, 5))
    net, logits = torch.nn.Conv3d(3, 3, 3, stride=2, padding=1), [torch.randn(2, 3, 13, 10, 5)]
    centres = [volume]
    while logits[-1].shape[2] > 2:
        logits.append(net(logits[-1]))
        centres.append(centres[-1][:, ::2, ::2, ::2])
    assert [level.shape[2:] for level in logits] == [labels.shape[1:] for labels in centres]
    loss, weights = fastloss.DiceCELoss(), [0.4, 0.3, 0.2, 0.1]
    expected = sum(w * loss(z, y) for w, z, y in zip(weights, logits, centres, strict=True))
    close(fastloss.DeepSupervision(loss, weights)(logits, volume), expected)
    close(fastloss.DeepSupervision(loss)([logits[0][:, :, ::3]], volume), loss(logits[0][:, :, ::3], volume[:, ::3]))


def test_compiles_without_breaks():
    logits, labels = levels(ANISOTROPIC[:2]), torch.randint(0, 3, (2, 8, 12, 4))
    wrapper = fastloss.DeepSupervision(fastloss.DiceCELoss())
    compiled = torch.compile(wrapper, fullgraph=True, backend="aot_eager")
    close(compiled(logits, labels), wrapper(logits, labels))


Y = torch.zeros(2, 8, 12, dtype=torch.uint8)
ERRORS = {
    "size that no stride gives": ([(8, 12), (5, 6)], None, ValueError, r"logits\[1\]: got spatial size \[5, 6\]"),
    "larger than the target": ([(16, 12)], None, ValueError, r"logits\[0\]: .* target of \[8, 12\], expected"),
    "other number of axes": ([(8, 12), (4, 6, 1)], None, ValueError, r"logits\[1\]: got spatial size \[4, 6, 1\]"),
    "wrong number of weights": ([(8, 12)], [1, 2], ValueError, "weights: got 2, expected 1"),
    "no levels": ([], None, TypeError, "logits: got nothing, expected a sequence"),
    "weights of zero": ([(8, 12)], [0], ValueError, "weights: got .*, expected at least one above 0"),
    "negative weight": ([(8, 12)], [-1.0], ValueError, "weights: got -1.0, expected a finite number"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_named(case):
    sizes, weights, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        fastloss.DeepSupervision(fastloss.DiceLoss(), weights)([torch.zeros(2, 3, *size) for size in sizes], Y)


def test_lists_that_do_not_fit_are_named():
    loss, logits = fastloss.DeepSupervision(fastloss.DiceLoss()), [torch.zeros(2, 3, 8, 12), torch.zeros(2, 3, 4, 6)]
    for target, levels_of in (([Y], logits), ([Y, Y, Y], logits), ([Y, Y], logits[0])):
        with pytest.raises(ValueError, match=r"target: got \d tensors, expected \d, one for each level of the logits"):
            loss(levels_of, target)
    for target in ([], [Y, None], "labels", None):
        with pytest.raises(TypeError, match=r"target: got .*, expected a torch\.Tensor, or a sequence of them"):
            loss(logits, target)
    with pytest.raises(TypeError, match=r"mask: got \['int'\], expected a torch\.Tensor"):
        loss(logits, Y, mask=[1])
    with pytest.raises(ValueError, match="sampling: got 'linear', expected 'nearest' or 'nearest-exact'"):
        fastloss.DeepSupervision(fastloss.DiceLoss(), sampling="linear")
    with pytest.raises(ValueError, match=r"logits\[1\]: got spatial size \[9, 6\] .* expected at most the target's"):
        fastloss.DeepSupervision(fastloss.DiceLoss(), sampling="nearest-exact")([logits[0], torch.zeros(2, 3, 9, 6)], Y)


def test_other_errors_are_named():
    with pytest.raises(TypeError, match=r"logits\[1\]: got NoneType"):
        fastloss.DeepSupervision(fastloss.DiceLoss())([torch.zeros(2, 3, 8, 12), None], Y)
    with pytest.raises(TypeError, match="logits: got True, expected a sequence"):
        fastloss.DeepSupervision(fastloss.DiceLoss())(True, Y)
    for mask in (torch.ones(3), torch.ones(2, 6, 12)):  # of the second a level would read 4 rows of 6 for those of 8
        with pytest.raises(ValueError, match=r"mask: got shape .*, expected the spatial size \[8, 12\]"):
            fastloss.DeepSupervision(fastloss.DiceLoss())([torch.zeros(2, 3, 4, 6)], Y, mask=mask)
    with pytest.raises(TypeError, match="loss: got str"):
        fastloss.DeepSupervision("dice")
    with pytest.raises(ValueError, match=r"target: got an integer"):
        fastloss.DeepSupervision(fastloss.DiceLoss())([torch.zeros(1, 3, 8, 12)], Y)
