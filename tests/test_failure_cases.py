"""Failures that users of other libraries met: each row of ``failure_cases.py`` has its tests, some of them here."""

import ast
import math
from pathlib import Path

import oracle
import plain
import pytest
import torch
from failure_cases import CASES
from oracle import close, value_and_gradient
from rows import EVERY_CLASS, LOSSES

import fastloss

# those whose value is more than a formula on the sums of one pass
OTHER_PASSES = [row for row in EVERY_CLASS if row not in LOSSES or row.has_distances]
every_class = pytest.mark.parametrize("loss", EVERY_CLASS, ids=str)


@pytest.mark.parametrize("row", CASES)
def test_every_row_has_its_tests(row, request):
    """That exist and are found by pytest: in this run, too, where it takes whole files."""
    assert CASES[row], f"no test of: {row}"
    whole = not request.config.option.keyword and not any("::" in argument for argument in request.config.args)
    collected, tests = {}, Path(__file__).parent
    for item in request.session.items if whole else ():
        collected.setdefault(item.path, set()).add(getattr(item, "originalname", item.name))
    for address in CASES[row]:
        file, name = address.split("::")
        functions = [node for node in ast.parse((tests / file).read_text()).body if isinstance(node, ast.FunctionDef)]
        found = [function for function in functions if function.name == name]
        assert len(found) == 1 and name.startswith("test_"), f"{row}: there is no {address}"
        slow = any("slow" in ast.unparse(decorator) for decorator in found[0].decorator_list)
        if tests / file in collected and not slow:
            assert name in collected[tests / file], f"{row}: {address} is not collected"


def every_public_class():
    return {getattr(fastloss, name) for name in fastloss.__all__ if name.endswith("Loss")}


def test_every_public_class_is_tried():
    bases = {fastloss.SegmentationLoss, fastloss.SumLoss, fastloss.CompoundLoss, fastloss.LovaszHingeLoss}
    assert every_public_class() - bases == {row.cls for row in EVERY_CLASS}


# Numbers


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_equal_logits_of_any_dtype_and_number_of_classes(each_backend, dtype, channels):
    """Products of 32 sums of exponentials, each C, stay within float32; those of 64 would not for C = 4."""
    voxels = 2048 if each_backend == "triton" else 16384 + 77
    labels = (torch.arange(voxels) % channels).unsqueeze(0)
    for size in (0.0, 3.0):
        logits = torch.full((1, channels, voxels), size, dtype=dtype)
        assert fastloss.CrossEntropyLoss()(logits, labels).item() == pytest.approx(math.log(channels), rel=2e-6)
    if dtype == torch.float32:
        gradient = value_and_gradient(fastloss.CrossEntropyLoss(), logits, labels)[1]
        expected = (1 / channels - oracle.one_hot(labels, channels).double()) / voxels
        oracle.assert_close(gradient, expected, 2e-6)


def test_sums_of_probabilities_past_the_largest_half(each_backend):
    logits = torch.full((1, 2, 300, 300), 4.0, dtype=torch.float16)
    logits[:, 0] = -4.0  # 90000 voxels of nearly 1
    labels = torch.ones(1, 300, 300, dtype=torch.uint8)
    sums = fastloss.voxel_sums(logits, labels, ("p", "py", "p2", "y", "count"))[0, 1]
    p = 1 / (1 + math.exp(-8))
    assert sums.tolist() == pytest.approx([90000 * p, 90000 * p, 90000 * p * p, 90000, 90000], rel=1e-6)


@pytest.mark.parametrize("loss", OTHER_PASSES, ids=str)
def test_half_precision_of_many_voxels_is_that_of_float32(loss):
    logits = torch.randn(1, 2, 300, 300)
    logits[:, 1] += 6.0  # one class has 89000 voxels
    low = logits.half()
    labels = torch.ones(1, 300, 300, dtype=torch.uint8)
    labels[:, :20, :20] = 0
    value, gradient = value_and_gradient(loss(), low, labels)
    expected, expected_gradient = value_and_gradient(loss(), low.float(), labels)
    close(value, expected, 1e-6)
    step = expected_gradient.abs().max() * 2**-10 + 6e-8
    assert (gradient.float() - expected_gradient).abs().max() <= step


