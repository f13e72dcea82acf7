"""Losses of exacta, compared in accuracy alone and where it is installed. Its top-k takes another number of voxels."""

from functools import partial

from bench.losses.peers import Loss, Peer, index_labels
from bench.losses.registry import SMOOTH


def _build(activation: str, classes: int, name: str, options: dict, call: dict) -> Loss:
    import exacta.losses

    given = {} if name == "LovaszSoftmaxLoss" else {"activation": activation}
    loss = getattr(exacta.losses, name)(**given, **options)
    return lambda logits, target: loss(logits, target, **call)


def _exacta(name: str, activations: tuple[str, ...] = ("softmax", "sigmoid"), call: dict | None = None, **options):
    return Peer(name, "exacta", partial(_build, name=name, options=options, call=call or {}), index_labels, activations)


EXACTA: dict[str, Peer] = {
    "dice": _exacta("DiceLoss", smooth=SMOOTH),
    "tversky": _exacta("TverskyLoss", alpha=0.3, beta=0.7, smooth=SMOOTH),
    "focal_tversky": _exacta("FocalTverskyLoss", alpha=0.3, beta=0.7, gamma=0.75, smooth=SMOOTH),
    "generalized_dice": _exacta("GeneralizedDiceLoss", smooth=SMOOTH),
    "focal": _exacta("FocalLoss", gamma=2.0),
    "dice_ce": _exacta("DiceCELoss", smooth=SMOOTH),
    "dice_focal": _exacta("DiceFocalLoss", gamma=2.0, smooth=SMOOTH),
    "lovasz": _exacta("LovaszSoftmaxLoss", ("softmax",), classes="all", per_image=True),
    "hausdorff_dt": _exacta("HausdorffDTLoss", call={"spacing": 1.0}),
    "cldice": _exacta("SoftClDiceLoss", iterations=3, smooth=1.0),
}
