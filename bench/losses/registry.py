"""The losses that the benchmarks know, each beside the same loss elsewhere: one line a loss.

Without a peer: what none of the libraries has.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import click

from bench.losses.optional_peers import OPTIONAL
from bench.losses.peers import (
    SMOOTH,
    Peer,
    cross_entropies,
    kornia_focal,
    kornia_lovasz,
    kornia_overlap,
    monai,
    monai_dice_and_focal,
    monai_dice_and_topk,
    monai_focal,
    monai_unified,
    plain_lovasz,
    topk_cross_entropies,
)
from bench.losses.stencil_peers import kornia_erosion, monai_cldice, plain_conv, plain_structural


@dataclass(frozen=True)
class LossRow:
    """A loss of fastloss by class name and options, with its peers."""

    cls: str
    options: dict = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()
    of_classes: Callable[[str, int], dict] = lambda activation, classes: {}  # options that depend on both
    slow: bool = False  # a step of a peer takes seconds at [2, 4, 96, 96, 96]
    rough: float = 0.0  # what the peers' gradients are off by in float32, in L2

    def options_for(self, activation: str, classes: int) -> dict:
        """All options of the class."""
        return self.options | self.of_classes(activation, classes)

    def build(self, activation: str, classes: int, **more):
        """The fastloss module."""
        import fastloss

        return getattr(fastloss, self.cls)(activation=activation, **self.options_for(activation, classes), **more)


def _beta(activation: str, classes: int) -> list[float]:
    """A weight a class: the background's, and twice that."""
    return [1.0] + [2.0] * (classes - 1)


_smooth = {"smooth_nr": SMOOTH, "smooth_dr": SMOOTH}
# MONAI's Jaccard is (2I + nr) / (2U + dr): twice the smoothing is the same formula
_smooth_twice = {"smooth_nr": 2 * SMOOTH, "smooth_dr": 2 * SMOOTH}
# alpha weighs false positives, beta false negatives, in all three
_tversky = {"alpha": 0.3, "beta": 0.7}
_ours = {"smooth": SMOOTH}

LOSSES: dict[str, LossRow] = {
    "cross_entropy": LossRow("CrossEntropyLoss", peers=cross_entropies()),
    "dice": LossRow(
        "DiceLoss", _ours, (monai("DiceLoss", **_smooth), kornia_overlap("dice_loss", average="macro", eps=SMOOTH))
    ),
    "jaccard": LossRow("JaccardLoss", _ours, (monai("DiceLoss", jaccard=True, **_smooth_twice),)),
    "tversky": LossRow(
        "TverskyLoss",
        _ours | _tversky,
        (monai("TverskyLoss", **_tversky, **_smooth), kornia_overlap("tversky_loss", eps=SMOOTH, **_tversky)),
    ),
    # with several classes MONAI's DiceCELoss takes softmax cross-entropy whatever its activation
    "dice_ce": LossRow("DiceCELoss", _ours, (monai("DiceCELoss", ("softmax",), **_smooth),)),
    "weighted_cross_entropy": LossRow(
        "WeightedCrossEntropyLoss", {}, cross_entropies(_beta), lambda *of: {"beta": _beta(*of)}
    ),
    "balanced_cross_entropy": LossRow("BalancedCrossEntropyLoss"),
    "focal": LossRow("FocalLoss", {"gamma": 2.0}, (monai_focal(gamma=2.0), *kornia_focal(2.0))),
    "poly": LossRow("PolyLoss"),
    "focal_tversky": LossRow("FocalTverskyLoss"),
    "log_cosh_dice": LossRow("LogCoshDiceLoss"),
    "generalized_dice": LossRow("GeneralizedDiceLoss", _ours, (monai("GeneralizedDiceLoss", **_smooth),)),
    "sensitivity_specificity": LossRow("SensitivitySpecificityLoss"),
    # MONAI's smoothing stands under the root
    "mcc": LossRow("MCCLoss", _ours, (monai("MCCLoss", smooth_nr=SMOOTH, smooth_dr=SMOOTH**2),)),
    "dice_focal": LossRow(
        "DiceFocalLoss",
        _ours | {"gamma": 2.0},
        (monai_dice_and_focal(_smooth, {"gamma": 2.0}), monai("DiceFocalLoss", ("sigmoid",), gamma=2.0, **_smooth)),
    ),
    "combo": LossRow("ComboLoss"),
    "exp_log": LossRow("ExpLogLoss"),
    "topk": LossRow("TopKLoss", {"k": 0.1}, topk_cross_entropies(0.1)),
    "dice_topk": LossRow("DiceTopKLoss", _ours | {"k": 0.1}, (monai_dice_and_topk(_smooth, 0.1),)),
    # kornia's form: the mean over all classes of each sample. A peer's slopes are differences of neighbouring values of
    # a Jaccard loss near 1, of which float32 leaves about two digits in a volume of a million voxels
    "lovasz": LossRow("LovaszLoss", {"per_sample": True, "classes": "all"}, (kornia_lovasz, plain_lovasz), rough=2e-2),
    "hausdorff_erosion": LossRow("HausdorffErosionLoss", {"include_background": True}, (kornia_erosion,), slow=True),
    "hausdorff_conv": LossRow("HausdorffConvLoss", peers=(plain_conv,), slow=True),
    "structural_similarity": LossRow("StructuralSimilarityLoss", peers=(plain_structural,), slow=True),
    "cldice": LossRow("SoftCLDiceLoss", peers=(monai_cldice,), slow=True),
    "dice_cldice": LossRow("SoftDiceCLDiceLoss"),
    "unified_focal": LossRow("UnifiedFocalLoss", {"smooth": 1e-7}, (monai_unified,)),
    "boundary": LossRow("BoundaryLoss"),
    "hausdorff_dt": LossRow("HausdorffDTLoss", {}, (monai("HausdorffDTLoss"),), slow=True),
    "distance_penalty": LossRow("DistancePenaltyLoss"),
    "shape_aware": LossRow("ShapeAwareLoss"),
}

LOSSES |= {name: replace(LOSSES[name], peers=LOSSES[name].peers + more) for name, more in OPTIONAL.items()}


def loss_names(text: str) -> list[str]:
    """Names from a comma-separated list or `all`, in the order given and without repeats."""
    names = list(LOSSES) if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        what = f"unknown loss {', '.join(map(repr, unknown))}" if unknown else "no loss named"
        raise click.BadParameter(f"{what}; known: all, {', '.join(LOSSES)}")
    return list(dict.fromkeys(names))
