"""The trainers for nnU-Net: found by it, with its losses' values and gradients."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("nnunetv2")

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import fastloss
from fastloss.integrations.nnunet import fastloss_trainers as trainers

pytestmark = pytest.mark.usefixtures("reference")  # what is tested are formulas


def trainer(cls, *, regions=False, ignore=None, batch_dice=False, deep=True):
    """A trainer with as much as a loss asks of it."""
    made = object.__new__(cls)
    made.label_manager = SimpleNamespace(
        has_regions=regions, ignore_label=ignore, has_ignore_label=ignore is not None, num_segmentation_heads=3
    )
    made.configuration_manager = SimpleNamespace(
        batch_dice=batch_dice,
        spacing=[3.0, 1.0, 1.0],
        patch_size=[8, 8, 8],
        pool_op_kernel_sizes=[[1, 1, 1], [1, 2, 2]] * 2,
    )
    made.is_ddp, made.enable_deep_supervision = False, deep
    made._do_i_compile = lambda: False
    return made


def levels(regions, ignore):
    """Outputs and targets of three levels."""
    generator = torch.Generator().manual_seed(0)
    outputs, targets = [], []
    for size in ((8, 8, 8), (8, 4, 4), (8, 4, 4)):
        outputs.append(torch.randn(2, 3, *size, generator=generator, requires_grad=True))
        labels = torch.randint(0, 3 if ignore is None else 4, (2, 1, *size), generator=generator)
        if regions:
            channels = [labels >= 1, labels >= 2, labels == 2, labels == 3]
            labels = torch.cat(channels[: 3 if ignore is None else 4], 1)
            labels[:, :3] &= ~(labels[:, 3:] if ignore is not None else torch.zeros_like(labels[:, :1]))
        targets.append(labels.to(torch.bool if regions else torch.int16))
    return outputs, targets


def value_and_gradients(loss, outputs, targets):
    value = loss(outputs, targets)
    return value.detach(), torch.autograd.grad(value, outputs, allow_unused=True)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("regions", "ignore"), [(False, None), (False, 3), (True, None), (True, 3)], ids=str)
def test_the_loss_is_that_of_nnunet(regions, ignore, batch_dice):
    given = {"regions": regions, "ignore": ignore, "batch_dice": batch_dice}
    ours, theirs = (trainer(cls, **given)._build_loss() for cls in (trainers.nnUNetTrainerFastloss, nnUNetTrainer))
    assert isinstance(ours, DeepSupervisionWrapper)
    assert ours.weight_factors == theirs.weight_factors
    value, gradients = value_and_gradients(ours, *levels(regions, ignore))
    expected, of_theirs = value_and_gradients(theirs, *levels(regions, ignore))
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for gradient, of_their in zip(gradients, of_theirs, strict=True):
        if of_their is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, of_their, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("ignore", [None, 3])
def test_topk(ignore):
    from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerTopkLoss import nnUNetTrainerDiceTopK10Loss

    ours, theirs = (
        trainer(cls, ignore=ignore)._build_loss()
        for cls in (trainers.nnUNetTrainerFastlossTopK10, nnUNetTrainerDiceTopK10Loss)
    )
    value, gradients = value_and_gradients(ours, *levels(False, ignore))
    expected, of_theirs = value_and_gradients(theirs, *levels(False, ignore))
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], of_theirs[0], rtol=1e-4, atol=1e-8)


def test_topk_of_regions_with_ignored_voxels():
    made = trainer(trainers.nnUNetTrainerFastlossTopK10, regions=True, ignore=3, deep=False)
    outputs, targets = (tensors[0] for tensors in levels(True, 3))
    counted = ~targets[:, 3:]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets[:, :3].float(), reduction="none")
    losses = (losses * counted).flatten()
    hardest = losses.topk(losses.numel() // 10).values.mean()
    dice = made.dice()(outputs, targets[:, :3], mask=counted)
    torch.testing.assert_close(made._build_loss()(outputs, targets), dice + hardest - 1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_boundary_measures_each_level_in_its_own_spacing(regions):
    made = trainer(trainers.nnUNetTrainerFastlossBoundary, regions=regions, deep=False)
    without = trainer(trainers.nnUNetTrainerFastloss, regions=regions, deep=False)._build_loss()
    boundary = {
        "activation": "sigmoid" if regions else "softmax",
        "include_background": regions,
    }
    loss = made._build_loss()
    for i, spacing in ((0, (3.0, 1.0, 1.0)), (1, (3.0, 2.0, 2.0))):
        outputs, targets = (tensors[i] for tensors in levels(regions, None))
        distances = fastloss.BoundaryLoss(spacing=spacing, **boundary)(outputs, targets)
        expected = without(outputs, targets) + made.boundary_weight * distances
        torch.testing.assert_close(loss(outputs, targets), expected, rtol=1e-5, atol=1e-6)


def test_without_deep_supervision_the_loss_takes_one_tensor():
    loss = trainer(trainers.nnUNetTrainerFastloss, deep=False)._build_loss()
    outputs, targets = levels(False, None)
    assert loss(outputs[0], targets[0]).ndim == 0


def test_nnunet_finds_the_trainers(monkeypatch, capsys):
    folder = subprocess.run(
        [sys.executable, "-m", "fastloss.integrations.nnunet"], capture_output=True, text=True, check=True
    ).stdout.strip()
    monkeypatch.setenv("nnUNet_extTrainer", folder)
    for name in ("nnUNetTrainerFastloss", "nnUNetTrainerFastlossTopK10", "nnUNetTrainerFastlossBoundary"):
        found = recursive_find_trainer_class_by_name(name)
        assert issubclass(found, nnUNetTrainer)
        assert found.__name__ == name
    capsys.readouterr()
