"""Losses that rank the voxels: against plain versions, ties, weights, layouts, identities, errors."""

import oracle
import pytest
import torch
from oracle import close, value_and_gradient
from rows import RANKED, ranked_loss

import fastloss

ACTIVATIONS = [("softmax", 3), ("softmax", 6), ("sigmoid", 3), ("sigmoid", 1), (None, 3), (None, 1)]
one_of_each = pytest.mark.parametrize("loss", [RANKED[0], RANKED[3], RANKED[5], RANKED[8]], ids=str)


def check_plain(row, activation, logits, target, weight=None, call=None, options=None, **build):
    """Value and gradient of the loss against its plain version in float64."""
    options, call = options or {}, call or {}
    weight = oracle.counted(logits[:, 0]) if weight is None else weight
    value, gradient = value_and_gradient(
        row(activation, logits.shape[1], **options, **build), logits, target, **call
    )  # fmt: skip
    clean = torch.where(weight.unsqueeze(1) != 0, logits, 0.5).double()
    expected, expected_gradient = oracle.gradient(lambda z: row.plain(z, target, activation, weight, **options), clean)
    close(value, expected, 1e-5)
    oracle.assert_close(gradient, expected_gradient, 2e-5)


# Against the plain versions


@one_of_each
@pytest.mark.parametrize(("activation", "channels"), ACTIVATIONS)
@pytest.mark.parametrize("weights", ["bool", "float"])
def test_labels_with_ignored_and_masked_voxels(each_backend, loss, activation, channels, weights):
    logits, labels = oracle.make(activation, channels, (3, 6, 7))
    labels[:, 1] = 255
    mask = torch.rand(2, 3, 6, 7) > 0.3
    if weights == "float":
        mask = mask * torch.rand(2, 3, 6, 7)
    weight = oracle.counted(labels, (255,), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    check_plain(loss, activation, logits, labels, weight, {"mask": mask}, ignore_index=255)


@ranked_loss
@pytest.mark.parametrize(("activation", "channels"), ACTIVATIONS)
def test_every_variant(loss, activation, channels):
    logits, labels = oracle.make(activation, channels, (3, 6, 7))
    labels[:, 1] = 255
    labels[0, 2] = labels[0, 2].clamp(max=1)
    mask = torch.rand(2, 3, 6, 7) > 0.3
    weight = oracle.counted(labels, (255,), mask)
    check_plain(loss, activation, logits, labels, weight, {"mask": mask}, ignore_index=255)


@one_of_each
@pytest.mark.parametrize("kind", ["soft", "bool"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_dense_targets(each_backend, loss, activation, kind):
    logits, _ = oracle.make(activation, 3, (6, 7))
    target = torch.rand(2, 3, 6, 7)
    target = target / target.sum(1, keepdim=True) if kind == "soft" else target > 0.5
    if kind == "soft" and loss.name == "lovasz":
        with pytest.raises(ValueError, match=r"target: got a torch\.float32 tensor, expected labels or a bool"):
            loss(activation)(logits, target)
    else:
        check_plain(loss, activation, logits, target)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("option", [{"class_weight": [1.0, 2.0, 0.5]}, {"include_background": False}], ids=str)
def test_options_of_lovasz(activation, option):
    logits, labels = oracle.make(activation, 3, (6, 7))
    labels[labels == 1] = 2
    for row in RANKED[5:9]:
        check_plain(row, activation, logits, labels, options=option)
        if "include_background" in option:
            check_plain(row, activation, logits[:, :2], labels.clamp(max=1), options=option)


@pytest.mark.parametrize(("activation", "channels"), ACTIVATIONS)
@pytest.mark.parametrize("dense", [False, True])
def test_class_weights_and_smoothing_of_topk(each_backend, activation, channels, dense):
    """With a share of all voxels, those that are ignored or masked included."""
    logits, labels = oracle.make(activation, channels, (6, 7))
    labels[:, 1] = 255
    mask = torch.rand(2, 6, 7) * (torch.rand(2, 6, 7) > 0.3)
    weight = oracle.counted(labels, () if dense else (255,), mask)
    target, build = (torch.rand(2, channels, 6, 7), {}) if dense else (labels, {"ignore_index": 255})
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    for row in RANKED[9:]:
        check_plain(row, activation, logits, target, weight, {"mask": mask}, **build)


def test_more_voxels_than_count():
    """Of all voxels, of which most are ignored: the rest of the mean is 0. Of none that count the loss is 0."""
    logits, labels = oracle.make("softmax", 3, (6, 7))
    labels[:, 2:] = 255
    all_of = fastloss.TopKLoss(k=1.0, count_ignored=True, ignore_index=255)
    value, gradient = value_and_gradient(all_of, logits, labels)
    expected, of_mean = value_and_gradient(fastloss.CrossEntropyLoss(ignore_index=255), logits, labels)
    close(value, expected * 2 / 6)
    close(gradient, of_mean * 2 / 6)
    value, gradient = value_and_gradient(all_of, logits, torch.full_like(labels, 255))
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("per_sample", [False, True])
def test_table_of_lovasz(each_backend, per_sample):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    labels[0] = labels[0].clamp(max=1)
    options = {"per_sample": per_sample, "classes": "all"}
    table = fastloss.LovaszLoss(reduction="none", **options)(logits, labels)
    assert table.shape == (2 if per_sample else 1, 3)
    close(table.mean(), fastloss.LovaszLoss(**options)(logits, labels))
    close(table.sum(), fastloss.LovaszLoss(reduction="sum", **options)(logits, labels))
    coefficients = torch.rand(table.shape)
    _, gradient = oracle.gradient(
        lambda z: (fastloss.LovaszLoss(reduction="none", **options)(z, labels) * coefficients).sum(), logits
    )
    rows = [RANKED[6 + 2 * per_sample].plain] * 3
    wanted = sum(
        coefficients[b, c]
        * oracle.gradient(
            lambda z, row=row, b=b, c=c: 3 * row(z[b : b + 1] if per_sample else z, labels[b : b + 1] if per_sample
            else labels, class_weight=[float(i == c) for i in range(3)]),
            logits.double(),
        )[1]
        for c, row in enumerate(rows)
        for b in range(len(table))
    )  # fmt: skip
    oracle.assert_close(gradient, wanted, 1e-5)


def test_a_class_of_one_voxel_is_present_and_no_sample_is_no_loss():
    logits, labels = torch.randn(1, 3, 9), torch.zeros(1, 9, dtype=torch.uint8)
    labels[0, 4] = 1
    table = fastloss.LovaszLoss(classes="all", reduction="none")(logits, labels)
    close(fastloss.LovaszLoss()(logits, labels), table[0, :2].mean())
    for loss in (fastloss.LovaszLoss(), fastloss.LovaszLoss(per_sample=True), fastloss.TopKLoss()):
        assert loss(logits[:0], labels[:0]) == 0


def test_more_classes_than_the_labels_can_tell(each_backend):
    """Class 256 is none of bytes, though 256 wraps to 0 there."""
    logits, labels = torch.randn(1, 260, 4), torch.tensor([[0, 4, 255, 0]], dtype=torch.uint8)
    found, expected = (fastloss.LovaszLoss(classes="all")(logits, y) for y in (labels, labels.short()))
    assert torch.equal(found, expected)


def test_large_volume_of_many_blocks_and_parts():
    """Larger than a block of the selection and a part of the sort; the truth from the reference."""
    logits, labels = oracle.make("softmax", 4, (70, 60, 50))
    labels[:, :, :20] = 0
    mask = torch.rand(2, 70, 60, 50) > 0.2
    for row in RANKED:
        loss = row("softmax", 4)
        value, gradient = value_and_gradient(loss, logits, labels, mask=mask)
        with fastloss.backend("reference"):
            expected, expected_gradient = value_and_gradient(loss, logits.double(), labels, mask=mask)
        close(value, expected, 1e-6)
        # float32 orders a few errors that nearly agree differently
        assert (gradient.double() - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


@one_of_each
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_gradcheck(each_backend, loss, activation):
    logits, labels = oracle.make(activation, 3, (5, 4), dtype=torch.float64)
    labels[:, 0] = 255
    ours = loss(activation, ignore_index=255)
    fast = each_backend == "triton"  # whose interpreter takes a second a call
    assert torch.autograd.gradcheck(lambda z: ours(z, labels), logits.requires_grad_(), eps=1e-7, fast_mode=fast)


# Order and ties


@pytest.mark.parametrize("size", [3, 1000, 300_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_selection_is_exact(size, dtype):
    from fastloss.kernels.cpu.select import select_largest
    from fastloss.kernels.ranking import select_largest as by_sort

    values = {
        "random": torch.rand(size, dtype=dtype) ** 8,
        "few": torch.randint(0, 5, (size,)).to(dtype),
        "equal": torch.full((size,), 0.7, dtype=dtype),
        "zero": torch.zeros(size, dtype=dtype),
        "infinite": torch.where(torch.rand(size) > 0.5, torch.inf, 1.0).to(dtype),
        "uncounted": torch.full((size,), -1.0, dtype=dtype),
    }
    for name, losses in values.items():
        if name != "uncounted":
            losses[:: 7 if size > 7 else 2] = -1
        for k in (1e-9, 0.1, 0.5, 1.0):
            expected_mean, expected_count, expected_weights = by_sort(losses, k)
            mean, count, weights = select_largest(losses.clone(), k)
            assert count == expected_count
            assert mean == pytest.approx(expected_mean.item(), rel=1e-12)
            torch.testing.assert_close(weights, expected_weights)
            assert weights.double().sum().item() == pytest.approx(count, rel=1e-6)


def test_ties_at_the_threshold_share(each_backend):
    logits = torch.zeros(1, 2, 10)
    logits[0, 0, :3] = 2.0  # of label 1 the hardest
    labels = torch.ones(1, 10, dtype=torch.uint8)
    value, gradient = value_and_gradient(fastloss.TopKLoss(k=0.5), logits, labels)
    losses = torch.nn.functional.cross_entropy(logits, labels.long(), reduction="none").flatten()
    close(value, losses.topk(5).values.mean())
    share = gradient[0, 1] / (torch.softmax(logits, 1)[0, 1] - 1)
    close(share, torch.tensor([1.0] * 3 + [2 / 7] * 7) / 5, 1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_equal_errors_rank_in_the_order_of_the_voxels(each_backend, per_sample):
    """Probabilities of a few values: the gradient is that of a stable sort."""
    p = torch.randint(0, 5, (2, 1, 9, 10)) / 8
    labels = torch.randint(0, 2, (2, 9, 10), dtype=torch.uint8)
    row = RANKED[7 if per_sample else 5]
    check_plain(row, None, p, labels)


def test_all_errors_equal_or_zero(each_backend):
    for logits in (torch.zeros(2, 2, 30), torch.tensor([60.0, -60.0]).reshape(1, 2, 1).expand(2, 2, 30)):
        for labels in (torch.zeros(2, 30, dtype=torch.uint8), (torch.rand(2, 30) > 0.4).byte()):
            check_plain(RANKED[5], "softmax", logits, labels)
            check_plain(RANKED[8], "softmax", logits, labels)


# Identities


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_all_voxels_are_cross_entropy(each_backend, activation):
    logits, labels = oracle.make(activation, 3, (5, 6))
    labels[:, 0] = 255
    value, gradient = value_and_gradient(
        fastloss.TopKLoss(k=1, activation=activation, ignore_index=255), logits, labels
    )
    expected, expected_gradient = value_and_gradient(
        fastloss.CrossEntropyLoss(activation=activation, ignore_index=255), logits, labels
    )
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 1e-6)


def test_sum_of_the_parts(each_backend):
    logits, labels = oracle.make("softmax", 3, (5, 6))
    value, gradient = value_and_gradient(
        fastloss.DiceTopKLoss(k=0.2, dice_weight=0.5, topk_weight=2, smooth=1.0), logits, labels
    )
    dice = value_and_gradient(fastloss.DiceLoss(smooth=1.0), logits, labels)
    topk = value_and_gradient(fastloss.TopKLoss(k=0.2), logits, labels)
    close(value, 0.5 * dice[0] + 2 * topk[0])
    oracle.assert_close(gradient, 0.5 * dice[1] + 2 * topk[1], 2e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_lovasz_of_hard_predictions_is_the_jaccard_loss(each_backend, per_sample):
    labels, prediction = torch.randint(0, 3, (2, 2, 8, 9), dtype=torch.uint8)
    p = oracle.one_hot(prediction, 3).float()
    value = fastloss.LovaszLoss(activation=None, per_sample=per_sample)(p, labels)
    close(value, fastloss.JaccardLoss(activation=None, batch=not per_sample, smooth=0)(p, labels), 1e-6)


def test_integer_weights_repeat_a_voxel(each_backend):
    logits, labels = oracle.make("softmax", 3, (40,))
    mask = torch.randint(0, 4, (2, 40))
    loss = fastloss.LovaszLoss(per_sample=True)
    repeated = [
        loss(z.repeat_interleave(w, 1)[None], y.repeat_interleave(w)[None])
        for z, y, w in zip(logits, labels, mask, strict=True)
    ]
    close(loss(logits, labels, mask=mask.float()), torch.stack(repeated).mean(), 1e-6)


def test_one_sample_is_its_own_batch(each_backend):
    logits, labels = oracle.make("softmax", 3, (5, 6))
    alone = [fastloss.LovaszLoss()(logits[b : b + 1], labels[b : b + 1]) for b in range(2)]
    close(fastloss.LovaszLoss(per_sample=True)(logits, labels), torch.stack(alone).mean())


# Inputs


@one_of_each
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(loss, dtype):
    logits, labels = oracle.make("softmax", 2, (5, 6))
    expected = value_and_gradient(loss(), logits, labels)
    found = value_and_gradient(loss(), logits, labels.unsqueeze(1).to(dtype))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@one_of_each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_half_precision(each_backend, loss, dtype, activation):
    logits, labels = oracle.make(activation, 3, (15, 16))
    logits = logits.to(dtype)
    value, gradient = value_and_gradient(loss(activation), logits, labels)
    expected, expected_gradient = value_and_gradient(loss(activation), logits.float(), labels)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    close(value, expected)
    oracle.assert_close(gradient, expected_gradient, 2**-7)  # the interpreter cuts bfloat16 off


@pytest.mark.parametrize("loss", RANKED, ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "expanded"])
def test_strides(loss, layout):
    logits, labels = oracle.make("softmax", 3, (6, 7, 8))
    mask = torch.rand(2, 6, 7, 8) > 0.2
    if layout == "expanded":
        logits, labels, mask = (x[:1].expand_as(x) for x in (logits, labels, mask))
    expected = value_and_gradient(loss(), logits.contiguous(), labels.contiguous(), mask=mask.contiguous())
    if layout == "channels_last":
        logits = logits.to(memory_format=torch.channels_last_3d)
        labels, mask = labels.transpose(1, 3).contiguous().transpose(1, 3), mask.mT.contiguous().mT
    elif layout == "sliced":
        logits, labels, mask = (torch.nn.functional.pad(x, (1, 2, 3, 0))[..., 3:, 1:-2] for x in (logits, labels, mask))
    leaf = logits.detach().requires_grad_()
    value = loss()(leaf, labels, mask=mask)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])


@one_of_each
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_nothing_counts(each_backend, loss, activation):
    logits, labels = oracle.make(activation, 3, (5, 6))
    for arguments in ({"mask": torch.zeros(2, 5, 6)}, {"mask": torch.zeros(2, 5, 6, dtype=torch.bool)}):
        value, gradient = value_and_gradient(loss(activation), torch.full_like(logits, torch.nan), labels, **arguments)
        assert value == 0 and not gradient.any()
    value, gradient = value_and_gradient(loss(activation, ignore_index=255), logits, torch.full_like(labels, 255))
    assert value == 0 and not gradient.any()
    value, gradient = value_and_gradient(loss(activation), logits[:0], labels[:0])
    assert value == 0 and gradient.shape == (0, 3, 5, 6)


@one_of_each
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_not_a_number_is_not_hidden(each_backend, loss, activation):
    for value in (torch.nan, torch.inf) if activation == "softmax" else (torch.nan,):
        logits, labels = oracle.make(activation, 3, (5, 6))
        logits[0, 1, 2, 3] = value
        assert loss(activation)(logits, labels).isnan()
        with pytest.raises(ValueError, match=r"logits: (nan|inf) at index \(0, 1, 2, 3\)"):
            loss(activation, validate=True)(logits, labels)


@one_of_each
@pytest.mark.parametrize("size", [100.0, 1e8])
@pytest.mark.parametrize("case", ["right", "wrong"])
def test_saturated_logits(each_backend, loss, size, case):
    logits = torch.where(torch.rand(2, 3, 30) > 0.5, size, -size)
    labels = ((logits.argmax(1) + (case == "wrong")) % 3).to(torch.uint8)
    for activation in ("softmax", "sigmoid"):
        value, gradient = value_and_gradient(loss(activation), logits, labels)
        exact, exact_gradient = value_and_gradient(loss(activation), logits.double(), labels)
        close(value, exact, 1e-5)
        assert gradient.isfinite().all() and exact_gradient.isfinite().all()


# Errors


@pytest.mark.parametrize("k", [0, -0.1, 1.5, float("nan"), "0.1", True, None])
def test_portion_out_of_range(k):
    for cls in (fastloss.TopKLoss, fastloss.DiceTopKLoss):
        with pytest.raises(ValueError, match=r"k: got .*, expected a fraction of the voxels, above 0 and at most 1"):
            cls(k=k)


def test_wrong_options():
    with pytest.raises(ValueError, match="classes: got 'some', expected 'present' or 'all'"):
        fastloss.LovaszLoss(classes="some")
    with pytest.raises(TypeError, match="batch: is no option of LovaszLoss"):
        fastloss.LovaszLoss(batch=True)
    with pytest.raises(TypeError, match="reduction: is no option of DiceTopKLoss"):
        fastloss.DiceTopKLoss(reduction="sum")
    for cls in (fastloss.LovaszLoss, fastloss.TopKLoss, fastloss.DiceTopKLoss):
        with pytest.raises(ValueError, match="class_weight: got 2 weights, expected 3"):
            cls(class_weight=[1.0, 2.0])(*oracle.make("softmax", 3, (4, 5)))
    for cls in (fastloss.TopKLoss, fastloss.DiceTopKLoss):
        with pytest.raises(ValueError, match=r"class_weight: got an nn\.Parameter, which a ranking does not learn"):
            cls(class_weight=torch.nn.Parameter(torch.ones(3)))
        with pytest.raises(TypeError, match="count_ignored: got 1, expected True or False"):
            cls(count_ignored=1)


@one_of_each
def test_wrong_inputs(each_backend, loss):
    logits, labels = oracle.make("softmax", 3, (4, 5))
    with pytest.raises(ValueError, match="logits: one channel with activation='softmax'"):
        loss()(logits[:, :1], labels)
    with pytest.raises(ValueError, match="mask: got shape"):
        loss()(logits, labels, mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"mask: -0\.5 at index \(0, 0, 0\) .*, expected weights of at least 0"):
        loss()(logits, labels, mask=torch.full((2, 4, 5), -0.5))
    labels[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"label 7 at index \(1, 2, 3\)"):
        loss()(logits, labels)
    assert loss(validate=False)(logits, labels).isfinite()


@one_of_each
@pytest.mark.parametrize(("activation", "channels"), [("softmax", 3), ("sigmoid", 3), (None, 3), (None, 6)])
def test_bad_labels_are_no_class(each_backend, activation, channels, loss):
    logits, labels = oracle.make(activation, channels, (4, 5))
    labels[1, 2] = 7
    target = oracle.one_hot(labels, channels)
    expected = value_and_gradient(loss(activation=activation, validate=False), logits, target)
    found = value_and_gradient(loss(activation=activation, validate=False), logits, labels)
    close(found[0], expected[0])
    oracle.assert_close(found[1], expected[1], 1e-6)
