"""Random products of powers against autograd of plain formulas in float64, and what is said of those that are none."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import counted, gradient, one_hot
from products import agree, factors, several

import fastloss
from fastloss.terms import Term, parse_term

SCALES = (0.1, 2.0, 10.0, 40.0)  # at 40 most voxels are saturated
SIZES = (17, 64, 200, 512)  # voxels: parts of a vector, whole ones, and more than one tile of many classes

# Random cases


@dataclass(frozen=True)
class Case:
    """What makes a code, and its voxels."""

    terms: tuple[Term, ...]
    names: tuple[str, ...]
    activation: str | None
    channels: int
    dense: bool
    dtype: torch.dtype
    scale: float
    weights: str
    voxels: int
    seed: int


@dataclass(frozen=True)
class Voxels:
    logits: torch.Tensor
    target: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor
    weight_map: torch.Tensor
    coefficients: torch.Tensor
    options: dict


@st.composite
def cases(draw):
    activation = draw(st.sampled_from(["softmax", "softmax", "sigmoid", None]))
    terms, names = draw(several(activation, 3))
    return Case(
        terms,
        names,
        activation,
        channels=draw(st.sampled_from([2, 3, 4, 5, 6, 11, 40] if activation == "softmax" else [1, 2, 3, 6, 11])),
        dense=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.float32, torch.float32, torch.float64])),
        scale=draw(st.sampled_from(SCALES)),
        weights=draw(st.sampled_from(["none", "mask", "ignored"])),
        voxels=draw(st.sampled_from(SIZES)),
        seed=draw(st.integers(0, 2**16)),
    )


def make(case):
    """Voxels that are saturated and ones that are not: their scale is random up to that of the case."""
    torch.manual_seed(case.seed)
    shape = (2, case.channels, case.voxels)
    logits = torch.randn(shape, dtype=torch.float64) * case.scale * torch.rand(2, 1, case.voxels) ** 4
    if case.activation is None:
        logits = logits.sigmoid() if case.channels == 1 else logits.softmax(1)
    logits = logits.to(case.dtype)
    labels = torch.randint(0, max(2, case.channels), (2, case.voxels), dtype=torch.uint8)
    y, options, mask = one_hot(labels, case.channels).to(case.dtype), {}, None
    if case.dense:
        y = torch.where(torch.rand(shape) < 0.5, y, torch.rand(shape).to(case.dtype))
    if case.weights == "mask":
        mask = torch.rand(labels.shape) * (torch.rand(labels.shape) > 0.3)
        options["mask"] = mask
    elif case.weights == "ignored" and not case.dense:
        labels[torch.rand(labels.shape) < 0.3] = 255
        options["ignore_index"] = 255
    weight = counted(labels, (255,) if "ignore_index" in options else (), mask)
    coefficients = torch.randn(2, case.channels, len(case.terms), dtype=torch.float64)
    target = y if case.dense else labels
    return Voxels(logits, target, y, weight, torch.rand(shape), coefficients, options)


def check(case, tolerances):
    v = make(case)
    options = {"activation": case.activation, **v.options}
    options |= {"weight_map": v.weight_map} if any(term.mapped for term in case.terms) else {}
    agree(lambda z: fastloss.voxel_sums(z, v.target, case.names, **options), case.terms, case.activation, v, tolerances)


TOLERANCES = {torch.float32: (2e-6, 1e-5), torch.float64: (2e-12, 1e-10)}


@settings(max_examples=24)
@given(cases())
def test_products(case):
    with fastloss.backend("numba"):
        check(case, TOLERANCES[case.dtype])


@pytest.mark.slow
@settings(max_examples=600)
@given(cases())
def test_many_more_products(case):
    with fastloss.backend("numba"):
        check(case, TOLERANCES[case.dtype])


@settings(max_examples=150)
@given(cases())
def test_products_of_the_reference(case):
    with fastloss.backend("reference"):
        check(case, TOLERANCES[case.dtype])


def test_powers_of_logarithms_are_of_at_least_epsilon(each_backend):
    """Of p = 1 and 0, where powers below 1 would have an infinite slope; logarithms of probabilities are finite."""
    labels = torch.zeros(1, 33, dtype=torch.uint8)
    expected = torch.tensor([1e-7**0.3, 1e-7**0.3, 1e-14, -math.log(1e-7), -math.log(1e-7)], dtype=torch.float64)
    for activation, values in (("softmax", (40.0, -40.0)), ("sigmoid", (40.0, -40.0)), (None, (1.0, 0.0))):
        z = torch.tensor(values).view(1, 2, 1).repeat(1, 1, 33).requires_grad_()
        found = fastloss.voxel_sums(z, labels, ("l^0.3", "m^0.3", "l^2", "l", "m"), activation=activation)
        sums = found[0, [0, 1, 0, 1, 0], [0, 1, 2, 3, 4]][: 3 if activation else 5]
        torch.testing.assert_close(sums, 33 * expected[: len(sums)], rtol=1e-5, atol=0.0)
        (derivative,) = torch.autograd.grad(sums[:3].sum(), z)
        assert not derivative.any()


# Names


@pytest.mark.parametrize(("activation", "channels"), [("softmax", 3), ("softmax", 11), ("sigmoid", 3)])
def test_distance_to_a_dense_target_has_all_digits_where_p_is_nearly_1(each_backend, activation, channels):
    """Where m^2 makes much of what 1 - p has lost."""
    labels = torch.arange(channels).repeat(5).unsqueeze(0)
    y = one_hot(labels, channels)
    logits = torch.where(y, 11.0, -3.0) + torch.linspace(0, 1, labels.shape[1])
    expected = fastloss.voxel_sums(logits.double(), labels, ("y*q*m^2",), activation=activation)
    for target in (y, y.float(), y.to(torch.uint8)):
        found = fastloss.voxel_sums(logits, target, ("y*d*m^2",), activation=activation)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("p*y", "py"),
        ("y*p", "py"),
        ("p*p*y", "p2y"),
        ("p^2*y", "y*p^2"),
        ("y*y", "y2"),
        ("y^2", "y2"),
        ("1", "count"),
        ("1*p", "p"),
        ("p^0*y", "y"),
        ("l * y", "ce_pos"),
        ("m*r", "ce_neg"),
        ("l*q^2*y", "focal_pos(2.0)"),
        ("q^1.5*y*q^.5*l", "focal_pos(2)"),
        ("map*y*p", "map*py"),
    ],
)
def test_spellings_of_a_product(name, other):
    assert parse_term(name) == parse_term(other)
    logits, labels = torch.randn(1, 3, 20), torch.randint(0, 3, (1, 20))
    weight_map = torch.rand(1, 1, 20) if parse_term(name).mapped else None
    sums = fastloss.voxel_sums(logits, labels, (name, other), weight_map=weight_map)
    assert torch.equal(sums[..., 0], sums[..., 1])


def loss_of(name):
    class OfOneTerm(fastloss.SumLoss):
        terms = (name,)

    return OfOneTerm


def check_refused(name, message, activation="softmax"):
    logits, labels = torch.rand(1, 2, 8), torch.zeros(1, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        fastloss.voxel_sums(logits, labels, (name,), activation=activation, weight_map=logits)
    with pytest.raises(ValueError, match=message):
        loss_of(name)(activation=activation)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "z",
        "P",
        "py*q",
        "p**2",
        "2*p",
        "p+q",
        "exp(p)",
        "map*",
        "map*map*p",
        "y*map*p",
        "focal_pos",
        "focal_pos()",
        "1^2",
    ],
)
def test_unknown_products_are_told_what_is_known(name):
    for part in ("terms: ", "ce_pos", r"focal_pos\(POWER\)", "powers of p, q, l, m", r"'y\*p\^0.7'", r"'map\*'"):
        if name == "focal_pos()" and part != "terms: ":
            continue
        check_refused(name, part)


@pytest.mark.parametrize(
    "name", ["p^-1", "y*q^-0.5", "p^nan", "p^inf", "l^1e999", "p^", "p^x", "p^2^2", "miss_pos(-1)"]
)
def test_powers_are_finite_and_at_least_zero(name):
    check_refused(name, "terms: .* has the power .*, expected a finite number of at least 0")


@pytest.mark.parametrize("name", ["y*r", "y^3", "y*y^2", "y^0.5", "r^2", "r*r*p", "map*y^2*r"])
def test_shares_are_those_that_a_pass_knows(name):
    check_refused(name, r"terms: .* share of the target, expected none, y, r \(for 1 - y\) or y\^2")


@pytest.mark.parametrize(
    "name", ["p^0.5", "y*p^0.7", "map*r*q^0.3", "p^0.5*m^2", "p^0.5*m^0.5", "p^2*q^0.5", "miss_pos(0.5)"]
)
def test_products_that_are_infinite_for_plain_probabilities(name):
    check_refused(name, "terms: the derivative of .* is infinite for plain probabilities", None)
    for activation in ("softmax", "sigmoid"):
        loss_of(name)(activation=activation)


@pytest.mark.parametrize("name", ["p^0.5*m", "q^0.5*l", "p^1.5", "q", "l^0.5", "y*m^0.3"])
def test_products_that_are_finite_for_plain_probabilities(name):
    loss_of(name)(activation=None)
    p, labels = torch.tensor([[[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]]), torch.tensor([[0, 0, 1]])
    derivative = gradient(lambda z: fastloss.voxel_sums(z, labels, (name,), activation=None).sum(), p)[1]
    assert derivative.isfinite().all()


def test_a_compound_loss_is_refused_like_its_parts():
    with pytest.raises(ValueError, match=r"terms: the derivative of 'y\*p\^0.7'"):
        fastloss.CompoundLoss([fastloss.DiceLoss(activation=None), loss_of("y*p^0.7")(activation=None)])


# A loss of a user's own


class Own(fastloss.SumLoss):
    """Generalised cross-entropy, (1 - p_y^0.7) / 0.7, and the entropy of the prediction."""

    terms = ("y*p^0.7", "y", "p*l", "count")

    def formula(self, sums):
        error = (sums["y"] - sums["y*p^0.7"]) / 0.7
        return (error + 0.1 * sums["p*l"]) / sums["count"]


def plain_own(logits, labels, activation, ignored=255):
    p, _, l, _ = factors(logits, activation)
    y, weight = one_hot(labels, logits.shape[1]), (labels != ignored).unsqueeze(1)
    p_of_truth = torch.where(y, p, 1.0)
    table = (weight * ((1 - p_of_truth**0.7) / 0.7 + 0.1 * p * l)).flatten(2).sum(2)
    return (table / weight.flatten(2).sum(2)).mean()


@pytest.mark.parametrize("channels", [2, 7])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_loss_of_ones_own(each_backend, activation, channels):
    logits = torch.randn(2, channels, 9, 13) * 3
    labels = torch.randint(0, channels, (2, 9, 13), dtype=torch.uint8)
    labels[:, 4] = 255
    loss = Own(activation=activation, ignore_index=255)
    value, derivative = gradient(lambda z: loss(z, labels), logits)
    expected, expected_derivative = gradient(lambda z: plain_own(z, labels, activation), logits.double())
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0.0)
    assert (derivative - expected_derivative).abs().max() <= 2e-6 * expected_derivative.abs().max()


def test_a_loss_of_ones_own_from_parts_of_a_batch_and_beside_another():
    """What DistributedDataParallel and deep supervision do with it."""
    logits, labels = torch.randn(4, 3, 50), torch.randint(0, 3, (4, 50))
    loss = Own(batch=True)
    whole, expected = gradient(lambda z: loss(z, labels), logits)

    def from_parts(z):
        parts = [fastloss.voxel_sums(z[k : k + 2], labels[k : k + 2], Own.terms).sum(0, keepdim=True) for k in (0, 2)]
        return loss.from_sums(dict(zip(Own.terms, (parts[0] + parts[1]).unbind(-1), strict=True)))

    value, derivative = gradient(from_parts, logits)
    torch.testing.assert_close(value.float(), whole)
    torch.testing.assert_close(derivative, expected)
    both = fastloss.CompoundLoss([fastloss.DiceLoss(), Own()], [1.0, 0.5])
    alone = fastloss.DiceLoss()(logits, labels) + 0.5 * Own()(logits, labels)
    assert math.isclose(both(logits, labels).item(), alone.item(), rel_tol=1e-6)
