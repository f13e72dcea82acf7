"""Σ |p - y| as a term, and the losses of overlap that are right for soft labels; smoothing as a pair."""

import oracle
import pytest
import torch
from oracle import close, gradient, value_and_gradient
from rows import Row

import fastloss

TERMS = ("d", "y*d", "r*d^2", "p*d", "d^1.5")
ROWS = [
    Row("dice", {"soft_label": True}),
    Row("jaccard", {"soft_label": True, "smooth": (0.0, 0.2)}),
    Row("focal_tversky", {"soft_label": True}),
    Row("log_cosh_dice", {"soft_label": True, "smooth": (0.1, 0.2)}),
    Row("generalized_dice", {"soft_label": True, "smooth": (0.0, 1e-5)}),
    Row("dice_topk", {"soft_label": True}),
]


def soft(batch, channels, *space):
    """Shares of a voxel that add up to 1, some of them 0 and 1."""
    y = torch.rand(batch, channels, *space).softmax(1) if channels > 1 else torch.rand(batch, 1, *space)
    hard = oracle.one_hot(torch.randint(0, max(2, channels), (batch, *space)), channels)
    return torch.where(torch.rand(batch, 1, *space) < 0.4, hard.float(), y)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("activation", "channels"),
    [("softmax", 3), ("softmax", 7), ("softmax", 20), ("sigmoid", 1), ("sigmoid", 3), (None, 3)],
)
def test_the_term_and_its_slope(each_backend, activation, channels, dense):
    logits, labels = oracle.make(activation, channels, (9, 13))
    target = soft(2, channels, 9, 13) if dense else labels
    mask = torch.rand(2, 9, 13) * (torch.rand(2, 9, 13) > 0.2)
    coefficients = torch.randn(2, channels, len(TERMS), dtype=torch.float64)
    sums = fastloss.voxel_sums(logits, target, TERMS, activation=activation, mask=mask)
    _, ours = gradient(
        lambda z: (fastloss.voxel_sums(z, target, TERMS, activation=activation, mask=mask) * coefficients).sum(), logits
    )
    y = target if dense else oracle.one_hot(labels, channels)
    expected = oracle.sums(logits, y, mask, TERMS, activation)
    _, derivative = gradient(
        lambda z: (oracle.sums(z, y, mask, TERMS, activation) * coefficients).sum(), logits.double()
    )
    oracle.assert_close(sums, expected, 1e-6)
    oracle.assert_close(ours, derivative, 2e-6)


@pytest.mark.parametrize("channels", [3, 12])
def test_of_labels_it_is_the_difference_of_volumes_and_overlap(each_backend, channels):
    """Σ |p - y| = P + Y - 2I, in value and gradient; a label that is no class included."""
    logits, labels = oracle.make("softmax", channels, (40,))
    labels[0, 3] = 99
    d, p, y, py = fastloss.voxel_sums(logits, labels, ("d", "p", "y", "py"), validate=False).unbind(-1)
    close(d, p + y - 2 * py, 1e-6)
    weights = torch.randn(2, channels, dtype=torch.float64)

    def of(names, factors):
        def value(z):
            sums = fastloss.voxel_sums(z, labels, names, validate=False)
            return (weights * (sums * torch.tensor(factors)).sum(-1)).sum()

        return gradient(value, logits)[1]

    oracle.assert_close(of(("d",), (1.0,)), of(("p", "py"), (1.0, -2.0)), 1e-6)


def test_slopes_where_p_is_the_target(each_backend):
    """0; at y = 0 and 1, beyond which p cannot be, that of the one side."""
    p, y = torch.tensor([[[0.0, 1.0, 0.25, 0.25, 0.25]]]), torch.tensor([[[0.0, 1.0, 0.25, 0.5, 0.0]]])
    sums, slopes = gradient(lambda z: fastloss.voxel_sums(z, y, ("d",), activation=None).sum(), p)
    assert sums == 0.5 and slopes.flatten().tolist() == [1, -1, 0, -1, 1]
    labels = torch.tensor([[0, 1, 1, 1, 0]])
    _, slopes = gradient(lambda z: fastloss.voxel_sums(z, labels, ("d",), activation=None).sum(), p)
    assert slopes.flatten().tolist() == [1, -1, -1, -1, 1]


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize(("activation", "channels"), [("softmax", 3), ("sigmoid", 1), (None, 3)])
def test_losses_are_those_of_their_equations(each_backend, row, activation, channels):
    logits, labels = oracle.make(activation, channels, (6, 7))
    for target in (soft(2, channels, 6, 7), labels):
        value, ours = value_and_gradient(row(activation, channels), logits, target)
        expected, derivative = gradient(lambda z, y=target: row.plain(z, y, activation), logits.double())
        close(value, expected, 1e-5)
        oracle.assert_close(ours, derivative, 2e-5)


@pytest.mark.parametrize("row", ROWS[:5], ids=str)
def test_the_least_is_where_the_prediction_is_the_soft_label(row):
    """0 there, and more for any other, where the usual overlap has less for other predictions."""
    y = soft(2, 3, 6, 7)
    options = row.options | {"smooth": 0.0}
    right, hard = row.cls(activation=None, **options), row.cls(activation=None, **options | {"soft_label": False})
    largest = y / y.amax(1, keepdim=True) == 1
    assert right(y, y) < 1e-4 < right(largest.float(), y)  # the power of the focal loss has a least base
    assert right(0.9 * y, y) > right(y, y)
    assert hard(largest.float(), y) < hard(y, y)
    labels = torch.randint(0, 3, (2, 6, 7))
    p = torch.rand(2, 3, 6, 7).softmax(1)
    close(right(p, labels), hard(p, labels), 1e-6)


