"""Interpolation within the loss: the numbers of ``F.interpolate``, and its gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastloss
from fastloss.passes.lazy_logits import LazyLogits

LINEAR = ("linear", "bilinear", "trilinear")
SPACES = ((7,), (5, 6), (4, 5, 3))


pytestmark = pytest.mark.usefixtures("reference")


def whole(lazy):
    """The chunks put together."""
    found = torch.full(lazy.shape, torch.nan, dtype=lazy.dtype)
    for box, chunk in lazy.chunks():
        found[(box[0], slice(None), *box[1:])] = chunk
    return found


def arguments(axes):
    """Sizes and factors, up and down, that torch computes in other ways."""
    return (
        {"size": (9, 11, 8)[:axes]},
        {"size": 3},
        {"size": 1},
        {"scale_factor": 2},
        {"scale_factor": 2.7},
        {"scale_factor": (0.6, 1.3, 2.0)[:axes]},
        {"scale_factor": 1.3, "recompute_scale_factor": True},
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_of_torch(axes, dtype):
    x = torch.randn(2, 3, *SPACES[axes - 1]).to(dtype)
    linear = [{"mode": LINEAR[axes - 1], "align_corners": corners} for corners in (False, True, None)]
    for size, mode in itertools.product(arguments(axes), [{"mode": "nearest"}, {"mode": "nearest-exact"}, *linear]):
        lazy = fastloss.interpolate(x, **size, **mode, chunk_bytes=2000)
        expected = F.interpolate(x, **size, **mode)
        assert lazy.shape == expected.shape and torch.equal(lazy.tensor(), expected)
        if dtype == torch.bfloat16:  # which torch rounds after each axis
            expected = F.interpolate(x.double(), **size, **mode).to(dtype)
        torch.testing.assert_close(whole(lazy), expected)
        if "nearest" in mode["mode"]:
            assert torch.equal(whole(lazy), expected)


@pytest.mark.parametrize("n, m", [(200, 411), (411, 200), (129, 128), (1, 70), (300, 1)])
def test_bands_of_long_axes(n, m):
    x = torch.randn(1, 2, n, dtype=torch.float64)
    lazy = fastloss.interpolate(x, m, mode="linear", chunk_bytes=10**6)
    torch.testing.assert_close(whole(lazy), F.interpolate(x, m, mode="linear"))


@pytest.mark.parametrize("order", ["head first", "interpolation first"])
@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
@pytest.mark.parametrize("size", [(9, 7, 8), (2, 3, 2)])
@pytest.mark.parametrize("chunk_bytes", [5000, 10**6])
def test_with_a_head(order, mode, size, chunk_bytes):
    space, classes = (4, 5, 6), 4
    head = nn.Conv3d(3, classes, 1).double()
    x = torch.randn(2, 3, *space, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, classes, (2, *size))
    leaves, loss = [x, *head.parameters()], fastloss.DiceCELoss(ignore_index=1)

    def made(interpolate):
        if order == "head first":
            return interpolate(head(x), size, mode=mode)
        return head(interpolate(x, size, mode=mode))

    expected = loss(made(F.interpolate), labels)
    fastloss.lazy_head(head, chunk_bytes=chunk_bytes)
    lazy = made(fastloss.interpolate)
    assert isinstance(lazy, LazyLogits) and lazy.weight is not None and lazy.shape == (2, classes, *size)
    found = loss(lazy, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))
    torch.testing.assert_close(whole(lazy), lazy.tensor())


def test_gradcheck():
    made_of = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 2, 3, 2), (3, 2), (3,))]
    labels = torch.randint(0, 3, (1, 5, 4))

    def loss(features, weight, bias):
        lazy = fastloss.LazyLogits(features, weight, bias, torch.float64, 1500)
        return fastloss.DiceCELoss()(fastloss.interpolate(lazy, (5, 4), mode="bilinear"), labels)

    assert torch.autograd.gradcheck(loss, made_of)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_and_layouts(dtype):
    labels, loss = torch.randint(0, 5, (2, 12, 10)), fastloss.DiceFocalLoss()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 5, 6, 5).to(dtype).contiguous(memory_format=layout).requires_grad_()
        exact = x.detach().double().requires_grad_()
        lazy = fastloss.interpolate(x, (12, 10), mode="bilinear", chunk_bytes=3000)
        (found,) = torch.autograd.grad(loss(lazy, labels), x)
        (expected,) = torch.autograd.grad(loss(F.interpolate(exact, (12, 10), mode="bilinear"), labels), exact)
        assert found.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), expected, rtol=8 * eps, atol=8 * eps * expected.abs().max().item())


def test_deep_supervision_and_a_compiled_step():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), fastloss.lazy_head(nn.Conv2d(4, 3, 1), chunk_bytes=900))
    image, labels = torch.randn(2, 1, 6, 5), torch.randint(0, 3, (2, 12, 10))
    loss = fastloss.DeepSupervision(fastloss.DiceCELoss(), sampling="nearest-exact")

    def step(interpolate):
        low = network(image)
        return loss([interpolate(low, scale_factor=2, mode="bilinear"), low], labels)

    found = torch.compile(step, fullgraph=True, backend="aot_eager")(fastloss.interpolate)
    expected = step(lambda z, **options: F.interpolate(z.tensor(), **options))
    torch.testing.assert_close(found, expected)
    leaves = list(network.parameters())
    pairs = [torch.autograd.grad(value, leaves) for value in (found, expected)]
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-6)


def test_a_second_interpolation_and_a_second_head_are_of_real_logits():
    x = torch.randn(1, 3, 4, 4)
    once = fastloss.interpolate(x, 8, mode="bilinear")
    twice = fastloss.interpolate(once, 5, mode="bilinear")
    torch.testing.assert_close(twice.tensor(), F.interpolate(F.interpolate(x, 8, mode="bilinear"), 5, mode="bilinear"))
    head, other = (fastloss.lazy_head(nn.Conv2d(3, 3, 1)) for _ in range(2))
    torch.testing.assert_close(other(head(x)), F.conv2d(head(x).tensor(), other.weight, other.bias))


def test_what_is_wrong_is_named():
    x = torch.randn(1, 2, 4, 4)
    for text, options in {
        "mode: got 'bicubic' for 2 spatial axes, expected 'nearest', 'nearest-exact' or 'bilinear'": {
            "mode": "bicubic"
        },
        "mode: got 'trilinear' for 2 spatial axes": {"mode": "trilinear"},
        "size: got 3 numbers, expected one, or 2": {"size": (1, 2, 3)},
        "size: got 0, expected an integer": {"size": 0},
        "size, scale_factor: got both": {"scale_factor": 2},
        "size, scale_factor: got neither": {"size": None},
        "scale_factor: got -1": {"size": None, "scale_factor": -1},
        "scale_factor: got 0.1 for a size of [4, 4], expected at least one voxel": {"size": None, "scale_factor": 0.1},
        "align_corners: got True with mode='nearest', expected None": {"align_corners": True},
        "antialias: got True": {"antialias": True},
        "chunk_bytes: got 0": {"chunk_bytes": 0},
    }.items():
        with pytest.raises(ValueError) as error:
            fastloss.interpolate(x, **{"size": 8} | options)
        assert text in str(error.value)
    with pytest.raises(TypeError, match=r"input: got torch.int64, expected float32"):
        fastloss.interpolate(x.long(), 8)
    with pytest.raises(ValueError, match=r"input: got shape \[4, 4\]"):
        fastloss.interpolate(x[0, 0], 8)
    with pytest.raises(ValueError, match=r"target: got .*\[1, 4, 4\] for logits \[1, 2, 8, 8\]"):
        fastloss.DiceLoss()(fastloss.interpolate(x, 8), torch.zeros(1, 4, 4).long())


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "trilinear"])
def test_a_factor_near_one_that_leaves_the_size(mode):
    x = torch.randn(1, 3, 10, 19, 7, dtype=torch.float64)
    options = {"scale_factor": 1.05, "mode": mode}
    expected, target = F.interpolate(x, **options), torch.randint(0, 3, (1, 10, 19, 7))
    lazy = fastloss.interpolate(x, **options, chunk_bytes=4000)
    assert lazy.shape == x.shape
    with fastloss.backend("reference"):
        loss = fastloss.CrossEntropyLoss()
        torch.testing.assert_close(loss(lazy, target), loss(expected, target))
    assert torch.equal(fastloss.resample_argmax(x, **options).long(), expected.argmax(1))
