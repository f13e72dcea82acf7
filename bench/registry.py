"""The losses that the benchmarks know, each beside the same loss elsewhere: one line a loss."""

from dataclasses import dataclass, field

import click

from bench.peers import Peer, binary_cross_entropy, cross_entropy, monai

SMOOTH = 1e-5  # fastloss's default, set on both sides so that values agree


@dataclass(frozen=True)
class LossRow:
    """A loss of fastloss by class name and options, with its peers."""

    cls: str
    options: dict = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()

    def build(self, activation: str = "softmax"):
        """The fastloss module."""
        import fastloss

        return getattr(fastloss, self.cls)(activation=activation, **self.options)


_smooth = {"smooth_nr": SMOOTH, "smooth_dr": SMOOTH}
# MONAI's Jaccard is (2I + nr) / (2U + dr): twice the smoothing is the same formula
_smooth_twice = {"smooth_nr": 2 * SMOOTH, "smooth_dr": 2 * SMOOTH}
# MONAI's Tversky: alpha weighs false positives, beta false negatives, as here
_tversky = {"alpha": 0.3, "beta": 0.7}
_ce = (cross_entropy, binary_cross_entropy)

LOSSES: dict[str, LossRow] = {
    "cross_entropy": LossRow("CrossEntropyLoss", peers=_ce),
    "dice": LossRow("DiceLoss", {"smooth": SMOOTH}, (monai("DiceLoss", **_smooth),)),
    "jaccard": LossRow("JaccardLoss", {"smooth": SMOOTH}, (monai("DiceLoss", jaccard=True, **_smooth_twice),)),
    "tversky": LossRow("TverskyLoss", {"smooth": SMOOTH, **_tversky}, (monai("TverskyLoss", **_tversky, **_smooth),)),
    # with several classes MONAI's DiceCELoss takes softmax cross-entropy whatever its activation
    "dice_ce": LossRow("DiceCELoss", {"smooth": SMOOTH}, (monai("DiceCELoss", ("softmax",), **_smooth),)),
}


def loss_names(text: str) -> list[str]:
    """Names from a comma-separated list or `all`, in the order given and without repeats."""
    names = list(LOSSES) if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        what = f"unknown loss {', '.join(map(repr, unknown))}" if unknown else "no loss named"
        raise click.BadParameter(f"{what}; known: all, {', '.join(LOSSES)}")
    return list(dict.fromkeys(names))
