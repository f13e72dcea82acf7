"""The rows of docs/drop-in.md's tables of nnU-Net, segmentation_models_pytorch, kornia and torchvision."""

import pytest
import torch

import fastloss

GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(2, 3, 8, 7, generator=GENERATOR)
Y = torch.randint(0, 3, (2, 8, 7), generator=GENERATOR)
REGIONS = torch.rand(2, 3, 8, 7, generator=GENERATOR) < 0.5
IGNORED = Y.where(torch.rand(2, 8, 7, generator=GENERATOR) > 0.3, 255)
W = [0.5, 1.0, 3.0]


pytestmark = pytest.mark.usefixtures("reference")


def same(ours, theirs):
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-5, atol=1e-6)


def test_nnunet():
    pytest.importorskip("nnunetv2")
    from nnunetv2.training.loss import compound_losses, dice, robust_ce_loss
    from nnunetv2.utilities.helpers import softmax_helper_dim1

    for batch in (False, True):
        theirs = dice.SoftDiceLoss(softmax_helper_dim1, batch, False, 1e-2, ddp=False)(Z, Y[:, None])
        same(fastloss.DiceLoss(smooth=1e-2, batch=batch, include_background=False)(Z, Y) - 1, theirs)
    counted = IGNORED != 255
    theirs = dice.MemoryEfficientSoftDiceLoss(torch.sigmoid, ddp=False)(Z, REGIONS, counted[:, None])
    same(fastloss.DiceLoss(smooth=1, activation="sigmoid")(Z, REGIONS, mask=counted) - 1, theirs)
    theirs = robust_ce_loss.RobustCrossEntropyLoss(torch.tensor(W), ignore_index=255, label_smoothing=0.1)(Z, IGNORED)
    same(fastloss.CrossEntropyLoss(class_weight=W, ignore_index=255, label_smoothing=0.1)(Z, IGNORED), theirs)
    soft = {"do_bg": False, "smooth": 1e-5, "ddp": False}
    theirs = compound_losses.DC_and_CE_loss(soft, {}, weight_ce=0.5, weight_dice=2, ignore_label=255)(
        Z, IGNORED[:, None]
    )
    ours = fastloss.DiceCELoss(dice_weight=2, ce_weight=0.5, ignore_index=255, include_background=False)
    same(ours(Z, IGNORED) - 2, theirs)
    with_ignored = torch.cat((REGIONS, ~counted[:, None]), 1)
    theirs = compound_losses.DC_and_BCE_loss({}, {"smooth": 1e-5, "ddp": False}, use_ignore_label=True)(Z, with_ignored)
    ours = fastloss.DiceCELoss(activation="sigmoid", ce_weight=3)
    same(ours(Z, with_ignored[:, :-1], mask=~with_ignored[:, -1:]) - 1, theirs)
    theirs = robust_ce_loss.TopKLoss(ignore_index=255)(Z, IGNORED[:, None])
    same(fastloss.TopKLoss(k=0.1, count_ignored=True, ignore_index=255)(Z, IGNORED), theirs)
    theirs = compound_losses.DC_and_topk_loss(soft, {}, ignore_label=255)(Z, IGNORED[:, None])
    options = {"count_ignored": True, "include_background": False, "ignore_index": 255}
    same(fastloss.DiceTopKLoss(k=0.1, **options)(Z, IGNORED) - 1, theirs)


