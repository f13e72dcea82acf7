"""nnU-Net, segmentation_models_pytorch, kornia and torchvision: drawn calls, and what draws do not say."""

import copy
import importlib.metadata
import pickle

import pytest
import torch
from oracle import value_and_gradient as gradient
from torch import nn

import fastloss
from fastloss.accelerate import core, fused, shared

from .record import record

PEERS = {
    "nnunet": "nnunetv2",
    "smp": "segmentation_models_pytorch",
    "kornia": "kornia",
    "torchvision": "torchvision",
}
LOGITS = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 3, (2, 6, 5), generator=torch.Generator().manual_seed(1))


def peer_module(name):
    return pytest.importorskip(name, exc_type=ImportError)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("backend, draws", [("reference", 100), ("numba", 10)])
def test_draws(peer, backend, draws):
    """``python -m accelerate.record smp`` draws thousands."""
    peer_module(PEERS[peer])
    if not importlib.import_module(f"fastloss.accelerate.{peer}").served:
        pytest.skip("another version")
    with fastloss.backend(backend):
        found = record(peer, 0, draws)
    assert not found["differing"]
    assert found["share"] > 0.5


@pytest.mark.parametrize("peer, seed", [("smp", 701193), ("monai", 101006)])
def test_draws_that_differed_once(peer, seed):
    peer_module(PEERS.get(peer, peer))
    with fastloss.backend("numba"):
        assert not record(peer, seed, 1)["differing"]


def test_other_versions_keep_their_own_losses(caplog):
    for found, left in (("0.5.0", 0), ("0.5.2", 1), ("0.60.0", 0), ("0.6.0", 1)):
        served = core.Served()
        served(nn.Linear)(lambda self, input: input)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.metadata, "version", lambda package, found=found: found)
            shared.only_versions(served, "a_peer", "0.5.2", "0.6.")
        assert len(served) == left
    assert "a_peer 0.60.0 keeps its own losses, expected 0.5.2* or 0.6.*" in caplog.text


def same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def losses():
    """A loss of each kind of each peer that is there, and its target."""
    made = {}
    if importlib.util.find_spec("segmentation_models_pytorch"):
        from segmentation_models_pytorch import losses as smp

        made["smp dice"] = smp.TverskyLoss("multiclass", gamma=1.5), LABELS
        made["smp focal"] = smp.FocalLoss("multiclass", ignore_index=0), LABELS
        made["smp entropy"] = smp.SoftCrossEntropyLoss(smooth_factor=0.1), LABELS
    if importlib.util.find_spec("kornia"):
        from kornia import losses as kornia

        made["kornia dice"] = kornia.DiceLoss("macro", weight=torch.tensor([1.0, 2.0, 3.0])), LABELS
        made["kornia focal"] = kornia.FocalLoss(0.25, reduction="mean"), LABELS
    if importlib.util.find_spec("nnunetv2"):
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss

        made["nnunet"] = DC_and_CE_loss({"batch_dice": True, "ddp": False}, {}), LABELS[:, None]
    return made


def names():
    return [peer for peer, module in PEERS.items() if importlib.util.find_spec(module)]


