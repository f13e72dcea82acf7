"""The machine code of each plan on the CPU: what only some plans, numbers of classes, tiles and processors see."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch
from test_sums import check

import fastloss

PLANS = [
    ("p", "py", "y"),
    ("ce_pos",),
    ("p", "py", "y", "ce_pos"),
    ("p2", "p2y", "y", "count"),
    ("p", "p2y", "ce_pos"),
    ("ce_pos", "nll_pos"),
    ("ce_neg", "py", "nll_neg"),
    ("focal_pos(2.0)", "focal_pos(0.5)", "focal_neg(1.0)", "ce_pos"),
    ("focal_pos(0.0)", "focal_neg(0.0)", "focal_neg(2.5)"),
    ("log_power_pos(0.3)", "log_power_neg(1.0)", "log_power_neg(1.5)", "p2"),
    ("log_power_pos(0.0)", "log_power_pos(1.0)"),
    ("miss_pos(1.0)", "miss_neg(3.0)", "miss_pos(1.5)", "nll_pos"),
    ("ce_pos", "focal_neg(2.0)"),
]
SPACE = (14, 12, 14)  # 2352 voxels: whole tiles, and one that still has whole vectors
SPACES = [SPACE, (7, 11, 5)]  # 385 voxels: one more than whole vectors


@pytest.fixture(autouse=True)
def numba():
    with fastloss.backend("numba"):
        yield


@pytest.mark.by_turns(3)
@pytest.mark.parametrize("weights", ["none", "ignored", "mask", "soft mask", "all ignored"])
@pytest.mark.parametrize("terms", PLANS, ids="-".join)
@pytest.mark.parametrize("channels", [2, 3, 4, 6, 35])
def test_sums_and_gradient(channels, terms, weights):
    logits, labels = oracle.make("softmax", channels, SPACES[channels % 2])
    options, mask = {}, None
    if weights == "ignored":
        labels[torch.rand(labels.shape) < 0.3] = 255
        options["ignore_index"] = 255
    elif weights == "all ignored":
        labels[:] = 255
        options["ignore_index"] = 255
    elif weights == "mask":
        mask = torch.rand(labels.shape) > 0.3
    elif weights == "soft mask":
        mask = torch.rand(labels.shape) * (torch.rand(labels.shape) > 0.3)
    weight = oracle.counted(labels, (255,), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)  # what is not counted must not matter
    if mask is not None:
        options["mask"] = mask
    check(logits, labels, oracle.one_hot(labels, channels), weight, terms=terms, **options)


MAPPED_PLANS = [
    ("map*ce_pos",),
    ("map*p", "p", "py"),
    ("map*py", "map*p2", "map*y", "map*count", "count"),
    ("map*ce_pos", "ce_pos", "map*nll_neg", "map*focal_pos(2.0)"),
    ("map*ce_neg", "map*p2y", "map*nll_pos", "map*log_power_neg(0.5)", "miss_pos(2.0)"),
    ("map*ce_pos", "map*miss_neg(2.0)"),
]


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["a map a class", "one map", "float64", "strided"])
@pytest.mark.parametrize("terms", MAPPED_PLANS, ids="-".join)
def test_voxel_weight_maps(terms, kind, masked):
    logits, labels = oracle.make("softmax", 3, SPACES[masked])
    mask = torch.rand(labels.shape) > 0.3 if masked else None
    weight = oracle.counted(labels, (), mask)
    weight_map = torch.rand(2, 1 if kind == "one map" else 3, *labels.shape[1:]) - 0.3
    if kind == "float64":
        weight_map = weight_map.double()
    elif kind == "strided":
        weight_map = torch.cat([weight_map, weight_map], -1)[..., ::2]
    weight_map = torch.where(weight.unsqueeze(1) != 0, weight_map, torch.nan)
    clean = torch.nan_to_num(weight_map)
    options = {"mask": mask} if masked else {}
    y = oracle.one_hot(labels, 3)

    def sums(z, found):
        return found(z) * coefficients

    coefficients = torch.randn(2, 3, len(terms), dtype=torch.float64)
    value, gradient = oracle.gradient(
        lambda z: sums(z, lambda z: fastloss.voxel_sums(z, labels, terms, weight_map=weight_map, **options)).sum(),
        logits,
    )
    expected, expected_gradient = oracle.gradient(
        lambda z: sums(z, lambda z: oracle.sums(z, y, weight, terms, "softmax", clean)).sum(), logits.double()
    )
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-3)
    oracle.assert_close(gradient, expected_gradient, 1e-5)


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("layout", ["channels last", "half of a wider row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logits_that_are_not_read_in_place(layout, dtype, channels):
    logits, labels = oracle.make("softmax", channels, SPACE, dtype=dtype)
    if layout == "channels last":
        logits = logits.contiguous(memory_format=torch.channels_last_3d)
    else:
        logits = torch.cat([logits, logits], -1)[..., : SPACE[-1]]
    check(logits, labels, oracle.one_hot(labels, channels), oracle.counted(labels), terms=PLANS[2])


@pytest.mark.by_turns(3)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [3, 11])
def test_logits_of_16_bits(channels, masked, space, activation, dtype):
    logits, labels = oracle.make(activation, channels, space, dtype=dtype)
    mask = torch.rand(labels.shape) * (torch.rand(labels.shape) > 0.3) if masked else None
    weight = oracle.counted(labels, (), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    options = {"mask": mask} if masked else {}
    check(logits, labels, oracle.one_hot(labels, channels), weight, terms=PLANS[2], activation=activation, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_number_of_16_bits(dtype):
    """One a sample, subnormal ones, infinite ones and NaN among them: probabilities, which the code converts, and
    weights, which are converted before."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(-1, 1, 1)
    labels = torch.zeros(2**16, 1, dtype=torch.uint8)
    of_p = fastloss.voxel_sums(numbers, labels, ("p",), activation=None)
    of_map = fastloss.voxel_sums(torch.ones_like(numbers), labels, ("map*p",), activation=None, weight_map=numbers)
    for sums in (of_p, of_map):
        torch.testing.assert_close(sums, numbers.double(), rtol=0, atol=0, equal_nan=True)


