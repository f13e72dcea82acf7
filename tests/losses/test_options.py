"""What options may be: numbers of any library, learnable parameters; and that they are fixed, and told as they are."""

import copy
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import close
from torch import nn

import fastloss

pytestmark = pytest.mark.usefixtures("reference")  # what is tested comes before the pass over the voxels, and after it


def batch():
    return torch.randn(2, 3, 4, 6), torch.randint(0, 3, (2, 4, 6), dtype=torch.uint8)


# Numbers of NumPy and torch


SCALARS = {
    "NumPy": (np.int64, np.float32, np.bool_, np.array),
    "torch": (torch.tensor, lambda x: torch.tensor(x, dtype=torch.float32), torch.tensor, torch.tensor),
}
OPTIONS = {
    "dice": ("DiceLoss", {"smooth": 0.5, "ignore_index": 2, "batch": True}),
    "dice_ce": ("DiceCELoss", {"dice_weight": 0.25, "label_smoothing": 0.5, "include_background": False}),
    "tversky": ("FocalTverskyLoss", {"alpha": 0.25, "beta": 0.75, "gamma": 1.5}),
    "focal": ("FocalLoss", {"gamma": 1.5, "alpha": 0.25, "ignore_index": [0, 2]}),
    "exp_log": ("ExpLogLoss", {"gamma": (0.5, 0.25), "smooth": 1.0}),
    "topk": ("DiceTopKLoss", {"k": 0.5, "topk_weight": 0.5, "squared": True}),
    "erosion": ("HausdorffErosionLoss", {"erosions": 2, "alpha": 1.0}),
    "balls": ("HausdorffConvLoss", {"radii": (1, 2), "hard": True}),
    "boundary": ("BoundaryLoss", {"spacing": (0.5, 2.0)}),
    "penalty": ("DistancePenaltyLoss", {"spacing": 0.5, "class_weight": [1.0, 2.0, 0.5]}),
    "structural": ("StructuralSimilarityLoss", {"window": 5, "sigma": 0.5}),
    "cldice": ("SoftDiceCLDiceLoss", {"iterations": 2, "cldice_weight": 0.25}),
    "unified": ("UnifiedFocalLoss", {"weight": 0.25, "symmetric": True}),
    "weighted": ("WeightedCrossEntropyLoss", {"beta": [1.0, 0.5, 2.0]}),
}


def converted(value, library):
    integer, real, flag, vector = SCALARS[library]
    if isinstance(value, bool):
        return flag(value)
    if isinstance(value, (list, tuple)):
        return vector(value)
    return integer(value) if isinstance(value, int) else real(value)


@pytest.mark.parametrize("library", SCALARS)
@pytest.mark.parametrize("case", OPTIONS)
def test_scalars_of_other_libraries_are_numbers(case, library):
    name, options = OPTIONS[case]
    logits, labels = batch()
    loss = getattr(fastloss, name)(**{key: converted(value, library) for key, value in options.items()})
    plain = getattr(fastloss, name)(**options)
    assert torch.equal(loss(logits, labels), plain(logits, labels))
    assert repr(loss) == repr(plain)


@pytest.mark.parametrize(
    "weights", [np.array([1.0, 0.5]), torch.tensor([1.0, 0.5]), [np.float32(1), torch.tensor(0.5)]]
)
def test_weights_of_other_libraries(weights):
    logits, labels = batch()
    parts = [fastloss.DiceLoss(), fastloss.FocalLoss()]
    ours, plain = (fastloss.CompoundLoss(parts, w)(logits, labels) for w in (weights, [1.0, 0.5]))
    assert torch.equal(ours, plain)
    levels = [logits, logits[..., ::2]]
    ours, plain = (fastloss.DeepSupervision(parts[0], w)(levels, labels) for w in (weights, [1.0, 0.5]))
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("option", ["include_background", "batch", "validate", "squared", "soft_label"])
def test_what_is_no_flag_is_named(option):
    with pytest.raises(TypeError, match=f"{option}: got 'no', expected True or False"):
        fastloss.DiceLoss(**{"squared": True, option: "no"})


