"""Softmaxes of many classes in the Triton back end: by every kernel, and which kernel is for how many classes."""

import pytest
import torch
import triton.language as tl
from fastloss.kernels.gpu import geometry
from test_gpu_interpreter import (  # noqa: F401  (collected here once more)
    check,
    gpu,
    pytestmark,
    test_a_softmax_of_infinities_is_not_a_number,
    test_elements_past_two_to_the_31st,
    test_impossible_classes_and_huge_logits,
    test_layouts_give_the_same_bits,
    test_not_a_number_is_not_hidden,
    test_voxels_of_weight_zero_may_hold_anything,
    test_weights_over_many_channels,
    test_what_lies_around_is_neither_taken_nor_overwritten,
)

from bench.kernels.problems import DICE_CE, make_problem
from bench.kernels.variants import UNIONS


@pytest.fixture(autouse=True, params=["held", "read again"])
def kernel(request, monkeypatch):
    """Has every softmax run by the kernels of rows, with logits held in registers, or without."""
    monkeypatch.setattr(geometry, "UNROLLED_REGISTERS", {})
    if request.param == "read again":
        monkeypatch.setattr(geometry, "HELD_WARPS", 0)
    return request.param


def family(channels, terms=DICE_CE, dtype=torch.float32, **options):
    """The kernel that a softmax gets, and its constants."""
    problem = make_problem(channels, (8,), "softmax", dtype, terms, batch=1, **options)
    launch, _ = gpu.forward_launch(*problem[:5])
    return launch.kernel.__name__, launch.constants


@pytest.mark.parametrize("terms", ["dice and focal", "combo", "a user's", "soft labels"])
@pytest.mark.parametrize("channels", [2, 3, 7, 33])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_unions_of_terms(terms, channels, dense, dtype):
    """The number of classes no multiple of the rows; labels in the rows past the last class."""
    target_dtype = torch.float32 if dense else torch.int16
    options = {"dense": dense, "target_dtype": target_dtype, "mask": "weight", "map_channels": channels if dense else 1}
    check(make_problem(channels, (3, 7, 13), "softmax", dtype, UNIONS[terms], batch=1, **options), double=1e-9)


@pytest.mark.parametrize("terms", [("ce_neg",), ("focal_pos(2.0)", "y*q^0.5"), ("log_power_pos(0.3)",)])
def test_several_leading_classes(terms, kernel):
    """1 - p of a class that leads, with and without others as high, and where all others are below, or far below."""
    problem = make_problem(6, (60,), terms=terms, batch=1)
    problem.target[:] = torch.arange(60) % 6
    problem.logits[:] = problem.logits.round().clamp(-3, 3)
    problem.logits[..., ::3] = -30.0
    problem.logits[..., 1::3] = -13.0  # of a difference 1 - p would have two digits
    problem.logits[:, 1, ::3] = 0.0
    problem.logits[:, 2, 1::3] = 0.0
    problem.logits[:, 2:4, ::6] = 0.0
    check(problem, single=2e-6)


def test_which_kernel(kernel, monkeypatch):
    """As many classes as a thread's registers hold are unrolled, then come rows, at last what is read again."""
    monkeypatch.undo()
    found = {channels: family(channels, dtype=torch.bfloat16) for channels in (4, 8, 16, 25, 118, 256, 1400)}
    assert [name for name, _ in found.values()] == ["forward_unrolled"] * 3 + ["forward_rows"] * 4
    assert [found[channels][1]["VECTOR"] for channels in (4, 8, 16)] == [8, 4, 2]
    for channels in (25, 118, 256):
        constants = found[channels][1]
        assert (constants["PIECES"] - 1) * constants["ROWS"] < channels <= constants["PIECES"] * constants["ROWS"]
        assert constants["PIECES"] * (constants["VECTOR"] + 4) <= geometry.HELD_REGISTERS
    assert "PIECES" not in found[1400][1]
    assert family(4, dtype=torch.float64)[1]["PIECES"] == 4


def test_sums_go_on_from_tile_to_tile(kernel):
    """Of as many tiles as a program walks, and several programs."""
    problem = make_problem(40, (5000,), "softmax", torch.bfloat16, ("count", "p2", "y", "py"), batch=1)
    launch, partial = gpu.forward_launch(*problem[:5])
    assert launch.args[-1] > 1 and partial.shape[1] > 1
    assert (problem.forward(gpu)[..., 0] == 5000).all()


def test_voxel_numbers_of_64_bits(kernel):
    problem = make_problem(7, (3, 7, 13), terms=DICE_CE, batch=1)
    launch, partial = gpu.forward_launch(*problem[:5])
    launch.constants["INDEX"] = tl.int64
    launch.run()
    assert torch.equal(partial.sum(1, dtype=torch.float64), problem.forward(gpu))
