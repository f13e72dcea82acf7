"""Losses of lazy logits: the values and gradients of the real ones, for features, weight and bias, and their memory."""

import gc
import logging
import os

import oracle
import pytest
import torch
from rows import LOSSES, every_loss
from torch import nn

import fastloss
from bench.peak_memory import resident_bytes
from fastloss.metrics import confusion_counts, confusion_matrix, surface_distances
from fastloss.passes.chunks import Maker, boxes

B, F, C, S = 2, 5, 3, (4, 3, 7)
CHUNK = 2 * C * 8 * 10  # bytes of ten voxels


@pytest.fixture(autouse=True)
def no_real_logits(request, caplog):
    """Made, but in the tests of what needs them."""
    with caplog.at_level(logging.DEBUG, "fastloss"):
        yield
    made = real_made(caplog)
    assert bool(made) == ("real_logits" in request.node.name), made


def real_made(caplog):
    """What has made lazy logits real."""
    said = [record.getMessage() for record in caplog.get_records("call")]
    return [text.split(" makes lazy logits real")[0] for text in said if "makes lazy logits real" in text]


def parts(dtype=torch.float64, layout=torch.contiguous_format, space=S, **options):
    """Features, a weight and a bias, as leaves, and the lazy logits of them."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(B, F, *space, generator=generator).to(dtype).contiguous(memory_format=layout)
    weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((C, F), (C,)))
    leaves = [x.requires_grad_() for x in (features, weight, bias)]
    return leaves, fastloss.LazyLogits(*leaves, dtype, options.pop("chunk_bytes", CHUNK), **options)


def labels(dtype=torch.uint8, space=S):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, C, (B, *space), generator=generator).to(dtype)


def with_gradients(value, leaves):
    return [value, *torch.autograd.grad(value.sum(), leaves)]


def assert_same(loss, *tensors, dtype=torch.float64, activation=None, layout=torch.contiguous_format, **options):
    """Of lazy logits as of real ones: value and gradients."""
    leaves, lazy = parts(dtype, layout)
    real = lazy.tensor()
    if activation is None and loss.activation == "none":
        pytest.skip("covered by the test of probabilities")
    expected, found = (with_gradients(loss(z, *tensors, **options), leaves) for z in (real, lazy))
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-6}
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
        assert a.dtype == b.dtype and a.shape == b.shape


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_every_loss_on_sums(loss, activation):
    with fastloss.backend("reference"):
        assert_same(loss(activation, C), labels())


def test_each_back_end(each_backend):
    loss = fastloss.DiceCELoss(ignore_index=1, class_weight=[1.0, 2.0, 0.5], reduction="none")
    assert_same(loss, labels(), dtype=torch.float32)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_targets_masks_and_layouts(activation, layout):
    loss = fastloss.DiceFocalLoss(activation=activation, batch=True)
    generator = torch.Generator().manual_seed(3)
    soft = torch.rand(B, C, *S, generator=generator, dtype=torch.float64).softmax(1)
    weights = torch.rand(B, *S, generator=generator)
    strided = labels().repeat_interleave(2, -1)[..., ::2]  # of which the axes are not one
    for target, options in (
        (soft, {}),
        (labels(torch.int64).unsqueeze(1), {"mask": weights > 0.3}),
        (strided, {"mask": weights}),
        (labels().transpose(1, 3).contiguous().transpose(1, 3), {}),
    ):
        assert_same(loss, target, layout=layout, **options)


def test_masks_of_channels():
    mask = torch.rand(B, C, *S, generator=torch.Generator().manual_seed(4))
    assert_same(fastloss.DiceLoss(activation="sigmoid"), labels(), mask=mask)


@pytest.mark.parametrize("name", ["boundary", "hausdorff_dt", "shape_aware"])
def test_maps_that_are_known(name):
    loss = next(row for row in LOSSES if row.name == name)()
    assert_same(loss, labels(), maps=loss.label_map(labels(), C, torch.float64))


def test_probabilities():
    leaves, _ = parts()
    features = leaves[0].detach().softmax(1).requires_grad_()
    mixing = torch.rand(C, F, dtype=torch.float64).softmax(0).requires_grad_()
    lazy, loss = fastloss.LazyLogits(features, mixing, None, torch.float64, CHUNK), fastloss.DiceCELoss(activation=None)
    expected, found = (with_gradients(loss(z, labels()), [features, mixing]) for z in (lazy.tensor(), lazy))
    torch.testing.assert_close(found, expected)


def test_gradcheck():
    leaves, _ = parts()

    def loss(*made_of):
        lazy = fastloss.LazyLogits(*made_of, torch.float64, CHUNK)
        return fastloss.DiceCELoss(reduction="none", ignore_index=2)(lazy, labels())

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    """Not farther from the truth than what the real logits give, but for a rounding."""
    loss = fastloss.DiceCELoss()
    (exact, _), (leaves, lazy) = parts(), parts(dtype)
    exact = [x.detach().to(dtype).double().requires_grad_() for x in exact]
    truth = with_gradients(loss(fastloss.LazyLogits(*exact, torch.float64, CHUNK).tensor(), labels()), exact)
    plain, found = (with_gradients(loss(z, labels()), leaves) for z in (lazy.tensor(), lazy))
    for a, b, true in zip(found, plain, truth, strict=True):
        assert a.dtype == b.dtype
        errors = [(x.double() - true).abs().max().item() for x in (a, b)]
        assert errors[0] <= 1.5 * errors[1] + 2 * torch.finfo(a.dtype).eps * true.abs().max().item()


def test_weight_and_bias_alone():
    """A network whose features need no gradient."""
    leaves, _ = parts()
    features, *learned = leaves[0].detach(), *leaves[1:]
    lazy = fastloss.LazyLogits(features, *learned, torch.float64, CHUNK)
    expected, found = (with_gradients(fastloss.DiceLoss()(z, labels()), learned) for z in (lazy.tensor(), lazy))
    torch.testing.assert_close(found, expected)


def test_sums_of_terms():
    leaves, lazy = parts()
    volume = torch.rand(B, *S, dtype=torch.float64)
    terms = ("p", "py", "y", "map*p*l", "y*p^0.7")
    y = oracle.one_hot(labels(), C).double()
    expected = oracle.sums(lazy.tensor(), y, torch.ones(B, *S), terms, "softmax", volume.unsqueeze(1))
    found = fastloss.voxel_sums(lazy, labels(), terms, weight_map=volume)
    torch.testing.assert_close(found, expected)
    factors = torch.rand_like(found)
    pairs = [torch.autograd.grad((x * factors).sum(), leaves) for x in (found, expected)]
    torch.testing.assert_close(*pairs)


def test_deep_supervision():
    coarse = (2, 2, 4)
    (leaves, fine), (more, level) = parts(), parts(space=coarse)
    loss = fastloss.DeepSupervision(fastloss.DiceCELoss())
    levels = [fine.tensor(), level.tensor()], [fine, level]
    expected, found = (with_gradients(loss(z, labels()), leaves + more) for z in levels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss(fine, labels()), loss.loss(fine.tensor(), labels()))
    left_out = fastloss.DeepSupervision(fastloss.DiceCELoss(), [1.0, 0.0])(levels[1], labels())
    assert all(grad is not None and not grad.any() for grad in torch.autograd.grad(left_out, more))


def test_metrics():
    _, lazy = parts()
    for metric in (confusion_counts, confusion_matrix):
        expected, found = (metric(z, labels(), activation="softmax") for z in (lazy.tensor().detach(), lazy))
        assert str(found) == str(expected)
    expected, found = (
        surface_distances(z, labels(), activation="softmax").hausdorff(95) for z in (lazy.tensor().detach(), lazy)
    )
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_what_ranks_or_sees_neighbours_has_real_logits(caplog):
    leaves, lazy = parts()
    losses = (
        fastloss.TopKLoss(),
        fastloss.LovaszLoss(),
        fastloss.SoftCLDiceLoss(),
        fastloss.HausdorffErosionLoss(),
        fastloss.StructuralSimilarityLoss(),
        fastloss.CrossEntropyLoss(reduction="voxel"),
        fastloss.DiceLoss(),  # which has none
    )
    with fastloss.backend("reference"):
        for loss in losses:
            expected, found = (with_gradients(loss(z, labels()), leaves) for z in (lazy.tensor(), lazy))
            torch.testing.assert_close(found, expected)
    names = [f"fastloss: {type(loss).__name__}" for loss in losses[:-2]]
    assert real_made(caplog) == [*names, "fastloss: a loss of each voxel"]


def test_what_is_wrong_is_named_with_its_place():
    _, lazy = parts()
    wrong = labels()
    wrong[1, 3, 2, 5] = 9
    with pytest.raises(ValueError, match=r"target: label 9 at index \(1, 3, 2, 5\)"):
        fastloss.DiceLoss()(lazy, wrong)
    leaves, _ = parts()
    features = leaves[0].detach().clone()
    features[1, 2, 3, 1, 4] = torch.inf
    lazy = fastloss.LazyLogits(features, *leaves[1:], torch.float64, CHUNK)
    with pytest.raises(ValueError, match=r"logits: -?inf at index \(1, 0, 3, 1, 4\)"):
        fastloss.DiceLoss(validate=True)(lazy, labels())
    with pytest.raises(ValueError, match=r"target: got an integer .*\[2, 4, 3, 6\] for logits \[2, 3, 4, 3, 7\]"):
        fastloss.DiceLoss()(lazy, labels()[..., :6])


def test_no_voxels_and_nothing_that_counts():
    for features in (torch.randn(0, F, *S), torch.randn(B, F, 0, 3)):
        leaves = [features.requires_grad_(), torch.randn(C, F, requires_grad=True)]
        lazy = fastloss.LazyLogits(*leaves, None, torch.float32, CHUNK)
        target = torch.zeros(features.shape[0], *features.shape[2:], dtype=torch.uint8)
        value = fastloss.DiceCELoss()(lazy, target)
        assert value == fastloss.DiceCELoss()(torch.zeros(lazy.shape), target)
        assert all(not grad.any() for grad in torch.autograd.grad(value, leaves))
    leaves, lazy = parts()
    value = fastloss.DiceCELoss(ignore_index=1)(lazy, torch.ones_like(labels()))
    assert value == 0 and all(not grad.any() for grad in torch.autograd.grad(value, leaves))


def test_second_derivative_is_an_error():
    leaves, lazy = parts()
    (gradient,) = torch.autograd.grad(fastloss.DiceLoss()(lazy, labels()), leaves[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.sum().backward()


def test_same_bits_for_any_number_of_threads():
    """Of a volume of several chunks, of which the last is no whole number of pieces."""
    space = (40, 41, 50)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            leaves, lazy = parts(torch.float32, space=space, chunk_bytes=2**20)
            found.append(with_gradients(fastloss.DiceCELoss()(lazy, labels(space=space)), leaves))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))
    expected = with_gradients(fastloss.DiceCELoss()(lazy.tensor(), labels(space=space)), leaves)
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("space", [(70000,), (90, 100), (3, 300, 40)])
@pytest.mark.parametrize("voxels", [37, 5000, 40000, 10**6])
def test_boxes_cover_each_voxel_once(space, voxels):
    maker = Maker(torch.float32, voxels * 2 * 4 * 4)
    seen = torch.zeros(2, *space, dtype=torch.int64)
    for box in boxes(2, space, 4, maker):
        seen[box] += 1
        assert seen[box].numel() <= voxels
    assert bool((seen == 1).all())


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="nothing tells the peak of the memory")
def test_memory():
    """The peak of forward and backward is the features' gradient and a chunk, far below the logits."""
    features = torch.randn(1, 8, 64, 64, 64, requires_grad=True)
    head, target = fastloss.lazy_head(nn.Conv3d(8, 60, 1), chunk_bytes=2**23), torch.zeros(1, 64, 64, 64).byte()
    loss = fastloss.DiceCELoss()
    step = lambda: torch.autograd.grad(loss(head(features), target), [features, *head.parameters()])  # noqa: E731
    step()
    peaks = []
    for _ in range(3):  # of which other tests' leftovers in this process may disturb one
        gc.collect()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = resident_bytes("VmRSS")
        step()
        peaks.append(resident_bytes("VmHWM") - before)
    peak = min(peaks)
    logits = 60 * 64**3 * 4
    assert peak < 1.2 * features.numel() * 4 + 2**23 + 2**22
    assert peak < logits / 2