def test_numbers_that_are_none_are_named():
    for options, message in (
        ({"smooth": np.float64("nan")}, "smooth: got nan"),
        ({"smooth": torch.tensor([1.0])}, "smooth: got tensor"),
        ({"class_weight": "heavy"}, "class_weight: got 'heavy', expected one weight a class"),
        ({"ignore_index": np.float32(1.5)}, "ignore_index: got 1.5"),
        ({"ignore_index": "255"}, "ignore_index: got '255'"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            fastloss.DiceLoss(**options)
    with pytest.raises(ValueError, match=r"^weights: got a tensor that requires a gradient"):  # given by place
        fastloss.CompoundLoss([fastloss.DiceLoss()], torch.ones(1, requires_grad=True))


# Learned weights


def learned(*values):
    return nn.Parameter(torch.tensor(values if len(values) > 1 else values[0]))


LEARNED = {
    "class weights": lambda w: fastloss.DiceLoss(class_weight=w),
    "class weights of cross-entropy": lambda w: fastloss.CrossEntropyLoss(class_weight=w),
    "class weights of both parts": lambda w: fastloss.DiceCELoss(class_weight=w),
    "class weights of generalized Dice": lambda w: fastloss.GeneralizedDiceLoss(class_weight=w),
    "class weights of Lovász": lambda w: fastloss.LovaszLoss(class_weight=w),
    "class weights of clDice": lambda w: fastloss.SoftCLDiceLoss(class_weight=w, include_background=True),
    "class weights of structural similarity": lambda w: fastloss.StructuralSimilarityLoss(class_weight=w),
    "alpha": lambda w: fastloss.FocalLoss(alpha=w),
    "alpha of sigmoid": lambda w: fastloss.DiceFocalLoss(alpha=w, activation="sigmoid"),
    "beta": lambda w: fastloss.WeightedCrossEntropyLoss(beta=w),
    "beta of sigmoid": lambda w: fastloss.WeightedCrossEntropyLoss(beta=w, activation="sigmoid"),
    "frequencies": lambda w: fastloss.ExpLogLoss(class_frequency=w),
    "weights of a compound": lambda w: fastloss.CompoundLoss(
        [fastloss.DiceLoss(), fastloss.CrossEntropyLoss(), fastloss.FocalLoss()], w
    ),
    "list of weights": lambda w: fastloss.CompoundLoss(
        [fastloss.DiceLoss(), fastloss.CrossEntropyLoss(), fastloss.FocalLoss()],
        nn.ParameterList([x.detach().reshape(1) for x in w]) if isinstance(w, nn.Parameter) else w,
    ),
}


def test_a_weight_of_one_is_learned_too():
    logits, labels = batch()
    weights = learned(1.0, 1.0)
    losses = [fastloss.DiceLoss(), fastloss.CrossEntropyLoss()]
    fastloss.CompoundLoss(losses, weights)(logits, labels).backward()
    close(weights.grad, torch.stack([loss(logits, labels) for loss in losses]), 1e-6)


def test_alphas_of_a_sigmoid_may_be_one_and_zero():
    logits, labels = batch()
    loss = fastloss.FocalLoss(alpha=[1.0, 0.0, 0.5], activation="sigmoid", reduction="none")
    assert loss(logits, torch.full_like(labels, 2))[:, 0].eq(0).all()  # of an absent class, all of whose weight is y's


def test_a_factor_keeps_the_digits_of_float64():
    logits, labels = batch()
    one, each = (fastloss.WeightedCrossEntropyLoss(beta=beta, activation="sigmoid") for beta in (0.1, [0.1] * 3))
    close(one(logits.double(), labels), each(logits.double(), labels), 1e-14)


@pytest.mark.parametrize("case", LEARNED)
def test_a_parameter_has_the_gradient_of_finite_differences(case):
    logits, labels = batch()
    start = [0.25, 0.5, 0.75]
    loss = LEARNED[case](learned(*start))
    parameters = list(loss.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 3
    value = loss(logits.double(), labels)
    assert value.shape == ()
    value.backward()
    found = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
    for i in range(3):
        steps = [[x + (step if j == i else 0) for j, x in enumerate(start)] for step in (1e-4, -1e-4)]
        up, down = (LEARNED[case](step)(logits.double(), labels) for step in steps)
        close(found[i], (up - down) / 2e-4, 1e-5)
    assert found.abs().min() > 1e-4


@pytest.mark.parametrize(
    "make",
    [
        lambda w: fastloss.DiceCELoss(dice_weight=w),
        lambda w: fastloss.DiceFocalLoss(focal_weight=w),
        lambda w: fastloss.ExpLogLoss(ce_weight=w),
        lambda w: fastloss.DiceTopKLoss(topk_weight=w),
        lambda w: fastloss.FocalLoss(alpha=w),
        lambda w: fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.FocalLoss()], [1.0, w]),
        lambda w: fastloss.DeepSupervision(lambda z, y: fastloss.DiceLoss()(z, y), [1.0, w]),
    ],
)
def test_one_weight_is_learned(make):
    logits, labels = batch()
    weight = learned(0.5)
    loss = make(weight)
    call = (lambda one: one([logits, logits[..., ::2]], labels)) if isinstance(loss, fastloss.DeepSupervision) else None
    call = call or (lambda one: one(logits, labels))
    call(loss).backward()
    assert list(loss.parameters()) == [weight]
    close(weight.grad, (call(make(0.625)) - call(make(0.375))) / 0.25, 1e-4)


def test_learned_weights_move_copy_compile_and_warm_up():
    logits, labels = batch()
    parts = [fastloss.DiceLoss(class_weight=learned(1.0, 2.0, 3.0)), fastloss.CrossEntropyLoss()]
    loss = fastloss.CompoundLoss(parts, learned(0.5, 2.0))
    fastloss.warmup(loss, classes=3, size=(4, 6))
    assert all(parameter.grad is None for parameter in loss.parameters())
    saved = io.BytesIO()
    torch.save(loss, saved)
    saved.seek(0)
    for other in (copy.deepcopy(loss), torch.load(saved, weights_only=False), loss.double()):
        close(other(logits, labels), loss(logits, labels))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    close(compiled(logits, labels), loss(logits, labels))
    loss.load_state_dict({name: 2 * value for name, value in loss.state_dict().items()}, assign=True)
    assert loss.losses[0].class_weight.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("several", ["classes", "options"])
def test_many_losses_compile_on_their_own(several):
    """torch.compile gives a code up after eight graphs: the losses of a class have one, unless told apart."""
    logits, labels = batch()
    names = ("Dice", "Jaccard", "Tversky", "LogCoshDice", "CrossEntropy", "Focal", "Poly", "MCC", "GeneralizedDice")
    losses = [getattr(fastloss, f"{name}Loss")() for name in names]
    if several == "options":
        losses = [fastloss.TverskyLoss(alpha=0.1 + i / 20) for i in range(len(names))]
    graphs = []
    for loss in losses:
        apart = {"isolate_recompiles": True} if several == "options" else {}
        compiled = torch.compile(loss, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph, **apart)
        close(compiled(logits, labels), loss(logits, labels))
    assert len(graphs) == len(losses)


def test_tensors_whose_gradient_would_be_cut_are_refused():
    w = torch.ones(3, requires_grad=True)
    parts = [fastloss.DiceLoss(), fastloss.FocalLoss(), fastloss.CrossEntropyLoss()]
    for make, name in (
        (lambda: fastloss.DiceLoss(class_weight=w), "class_weight"),
        (lambda: fastloss.FocalLoss(alpha=w * 1), "alpha"),
        (lambda: fastloss.WeightedCrossEntropyLoss(beta=[w[0], w[1], w[2]]), "beta"),
        (lambda: fastloss.CompoundLoss(parts, w), "weights"),
        (lambda: fastloss.CompoundLoss(parts, list(w)), "weights"),
        (lambda: fastloss.DeepSupervision(parts[0], w.exp()), "weights"),
        (lambda: fastloss.DiceCELoss(dice_weight=w[0]), "dice_weight"),
        (lambda: fastloss.TverskyLoss(alpha=w[0]), "alpha"),
        (lambda: fastloss.TverskyLoss(alpha=learned(0.3)), "alpha"),
        (lambda: fastloss.FocalLoss(gamma=learned(2.0)), "gamma"),
        (lambda: fastloss.DiceLoss(class_weight=[learned(1.0)] * 3), "class_weight"),
        (lambda: fastloss.CompoundLoss(parts, [1.0, 1.0, learned(1.0, 2.0)]), "weights"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"{name}: got"):
            make()


# Attributes


def test_options_are_fixed():
    for loss, name in (
        (fastloss.FocalLoss(), "gamma"),
        (fastloss.DiceLoss(), "reduction"),
        (fastloss.DiceLoss(class_weight=[1.0, 2.0]), "class_weight"),
        (fastloss.CrossEntropyLoss(), "include_background"),  # which it has not
        (fastloss.DiceFocalLoss(), "gamma"),  # of a part
        (fastloss.DiceCELoss(), "smooth"),
        (fastloss.DiceCELoss(), "class_weight"),
        (fastloss.DiceCELoss(), "ce_weight"),
        (fastloss.ComboLoss(), "alpha"),
        (fastloss.DiceTopKLoss(), "smooth"),
        (fastloss.HausdorffErosionLoss(), "erosions"),
        (copy.deepcopy(fastloss.BoundaryLoss()), "spacing"),
    ):
        before = repr(loss)
        with pytest.raises(AttributeError, match=f"{name}: is fixed when a {type(loss).__name__} is made"):
            setattr(loss, name, 0.5)
        assert repr(loss) == before


def test_what_is_not_an_option_may_be_set():
    class Own(fastloss.SumLoss):
        terms = ("p", "y")

        def __init__(self, power, **options):
            super().__init__(**options)
            self.power = power
            self.batch = True  # while it is made

        def formula(self, sums):
            return (sums["p"] - sums["y"]).abs() ** self.power

    logits, labels = batch()
    loss = Own(1.0)
    first = loss(logits, labels)
    loss.power = 2.0
    assert first.isfinite() and loss(logits, labels) != first
    with pytest.raises(AttributeError, match="batch: is fixed when a Own is made"):
        loss.batch = False
    compound = fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.FocalLoss()])
    before = compound(logits, labels)
    compound.loss_weights[1] = 0.0
    close(compound(logits, labels), fastloss.DiceLoss()(logits, labels))
    assert before != compound(logits, labels)
    compound.eval()