ON_A_PROCESSOR = """
import torch, fastloss
from fastloss.kernels.cpu.lanes import REGISTER
torch.manual_seed(0)
labels = torch.randint(0, 3, (2, 5, 7, 9), dtype=torch.uint8)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    logits = torch.randn(2, 3, 5, 7, 9).to(dtype)
    logits[0, 1, 2, 3, 4] = torch.finfo(dtype).max
    results = []
    for backend in ("numba", "reference"):
        with fastloss.backend(backend):
            leaf = logits.clone().requires_grad_()
            value = fastloss.DiceCELoss()(leaf, labels)
            value.backward()
            results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*(value for value, _ in results))
    torch.testing.assert_close(*(gradient for _, gradient in results), rtol=1e-2, atol=1e-5)
print(REGISTER // 4)
"""


@pytest.mark.parametrize(("name", "features"), [("generic", ""), ("haswell", "+avx,+avx2,+fma,+f16c,+sse4.2")])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
def test_processors_with_shorter_vectors(name, features, tmp_path):
    """Where the processor converts no 16-bit numbers LLVM would call functions that are not there."""
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", ON_A_PROCESSOR], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["8"]


@pytest.mark.parametrize("labels", ["one class", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_equal_logits_of_a_new_network(dtype, labels):
    """The product of the sums of exponentials of many blocks, 4 each, must not overflow before its logarithm is taken:
    in a tile are 128 blocks, and 4^64 is more than the largest float32."""
    voxels = 16384
    target = torch.randint(0, 4, (1, voxels), dtype=torch.uint8) if labels == "random" else torch.full((1, voxels), 2)
    loss = fastloss.CrossEntropyLoss()(torch.zeros(1, 4, voxels, dtype=dtype), target)
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("channels", [6, 35])
def test_equal_logits_of_many_classes(channels):
    """All of them lead, and 1 - p is made of the others."""
    logits, labels = torch.zeros(1, channels, 40), torch.zeros(1, 40, dtype=torch.uint8)
    sums = fastloss.voxel_sums(logits, labels, ("m",))
    oracle.assert_close(sums, torch.full_like(sums, -40 * math.log(1 - 1 / channels)), 1e-6)


@pytest.mark.parametrize("scale", [1e-3, 100, 1e4])
def test_logarithms_of_products(scale):
    """The logarithm of a product of sums of exponentials must neither overflow nor lose small losses."""
    logits, labels = oracle.make("softmax", 4, (16, 8, 8), scale=scale)
    y, weight = oracle.one_hot(labels, 4), oracle.counted(labels)
    expected = oracle.sums(logits, y, weight, ("ce_pos",), "softmax")
    oracle.assert_close(fastloss.voxel_sums(logits, labels, ("ce_pos",)), expected, 2e-6)


@pytest.mark.parametrize("channels", [3, 6, 35])
def test_a_constant_in_all_logits_changes_nothing(channels):
    """Not even one whose exponential is 0."""
    logits, labels = oracle.make("softmax", channels, (5, 7))
    expected = fastloss.voxel_sums(logits.double(), labels, PLANS[2])
    oracle.assert_close(fastloss.voxel_sums(logits - 200, labels, PLANS[2]), expected, 1e-4)


@pytest.mark.parametrize("channels", [3, 6, 11])
@pytest.mark.parametrize("position", [0, 2300, 2351])
def test_bad_values_come_through(position, channels):
    """An infinite or absent logit of a counted voxel is not lost among the others."""
    logits, labels = oracle.make("softmax", channels, SPACE)
    logits.view(2, channels, -1)[0, 1, position] = torch.nan
    sums = fastloss.voxel_sums(logits, labels, PLANS[2])
    assert sums[0].isnan().any() and sums[1].isfinite().all()


@pytest.mark.by_turns(3)
@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("terms", [*PLANS[3:], *MAPPED_PLANS], ids="-".join)
def test_channels(terms, masked, dense, activation):
    logits, labels = oracle.make(activation, 2, SPACES[masked])
    target = torch.rand(2, 2, *labels.shape[1:]) if dense else labels
    mask = torch.rand(labels.shape) * (torch.rand(labels.shape) > 0.3) if masked else None
    weight = oracle.counted(labels, (), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    options = {"mask": mask} if masked else {}
    if any(term.startswith("map*") for term in terms):
        options["weight_map"] = torch.rand(2, 2, *labels.shape[1:])
    y = target if dense else oracle.one_hot(labels, 2)
    tolerance = None if activation else 1e-5
    check(logits, target, y, weight, terms=terms, activation=activation, tolerance=tolerance, **options)


@pytest.mark.by_turns(7)
@pytest.mark.parametrize("channels", [3, 6, 35])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("terms", [PLANS[2], PLANS[6], PLANS[9], MAPPED_PLANS[2], MAPPED_PLANS[4]], ids="-".join)
def test_dense_targets_under_softmax(terms, masked, channels):
    logits, labels = oracle.make("softmax", channels, SPACES[masked])
    target = torch.where(torch.rand(logits.shape) < 0.5, oracle.one_hot(labels, channels), torch.rand(logits.shape))
    mask = torch.rand(labels.shape) * (torch.rand(labels.shape) > 0.3) if masked else None
    weight = oracle.counted(labels, (), mask)
    counts = weight.unsqueeze(1) != 0
    options = {"mask": mask} if masked else {}
    if any(term.startswith("map*") for term in terms):
        options["weight_map"] = torch.rand(logits.shape)
    logits = torch.where(counts, logits, torch.nan)
    check(logits, torch.where(counts, target, torch.nan), target, weight, terms=terms, **options)


@pytest.mark.by_turns(3)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels", [2, 4, 6, 35])
@pytest.mark.parametrize("terms", [PLANS[2], PLANS[6], PLANS[7], MAPPED_PLANS[4]], ids="-".join)
def test_float64(terms, channels, dense, activation):
    space = SPACES[dense]
    logits, labels = oracle.make(activation, channels, space, dtype=torch.float64)
    target = torch.rand(logits.shape, dtype=torch.float64) if dense else labels
    options = {"weight_map": torch.rand(logits.shape)} if terms in MAPPED_PLANS else {}
    y = target if dense else oracle.one_hot(labels, channels)
    check(logits, target, y, oracle.counted(labels), terms=terms, activation=activation, **options)


COMPLEMENT = ("ce_neg", "nll_neg", "focal_neg(1.5)", "log_power_neg(0.7)", "miss_neg(2.5)", "map*nll_neg")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels", [5, 35, 118, 300])
def test_the_complement_of_many_classes(channels, dense, activation):
    """Among them confident voxels, whose 1 - p has to come from the other classes."""
    logits, labels = oracle.make(activation, channels, (3, 67))
    logits[:, 1, :, ::3] += 12
    labels = torch.where(torch.rand(labels.shape) < 0.5, 1, torch.randint(0, channels, labels.shape))
    target = torch.rand(logits.shape) if dense else labels
    y, weight = target if dense else oracle.one_hot(labels, channels), oracle.counted(labels)
    options = {"activation": activation, "weight_map": torch.rand(logits.shape), "tolerance": 1e-5}
    check(logits, target, y, weight, terms=COMPLEMENT, **options)


@pytest.mark.parametrize("channels", [3, 6, 11, 256])
def test_labels_that_are_no_class(channels):
    logits, labels = oracle.make("softmax", channels, SPACE)
    labels = labels.short()
    labels.view(2, -1)[0, 5] = channels
    with pytest.raises(ValueError, match=rf"target: label {channels} at index \(0, 0, 0, 5\)"):
        fastloss.voxel_sums(logits, labels, PLANS[0])
    y = oracle.one_hot(labels, channels)
    check(logits, labels, y, oracle.counted(labels), terms=PLANS[2], validate=False)


@pytest.mark.parametrize("channels", [3, 6, 11])
@pytest.mark.parametrize("terms", [("p", "py"), ("p2", "p2y")], ids="-".join)
def test_one_class_everywhere(terms, channels):
    """The sums with and without y then have the same bits, which formulas lean on."""
    logits, labels = oracle.make("softmax", channels, SPACE)
    labels[:] = 2
    plain, of_labels = fastloss.voxel_sums(logits, labels, terms).unbind(-1)
    assert torch.equal(plain[:, 2], of_labels[:, 2]) and not of_labels[:, :2].any() and not of_labels[:, 3:].any()