@pytest.mark.parametrize("name", losses())
def test_copies_pickles_and_compiled_steps(name, reference):
    loss, target = losses()[name]
    expected = gradient(loss, LOGITS, target)
    with fastloss.accelerate(*names()) as handle:
        for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            same(gradient(other, LOGITS, target), expected)
        assert sum(calls.fused for calls in handle.report().values()) == 2
        torch._dynamo.reset()
        graphs = []
        compiled = torch.compile(loss, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
        same(gradient(compiled, LOGITS, target), expected)
        assert "fastloss.voxel_sums" in "".join(getattr(part, "code", "") for part in graphs[0].modules())
    assert type(loss).__module__.partition(".")[0] in PEERS.values()


def test_torchvisions_function_is_in_a_graph(reference):
    """Its own code: whether a target has shares is not known there."""
    ops = peer_module("torchvision.ops")
    target = nn.functional.one_hot(LABELS, 3).movedim(-1, 1).float()

    def loss(logits, target):
        return ops.sigmoid_focal_loss(logits, target, reduction="mean")

    expected = gradient(loss, LOGITS, target)
    with fastloss.accelerate("torchvision") as handle:
        same(gradient(loss, LOGITS, target), expected)
        assert pickle.loads(pickle.dumps(ops.sigmoid_focal_loss)) is ops.sigmoid_focal_loss
        torch._dynamo.reset()
        same(gradient(torch.compile(loss, fullgraph=True, backend="eager"), LOGITS, target), expected)
    assert handle.report()["sigmoid_focal_loss"] == (1, {})


@pytest.mark.parametrize("name", losses())
def test_where_the_pass_does_not_look_for_bad_labels(name, reference, monkeypatch):
    """As on a GPU: further sums then say whether all labels are classes."""
    loss, target = losses()[name]
    expected = gradient(loss, LOGITS, target)
    monkeypatch.setattr(fused, "_unseen", lambda inputs: not inputs.dense)
    with fastloss.accelerate(*names()) as handle:
        same(gradient(loss, LOGITS, target), expected)
        assert sum(calls.fused for calls in handle.report().values()) == 1


def test_nnunet_with_a_compiled_dice(reference):
    peer_module("nnunetv2")
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    def make():
        return DC_and_CE_loss({"ddp": False, "smooth": 1e-5}, {}, dice_class=MemoryEfficientSoftDiceLoss)

    target = LABELS[:, None]
    expected = gradient(make(), LOGITS, target)
    loss = make()

    def refuse(module, inputs):
        raise AssertionError("compiled")

    loss.dc = torch.compile(loss.dc, backend=refuse)
    with fastloss.accelerate("nnunet") as handle:
        same(gradient(loss, LOGITS, target), expected)
        wrapped = DeepSupervisionWrapper(loss, (0.75, 0.25, 0.0))
        value = wrapped([LOGITS, LOGITS, LOGITS], [target, target, target])
        torch.testing.assert_close(value, expected[0], rtol=1e-5, atol=1e-7)
    assert handle.report()["DC_and_CE_loss"] == (3, {})


def test_parts_of_ones_own_are_left_to_nnunet(reference):
    peer_module("nnunetv2")
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import SoftDiceLoss

    class Own(SoftDiceLoss):
        def forward(self, x, y, loss_mask=None):
            return 2 * super().forward(x, y, loss_mask)

    hooked, own = DC_and_CE_loss({"ddp": False}, {}), DC_and_CE_loss({"ddp": False}, {}, dice_class=Own)
    seen = []
    hooked.dc.register_forward_hook(lambda *given: seen.append(given))
    for loss, reason in ((own, "Own as a part"), (hooked, "hooks of a part")):
        expected = gradient(loss, LOGITS, LABELS[:, None])
        with fastloss.accelerate("nnunet") as handle:
            same(gradient(loss, LOGITS, LABELS[:, None]), expected)
        assert handle.report()["DC_and_CE_loss"] == (0, {reason: 1})
    assert len(seen) == 2


def test_attributes_are_read_at_each_call(reference):
    smp, kornia = peer_module("segmentation_models_pytorch.losses"), peer_module("kornia.losses")
    dice, focal = smp.DiceLoss("multiclass"), kornia.FocalLoss(0.25, reduction="mean")
    changes = [(dice, "smooth", 3.0), (dice, "log_loss", True), (focal, "gamma", 0.5), (focal, "alpha", None)]
    for loss, name, value in changes:
        setattr(loss, name, value)
        expected = gradient(loss, LOGITS, LABELS)
        with fastloss.accelerate("smp", "kornia") as handle:
            same(gradient(loss, LOGITS, LABELS), expected)
        assert sum(calls.fused for calls in handle.report().values()) == 1


def test_a_subclass_with_a_score_of_its_own_is_left_to_smp(reference):
    smp = peer_module("segmentation_models_pytorch.losses")

    class Own(smp.DiceLoss):
        def compute_score(self, output, target, smooth=0.0, eps=1e-7, dims=None):
            return super().compute_score(output, target, smooth, eps, dims) ** 2

    expected = gradient(Own("multiclass"), LOGITS, LABELS)
    with fastloss.accelerate("smp") as handle:
        same(gradient(Own("multiclass"), LOGITS, LABELS), expected)
    assert handle.report()["DiceLoss"] == (0, {"another score": 1})


def test_learned_weights_of_classes(reference):
    kornia = peer_module("kornia.losses")
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 0.5]))
    loss = kornia.DiceLoss("macro", weight=weight)
    (expected,) = torch.autograd.grad(loss(LOGITS, LABELS), weight)
    with fastloss.accelerate("kornia") as handle:
        (found,) = torch.autograd.grad(loss(LOGITS, LABELS), weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert handle.report()["dice_loss"].fused == 1


@pytest.mark.parametrize("wrong", [None, "text", LABELS.float(), LABELS[:1], LABELS[0], LABELS.to_sparse(), LABELS + 9])
@pytest.mark.parametrize("name", losses())
def test_wrong_targets_raise_what_the_peer_raises(name, wrong, reference):
    loss, _ = losses()[name]
    outcomes = []
    for peers in ((), names()):
        held = fastloss.accelerate(*peers) if peers else None
        try:
            outcomes.append(loss(LOGITS, wrong))
        except Exception as error:
            outcomes.append((type(error), str(error)))
        finally:
            if held:
                held.undo()
    if isinstance(outcomes[0], torch.Tensor):
        torch.testing.assert_close(outcomes[1], outcomes[0])
    else:
        assert outcomes[1] == outcomes[0]
