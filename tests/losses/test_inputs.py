"""What losses take, whatever its dtype or values: labels, dense targets, masks, spacings; and what they refuse."""

import numpy as np
import pytest
import torch
from oracle import close, value_and_gradient
from rows import LOSSES, ONE_OF_EACH, RANKED, loss_class

import fastloss
from fastloss.passes.backends import BACKENDS

SPACE = (4, 6)
OTHERS = ("SegmentationLoss", "SumLoss", "LovaszHingeLoss")  # the last has no activation, and tests of its own
NAMES = [name for name in fastloss.__all__ if name.endswith("Loss") and name not in OTHERS]
STENCILS = ("hausdorff_erosion", "hausdorff_conv", "structural_similarity", "soft_cl_dice", "soft_dice_cl_dice")


def make(name, activation="softmax", **options):
    """A loss of every name, with options that it cannot do without."""
    row = next((row for row in (*LOSSES, *RANKED) if row.name == name), None)
    return loss_class(name)(activation=activation, **options) if row is None else row(activation, **options)


EVERY = [*dict.fromkeys(row.name for row in (*ONE_OF_EACH, *RANKED)), *STENCILS]
every_name = pytest.mark.parametrize("name", EVERY)


def on_back_ends(*names, others=()):
    """Some losses on every back end, others on the reference alone."""
    cases = [
        pytest.param(back_end, name, marks=pytest.mark.slow if back_end == "triton" and name in STENCILS else ())
        for back_end in BACKENDS
        for name in names
    ]
    return pytest.mark.parametrize("back_end, name", [*cases, *(("reference", name) for name in others)])


def run_on(back_end):
    if back_end == "triton":
        pytest.importorskip("triton", reason="Triton is Linux only")
    return fastloss.backend(back_end)


def batch(channels=3, samples=2):
    logits = 2 * torch.randn(samples, channels, *SPACE)
    return logits, torch.randint(0, max(2, channels), (samples, *SPACE), dtype=torch.uint8)


def test_every_loss_is_in_the_table():
    classes = {loss_class(name).__name__ for name in EVERY}
    assert classes == set(NAMES) - {"CompoundLoss"}


# Labels


def same(found, expected):
    """Value and gradient, to the last bit."""
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
@on_back_ends("dice_ce", "lovasz", "soft_cl_dice", others=["topk", "hausdorff_dt", "distance_penalty", "shape_aware"])
def test_unsigned_labels(back_end, name, dtype):
    logits, labels = batch()
    far = torch.iinfo(dtype).max  # beyond what the signed dtype of as many bits holds
    labels[:, :2, :2] = 9
    target = labels.numpy().astype(str(dtype)[6:])
    target[labels.numpy() == 9] = far
    with run_on(back_end):
        found = value_and_gradient(make(name, ignore_index=far), logits, torch.from_numpy(target))
        same(found, value_and_gradient(make(name, ignore_index=9), logits, labels.long()))


IGNORED = [
    (torch.int64, 4294967295),
    (torch.int64, -(2**63)),
    (torch.int64, 2**32 + 1),  # 1, in 32 bits
    (torch.int32, -100),
    (torch.int8, -1),
    (torch.uint8, 255),
]


@pytest.mark.parametrize("dtype, label", IGNORED)
@on_back_ends("focal", "lovasz", "soft_cl_dice", others=["topk", "hausdorff_dt", "structural_similarity"])
def test_an_ignored_label_of_any_value(back_end, name, dtype, label):
    logits, labels = batch()
    mask = torch.rand(2, *SPACE) > 0.3
    with run_on(back_end):
        ours = value_and_gradient(make(name, ignore_index=label), logits, labels.to(dtype).masked_fill(~mask, label))
        if name == "hausdorff_dt":  # to which an ignored label is background, and a masked one what it is
            plain = value_and_gradient(make(name, ignore_index=99), logits, labels.masked_fill(~mask, 99))
        else:
            plain = value_and_gradient(make(name), logits, labels.masked_fill(~mask, 0), mask=mask)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
    assert not ours[1][(~mask).unsqueeze(1).expand_as(logits)].any()


