"""How a loss of another library is built and which form of the labels it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

SMOOTH = 1e-5  # fastloss's default, set on both sides so that values agree
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def index_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 `[B, *S]`, as `F.cross_entropy` takes them."""
    return labels.long()


def channel_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 `[B, 1, *S]`, as MONAI takes them with `to_onehot_y=True`."""
    return labels.long()[:, None]


def byte_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """uint8 `[B, *S]`."""
    return labels.byte()


def one_hot_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """float32 `[B, C, *S]`, as `F.binary_cross_entropy_with_logits` takes them."""
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float().contiguous()


Target = Callable[[torch.Tensor, int], torch.Tensor]
Build = Callable[[str, int], Loss]
FORMS: dict[Target, str] = {
    index_labels: "int64 labels",
    channel_labels: "int64 labels",
    byte_labels: "uint8 labels",
    one_hot_labels: "one-hot float32",
}
SHORT = {"segmentation_models_pytorch": "smp", "nnunetv2": "nnunet"}
# what `make bench` does not install, exacta aside, whose wheels are few
OPTIONAL_PACKAGES = ("exacta", *SHORT)


@dataclass(frozen=True)
class Peer:
    """The same loss in another library; `build(activation, classes)` imports it and gives a call (logits, target)."""

    name: str
    package: str
    build: Build
    target: Target  # made before the clock starts: the peer's best case
    activations: tuple[str, ...] = ("softmax", "sigmoid")
    only_classes: int | None = None  # the one number of classes that it takes
    widen: bool = True  # half precision goes through float32 within the timed call, as autocast has it
    more: tuple[tuple[Build, Target], ...] = ()  # with other forms of the labels, of which the fastest is timed

    @property
    def title(self) -> str:
        return f"{SHORT.get(self.package, self.package)} {self.name}"

    @property
    def forms(self) -> dict[str, tuple[Build, Target]]:
        """The forms of the labels that it takes, each with what builds the loss; the first unless another is faster."""
        return {FORMS[target]: (build, target) for build, target in ((self.build, self.target), *self.more)}

    def knows(self, activation: str, classes: int) -> bool:
        """Whether the peer has the loss for such logits."""
        return activation in self.activations and self.only_classes in (None, classes)

    def loss(self, activation: str, classes: int, form: str | None = None) -> Loss:
        """The callable to compare with; half precision logits are widened where the peer needs it."""
        build = self.forms[form or FORMS[self.target]][0](activation, classes)

        def call(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            halves = logits.dtype in (torch.float16, torch.bfloat16)
            return build(logits.float() if halves and self.widen else logits, target)

        return call


# torch


def _torch(activation: str, classes: int, weights: Callable[[str, int], list[float]] | None) -> Loss:
    weight = None if weights is None else torch.tensor(weights(activation, classes))
    if activation == "softmax":
        return lambda logits, target: F.cross_entropy(logits, target, None if weight is None else weight.to(logits))

    def binary(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (logits.ndim - 2))
        pos_weight = None if weight is None else weight.to(logits).reshape(shape)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)

    return binary


def cross_entropies(weights: Callable[[str, int], list[float]] | None = None) -> tuple[Peer, Peer]:
    """`F.cross_entropy` and its binary sibling, with one weight a class from `weights(activation, classes)`."""
    build = partial(_torch, weights=weights)
    return (
        Peer("F.cross_entropy", "torch", build, index_labels, ("softmax",)),
        Peer("F.binary_cross_entropy_with_logits", "torch", build, one_hot_labels, ("sigmoid",)),
    )


def _build_topk(activation: str, classes: int, k: float) -> Loss:
    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if activation == "softmax":
            losses = F.cross_entropy(logits, target, reduction="none").flatten()
        else:
            losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten()
        return losses.topk(max(1, int(k * losses.numel())), sorted=False).values.mean()

    return loss


def topk_cross_entropies(k: float) -> tuple[Peer, Peer]:
    """nnU-Net's `TopKLoss` in torch: the voxels' cross-entropies and `torch.topk`."""
    build = partial(_build_topk, k=k)
    return (
        Peer("F.cross_entropy + topk", "torch", build, index_labels, ("softmax",)),
        Peer("F.binary_cross_entropy_with_logits + topk", "torch", build, one_hot_labels, ("sigmoid",)),
    )


def _build_lovasz(activation: str, classes: int) -> Loss:
    def of_sample(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        values = []
        for c in range(classes):
            foreground = (labels == c).to(probabilities.dtype)
            errors, order = (foreground - probabilities[c]).abs().sort(descending=True)
            true = foreground[order]
            total = true.sum()
            jaccard = 1 - (total - true.cumsum(0)) / (total + (1 - true).cumsum(0))
            values.append(torch.dot(errors, torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])))
        return torch.stack(values).mean()

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        probabilities, labels = logits.softmax(1).flatten(2), target.flatten(1)
        return torch.stack([of_sample(p, y) for p, y in zip(probabilities, labels, strict=True)]).mean()

    return loss


# the authors' code, class by class, in today's torch
plain_lovasz = Peer("Lovász, class by class", "torch", _build_lovasz, index_labels, ("softmax",))


# MONAI


def _build_monai(activation: str, classes: int, name: str, options: dict, labels: bool = True) -> Loss:
    import monai.losses

    return getattr(monai.losses, name)(to_onehot_y=labels, **{activation: True}, **options)


def monai(name: str, activations: tuple[str, ...] = ("softmax", "sigmoid"), **options) -> Peer:
    """`monai.losses.<name>` on labels with a channel axis, or on what it makes of them."""
    build = partial(_build_monai, name=name, options=options)
    one_hot = (partial(build, labels=False), one_hot_labels)
    return Peer(name, "monai", build, channel_labels, activations, more=(one_hot,))


def _build_monai_focal(activation: str, classes: int, options: dict) -> Loss:
    import monai.losses

    softmax = activation == "softmax"
    loss = monai.losses.FocalLoss(to_onehot_y=True, use_softmax=softmax, **options)
    factor = classes if softmax else 1  # the mean of a softmax runs over the classes, too
    return lambda logits, target: factor * loss(logits, target)


def monai_focal(**options) -> Peer:
    """`monai.losses.FocalLoss`."""
    return Peer("FocalLoss", "monai", partial(_build_monai_focal, options=options), channel_labels)


def _build_monai_dice_and_focal(activation: str, classes: int, dice: dict, focal: dict) -> Loss:
    first = _build_monai(activation, classes, "DiceLoss", dice)
    second = _build_monai_focal(activation, classes, focal)
    return lambda logits, target: first(logits, target) + second(logits, target)


def monai_dice_and_focal(dice: dict, focal: dict) -> Peer:
    """The two losses added up: `DiceFocalLoss` has a sigmoid focal loss whatever its activation."""
    build = partial(_build_monai_dice_and_focal, dice=dice, focal=focal)
    return Peer("DiceLoss + FocalLoss", "monai", build, channel_labels, ("softmax",))


def _build_monai_dice_and_topk(activation: str, classes: int, dice: dict, k: float) -> Loss:
    first, second = _build_monai(activation, classes, "DiceLoss", dice), _build_topk(activation, classes, k)
    return lambda logits, target: first(logits, target) + second(logits, target[:, 0])


def monai_dice_and_topk(dice: dict, k: float) -> Peer:
    """MONAI's Dice loss and nnU-Net's top-k loss added up: MONAI has no sum of them."""
    build = partial(_build_monai_dice_and_topk, dice=dice, k=k)
    return Peer("DiceLoss + topk", "monai", build, channel_labels, ("softmax",))


def _build_monai_unified(activation: str, classes: int) -> Loss:
    import monai.losses

    # its cross-entropy is a mean over the two classes, half of the paper's: 3/2 (2/3 F/2 + 1/3 T) = F/2 + T/2
    loss = monai.losses.AsymmetricUnifiedFocalLoss(to_onehot_y=True, weight=2 / 3, delta=0.6, gamma=0.5)
    return lambda logits, target: 1.5 * loss(logits.softmax(1), target)


monai_unified = Peer(
    "AsymmetricUnifiedFocalLoss", "monai", _build_monai_unified, channel_labels, ("softmax",), only_classes=2
)


# kornia


def _build_kornia_overlap(activation: str, classes: int, name: str, options: dict) -> Loss:
    import kornia.losses

    function = getattr(kornia.losses, name)
    # of two spatial axes only: a volume goes in as a view with one long axis
    return lambda logits, target: function(logits.flatten(2)[:, :, None], target.flatten(1)[:, None], **options)


def kornia_overlap(name: str, **options) -> Peer:
    """`kornia.losses.<name>`, the mean over the classes that are present."""
    build = partial(_build_kornia_overlap, name=name, options=options)
    return Peer(name, "kornia", build, index_labels, ("softmax",))


def _build_kornia_focal(activation: str, classes: int, gamma: float) -> Loss:
    import kornia.losses

    options = {"alpha": None, "gamma": gamma, "reduction": "mean"}
    if activation == "sigmoid":
        return lambda logits, target: kornia.losses.binary_focal_loss_with_logits(logits, target, **options)
    return lambda logits, target: classes * kornia.losses.focal_loss(logits, target, **options)


def kornia_focal(gamma: float) -> tuple[Peer, Peer]:
    """kornia's two focal losses."""
    build = partial(_build_kornia_focal, gamma=gamma)
    return (
        Peer("focal_loss", "kornia", build, index_labels, ("softmax",)),
        Peer("binary_focal_loss_with_logits", "kornia", build, one_hot_labels, ("sigmoid",)),
    )


def _build_kornia_lovasz(activation: str, classes: int) -> Loss:
    import kornia.losses

    function = kornia.losses.lovasz_softmax_loss
    return lambda logits, target: function(logits.flatten(2)[:, :, None], target.flatten(1)[:, None])


kornia_lovasz = Peer("lovasz_softmax_loss", "kornia", _build_kornia_lovasz, index_labels, ("softmax",))
