"""Losses that a GPU finishes in one step, as quotients of sums: their formulas' values and slopes, in few kernels."""

import os

import pytest
import torch

import fastloss
from fastloss.losses.base import ratio

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from fastloss.kernels.gpu import epilogue

from bench.kernels.epilogue import recorded

TABLES = (
    fastloss.DiceLoss,
    lambda **options: fastloss.DiceLoss(squared=True, **options),
    lambda **options: fastloss.DiceLoss(soft_label=True, **options),
    fastloss.JaccardLoss,
    lambda **options: fastloss.JaccardLoss(soft_label=True, **options),
    fastloss.TverskyLoss,
    lambda **options: fastloss.TverskyLoss(alpha=0.9, beta=0.4, soft_label=True, **options),
)
MEANS = (
    fastloss.CrossEntropyLoss,
    lambda **options: fastloss.CrossEntropyLoss(label_smoothing=0.1, **options),
    fastloss.FocalLoss,
    fastloss.PolyLoss,
    lambda **options: fastloss.PolyLoss(base="focal", **options),
)
BOTH = (
    lambda **options: fastloss.DiceCELoss(dice_weight=0.3, **options),
    lambda **options: fastloss.DiceFocalLoss(focal_weight=1 / 7, **options),
)
OPTIONS = (
    {},
    {"class_weight": [1.0, 0.0, 3.0]},
    {"include_background": False},
    {"batch": True, "class_weight": [0.5, 2.0, 3.0]},
    {"batch": True, "include_background": False, "smooth": (0.0, 1e-3)},
    {"smooth": 0.0},
    {"reduction": "sum", "smooth": (1.0, 0.0)},
)
CASES = [(make, options) for make in (*TABLES, *BOTH) for options in OPTIONS[: 6 if make in BOTH else None]]
CASES += [(make, options) for make in MEANS for options in OPTIONS[:2]]


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize(("make", "options"), CASES)
def test_value_and_slopes_are_those_of_the_formula(make, options, activation):
    """From sums of all kinds: plain ones, a class that is nowhere, a sample without voxels, nothing at all; of samples
    and classes that fill no power of two."""
    loss = make(activation=activation, **options)
    for empty in (None, (0, 1), (1,), ()):
        sums = {name: torch.rand(3, 3, dtype=torch.float64) + 0.1 for name in loss.terms}
        if "count" in sums:
            sums["count"] = sums["count"][:, :1].expand(3, 3).clone()
        for value in sums.values() if empty is not None else ():
            value[empty] = 0.0
        parts = loss.quotients(3, 3)
        stacked = torch.stack([sums[name] for name in loss.terms], -1).requires_grad_()
        launch, value, slopes = epilogue.launch_of(
            stacked.detach(), loss.terms, tuple(parts), (-1,) * len(loss.terms), torch.float64
        )
        launch.run()
        want = loss.from_sums(dict(zip(loss.terms, stacked.unbind(-1), strict=True)))
        (slope,) = torch.autograd.grad(want, stacked)
        assert torch.allclose(value, want, rtol=1e-11, atol=1e-13)
        assert torch.allclose(slopes, slope, rtol=1e-11, atol=1e-12), (slopes - slope).abs().max()


@pytest.mark.by_turns(7)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("make", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_losses_end_to_end(make, options, activation, dtype):
    loss = make(activation=activation, **options)
    logits = torch.randn(2, 3, 40).to(dtype).requires_grad_()
    soft = loss.terms[0] == "d" or "d" in loss.terms
    target = torch.rand(2, 3, 40) if soft else torch.randint(0, 3, (2, 40))
    with fastloss.backend("triton"):
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(3 * value, logits)
    assert "Quotients" in type(value.grad_fn).__name__
    exact = logits.detach().double().requires_grad_()
    with fastloss.backend("reference"):
        want = loss(exact, target)
    (slope,) = torch.autograd.grad(3 * want, exact)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    rounding = {torch.bfloat16: 2**-7, torch.float32: 2e-6, torch.float64: 1e-9}[dtype]
    assert abs(value - want) <= 1e-6 * abs(want) and gradient.dtype == dtype
    assert ((gradient.double() - slope).abs() <= rounding * slope.abs() + 1e-6 * slope.abs().max()).all()


class Own(fastloss.DiceLoss):
    """A user's, whose reduction is no mean."""

    def reduce(self, table):
        return table.max()


def test_other_losses_keep_their_formulas():
    learned = torch.nn.Parameter(torch.ones(3))
    others = (
        fastloss.LogCoshDiceLoss(),
        fastloss.FocalTverskyLoss(),
        fastloss.FocalLoss(alpha=0.3),
        fastloss.WeightedCrossEntropyLoss(beta=[1.0, 2.0, 3.0]),
        fastloss.BalancedCrossEntropyLoss(),
        fastloss.DiceLoss(reduction="none"),
        fastloss.CrossEntropyLoss(reduction="sum"),
        fastloss.DiceLoss(class_weight=learned),
        fastloss.DiceCELoss(ce_weight=torch.nn.Parameter(torch.tensor(0.5))),
        fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.MCCLoss()]),
        Own(),
    )
    logits, target = torch.randn(1, 3, 20, requires_grad=True), torch.randint(0, 3, (1, 20))
    for loss in others:
        assert loss.quotients(1, 3) is None, loss
    with fastloss.backend("triton"):
        value = Own()(logits, target)
    assert "Quotients" not in type(value.grad_fn).__name__ and value == Own()(logits.detach(), target)


