"""nnU-Net trainers with fastloss's losses, for ``nnUNetv2_train … -tr nnUNetTrainerFastloss``.

nnU-Net imports this file by itself, from the folder that ``nnUNet_extTrainer`` names, for training and for prediction.
Everything but the loss is nnU-Net's: networks, compilation, optimisers, checkpoints, deep supervision with its weights
(1e-6 for the last level under DistributedDataParallel), and the sign of the loss in its logs, where a perfect Dice is
-1. With several processes the loss is that of the samples of all of them, its gradient exact also where the ignored
voxels of the processes are not equally many.
"""

from __future__ import annotations

from typing import Any

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

import fastloss

SMOOTH = 1e-5  # nnU-Net's own


class NnunetLoss(nn.Module):
    """A sum of fastloss's losses on nnU-Net's tensors, minus the weight of Dice, as nnU-Net's logs have it.

    Args:
        losses: those whose values are added.
        ignored_channel: whether the last channel of a target of regions says which voxels are ignored.
        spacing: that of the voxels of a whole patch, for losses with distances; a coarser level has a wider one.
        patch_size: the voxels of a whole patch along each axis.

    Shapes: logits ``[B, C, *S]``; labels ``[B, 1, *S]``, or regions ``[B, C, *S]``, ``[B, C + 1, *S]`` with the ignored
    voxels.
    """

    def __init__(
        self,
        losses: list[fastloss.SegmentationLoss],
        *,
        ignored_channel: bool = False,
        spacing: tuple[float, ...] | None = None,
        patch_size: tuple[int, ...] = (),
    ):
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.ignored_channel, self.spacing, self.patch_size = ignored_channel, spacing, patch_size

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one level."""
        options: dict[str, Any] = {}
        if self.ignored_channel:
            options["mask"] = target[:, -1:] == 0
            target = target[:, :-1]
        if self.spacing is not None:
            sizes = zip(self.spacing, self.patch_size, logits.shape[2:], strict=True)
            level = [[length * whole / here for length, whole, here in sizes]] * len(logits)
            options["spacing"] = logits.new_tensor(level, device="cpu").double()
        values = [loss(logits, target, **options) for loss in self.losses]
        total: Tensor = sum(values[1:], values[0]) - 1.0
        return total


class nnUNetTrainerFastloss(nnUNetTrainer):
    """nnU-Net's default losses: Dice and cross-entropy, of regions Dice and binary cross-entropy, in one pass."""

    def _build_loss(self) -> nn.Module:
        theirs = super()._build_loss()
        if not isinstance(theirs, DeepSupervisionWrapper):
            return self.fused_loss()
        theirs.loss = self.fused_loss()
        return theirs

    def fused_loss(self) -> NnunetLoss:
        """The loss of one level."""
        parts = [self.dice(), self.cross_entropy()]
        return NnunetLoss([fastloss.CompoundLoss(parts, self.weights())], ignored_channel=self.ignores_region())

    def weights(self) -> list[float]:
        """Those of Dice and cross-entropy: nnU-Net divides that of regions by the voxels alone if some are ignored."""
        return [1.0, float(self.label_manager.num_segmentation_heads) if self.ignores_region() else 1.0]

    def dice(self) -> fastloss.DiceLoss:
        """nnU-Net's Dice loss, plus 1."""
        options = self.options()
        batch, background = self.configuration_manager.batch_dice, self.label_manager.has_regions
        return fastloss.DiceLoss(batch=batch, include_background=background, smooth=SMOOTH, **options)

    def cross_entropy(self) -> fastloss.CrossEntropyLoss:
        """Of labels, or of each region."""
        return fastloss.CrossEntropyLoss(**self.options())

    def options(self, *, gathered: bool = True) -> dict[str, Any]:
        """What all parts of the loss have in common; ``gathered``: the loss is that of all processes."""
        options: dict[str, Any] = {"activation": "sigmoid" if self.label_manager.has_regions else "softmax"}
        if self.label_manager.has_ignore_label and not self.label_manager.has_regions:
            options["ignore_index"] = self.label_manager.ignore_label
        if gathered and self.is_ddp:
            options["process_group"] = "world"
        return options

    def ignores_region(self) -> bool:
        """Whether a target of regions has a channel of ignored voxels."""
        return bool(self.label_manager.has_regions and self.label_manager.has_ignore_label)


class nnUNetTrainerFastlossTopK10(nnUNetTrainerFastloss):
    """Dice and the cross-entropy of the hardest tenth of the voxels; of each process, where there are several."""

    k = 0.1

    def fused_loss(self) -> NnunetLoss:
        portion: dict[str, Any] = {"k": self.k, "count_ignored": True}
        dice = self.dice()
        if self.is_ddp:
            topk = fastloss.TopKLoss(**portion, **self.options(gathered=False))
            return NnunetLoss([dice, topk], ignored_channel=self.ignores_region())
        same: dict[str, Any] = {"batch": dice.batch, "include_background": dice.include_background, "smooth": SMOOTH}
        both = fastloss.DiceTopKLoss(**portion, **self.options(), **same)
        return NnunetLoss([both], ignored_channel=self.ignores_region())


class nnUNetTrainerFastlossBoundary(nnUNetTrainerFastloss):
    """nnU-Net's default losses and the boundary loss, whose distances come from the labels at each step."""

    boundary_weight = 0.01  # of the mean of the distances in mm, where Dice has the weight 1

    def fused_loss(self) -> NnunetLoss:
        boundary = fastloss.BoundaryLoss(
            include_background=self.label_manager.has_regions,
            spacing=self.configuration_manager.spacing,
            **self.options(),
        )
        parts = [self.dice(), self.cross_entropy(), boundary]
        return NnunetLoss(
            [fastloss.CompoundLoss(parts, [*self.weights(), self.boundary_weight])],
            ignored_channel=self.ignores_region(),
            spacing=tuple(self.configuration_manager.spacing),
            patch_size=tuple(self.configuration_manager.patch_size),
        )