def test_smp():
    smp = pytest.importorskip("segmentation_models_pytorch.losses", exc_type=ImportError)
    smooth = {"batch": True, "smooth": 1.0}
    same(fastloss.JaccardLoss(**smooth)(Z, Y), smp.JaccardLoss("multiclass", smooth=1.0)(Z, Y))
    theirs = smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7, smooth=1.0)(Z, Y)
    same(fastloss.TverskyLoss(alpha=0.3, beta=0.7, **smooth)(Z, Y), theirs)
    theirs = smp.JaccardLoss("binary", smooth=1.0)(Z[:, :1], REGIONS[:, 0].float())
    same(fastloss.JaccardLoss(activation="sigmoid", **smooth)(Z[:, :1], REGIONS[:, :1].float()), theirs)
    theirs = smp.JaccardLoss("multiclass", smooth=1.0, from_logits=False)(Z.softmax(1), Y)
    same(fastloss.JaccardLoss(activation=None, **smooth)(Z.softmax(1), Y), theirs)
    theirs = smp.JaccardLoss("multiclass", smooth=1.0, class_weights=W)(Z, Y)
    same(fastloss.JaccardLoss(class_weight=[w / 1.5 for w in W], **smooth)(Z, Y), theirs)
    theirs = smp.DiceLoss("multiclass", smooth=1.0)(Z, Y)
    same(fastloss.DiceLoss(batch=True, smooth=2.0)(Z, Y), theirs)
    theirs = smp.FocalLoss("multiclass", alpha=0.25)(Z, Y)
    same(fastloss.FocalLoss(activation="sigmoid", alpha=0.25)(Z, Y), theirs)
    theirs = smp.SoftBCEWithLogitsLoss(smooth_factor=0.1)(Z, REGIONS.float())
    same(fastloss.CrossEntropyLoss(activation="sigmoid", label_smoothing=0.2)(Z, REGIONS.float()), theirs)
    same(fastloss.CrossEntropyLoss(label_smoothing=0.1)(Z, Y), smp.SoftCrossEntropyLoss(smooth_factor=0.1)(Z, Y))
    for per_image in (False, True):
        theirs = smp.LovaszLoss("multiclass", per_image)(Z, Y)
        same(fastloss.LovaszLoss(per_sample=per_image)(Z, Y), theirs)
        theirs = smp.LovaszLoss("binary", per_image)(Z[:, :1], REGIONS[:, :1].long())
        same(fastloss.LovaszHingeLoss(per_sample=per_image)(Z[:, :1], REGIONS[:, :1]), theirs)


def test_kornia():
    kornia = pytest.importorskip("kornia.losses")
    same(fastloss.DiceLoss(smooth=(0, 1e-2))(Z, Y), kornia.dice_loss(Z, Y, "macro", 1e-2))
    ours = fastloss.TverskyLoss(alpha=0.3, beta=0.7, smooth=(0, 1e-2))(Z, Y)
    same(ours, kornia.tversky_loss(Z, Y, 0.3, 0.7, 1e-2))
    same(fastloss.FocalLoss()(Z, Y) / 3, kornia.focal_loss(Z, Y, None, reduction="mean"))
    theirs = kornia.focal_loss(Z, Y, 0.3, reduction="mean")
    same(fastloss.FocalLoss(alpha=[0.7, 0.3, 0.3])(Z, Y) / 3, theirs)
    ours = fastloss.FocalLoss(activation="sigmoid", alpha=0.3)(Z, REGIONS)
    same(ours, kornia.binary_focal_loss_with_logits(Z, REGIONS.float(), 0.3, reduction="mean"))
    ours = fastloss.voxel_losses(Z, Y, {"focal_pos(2.0)": 1}, per_class=True)
    same(ours, kornia.focal_loss(Z, Y, None))
    ours = fastloss.LovaszLoss(per_sample=True, classes="all", class_weight=W)(Z, Y)
    same(ours, kornia.lovasz_softmax_loss(Z, Y, torch.tensor(W)))
    same(fastloss.LovaszHingeLoss()(Z[:, :1], REGIONS[:, 0]), kornia.lovasz_hinge_loss(Z[:, :1], REGIONS[:, 0].long()))
    ours = fastloss.HausdorffErosionLoss(alpha=1.5, erosions=3, activation=None, include_background=True)
    same(ours(Z.softmax(1), Y), kornia.HausdorffERLoss(1.5, 3)(Z.softmax(1), Y[:, None]))


def test_torchvision():
    ops = pytest.importorskip("torchvision.ops", exc_type=ImportError)
    target = REGIONS.float()
    for alpha, ours in ((0.3, 0.3), (-1, None)):
        theirs = ops.sigmoid_focal_loss(Z, target, alpha, 2, "mean")
        same(fastloss.FocalLoss(activation="sigmoid", alpha=ours)(Z, target), theirs)
    terms = {"focal_pos(2.0)": 0.3, "focal_neg(2.0)": 0.7}
    ours = fastloss.voxel_losses(Z, target, terms, activation="sigmoid", per_class=True)
    same(ours, ops.sigmoid_focal_loss(Z, target, 0.3))
