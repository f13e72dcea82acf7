"""Peers that the benchmarks take in where they are installed: exacta, segmentation_models_pytorch (SMP) and nnU-Net.

Of exacta an equal top-k is missing: it takes another number of voxels.
"""

from functools import partial

import torch

from bench.losses.peers import SMOOTH, Loss, Peer, byte_labels, channel_labels, index_labels

# exacta


def _build_exacta(activation: str, classes: int, name: str, options: dict, call: dict) -> Loss:
    import exacta.losses

    given = {} if name == "LovaszSoftmaxLoss" else {"activation": activation}
    loss = getattr(exacta.losses, name)(**given, **options)
    return lambda logits, target: loss(logits, target, **call)


def _exacta(name: str, activations: tuple[str, ...] = ("softmax", "sigmoid"), call: dict | None = None, **options):
    build = partial(_build_exacta, name=name, options=options, call=call or {})
    return Peer(name, "exacta", build, index_labels, activations, more=((build, byte_labels),))


# SMP, whose sums are of the whole batch: a sample at a time


def _build_smp(activation: str, classes: int, name: str, options: dict) -> Loss:
    from segmentation_models_pytorch import losses

    loss = getattr(losses, name)("multiclass", **options)

    def call(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.stack([loss(z[None], y[None]) for z, y in zip(logits, target, strict=True)]).mean()

    return call


def _smp(name: str, **options) -> Peer:
    build = partial(_build_smp, name=name, options=options)
    return Peer(name, "segmentation_models_pytorch", build, index_labels, ("softmax",))


# nnU-Net, whose Dice is negative: its losses are ours minus one


def _build_nnunet(activation: str, classes: int, name: str, options: dict) -> Loss:
    from nnunetv2.training.loss import compound_losses, dice
    from nnunetv2.utilities.helpers import softmax_helper_dim1

    overlap = {"batch_dice": False, "do_bg": True, "smooth": SMOOTH, "ddp": False}
    if name == "MemoryEfficientSoftDiceLoss":
        loss = dice.MemoryEfficientSoftDiceLoss(apply_nonlin=softmax_helper_dim1, **overlap)
    elif name == "DC_and_CE_loss":
        loss = compound_losses.DC_and_CE_loss(overlap, {}, dice_class=dice.MemoryEfficientSoftDiceLoss)
    else:
        loss = compound_losses.DC_and_topk_loss(overlap, options)
    return lambda logits, target: loss(logits, target) + 1


def _nnunet(name: str, **options) -> Peer:
    build = partial(_build_nnunet, name=name, options=options)
    return Peer(name, "nnunetv2", build, channel_labels, ("softmax",))


OPTIONAL: dict[str, tuple[Peer, ...]] = {
    "dice": (
        _exacta("DiceLoss", smooth=SMOOTH),
        _smp("DiceLoss", smooth=SMOOTH / 2),
        _nnunet("MemoryEfficientSoftDiceLoss"),
    ),
    "jaccard": (_smp("JaccardLoss", smooth=SMOOTH),),
    "tversky": (
        _exacta("TverskyLoss", alpha=0.3, beta=0.7, smooth=SMOOTH),
        _smp("TverskyLoss", alpha=0.3, beta=0.7, smooth=SMOOTH),
    ),
    "focal_tversky": (_exacta("FocalTverskyLoss", alpha=0.3, beta=0.7, gamma=0.75, smooth=SMOOTH),),
    "generalized_dice": (_exacta("GeneralizedDiceLoss", smooth=SMOOTH),),
    "focal": (_exacta("FocalLoss", gamma=2.0),),
    "dice_ce": (_exacta("DiceCELoss", smooth=SMOOTH), _nnunet("DC_and_CE_loss")),
    "dice_focal": (_exacta("DiceFocalLoss", gamma=2.0, smooth=SMOOTH),),
    "dice_topk": (_nnunet("DC_and_topk_loss", k=10),),
    "lovasz": (
        _exacta("LovaszSoftmaxLoss", ("softmax",), classes="all", per_image=True),
        _smp("LovaszLoss", per_image=True),
    ),
    "hausdorff_dt": (_exacta("HausdorffDTLoss", call={"spacing": 1.0}),),
    "cldice": (_exacta("SoftClDiceLoss", iterations=3, smooth=1.0),),
}