def test_a_mean_over_many_voxels_of_float16_is_that_of_float64(each_backend):
    space = (60, 61) if each_backend == "triton" else (513, 489)
    logits = torch.randn(2, 5, *space).half()
    labels = torch.randint(0, 5, (2, *space))
    expected = torch.nn.functional.cross_entropy(logits.double(), labels)
    assert fastloss.CrossEntropyLoss()(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", [row for row in EVERY_CLASS if row.name in plain.STENCILS], ids=str)
def test_saturated_logits_of_stencils(each_backend, loss):
    labels = torch.randint(0, 3, (1, 6, 7), dtype=torch.uint8)
    for size in (100.0, 1e8):
        logits = torch.where(torch.rand(1, 3, 6, 7) > 0.5, size, -size)
        value, gradient = value_and_gradient(loss(), logits, labels)
        with fastloss.backend("reference"):
            expected, _ = value_and_gradient(loss(), logits.double(), labels)
        assert gradient.isfinite().all()
        close(value, expected, 1e-5)


# Labels


@pytest.mark.parametrize("channels", [6, 19, 20])
@pytest.mark.parametrize("ignored", [255, 3, (0, 5, 255)], ids=str)
def test_ignored_labels_equal_voxels_taken_out_by_hand(each_backend, channels, ignored):
    logits, labels = oracle.make("softmax", channels, (97,), batch=1)
    labels[:, ::7] = 255
    loss = fastloss.DiceCELoss(ignore_index=ignored)
    if 255 not in (ignored if isinstance(ignored, tuple) else (ignored,)):
        labels[labels == 255] = 3
    kept = ~sum(
        (labels[0] == label for label in (ignored if isinstance(ignored, tuple) else (ignored,))), labels[0] < 0
    )
    value, gradient = value_and_gradient(loss, logits, labels)
    expected, expected_gradient = value_and_gradient(fastloss.DiceCELoss(), logits[..., kept], labels[..., kept])
    close(value, expected, 1e-6)
    oracle.assert_close(gradient[..., kept], expected_gradient, 1e-6)
    assert not gradient[..., ~kept].any()


@every_class
def test_a_label_that_is_no_class_is_named(each_backend, loss):
    logits, labels = torch.randn(1, 3, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int16)
    labels[0, 2, 1] = 3
    with pytest.raises(ValueError, match=r"target: label 3 at index \(0, 2, 1\)"):
        loss(validate=True)(logits, labels)


@every_class
def test_one_channel_of_a_softmax_is_an_error(loss):
    options = {"beta": [1.0]} if loss.name.startswith("weighted") else {}
    with pytest.raises(ValueError, match="logits: one channel with activation='softmax'"):
        loss.cls(**options)(torch.zeros(1, 1, 3, 4), torch.zeros(1, 3, 4, dtype=torch.uint8))


# Sizes


@pytest.mark.parametrize("axis", ["sample", "channel", "voxel"])
def test_elements_past_two_to_the_31st(axis):
    """A stride of more than 2^31 elements; only the pages that are touched exist."""
    torch.use_deterministic_algorithms(False)  # nothing may fill the gap
    near, labels = oracle.make("softmax", 2, (3,), dtype=torch.float16)
    far = 2**31 + 24
    strides = {"sample": (far, 3, 1), "channel": (3, far, 1), "voxel": (6, 3, far // 2)}[axis]
    room = torch.empty(2 * far + 64, dtype=torch.float16)
    logits = room.as_strided(near.shape, strides).copy_(near)
    leaf = logits.requires_grad_()
    value = fastloss.DiceCELoss()(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    expected, expected_gradient = value_and_gradient(fastloss.DiceCELoss(), near, labels)
    assert torch.equal(value, expected) and torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_more_samples_than_a_grid_has_rows(backend):
    logits, labels = oracle.make("softmax", 3, (1,), batch=70_000)
    with fastloss.backend(backend):
        sums = fastloss.voxel_sums(logits, labels, ("p", "y"))
    torch.testing.assert_close(sums[:, :, 0].float(), logits[:, :, 0].softmax(1))
    assert torch.equal(sums[:, :, 1], oracle.one_hot(labels, 3)[:, :, 0].double())


# Devices


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_logits_on_another_gpu_than_the_current_one():
    logits, labels = oracle.make("softmax", 3, (6, 7))
    expected = value_and_gradient(fastloss.DiceCELoss(), logits, labels)
    with torch.cuda.device(0):
        found = value_and_gradient(fastloss.DiceCELoss(), logits.to("cuda:1"), labels.to("cuda:1"))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x.cpu(), y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_is_captured_as_a_cuda_graph():
    logits, labels = (x.cuda() for x in oracle.make("softmax", 3, (16, 17)))
    loss, leaf = fastloss.DiceCELoss(), logits.clone().requires_grad_()

    def step():
        value = loss(leaf, labels)
        return value, *torch.autograd.grad(value, leaf)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    labels.copy_(labels.flip(1))
    graph.replay()
    for x, y in zip(found, step(), strict=True):
        torch.testing.assert_close(x, y)
