import contextlib

import pytest
import torch

import fastloss

L = pytest.importorskip("monai.losses")

from monai.data import MetaTensor  # noqa: E402

from .draw_monai import CLASSES, draw  # noqa: E402
from .parity import Call, differences, outcome  # noqa: E402
from .record import record  # noqa: E402


@pytest.mark.parametrize("backend, draws", [("reference", 160), ("numba", 24)])
def test_draws(backend, draws):
    """``python -m accelerate.record monai`` draws thousands."""
    with fastloss.backend(backend):
        found = record("monai", 0, draws)
    assert not found["differing"]
    assert found["share"] > 0.85
    assert set(found["by_class"]) == set(CLASSES) or draws < 100


def test_every_class_is_drawn_and_differences_are_seen(monkeypatch):
    name, call = draw(1)
    from fastloss.accelerate.monai import served

    (target,) = (target for target in served if target.name == name)
    serve = target.serve
    monkeypatch.setattr(target, "serve", lambda *args: serve(*args) * 1.001)
    assert "value" in differences([call], "monai")[0][0]
    monkeypatch.setattr(target, "serve", lambda *args: serve(*args).double())
    assert "float64" in differences([call], "monai")[0][0]


LOGITS = torch.randn(2, 3, 4, 5)
LABELS = torch.randint(0, 3, (2, 1, 4, 5))


@pytest.mark.parametrize(
    "loss, reason",
    [
        (L.DiceLoss(softmax=True, to_onehot_y=True, weight=0.5), "a weight of another shape"),  # the first call alone
        (L.FocalLoss(to_onehot_y=True, gamma=-1.0), "gamma below 0 or infinite"),
        (L.TverskyLoss(soft_label=True), "a target of another shape"),
    ],
)
def test_reasons(loss, reason):
    with fastloss.accelerate("monai") as handle:
        outcome(Call(loss, (LOGITS, LABELS)))
    assert handle.report()[type(loss).__name__] == (0, {reason: 1})


def test_a_number_as_weight_becomes_a_vector_as_in_monai():
    loss = L.DiceLoss(softmax=True, to_onehot_y=True, weight=0.5)
    with fastloss.accelerate("monai") as handle:
        first, second = loss(LOGITS, LABELS), loss(LOGITS, LABELS)
    torch.testing.assert_close(first, second)
    assert loss.class_weight.shape == (3,) and handle.report()["DiceLoss"].fused == 1


def test_options_are_read_at_each_call():
    loss = L.FocalLoss(to_onehot_y=True)
    with fastloss.accelerate("monai"):
        for gamma in (0.5, 2, 3.0):
            loss.gamma = gamma
            torch.testing.assert_close(loss(LOGITS, LABELS), L.FocalLoss.forward.__wrapped__(loss, LOGITS, LABELS))


@pytest.mark.parametrize("options, owner", [({}, 0), ({"alpha": 0.3}, 1), ({"alpha": 0.3, "use_softmax": True}, 0)])
def test_metadata_are_those_that_monais_arithmetic_ends_with(options, owner):
    tensors = [MetaTensor(LOGITS, meta={"name": 0}), MetaTensor(LABELS, meta={"name": 1})]
    loss = L.FocalLoss(to_onehot_y=True, **options)
    with fastloss.backend("reference"), fastloss.accelerate("monai") as handle:
        assert loss(*tensors).meta["name"] == owner
    assert handle.report()["FocalLoss"].fused == 1
    assert loss(*tensors).meta["name"] == owner


@pytest.mark.parametrize("make", [L.DiceFocalLoss, L.SoftDiceclDiceLoss])
def test_compounds_of_one_sample_and_of_one_channel(make):
    loss = make(softmax=True, to_onehot_y=True)
    with fastloss.accelerate("monai") as handle:
        loss(LOGITS[:1], LABELS[:1])
        with contextlib.suppress(ValueError, AssertionError, RuntimeError):  # MONAI's own
            loss(LOGITS[:, :1], LABELS)
    assert handle.report()[make.__name__] == (1, {"to_onehot_y of one channel": 1})


