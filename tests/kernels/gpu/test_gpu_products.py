"""Products of powers in the Triton back end: against the plain PyTorch back end, and at the extremes."""

import pytest
import torch
from test_gpu_interpreter import check, gpu, pytestmark, reference  # noqa: F401

import fastloss
from bench.kernels.problems import DICE_CE, make_problem

POWERS = ("focal_pos(2.0)", "focal_neg(0.5)", "log_power_pos(0.3)", "log_power_neg(0.3)", "miss_pos(1.0)")
FOCAL = tuple(f"focal_{side}({power})" for side in ("pos", "neg") for power in (0.0, 0.5, 2.0, 5.0))
# what has no name, once more and with its share of y among them
PRODUCTS = ("p*l", "y*p^0.7", "r*p*m", "q^0.5*y", "y^2*p*q", "l^2", "p^1.5*m^0.5*r", "p*q", "y*p*q", "p*l", "p*l*y")
PLAIN_PRODUCTS = tuple(name for name in PRODUCTS if "0.7" not in name and "q^0.5" not in name)  # of finite slopes
FAMILIES = [(4, "softmax"), (20, "softmax"), (3, "sigmoid"), (3, "none")]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("weights", ["ignore", "mask", "map"])
def test_activation_target_and_weights(activation, dense, weights):
    options = {
        "ignore": {"ignore": (1, 255)},
        "mask": {"mask": "bool"},
        "map": {"mask": "weight", "ignore": (0,), "map_channels": 3},
    }[weights]
    dtype = torch.float32 if dense else torch.int16
    check(make_problem(3, activation=activation, terms=POWERS, dense=dense, target_dtype=dtype, **options))


@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize("dense", [False, True])
def test_products(channels, activation, dense):
    terms = PLAIN_PRODUCTS if activation == "none" else PRODUCTS
    dtype = torch.float32 if dense else torch.int16
    options = {"mask": "weight", "ignore": (0,), "batch": 1}
    check(make_problem(channels, (90,), activation, terms=terms, dense=dense, target_dtype=dtype, **options))
    mapped = {"map_channels": 1, "batch": 1, "dense": dense, "target_dtype": dtype}
    check(make_problem(channels, (90,), activation, terms=terms[3:6], **mapped))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("channels", "activation"), [(17, "softmax"), (40, "softmax"), (1, "sigmoid"), (17, "none")])
def test_channels(channels, activation, dense):
    """Labels past the last channel included."""
    dtype = torch.float32 if dense else torch.int16
    terms = ("log_power_pos(0.3)", "focal_neg(1.5)", "nll_pos")
    check(make_problem(channels, (3, 7, 5), activation, terms=terms, dense=dense, target_dtype=dtype, batch=1), 2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "activation"), [(4, "softmax"), (18, "softmax"), (4, "sigmoid")])
def test_dtypes(dtype, channels, activation):
    """In float64 the reference itself takes 1 - p as a difference."""
    terms = (*POWERS, "focal_pos(1.5)", "nll_neg")
    check(make_problem(channels, (3, 7, 5), activation, dtype, terms, batch=1), double=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.2, 0.5, 1.0, 1.3, 1.5, 2.0, 3.0, 5.0])
def test_every_power(power):
    """A high power multiplies the rounding of its base."""
    for side in ("pos", "neg"):
        terms = tuple(f"{kind}_{side}({power})" for kind in ("focal", "log_power", "miss"))
        check(make_problem(3, (9, 31), terms=terms, batch=1), single=2e-6 * max(1, power))


@pytest.mark.parametrize(("channels", "activation"), FAMILIES[:3])
@pytest.mark.parametrize("dense", [False, True])
def test_saturated_logits(channels, activation, dense):
    """Every combination of the extremes among three channels, right and wrong."""
    terms = (*FOCAL, *POWERS[2:], "log_power_pos(1.0)", "nll_pos", "nll_neg")
    dtype = torch.uint8 if dense else torch.int16
    problem = make_problem(channels, (3 * 3 * 27,), activation, terms=terms, dense=dense, target_dtype=dtype, batch=1)
    extremes = [torch.cartesian_prod(*[torch.tensor([-size, 0.0, size])] * 3).T for size in (100.0, 1e4, 1e8)]
    problem.logits[:, :3] = torch.cat(extremes, 1).repeat(1, 3)
    if not dense:
        problem.target[:] = torch.arange(3).repeat_interleave(81)
    check(problem, single=3e-6)
    assert problem.forward(gpu).isfinite().all() and problem.backward(gpu).isfinite().all()


@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize("dense", [False, True])
def test_power_zero_is_the_cross_entropy(channels, activation, dense):
    dtype = torch.float32 if dense else torch.int16
    focal = make_problem(
        channels, (90,), activation, terms=("focal_pos(0)", "focal_neg(0)"), dense=dense, target_dtype=dtype
    )
    plain = make_problem(channels, (90,), activation, terms=("ce_pos", "ce_neg"), dense=dense, target_dtype=dtype)
    assert torch.equal(focal.forward(gpu), plain.forward(gpu))
    assert torch.equal(focal.backward(gpu), plain.backward(gpu))


