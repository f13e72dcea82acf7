"""What the Triton kernels mean: run by Triton's interpreter and set against the plain PyTorch back end."""

import math
import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

import triton.language as tl
from fastloss.kernels.gpu import geometry
from fastloss.kernels.gpu import sums as gpu
from fastloss.kernels.reference import sums as reference

from bench.kernels.problems import DICE_CE, make_problem

pytestmark = [
    pytest.mark.by_turns(5),
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, on infinities
]


def check(problem, single=1e-6, double=1e-12):
    """Against the float64 values: a few roundings of float32, and one of the gradient's own dtype."""
    dtype = problem.logits.dtype
    rounding = double if dtype == torch.float64 else single
    step = {torch.bfloat16: 2**-7, torch.float16: 2**-10}.get(dtype, 0)
    for name in ("forward", "backward"):
        got, want = getattr(problem, name)(gpu).double(), getattr(problem.doubled(), name)(reference)
        assert got.shape == want.shape
        errors = (got - want).abs() - step * want.abs()
        assert errors.max() <= rounding * want.abs().max(), (name, errors.max() / want.abs().max())
    assert problem.backward(gpu).dtype == dtype


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("weights", ["all", "ignore", "mask", "map"])
def test_activation_target_and_weights(activation, dense, weights):
    options = {
        "all": {},
        "ignore": {"ignore": (1, 255)},
        "mask": {"mask": "bool", "map_channels": 1},
        "map": {"mask": "weight", "ignore": (0,), "map_channels": 3},
    }[weights]
    dtype = torch.float32 if dense else torch.int16
    check(make_problem(3, activation=activation, dense=dense, target_dtype=dtype, **options))


SOFTMAX, APART = (2, 5, 9, 16, 17, 40, 150, 1400), (1, 2, 17)
CHANNELS = [(c, "softmax") for c in SOFTMAX] + [(c, a) for c in APART for a in ("sigmoid", "none")]


@pytest.mark.parametrize(("channels", "activation"), CHANNELS)
def test_channels(channels, activation):
    terms = (*DICE_CE, "p2", "ce_neg") if channels < 16 else ("py", "ce_pos", "ce_neg")
    check(make_problem(channels, (3, 7, 13), activation, terms=terms))


@pytest.mark.parametrize("options", [{"ignore": (3,)}, {"mask": "weight", "map_channels": 17}, {"map_channels": 1}])
@pytest.mark.parametrize("dense", [False, True])
def test_weights_over_many_channels(options, dense):
    dtype = torch.float32 if dense else torch.int16
    check(make_problem(17, (3, 7, 13), terms=("p2", "ce_pos"), dense=dense, target_dtype=dtype, **options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "activation"), [(4, "softmax"), (18, "softmax"), (4, "sigmoid"), (1, "none")])
def test_dtypes(dtype, channels, activation):
    check(make_problem(channels, (3, 7, 13), activation, dtype, ("p2", "py", "ce_pos")))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("channels", [1, 2])
def test_label_dtypes(dtype, channels):
    check(make_problem(channels, (9, 31), "sigmoid", terms=DICE_CE, target_dtype=dtype, ignore=(0, 300)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_dense_dtypes(dtype):
    check(make_problem(3, (9, 31), terms=DICE_CE, dense=True, target_dtype=dtype))


@pytest.mark.parametrize("shape", [(1,), (700,), (23, 31), (1, 30, 1)])
def test_dimensions(shape):
    check(make_problem(3, shape, terms=DICE_CE))


def strided(tensor, layout, channels):
    """The same values in other strides."""
    first = 2 if channels else 1
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if channels else tensor
    if layout == "sliced":
        padded = tensor.new_zeros((*tensor.shape[:first], *(n + 3 for n in tensor.shape[first:])))
        view = padded[(slice(None),) * first + tuple(slice(1, n + 1) for n in tensor.shape[first:])]
        return view.copy_(tensor)
    if layout == "permuted":
        return tensor.transpose(first, -1).contiguous().transpose(first, -1)
    if layout == "stepped":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "permuted", "stepped", "expanded"])
@pytest.mark.parametrize("channels", [3, 17])
@pytest.mark.parametrize("dense", [False, True])
def test_layouts_give_the_same_bits(layout, channels, dense):
    problem = make_problem(
        channels, (3, 5, 7), terms=("py", "ce_pos"), dense=dense, mask="weight", map_channels=channels,
        target_dtype=torch.float32 if dense else torch.int16,
    )  # fmt: skip
    other = problem._replace(
        logits=strided(problem.logits, layout, True),
        target=strided(problem.target, layout, dense),
        mask=strided(problem.mask, layout, False),
        weight_map=strided(problem.weight_map, layout, True),
    )
    if layout == "expanded":
        problem = problem._replace(**{f: getattr(other, f).contiguous() for f in problem._fields[:4]})
    assert torch.equal(other.forward(gpu), problem.forward(gpu))
    assert torch.equal(other.backward(gpu), problem.backward(gpu))