def test_compounds_tell_what_they_do():
    loss = fastloss.DiceCELoss(include_background=False, batch=True, reduction="sum")
    assert (loss.include_background, loss.batch, loss.reduction) == (False, True, "sum")
    assert "include_background=False, batch=True, reduction='sum'" in repr(loss)
    assert not hasattr(loss, "class_weight")
    unlike = fastloss.CompoundLoss([fastloss.DiceLoss(batch=True), fastloss.JaccardLoss(), fastloss.FocalLoss()])
    assert (unlike.include_background, unlike.batch, unlike.reduction) == (True, None, "mean")
    nested = fastloss.CompoundLoss([loss, fastloss.FocalLoss(reduction="sum")])
    assert (nested.include_background, nested.batch, nested.reduction) == (False, True, "sum")
    assert fastloss.PolyLoss().include_background is True  # all classes count
    topk = fastloss.DiceTopKLoss(include_background=False, batch=True)
    assert (topk.include_background, topk.batch) == (False, True)


def test_repr_has_what_was_given():
    shown = repr(fastloss.FocalLoss(gamma=0.5, alpha=[0.25, 0.5], activation=None, ignore_index=255))
    for part in ("gamma=0.5", "alpha=tensor([0.25", "activation=None", "ignore_index=(255,)", "reduction='mean'"):
        assert part in shown.replace("0.2500", "0.25")
    assert "include_background" not in shown  # no option of it
    assert "spacing=(3.0, 1.0)" in repr(fastloss.BoundaryLoss(spacing=[3, 1]))