@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_voxels_of_weight_zero_may_hold_anything(channels, activation, value):
    terms = (*POWERS, "focal_neg(0.0)", "miss_neg(3.0)", "nll_pos", "nll_neg")
    clean = make_problem(channels, (60,), activation, terms=terms, ignore=(1,), mask="bool")
    skipped = (clean.target == 1) | ~clean.mask
    dirty = clean._replace(logits=torch.where(skipped[:, None], value, clean.logits))
    assert torch.equal(dirty.forward(gpu), clean.forward(gpu))
    grad = dirty.backward(gpu)
    assert torch.equal(grad, clean.backward(gpu))
    assert not grad.movedim(1, -1)[skipped].any()


@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize("term", ["nll_pos", "focal_pos(0.5)", "focal_pos(1.5)", "log_power_pos(0.3)", "miss_pos(2.5)"])
def test_not_a_number_is_not_hidden(channels, activation, term):
    for name, label in ((term, 1), (term.replace("pos", "neg"), 0)):
        problem = make_problem(channels, (60,), activation, terms=(name,))
        problem.logits[0, 1, 7] = float("nan")
        problem.target[0, 7] = label
        sums = problem.forward(gpu)
        assert sums[0, 1].isnan().all() and not sums[1].isnan().any(), name
        assert activation == "none" or problem.backward(gpu)[0, 1, 7].isnan(), name


@pytest.mark.parametrize("channels", [4, 20])
def test_impossible_classes(channels):
    """Logits of -inf (a class ruled out) where another class is the truth."""
    problem = make_problem(channels, (90,), terms=(*POWERS, "log_power_pos(2.0)", "focal_pos(5.0)"))
    problem.target[:] = torch.arange(90) % (channels - 1)
    problem.logits[:, channels - 1, ::2] = float("-inf")
    check(problem, single=3e-6)


@pytest.mark.parametrize(("channels", "activation"), FAMILIES[:3])
@pytest.mark.parametrize("term", ["log_power_pos(0.3)", "log_power_neg(0.3)"])
def test_confident_voxels_keep_all_digits(channels, activation, term):
    """Voxel by voxel: the slope of l^g grows without bound as l vanishes, so l and 1 - p must be no differences."""
    problem = make_problem(channels, (300,), activation, terms=(term,), batch=1)
    side = 1 if "_pos" in term else -1
    problem.logits[:] = -1.0
    problem.logits[0, 0] = side * torch.linspace(1, 16, 300)
    problem.target[:] = 0 if side > 0 else 1
    problem.grad_sums[:] = torch.arange(channels).reshape(1, -1, 1) == 0
    got, want = problem.backward(gpu)[0, 0].double(), problem.doubled().backward(reference)[0, 0]
    assert ((got - want).abs() <= 4e-6 * want.abs()).all()
    assert torch.allclose(problem.forward(gpu)[0, 0], problem.doubled().forward(reference)[0, 0], rtol=1e-6)


def test_a_union_of_terms_is_one_launch_each_way(monkeypatch):
    """Dice, cross-entropy, focal and a loss of the user's: one kernel forward, one backward."""

    class Focal(fastloss.SumLoss):
        terms = ("count", "focal_pos(2.0)")

        def formula(self, sums):
            return sums["focal_pos(2.0)"] / sums["count"]

    class Own(fastloss.SumLoss):
        terms = ("py", "miss_pos(1.0)", "log_power_pos(0.3)")

        def formula(self, sums):
            return sums["miss_pos(1.0)"] + sums["log_power_pos(0.3)"] - sums["py"]

    launched = []
    run = gpu.Launch.run
    monkeypatch.setattr(gpu.Launch, "run", lambda launch: (launched.append(launch.kernel.__name__), run(launch)))
    loss = fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.CrossEntropyLoss(), Focal(), Own()])
    logits = make_problem(3, (50,), terms=DICE_CE).logits.requires_grad_()
    with fastloss.backend("triton"):
        loss(logits, torch.zeros(2, 50, dtype=torch.uint8)).backward()
    assert launched == ["forward_unrolled", "backward_unrolled"] and logits.grad.any()


def test_a_product_asked_for_twice_and_its_share():
    """The coefficients of p l and of its share of y are added before they are rounded."""
    problem = make_problem(3, (200,), terms=("p*l", "y*p*l", "map*p*l", "p*l", "y*p*l"), map_channels=0, batch=1)
    problem = problem._replace(weight_map=torch.rand(1, 1, 200))
    problem.grad_sums[..., :2] = torch.tensor([1e6, -1e6 - 1], dtype=torch.float64)
    problem.target[:] = torch.arange(200) % 3
    check(problem)
    everywhere = problem._replace(target=torch.zeros_like(problem.target))
    everywhere.grad_sums[:, 1:] = 0
    check(everywhere)