def test_weights_of_nested_losses_are_multiplied():
    inner = fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.CrossEntropyLoss()], [0.5, 0.25])
    outer = fastloss.CompoundLoss([inner, fastloss.JaccardLoss()], [0.5, 3.0])
    for found, inside in zip(outer.quotients(1, 3), inner.quotients(1, 3), strict=False):
        assert found.factor == 0.5 * inside.factor != inside.factor


def test_weights_may_be_changed_between_calls():
    loss = fastloss.DiceCELoss()
    logits, target = torch.randn(1, 3, 20), torch.randint(0, 3, (1, 20))
    with fastloss.backend("triton"):
        before = loss(logits, target)
        loss.loss_weights[1] = 0.1 + 1e-9
        after = loss(logits, target)
    dice, entropy = fastloss.DiceLoss()(logits, target), fastloss.CrossEntropyLoss()(logits, target)
    assert torch.allclose(before, dice + entropy) and torch.allclose(after, dice + 0.1 * entropy)


def test_weights_of_a_wrong_length_are_named():
    with fastloss.backend("triton"), pytest.raises(ValueError, match=r"class_weight: got 2 weights, expected 3"):
        fastloss.DiceLoss(class_weight=[1, 2])(torch.randn(1, 3, 20), torch.randint(0, 3, (1, 20)))


def test_a_second_derivative_raises_and_none_is_asked_for():
    logits, target = torch.randn(1, 3, 20, requires_grad=True), torch.randint(0, 3, (1, 20))
    with fastloss.backend("triton"):
        value = fastloss.DiceCELoss()(logits, target)
        (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
        with pytest.raises(NotImplementedError, match="first derivatives only"):
            gradient.sum().backward()
        assert not fastloss.DiceCELoss()(logits.detach(), target).requires_grad


def test_labels_that_are_no_class_are_named():
    with fastloss.backend("triton"), pytest.raises(ValueError, match="label 7"):
        fastloss.DiceCELoss()(torch.randn(1, 3, 20), torch.full((1, 20), 7))


@pytest.mark.parametrize("cls", [fastloss.DiceLoss, fastloss.DiceCELoss, fastloss.FocalLoss])
def test_few_small_kernels_and_nothing_waits(cls, monkeypatch):
    """On a GPU's way: at most eight small kernels each way around one fused one, and no value is read."""
    logits, target = torch.zeros(2, 4, 6, 8, requires_grad=True), torch.zeros(2, 6, 8, dtype=torch.uint8)

    def refuse(*_):
        raise AssertionError("a value is read from the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for seen, launched in recorded(cls(validate=False), logits, target):
        fused = [launch for launch in launched if launch.kernel is not epilogue.quotients]
        assert len(fused) == 1 and len(seen) + len(launched) - 1 <= 2, seen
        assert not {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"} & {name for name, _ in seen}


def test_ratio_where_nothing_is():
    numerator = torch.tensor([1.0, 0.0, float("nan"), 4.0], dtype=torch.float64, requires_grad=True)
    denominator = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    found = ratio(numerator, denominator, 7.0)
    assert found.tolist() == [0.5, 7.0, 7.0, 7.0]
    slopes = torch.autograd.grad(found.sum(), (numerator, denominator))
    assert slopes[0].tolist() == [0.5, 0, 0, 0] and slopes[1].tolist() == [-0.25, 0, 0, 0]


def test_of_many_classes_the_formula_is_plain():
    """More than one program holds."""
    assert epilogue.fits(2, 2048) and not epilogue.fits(3, 2048)