def test_numbers_of_channels_of_other_libraries():
    _, labels = batch()
    for three in (np.int64(3), torch.tensor(3)):
        found = fastloss.BoundaryLoss().label_map(labels, three)
        assert torch.equal(found, fastloss.BoundaryLoss().label_map(labels, 3))
        assert fastloss.warmup(fastloss.DiceLoss(), classes=three, size=(4, 6)) > 0


def test_a_gamma_that_is_not_read_is_refused():
    with pytest.raises(ValueError, match=r"gamma: got 3\.0 with base='ce'"):
        fastloss.PolyLoss(gamma=3.0)
    with pytest.raises(TypeError, match="process_group: is no option of StructuralSimilarityLoss"):
        fastloss.StructuralSimilarityLoss(process_group="world")
    with pytest.raises(TypeError, match=r"dtype: got torch\.float16"):
        fastloss.BoundaryLoss().label_map(batch()[1], 3, dtype=torch.float16)


# Other ways to run


class Net(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.conv, self.loss = nn.Conv2d(3, 3, 1), loss

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    "make",
    [
        fastloss.DiceCELoss,
        lambda: fastloss.FocalLoss(alpha=[0.25, 0.5, 0.5], ignore_index=255),
        fastloss.TopKLoss,
        fastloss.DiceTopKLoss,
        fastloss.LovaszLoss,
        lambda: fastloss.BoundaryLoss(spacing=(1.0, 2.0)),
        fastloss.HausdorffErosionLoss,
        fastloss.SoftCLDiceLoss,
        fastloss.StructuralSimilarityLoss,
        lambda: fastloss.DeepSupervision(fastloss.DiceLoss()),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_that_holds_a_loss_can_be_scripted(make):
    net = Net(make())
    logits, labels = batch()
    torch.testing.assert_close(torch.jit.script(net)(logits), net(logits))

    class WithLoss(Net):
        def forward(self, x, y):
            return self.loss(self.conv(x), y)

    if not isinstance(net.loss, fastloss.DeepSupervision):
        with pytest.raises((NotImplementedError, RuntimeError), match=r"cannot be traced by torch\.jit\.trace"):
            torch.jit.trace(WithLoss(make()), (logits, labels))


def test_numba_without_its_compiler_is_the_reference():
    code = (
        "import logging; logging.basicConfig()\n"
        "import torch, fastloss\n"
        "z, y = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)\n"
        "for loss in (fastloss.DiceLoss(), fastloss.TopKLoss(), fastloss.SoftCLDiceLoss()): print(loss(z, y).item())\n"
        "try:\n"
        "    with fastloss.backend('numba'): fastloss.DiceLoss()(z, y)\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "FASTLOSS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "using the reference back end on cpu (slow): NUMBA_DISABLE_JIT is set" in done.stderr
    *values, refused = done.stdout.splitlines()
    z, y = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    losses = (fastloss.DiceLoss(), fastloss.TopKLoss(), fastloss.SoftCLDiceLoss())
    assert [float(value) for value in values] == pytest.approx([loss(z, y).item() for loss in losses])
    assert "'numba' is forced and cannot run: NUMBA_DISABLE_JIT is set" in refused