@pytest.mark.parametrize("axis", ["sample", "channel", "voxel"])
def test_elements_past_two_to_the_31st(axis):
    """A stride of more than 2^31 elements; only the pages that are touched exist."""
    torch.use_deterministic_algorithms(False)  # nothing may fill the gap
    problem = make_problem(2, (3,), dtype=torch.float16, terms=DICE_CE)
    far = 2**31 + 24
    strides = {"sample": (far, 3, 1), "channel": (3, far, 1), "voxel": (6, 3, far // 2)}[axis]
    room = torch.empty(2 * far + 64, dtype=torch.float16)
    logits = room.as_strided(problem.logits.shape, strides).copy_(problem.logits)
    distant = problem._replace(logits=logits)
    assert torch.equal(distant.forward(gpu), problem.forward(gpu))
    assert torch.equal(distant.backward(gpu), problem.backward(gpu))


ROOM = 4096  # elements


def amid(tensor, around):
    """The same values within other memory, and what that holds on both sides of them."""
    room = torch.full((tensor.numel() + 2 * ROOM,), around, dtype=tensor.dtype)
    return room[ROOM:-ROOM].view(tensor.shape).copy_(tensor), (room[:ROOM], room[-ROOM:])


def in_any_order(launch):
    """The first program once more as the last: what it wrote into another's place would stay."""
    launch.run()
    launch._replace(grid=(1,)).run()


@pytest.mark.parametrize(("channels", "activation"), [(3, "softmax"), (21, "softmax"), (29, "sigmoid"), (5, "none")])
def test_what_lies_around_is_neither_taken_nor_overwritten(channels, activation):
    """Channels and voxels that fill no tile."""
    problem = make_problem(
        channels, (7, 13), activation, terms=("p", "y", "p2"), dense=True, target_dtype=torch.float32, mask="weight",
        map_channels=channels,
    )  # fmt: skip
    within = problem._replace(**{name: amid(getattr(problem, name), math.nan)[0] for name in problem._fields[:4]})
    launch, partial = gpu.forward_launch(*within[:5])
    partial, around = amid(partial, 7.0)
    in_any_order(launch._replace(args=(*launch.args[:4], partial, *launch.args[5:])))
    assert torch.equal(partial.sum(1, dtype=torch.float64), problem.forward(gpu))
    assert all((side == 7).all() for side in around)
    launch, gradient = gpu.backward_launch(problem.grad_sums, *within[:5])
    gradient, around = amid(gradient, 7.0)
    in_any_order(launch._replace(args=(*launch.args[:5], launch.args[5]._replace(pointer=gradient), *launch.args[6:])))
    assert torch.equal(gradient, problem.backward(gpu))
    assert all((side == 7).all() for side in around)


@pytest.mark.parametrize(("channels", "activation"), [(3, "softmax"), (20, "softmax"), (3, "sigmoid"), (3, "none")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_voxels_of_weight_zero_may_hold_anything(channels, activation, value):
    clean = make_problem(
        channels, (60,), activation, terms=("p2", "count", "ce_pos", "ce_neg"), ignore=(1,), mask="bool",
        map_channels=1,
    )  # fmt: skip
    skipped = (clean.target == 1) | ~clean.mask
    logits = torch.where(skipped[:, None], value, clean.logits)
    dirty = clean._replace(logits=logits, weight_map=torch.where(skipped[:, None], value, clean.weight_map))
    assert torch.equal(dirty.forward(gpu), clean.forward(gpu))
    grad = dirty.backward(gpu)
    assert torch.equal(grad, clean.backward(gpu))
    assert not grad.movedim(1, -1)[skipped].any()


@pytest.mark.parametrize(("channels", "activation"), [(3, "softmax"), (20, "softmax"), (3, "sigmoid"), (3, "none")])
def test_not_a_number_is_not_hidden(channels, activation):
    problem = make_problem(channels, (60,), activation, terms=("p", "p2", "ce_pos"))
    problem.logits[0, 1, 7] = float("nan")
    problem.target[0, 7] = 1
    assert problem.forward(gpu)[0, 1].isnan().all()
    assert not problem.forward(gpu)[1].isnan().any()
    assert problem.backward(gpu)[0, 1, 7].isnan()


def test_every_tile_has_a_program():
    """Also where they do not divide among the programs: 16 tiles, 13 of them for a program."""
    terms = ("count", "p", "py", "y", "p2", "p2y", "ce_pos", "ce_neg")
    assert (make_problem(18, (2000,), terms=terms).forward(gpu)[..., 0] == 2000).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_sums_of_several_tiles(activation, monkeypatch):
    """Of few channels, by a program that walks over all of them."""
    monkeypatch.setattr(geometry, "PROGRAMS", 1)
    problem = make_problem(3, (5000,), activation, terms=("count", "p2", "py"), batch=1)
    launch, partial = gpu.forward_launch(*problem[:5])
    assert launch.args[-1] > 2 and partial.shape[1] == 1
    check(problem)


@pytest.mark.parametrize("channels", [20, 3])
def test_a_softmax_of_infinities_is_not_a_number(channels):
    """Of a logit of +inf, and of nothing but -inf: as torch's."""
    for value, infinite in ((float("inf"), 1), (float("-inf"), slice(None))):
        problem = make_problem(channels, (60,), terms=("p",))
        problem.logits[0, infinite, 7] = value
        sums = problem.forward(gpu)
        assert sums[0].isnan().all() and sums[1].isfinite().all()


@pytest.mark.parametrize("channels", [4, 20])
def test_impossible_classes_and_huge_logits(channels):
    """Logits of -inf (a class ruled out), and of 1e8 and more: -log p stays exact."""
    problem = make_problem(channels, (90,), terms=DICE_CE)
    problem.target[:] = torch.arange(90) % (channels - 1)
    problem.logits[:, channels - 1, ::2] = float("-inf")
    problem.logits[:, :, ::3] *= 1e8
    check(problem)


def test_labels_that_do_not_fit_are_no_class():
    problem = make_problem(3, (50,), terms=DICE_CE, target_dtype=torch.int64)
    want = problem.forward(reference)
    problem.target[problem.target > 2] = 2**32 + 1
    assert torch.allclose(problem.forward(gpu), want, rtol=1e-6)


def test_same_bits_every_time_and_sample_by_sample():
    problem = make_problem(4, (2500,), terms=DICE_CE)
    sums = problem.forward(gpu)
    assert torch.equal(problem.forward(gpu), sums)
    single = [make_problem(4, (2500,), terms=DICE_CE)._replace(plan=problem.plan) for _ in range(2)]
    for b, one in enumerate(single):
        one = one._replace(logits=one.logits[b : b + 1], target=one.target[b : b + 1])
        assert torch.allclose(one.forward(gpu), sums[b : b + 1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 3, 0)])
def test_nothing_to_sum(shape):
    problem = make_problem(3, (8,), terms=DICE_CE)
    logits, target = torch.empty(shape), torch.empty((shape[0], shape[2]), dtype=torch.int16)
    empty = problem._replace(logits=logits, target=target, grad_sums=torch.zeros(shape[0], 3, 4))
    assert torch.equal(empty.forward(gpu), torch.zeros(shape[0], 3, 4, dtype=torch.float64))
    assert empty.backward(gpu).shape == shape


def test_grids_are_one_dimensional_and_programs_bounded():
    """Many samples and channels, and volumes of 2^31 voxels, stay within a grid's limits and exact counts."""
    for size in ((70000, 200, 8), (1, 16, 2**27), (1, 2, 2**31)):
        problem = make_problem(2, (1,), "sigmoid", terms=DICE_CE, batch=1)
        logits = problem.logits[:1, :1].expand(size)
        target = problem.target[:1].expand(size[0], size[2])
        launch, _ = gpu.forward_launch(logits, target, None, None, problem.plan)
        voxels = launch.constants["LANES"] * launch.constants["VECTOR"] * launch.args[-1]
        assert len(launch.grid) == 1 and launch.grid[0] < 2**31 and voxels <= 2**22
        assert launch.constants["INDEX"] == (tl.int64 if size[2] >= 2**31 else tl.int32)


def test_availability():
    assert gpu.unavailable(torch.device("cpu")) == ""
    assert gpu.unavailable(torch.device("cuda")) == ""


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_channels_farther_apart_than_32_bits_count(activation, tmp_path):
    """In a file with nothing in between."""
    problem, apart = make_problem(3, (64,), activation, torch.bfloat16, DICE_CE), 2**30 + 64
    memory = torch.from_file(str(tmp_path / "logits"), shared=True, size=5 * apart + 64, dtype=torch.bfloat16)
    logits = memory.as_strided((2, 3, 64), (3 * apart, apart, 1))
    check(problem._replace(logits=logits.copy_(problem.logits)))
