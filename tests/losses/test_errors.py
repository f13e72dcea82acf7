"""Bad input: an error that names the argument, what came and what was expected."""

import inspect
import math

import numpy as np
import pytest
import torch
from rows import needed, options_of

import fastloss

Z = torch.zeros(2, 3, 4, 5)
Y = torch.zeros(2, 4, 5, dtype=torch.uint8)


def bad_label(value=7):
    labels = Y.clone().to(torch.int16)
    labels[1, 2, 3] = value
    return labels


CASES = {
    "one channel with softmax": (
        lambda: fastloss.DiceLoss()(Z[:, :1], Y),
        ValueError,
        "logits: one channel with activation='softmax'",
    ),
    "logits of rank 2": (lambda: fastloss.DiceLoss()(Z[:, :, 0, 0], Y), ValueError, r"logits: got shape \[2, 3\]"),
    "logits of rank 6": (lambda: fastloss.DiceLoss()(Z[..., None, None], Y), ValueError, "logits: got shape"),
    "integer logits": (lambda: fastloss.DiceLoss()(Z.int(), Y), TypeError, "logits: got torch.int32"),
    "nested logits": (
        lambda: fastloss.DiceLoss()(torch.nested.nested_tensor([Z[0]]), Y),
        ValueError,
        "logits: got a nested tensor, expected a dense tensor",
    ),
    "a sparse target": (lambda: fastloss.DiceLoss()(Z, Y.to_sparse()), ValueError, "target: got torch.sparse_coo"),
    "an integer beyond all floats": (lambda: fastloss.DiceLoss(smooth=10**400), ValueError, "smooth: got 1000"),
    "a class_weight beyond all floats": (
        lambda: fastloss.DiceLoss(class_weight=10**400),
        TypeError,
        "class_weight: got 1000",
    ),
    "validate that is no flag": (
        lambda: fastloss.DiceLoss(validate=torch.tensor([]))(Z, Y),
        TypeError,
        r"validate: got tensor\(\[\]\), expected True or False",
    ),
    "a back end that is no name": (
        lambda: fastloss.backend(torch.tensor([])).__enter__(),
        ValueError,
        r"backend: got tensor\(\[\]\)",
    ),
    "logits that are no tensor": (lambda: fastloss.DiceLoss()([1.0], Y), TypeError, "logits: got list"),
    "labels of a wrong size": (
        lambda: fastloss.DiceLoss()(Z, Y[:, :3]),
        ValueError,
        r"target: got an integer or bool \(torch.uint8\) tensor of shape \[2, 3, 5\] for logits \[2, 3, 4, 5\]",
    ),
    "labels of a wrong rank": (lambda: fastloss.DiceLoss()(Z, Y[0]), ValueError, r"target: .* shape \[4, 5\]"),
    "float labels": (
        lambda: fastloss.DiceLoss()(Z, Y.float()),
        ValueError,
        "labels of floats need the axis 1 of size 1",
    ),
    "complex target": (lambda: fastloss.DiceLoss()(Z, Y.to(torch.complex64)), TypeError, "target: got torch.complex64"),
    "dense target of a wrong shape": (
        lambda: fastloss.DiceLoss()(Z, torch.zeros(2, 4, 4, 5)),
        ValueError,
        r"target: got a float tensor of shape \[2, 4, 4, 5\] .* a dense target \[2, 3, 4, 5\]",
    ),
    "target with a gradient": (
        lambda: fastloss.DiceLoss()(Z, torch.zeros(2, 3, 4, 5, requires_grad=True)),
        ValueError,
        r"target: requires a gradient.*detach",
    ),
    "label out of range": (
        lambda: fastloss.DiceLoss()(Z, bad_label()),
        ValueError,
        r"target: label 7 at index \(1, 2, 3\) .* expected 0 to 2",
    ),
    "negative label": (lambda: fastloss.DiceLoss()(Z, bad_label(-1)), ValueError, r"label -1 at index \(1, 2, 3\)"),
    "label beyond int32": (
        lambda: fastloss.DiceLoss()(Z, bad_label().long() << 40),
        ValueError,
        r"label 7696581394432 at index \(1, 2, 3\)",
    ),
    "label of one channel": (
        lambda: fastloss.DiceLoss(activation="sigmoid")(Z[:, :1], bad_label(2)),
        ValueError,
        r"label 2 at index .* expected 0 to 1",
    ),
    "ignored labels of a dense target": (
        lambda: fastloss.DiceLoss(ignore_index=0)(Z, Z),
        ValueError,
        "ignore_index: set, but target .* is dense",
    ),
    "ignore_index that is no integer": (
        lambda: fastloss.DiceLoss(ignore_index=[1.5]),
        TypeError,
        "ignore_index: got 1.5",
    ),
    "class_weight of a wrong length": (
        lambda: fastloss.DiceLoss(class_weight=[1.0, 2.0])(Z, Y),
        ValueError,
        "class_weight: got 2 weights, expected 3",
    ),
    "class_weight of a wrong length, background dropped": (
        lambda: fastloss.DiceCELoss(class_weight=[1.0, 2.0], include_background=False)(Z, Y),
        ValueError,
        "class_weight: got 2 weights, expected 3",
    ),
    "negative class_weight": (
        lambda: fastloss.DiceLoss(class_weight=[1.0, -1.0, 1.0]),
        ValueError,
        "class_weight: got .* at least 0",
    ),
    "class_weight that is a matrix": (
        lambda: fastloss.DiceLoss(class_weight=torch.ones(3, 1)),
        ValueError,
        r"class_weight: got shape \[3, 1\]",
    ),
    "unknown reduction": (
        lambda: fastloss.DiceLoss(reduction="average"),
        ValueError,
        "reduction: got 'average', expected 'mean', 'sum' or 'none'",
    ),
    "unknown activation": (lambda: fastloss.DiceLoss(activation="relu"), ValueError, "activation: got 'relu'"),
    "unknown option": (lambda: fastloss.DiceLoss(smoothing=1), TypeError, "smoothing"),
    "negative smooth": (lambda: fastloss.DiceLoss(smooth=-1), ValueError, "smooth: got -1"),
    "negative alpha": (lambda: fastloss.TverskyLoss(alpha=-1), ValueError, "alpha: got -1"),
    "NaN weight of a part": (lambda: fastloss.DiceCELoss(ce_weight=float("nan")), ValueError, "ce_weight: got nan"),
    "label smoothing above 1": (
        lambda: fastloss.DiceCELoss(label_smoothing=1.5),
        ValueError,
        "label_smoothing: got 1.5, expected a number from 0 to 1",
    ),
    "one beta for a softmax": (
        lambda: fastloss.WeightedCrossEntropyLoss(beta=2.0),
        ValueError,
        r"beta: got 2.0, expected one weight a class, \[C\]",
    ),
    "one beta for probabilities of several classes": (
        lambda: fastloss.WeightedCrossEntropyLoss(beta=2.0, activation=None)(Z, Y),
        ValueError,
        "beta: got 2.0, expected one weight a class",
    ),
    "beta of a wrong length": (
        lambda: fastloss.WeightedCrossEntropyLoss(beta=[1.0, 2.0])(Z, Y),
        ValueError,
        "beta: got 2 weights, expected 3",
    ),
    "beta of a wrong length, sigmoid": (
        lambda: fastloss.WeightedCrossEntropyLoss(beta=[1.0, 2.0], activation="sigmoid")(Z, Y),
        ValueError,
        "beta: got 2 weights, expected 3",
    ),
    "beta of None": (lambda: fastloss.WeightedCrossEntropyLoss(beta=None), ValueError, "beta: got None"),
    "beta left out": (lambda: fastloss.WeightedCrossEntropyLoss(), TypeError, "beta"),
    "negative beta": (
        lambda: fastloss.WeightedCrossEntropyLoss(beta=-1.0, activation="sigmoid"),
        ValueError,
        "beta: got -1.0, expected a finite number of at least 0",
    ),
    "negative gamma": (lambda: fastloss.FocalLoss(gamma=-1), ValueError, "gamma: got -1, expected a finite number"),
    "alpha above 1": (lambda: fastloss.FocalLoss(alpha=2), ValueError, "alpha: got 2, expected a number from 0 to 1"),
    "alphas above 1 for sigmoid": (
        lambda: fastloss.DiceFocalLoss(alpha=[0.5, 2.0, 0.5], activation="sigmoid"),
        ValueError,
        "alpha: got .* from 0 to 1 for sigmoid",
    ),
    "alphas of a wrong length": (
        lambda: fastloss.FocalLoss(alpha=[0.5, 0.5])(Z, Y),
        ValueError,
        "alpha: got 2 weights, expected 3",
    ),
    "unknown base": (lambda: fastloss.PolyLoss(base="bce"), ValueError, "base: got 'bce', expected 'ce' or 'focal'"),
    "alpha without a focal base": (lambda: fastloss.PolyLoss(alpha=0.25), ValueError, "alpha: got 0.25 with base='ce'"),
    "epsilon that is no number": (lambda: fastloss.PolyLoss(epsilon="1"), ValueError, "epsilon: got '1'"),
    "gamma of zero": (lambda: fastloss.FocalTverskyLoss(gamma=0), ValueError, "gamma: got 0, expected .* above 0"),
    "unknown weighting": (
        lambda: fastloss.GeneralizedDiceLoss(weighting="cubic"),
        ValueError,
        "weighting: got 'cubic', expected 'square', 'simple' or 'uniform'",
    ),
    "unknown variant": (
        lambda: fastloss.SensitivitySpecificityLoss(variant="l2"),
        ValueError,
        "variant: got 'l2', expected 'ratio' or 'squared_error'",
    ),
    "sensitivity above 1": (
        lambda: fastloss.SensitivitySpecificityLoss(sensitivity_weight=2),
        ValueError,
        "sensitivity_weight: got 2",
    ),
    "soft target of squared errors": (
        lambda: fastloss.SensitivitySpecificityLoss(variant="squared_error")(Z, Z),
        ValueError,
        r"target: got a torch.float32 tensor, expected labels or a bool or integer dense target",
    ),
    "soft target of squared errors in a compound": (
        lambda: fastloss.CompoundLoss(
            [fastloss.DiceLoss(), fastloss.SensitivitySpecificityLoss(variant="squared_error")]
        )(Z, Z),
        ValueError,
        r"target: got a torch.float32 tensor",
    ),
    "combo alpha above 1": (lambda: fastloss.ComboLoss(alpha=1.5), ValueError, "alpha: got 1.5"),
    "three gammas": (
        lambda: fastloss.ExpLogLoss(gamma=[1, 2, 3]),
        ValueError,
        r"gamma: got \[1, 2, 3\], expected a .*pair",
    ),
    "negative gamma of a pair": (lambda: fastloss.ExpLogLoss(gamma=(0.3, -1)), ValueError, "gamma: got -1"),
    "frequencies of a wrong length": (
        lambda: fastloss.ExpLogLoss(class_frequency=[0.5, 0.5])(Z, Y),
        ValueError,
        "class_frequency: got 2 weights, expected 3",
    ),
    "counts for frequencies of a sigmoid": (
        lambda: fastloss.ExpLogLoss(class_frequency=[10, 5, 5], activation="sigmoid"),
        ValueError,
        "class_frequency: got .*, expected shares of the voxels",
    ),
    "gamma of 1": (lambda: fastloss.UnifiedFocalLoss(gamma=1), ValueError, "gamma: got 1, expected .* below 1"),
    "delta above 1": (lambda: fastloss.UnifiedFocalLoss(delta=2), ValueError, "delta: got 2"),
    "no background to leave out": (
        lambda: fastloss.UnifiedFocalLoss(include_background=False),
        TypeError,
        "include_background",
    ),
    "mask of a wrong shape": (
        lambda: fastloss.DiceLoss()(Z, Y, mask=torch.ones(2, 3, 4, 5)),
        ValueError,
        r"mask: got shape \[2, 3, 4, 5\]",
    ),
    "weight map of a wrong shape": (
        lambda: fastloss.voxel_sums(Z, Y, ["map*p"], weight_map=torch.ones(2, 2, 4, 5)),
        ValueError,
        r"weight_map: got shape \[2, 2, 4, 5\]",
    ),
    "no weight map": (lambda: fastloss.voxel_sums(Z, Y, ["map*p"]), ValueError, "weight_map: is None"),
    "unknown term": (lambda: fastloss.voxel_sums(Z, Y, ["x"]), ValueError, "terms: unknown term 'x'"),
    "term given twice": (lambda: fastloss.voxel_sums(Z, Y, ["p", "p"]), ValueError, "terms: got .* each once"),
    "no terms": (lambda: fastloss.voxel_sums(Z, Y, []), ValueError, "terms: got"),
    "terms that are a text": (lambda: fastloss.voxel_sums(Z, Y, "py"), TypeError, "terms: got 'py', expected a tuple"),
    "a term that is a list": (lambda: fastloss.voxel_sums(Z, Y, [["p"]]), ValueError, r"terms: unknown term \['p'\]"),
    "an integer of more than 64 bits": (
        lambda: fastloss.DiceLoss(smooth=2**70),
        ValueError,
        "smooth: got 1180591620717411303424, .* as a float where 64 bits do not hold it",
    ),
    "a square that is infinite": (lambda: fastloss.MCCLoss(smooth=1e200), ValueError, "smooth: got 1e.200, .* square"),
    "a power of erosions that is infinite": (
        lambda: fastloss.HausdorffErosionLoss(alpha=1000, erosions=9),
        ValueError,
        "alpha: got 1000, expected a power of 9 that is finite",
    ),
    "a power of a radius that is infinite": (
        lambda: fastloss.HausdorffConvLoss(alpha=1000),
        ValueError,
        "alpha: got 1000, expected a power of 3 that is finite",
    ),
    "a part's weight without a value": (
        lambda: fastloss.DiceCELoss(dice_weight=torch.nn.Parameter(torch.ones((), device="meta"))),
        ValueError,
        "dice_weight: is on meta, expected a tensor with values",
    ),
    "losses that are none": (lambda: fastloss.CompoundLoss(7), TypeError, "losses: got 7, expected one or more"),
    "tensor on another device": (
        lambda: fastloss.DiceLoss()(Z, Y.to("meta")),
        ValueError,
        "target: is on meta, expected cpu",
    ),
    "compound of nothing": (lambda: fastloss.CompoundLoss([]), ValueError, "losses: got"),
    "compound of different activations": (
        lambda: fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.DiceLoss(activation="sigmoid")]),
        ValueError,
        "losses: activation differs",
    ),
    "weights of a compound": (
        lambda: fastloss.CompoundLoss([fastloss.DiceLoss()], [1, 2]),
        ValueError,
        "weights: got 2, expected 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_error_names_what_came_and_what_was_expected(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call()


class Unasked:
    """What must be asked nothing but its type."""

    def _asked(self, *_):
        raise RuntimeError("this object has no truth, no hash and no order")

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = _asked


NO_OPTION = {
    "an object": Unasked(),
    "an array": np.ones((4, 5), bool),
    "a structured array": np.zeros(3, [("a", "i4")]),
    "complex numbers": torch.tensor([1j, 1]),
    "a meta tensor": torch.ones(3, device="meta"),
    "a sparse tensor": torch.ones(3).to_sparse(),
}
BASES = ("SegmentationLoss", "SumLoss", "CompoundLoss")
LOSSES = [getattr(fastloss, name) for name in fastloss.__all__ if name.endswith("Loss") and name not in BASES]


@pytest.mark.parametrize("value", NO_OPTION)
@pytest.mark.parametrize("loss", LOSSES)
def test_an_option_is_asked_nothing_before_its_type(loss, value):
    for option in options_of(loss):
        with pytest.raises((TypeError, ValueError), match=rf"^{option}: "):
            loss(**needed(loss) | {option: NO_OPTION[value]})


def numbers():
    """The losses' options that are numbers by default."""
    for name in fastloss.__all__:
        loss = getattr(fastloss, name)
        if name.endswith("Loss"):
            for option, default in inspect.signature(loss).parameters.items():
                if isinstance(default.default, (int, float)) and not isinstance(default.default, bool):
                    yield loss, option


@pytest.mark.parametrize(("loss", "option"), list(numbers()))
def test_numbers_out_of_range_are_named(loss, option):
    for value in (math.nan, math.inf, -1):
        if (option, value) != ("epsilon", -1):  # of PolyLoss, which has any sign
            with pytest.raises(ValueError, match=f"^{option}: got {value}"):
                loss(**needed(loss), **{option: value})
    with pytest.raises(ValueError, match=f"^{option}: got True, expected"):
        loss(**needed(loss), **{option: True})


def test_label_check_on_every_back_end(each_backend):
    with pytest.raises(ValueError, match=r"label 7 at index \(1, 2, 3\)"):
        fastloss.DiceLoss(validate=True)(Z, bad_label())


def test_unchecked_bad_label_counts_as_no_class(each_backend):
    sums = fastloss.voxel_sums(Z, bad_label(), ("y", "count", "py"), validate=False)
    assert sums[1, :, 0].tolist() == [19.0, 0.0, 0.0]
    assert sums[1, :, 1].tolist() == [20.0, 20.0, 20.0]


def test_bad_label_of_an_ignored_or_masked_voxel_is_no_error(each_backend):
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[1, 2, 3] = False
    expected = fastloss.DiceLoss()(Z, Y, mask=mask)
    assert torch.equal(fastloss.DiceLoss(validate=True)(Z, bad_label(), mask=mask), expected)
    assert torch.equal(fastloss.DiceLoss(validate=True, ignore_index=7)(Z, bad_label()), expected)


def test_nan_in_a_counted_voxel_is_not_hidden(each_backend):
    logits = Z.clone()
    logits[1, 2, 3, 4] = torch.nan
    for loss in (fastloss.DiceLoss, fastloss.CrossEntropyLoss, fastloss.DiceCELoss):
        assert loss()(logits, Y).isnan()
        with pytest.raises(ValueError, match=r"logits: nan at index \(1, 2, 3, 4\)"):
            loss(validate=True)(logits, Y)


def test_a_bad_label_above_an_ignored_one(each_backend):
    labels = Y.clone()
    labels[1, 2, 3], labels[0] = 9, 1
    for loss in (fastloss.DiceLoss, fastloss.LovaszLoss, fastloss.SoftCLDiceLoss):
        with pytest.raises(ValueError, match=r"target: .*9.*\(1, 2, 3\)"):
            loss(ignore_index=1, validate=True)(Z, labels)


def test_validation_by_environment(monkeypatch):
    from fastloss.passes import inputs

    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("FASTLOSS_VALIDATE", value)
        assert inputs._flag_of_environment("FASTLOSS_VALIDATE") is expected
    monkeypatch.setenv("FASTLOSS_VALIDATE", "yes")
    with pytest.raises(ValueError, match="FASTLOSS_VALIDATE: got 'yes', expected 1 or 0"):
        inputs._flag_of_environment("FASTLOSS_VALIDATE")
    monkeypatch.delenv("FASTLOSS_VALIDATE")
    assert not inputs._flag_of_environment("FASTLOSS_VALIDATE")
    assert inputs.validation_level(None, torch.device("cuda")) == 0
    assert inputs.validation_level(None, torch.device("cpu")) == 1
    monkeypatch.setattr(inputs, "_validate_everywhere", True)
    assert inputs.validation_level(None, torch.device("cuda")) == 2
    assert inputs.validation_level(False, torch.device("cuda")) == 0


def test_a_loss_with_a_pass_of_its_own_is_no_part_of_a_compound():
    with pytest.raises(ValueError, match="losses: StructuralSimilarityLoss has more than sums in its forward"):
        fastloss.CompoundLoss([fastloss.DiceLoss(), fastloss.StructuralSimilarityLoss()])


def test_compound_of_different_reductions(each_backend):
    loss = fastloss.CompoundLoss([fastloss.DiceLoss(reduction="none"), fastloss.CrossEntropyLoss()])
    with pytest.raises(ValueError, match=r"losses: their values have the shapes \[\(2, 3\), \(\)\], expected the same"):
        loss(torch.randn(2, 3, 2, 2, 2), torch.zeros(2, 2, 2, 2, dtype=torch.uint8))