def test_of_the_authors_form():
    """1 - (|p| + |y| - |p - y|) / (|p| + |y|) (arXiv:2303.16296), and its Jaccard twin (arXiv:2302.05666)."""
    p, y = torch.rand(2, 3, 50), torch.rand(2, 3, 50)
    volumes, distance = p.sum(2) + y.sum(2), (p - y).abs().sum(2)
    dice = fastloss.DiceLoss(activation=None, soft_label=True, smooth=0)
    close(dice(p, y), (1 - (volumes - distance) / volumes).mean())
    jaccard = fastloss.JaccardLoss(activation=None, soft_label=True, smooth=0)
    close(jaccard(p, y), (1 - (volumes - distance) / (volumes + distance)).mean())


@pytest.mark.parametrize("name", ["DiceLoss", "GeneralizedDiceLoss", "TverskyLoss"])
def test_monai_has_the_same(name):
    losses = pytest.importorskip("monai.losses")
    logits, y = 2 * torch.randn(2, 3, 6, 7), soft(2, 3, 6, 7)
    theirs = getattr(losses, name)(softmax=True, soft_label=True, smooth_nr=0.1, smooth_dr=0.3)
    weights = {"alpha": 0.5, "beta": 0.5} if name == "TverskyLoss" else {}
    ours = getattr(fastloss, name)(soft_label=True, smooth=(0.1, 0.3), **weights)
    for found, expected in zip(*(value_and_gradient(loss, logits, y) for loss in (ours, theirs)), strict=True):
        oracle.assert_close(found, expected, 1e-5)


def test_what_has_no_meaning_is_named():
    with pytest.raises(ValueError, match="soft_label: got True with squared=True, which needs no other overlap"):
        fastloss.DiceLoss(squared=True, soft_label=True)
    with pytest.raises(TypeError, match="soft_label: got 1, expected True or False"):
        fastloss.JaccardLoss(soft_label=1)
    with pytest.raises(ValueError, match=r"terms: the derivative of 'd\^0\.5' is infinite where p is y"):
        fastloss.voxel_sums(torch.randn(1, 2, 3), torch.zeros(1, 3).long(), ("d^0.5",))


# A smoothing of the numerator and one of the denominator


@pytest.mark.parametrize(
    "row",
    [
        Row("dice", {"squared": True}),
        Row("generalized_dice"),
        Row("mcc"),
        Row("sensitivity_specificity"),
        Row("combo"),
        Row("exp_log"),
        Row("unified_focal"),
        Row("soft_cldice"),
        Row("soft_dice_cldice"),
    ],
    ids=str,
)
def test_a_pair_of_smoothings(row):
    logits, labels = oracle.make("softmax", 3, (6, 7))
    call = {"smooth": (0.2, 0.7)}
    value, ours = value_and_gradient(row(**call), logits, labels)
    expected, derivative = gradient(lambda z: row.plain(z, labels, **call), logits.double())
    close(value, expected, 1e-5)
    oracle.assert_close(ours, derivative, 2e-5)
    same, number = (value_and_gradient(row(smooth=s), logits, labels) for s in ((0.3, 0.3), 0.3))
    assert torch.equal(same[0], number[0]) and torch.equal(same[1], number[1])


def test_nothing_in_the_denominator_is_a_perfect_overlap():
    """What is 0/0 elsewhere: a class that is absent and not predicted."""
    p, y = torch.zeros(1, 2, 9), torch.zeros(1, 2, 9)
    for smooth in ((0.0, 0.0), (1e-5, 0.0)):
        for loss in (fastloss.DiceLoss, fastloss.JaccardLoss, fastloss.TverskyLoss):
            value, slope = value_and_gradient(loss(activation=None, smooth=smooth), p, y)
            assert value == 0 and not slope.any()


def test_a_pair_where_nothing_counts():
    logits, labels = oracle.make("softmax", 3, (6, 7))
    for loss in (fastloss.DiceLoss, fastloss.MCCLoss, fastloss.SensitivitySpecificityLoss, fastloss.SoftDiceCLDiceLoss):
        value, slope = value_and_gradient(loss(smooth=(0.1, 0.3), ignore_index=9), logits, torch.full_like(labels, 9))
        assert value == 0 and not slope.any()
    assert fastloss.MCCLoss(smooth=2**63 - 1)(logits, labels).isfinite()


@pytest.mark.parametrize("smooth", [(1.0,), (1.0, 2.0, 3.0), [], "ab", ("a", "b"), (1.0, -1.0), (float("nan"), 1.0)])
def test_what_is_no_smoothing_is_named(smooth):
    for loss in (fastloss.DiceLoss, fastloss.MCCLoss, fastloss.UnifiedFocalLoss, fastloss.SoftCLDiceLoss):
        with pytest.raises(ValueError, match="smooth: got"):
            loss(smooth=smooth)
    with pytest.raises(ValueError, match=r"smooth: got \(0\.1, 0\.2\), expected a number for variant='squared_error'"):
        fastloss.SensitivitySpecificityLoss(variant="squared_error", smooth=(0.1, 0.2))