@pytest.mark.parametrize("label", [255, -129, 2**40, 2**63, -(2**70)])
def test_an_ignored_label_that_the_dtype_cannot_hold_ignores_nothing(label, each_backend):
    logits, labels = batch()
    found = value_and_gradient(fastloss.DiceCELoss(ignore_index=label), logits, labels.to(torch.int8))
    same(found, value_and_gradient(fastloss.DiceCELoss(), logits, labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@every_name
def test_whole_numbers_as_floats_are_labels(name, dtype):
    """As MONAI has them, [B, 1, *S]."""
    logits, labels = batch()
    with fastloss.backend("reference"):
        found = value_and_gradient(make(name), logits, labels.unsqueeze(1).to(dtype))
        same(found, value_and_gradient(make(name), logits, labels))


def test_a_fraction_among_labels_is_named(each_backend):
    logits, labels = batch()
    target = labels.unsqueeze(1).float()
    target[1, 0, 2, 3] = 1.5
    with pytest.raises(ValueError, match=r"target: 1.5 at index \(1, 2, 3\) .* is no whole number, expected labels"):
        fastloss.DiceLoss()(logits, target)
    mask = torch.ones(2, *SPACE, dtype=torch.bool)
    mask[1, 2, 3] = False
    found = value_and_gradient(fastloss.DiceLoss(), logits, target, mask=mask)
    same(found, value_and_gradient(fastloss.DiceLoss(), logits, labels, mask=mask))
    sums = fastloss.voxel_sums(logits, target, ("y", "count"), validate=False)
    assert sums[1].sum(0).tolist() == [23.0, 3 * 24.0]  # of no class


def test_float_labels_compile():
    logits, labels = batch()
    compiled = torch.compile(fastloss.DiceLoss(), fullgraph=True, backend="aot_eager")
    with fastloss.backend("reference"):
        close(compiled(logits, labels.unsqueeze(1).float()), fastloss.DiceLoss()(logits, labels))


# Values


@every_name
def test_integers_of_a_mask_say_whether_a_voxel_counts(name):
    logits, labels = batch()
    mask = torch.rand(2, *SPACE) > 0.3
    with fastloss.backend("reference"):
        expected = value_and_gradient(make(name), logits, labels, mask=mask)
        for each in (mask.byte() * 255, mask.short() * -7, mask.long().unsqueeze(1)):
            same(value_and_gradient(make(name), logits, labels, mask=each), expected)


@every_name
def test_integers_of_a_dense_target_say_what_is_true(name):
    logits, labels = batch()
    target = torch.stack([labels == c for c in range(3)], 1)
    with fastloss.backend("reference"):
        expected = value_and_gradient(make(name), logits, target)
        same(value_and_gradient(make(name), logits, target.byte() * 255), expected)


BAD = {
    "target above 1": ("sigmoid", {"target": 255.0}, r"target: 255.0 at index \(1, 2, 3, 0\) .*, expected shares"),
    "target below 0": ("sigmoid", {"target": -0.5}, r"target: -0.5 at index \(1, 2, 3, 0\)"),
    "NaN in the target": ("softmax", {"target": torch.nan}, r"target: nan at index \(1, 2, 3, 0\)"),
    "probability above 1": (None, {"logits": 1.5}, r"logits: 1.5 at index \(1, 2, 3, 0\) .*, expected probabilities"),
    "infinite logit": ("softmax", {"logits": torch.inf}, r"logits: inf at index \(1, 2, 3, 0\) .*, expected finite"),
    "NaN in the logits": ("sigmoid", {"logits": torch.nan}, r"logits: nan at index \(1, 2, 3, 0\)"),
    "negative weight": ("softmax", {"mask": -1.0}, r"mask: -1.0 at index \(1, 3, 0\) \(sample, th.* expected .*weight"),
    "infinite weight": ("softmax", {"mask": torch.inf}, r"mask: inf at index \(1, 3, 0\)"),
}


@on_back_ends("dice_ce", others=["boundary", "topk", "hausdorff_erosion", "structural_similarity", "soft_cl_dice"])
@pytest.mark.parametrize("case", BAD)
def test_validate_names_a_value_out_of_range(case, back_end, name):
    activation, values, message = BAD[case]
    tensors = {"logits": torch.rand(2, 3, *SPACE), "target": torch.rand(2, 3, *SPACE), "mask": torch.rand(2, *SPACE)}
    for argument, value in values.items():
        tensors[argument][(1, 3, 0) if argument == "mask" else (1, 2, 3, 0)] = value
    if "mask" not in values:
        del tensors["mask"]
    logits, target = tensors.pop("logits"), tensors.pop("target")
    with run_on(back_end), pytest.raises(ValueError, match=message):
        make(name, activation, validate=True)(logits, target, **tensors)


def test_the_ends_of_the_ranges_are_values_as_others(each_backend):
    p = torch.nn.functional.one_hot(batch()[1].long(), 3).movedim(-1, 1).float()
    mask = torch.zeros(2, *SPACE)
    for validate in (True, False):
        assert fastloss.DiceLoss(activation=None, validate=validate)(p, p) == 0
        assert fastloss.DiceLoss(activation=None, validate=validate)(p, 1 - p, mask=mask) == 0


HIDDEN = [(back_end, "softmax", name) for back_end in BACKENDS for name in EVERY]
HIDDEN += [("reference", "sigmoid", name) for name in EVERY]
QUICK = ("dice_ce", "lovasz", "soft_cl_dice", "hausdorff_erosion")


@pytest.mark.parametrize(
    "back_end, activation, name",
    [
        pytest.param(*case, marks=pytest.mark.slow if case[0] == "triton" and case[2] not in QUICK else ())
        for case in HIDDEN
    ],
)
def test_nan_and_infinite_logits_are_not_hidden(back_end, activation, name):
    logits, labels = batch()
    with run_on(back_end):
        assert make(name, activation)(torch.full_like(logits, torch.nan), labels).isnan()
        for value in (torch.nan, torch.inf)[: 1 + (activation == "softmax")]:  # of which torch's softmax makes NaN
            logits[1, 1, 2, 3] = value
            assert make(name, activation)(logits, labels).isnan()


@every_name
def test_the_default_device_does_not_matter(name):
    """Which may be a GPU when the tensors of a call lie on the CPU."""
    logits, labels = batch()
    loss = make(name)
    for back_end in ("reference", "numba"):
        with fastloss.backend(back_end):
            expected = value_and_gradient(loss, logits, labels)
            with torch.device("meta"):
                same(value_and_gradient(loss, logits, labels), expected)


# Arguments that are not read


@every_name
def test_a_map_that_is_not_read_is_refused(name):
    logits, labels = batch()
    volume, loss = torch.full((2, *SPACE), torch.nan), make(name)
    of_distances = getattr(loss, "makes_map", False)
    for argument in ("weight_map",) if of_distances else ("weight_map", "maps", "spacing"):
        # a TypeError is Python's, where forward has no such argument
        with pytest.raises((ValueError, TypeError), match=argument), fastloss.backend("reference"):
            loss(logits, labels, **{argument: volume})
    if not of_distances:
        with pytest.raises((ValueError, TypeError), match="weight_map"), fastloss.backend("reference"):
            fastloss.DeepSupervision(loss)([logits, logits], labels, weight_map=volume)


def test_voxel_sums_refuse_a_map_that_no_term_reads():
    logits, labels = batch()
    with pytest.raises(ValueError, match="weight_map: given, but none of the terms"):
        fastloss.voxel_sums(logits, labels, ("p", "y"), weight_map=torch.ones(2, *SPACE))


def test_a_mask_weighs_voxels_and_what_a_mean_divides_by(each_backend):
    """Weight 2 counts as two voxels, in every family."""
    logits, labels = batch()
    mask = torch.randint(0, 3, (2, *SPACE)).float()
    twice = [torch.cat([x, x], -1) for x in (logits, labels)]
    counts = torch.cat([mask.clamp_max(1), (mask - 1).clamp_min(0)], -1)
    for name in ("cross_entropy", "focal", "balanced_cross_entropy", "dice", "mcc", "generalized_dice", "lovasz"):
        close(make(name)(logits, labels, mask=mask), make(name)(*twice, mask=counts), 1e-5)


# Spacing of each sample


@pytest.mark.parametrize("name", ["boundary", "hausdorff_dt", "distance_penalty", "shape_aware"])
@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_each_sample_has_its_spacing(name, form):
    logits, labels = batch(samples=3)
    rows = [[1.0, 2.0], [0.7, 0.5], [1.0, 2.0]]
    loss = make(name, reduction="none")
    with fastloss.backend("reference"):
        table = loss(logits, labels, spacing=form(rows))
        maps = loss.label_map(labels, 3, spacing=form(rows))
        for b, row in enumerate(rows):
            alone = make(name, reduction="none", spacing=row)
            close(table[b : b + 1], alone(logits[b : b + 1], labels[b : b + 1]))
            assert torch.equal(maps[b : b + 1], alone.label_map(labels[b : b + 1], 3))
        close(loss(logits, labels, spacing=[1.0, 2.0]), make(name, reduction="none", spacing=(1, 2))(logits, labels))
        close(loss(logits, labels, maps=maps, **({"spacing": rows} if name == "hausdorff_dt" else {})), table)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        close(compiled(logits, labels, spacing=torch.tensor(rows)), table)


def test_spacings_that_do_not_fit_are_named():
    logits, labels = batch()
    for spacing, message in (
        ([[1.0, 1.0]] * 3, "spacing: expected 2 rows"),
        ([1.0] * 3, "spacing: expected one number or 2"),
        ([[1.0, -1.0]] * 2, "spacing: expected positive finite"),
        ("wide", "spacing: expected numbers"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            fastloss.BoundaryLoss()(logits, labels, spacing=spacing)
    known = fastloss.BoundaryLoss().label_map(labels, 3)
    with pytest.raises(ValueError, match="spacing: given with maps"):
        fastloss.BoundaryLoss()(logits, labels, maps=known, spacing=2.0)


# Subclasses of tensors


def test_subclasses_of_tensors():
    monai = pytest.importorskip("monai")
    logits, labels = batch()
    meta = monai.data.MetaTensor
    loss = fastloss.DiceCELoss(class_weight=meta([1.0, 2.0, 3.0]), ignore_index=meta(torch.tensor(0)))
    plain = fastloss.DiceCELoss(class_weight=[1.0, 2.0, 3.0], ignore_index=0)
    target = meta(labels.unsqueeze(1).float())
    same(value_and_gradient(loss, logits, target, mask=meta(labels < 9)), value_and_gradient(plain, logits, labels))
    with fastloss.backend("reference"):
        stacked = [meta(logits), meta(logits[..., ::2, ::2])]
        expected = fastloss.DeepSupervision(plain)([logits, logits[..., ::2, ::2]], labels)
        close(fastloss.DeepSupervision(plain)(stacked, target), expected)