@pytest.mark.parametrize(
    "option", [{"squared_pred": True}, {"soft_label": True}, {"to_onehot_y": True}, {"ignore_index": 1}], ids=str
)
def test_a_part_with_options_of_its_own_is_passed_on(option):
    loss = L.SoftDiceclDiceLoss(softmax=True, to_onehot_y=True)
    vars(loss.dice).update(option)
    with fastloss.accelerate("monai") as handle, contextlib.suppress(ValueError, AssertionError, RuntimeError):
        loss(LOGITS, LABELS)
    assert handle.report()["SoftDiceclDiceLoss"].fused == 0


def test_one_pass_where_parts_agree(monkeypatch):
    from fastloss.accelerate import fused

    passes = []
    inner = fused.checked_sums_of_terms
    monkeypatch.setattr(fused, "checked_sums_of_terms", lambda *args: passes.append(args[1]) or inner(*args))
    with fastloss.accelerate("monai"):
        L.DiceCELoss(softmax=True, to_onehot_y=True)(LOGITS, LABELS)
        L.DiceFocalLoss(sigmoid=True, to_onehot_y=True)(LOGITS, LABELS)
        assert len(passes) == 2
        L.DiceFocalLoss(softmax=True, to_onehot_y=True)(LOGITS, LABELS)
    assert len(passes) == 4


W = torch.tensor([0.5, 1.0, 2.0])
LABELLED = {"softmax": True, "to_onehot_y": True}
SIDE_BY_SIDE = [  # docs/drop-in.md
    (
        L.DiceLoss(**LABELLED, include_background=False, batch=True),
        fastloss.DiceLoss(include_background=False, batch=True),
    ),
    (L.DiceLoss(**LABELLED, smooth_nr=0.5, smooth_dr=0.1), fastloss.DiceLoss(smooth=(0.5, 0.1))),
    (L.DiceLoss(**LABELLED, jaccard=True, smooth_nr=0.5, smooth_dr=0.1), fastloss.JaccardLoss(smooth=(0.25, 0.05))),
    (L.MCCLoss(**LABELLED, smooth_nr=0.5, smooth_dr=0.25), fastloss.MCCLoss(smooth=(0.5, 0.5))),
    (L.DiceLoss(**LABELLED, squared_pred=True), fastloss.DiceLoss(squared=True)),
    (L.DiceLoss(to_onehot_y=True, other_act=torch.sigmoid), fastloss.DiceLoss(activation="sigmoid")),
    (
        L.DiceLoss(**LABELLED, weight=[1.0, 2.0], include_background=False),
        fastloss.DiceLoss(class_weight=[7.0, 1.0, 2.0], include_background=False),
    ),
    (
        L.DiceCELoss(**LABELLED, weight=W, lambda_dice=0.4, lambda_ce=2.0),
        fastloss.DiceCELoss(class_weight=W, dice_weight=0.4, ce_weight=2.0),
    ),
    (L.FocalLoss(to_onehot_y=True, gamma=1.5), fastloss.FocalLoss(activation="sigmoid", gamma=1.5)),
    (L.DiceLoss(**LABELLED, ignore_index=1), fastloss.DiceLoss(ignore_index=1)),
]


@pytest.mark.parametrize("theirs, ours", SIDE_BY_SIDE, ids=[type(theirs).__name__ for theirs, _ in SIDE_BY_SIDE])
def test_options_side_by_side(theirs, ours):
    with fastloss.backend("reference"):
        torch.testing.assert_close(ours(LOGITS, LABELS), theirs(LOGITS, LABELS))


def test_levels_side_by_side():
    labels = torch.randint(0, 3, (2, 1, 8, 8)).float()
    levels = [torch.randn(2, 3, size, size) for size in (8, 4)]
    with fastloss.backend("reference"):
        ours = fastloss.DeepSupervision(fastloss.DiceLoss(), weights=[1, 0.5], sampling="nearest-exact")(levels, labels)
        torch.testing.assert_close(ours, L.DeepSupervisionLoss(L.DiceLoss(**LABELLED))(levels, labels))
