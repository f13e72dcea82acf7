"""How a loss of another library is built and which form of the labels it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def index_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 `[B, *S]`, as `F.cross_entropy` takes them."""
    return labels.long()


def channel_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 `[B, 1, *S]`, as MONAI takes them with `to_onehot_y=True`."""
    return labels.long()[:, None]


def one_hot_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """float32 `[B, C, *S]`, as `F.binary_cross_entropy_with_logits` takes them."""
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float().contiguous()


@dataclass(frozen=True)
class Peer:
    """The same loss in another library; `build(activation)` imports it and gives a call (logits, target)."""

    name: str
    package: str
    build: Callable[[str], Loss]
    target: Callable[[torch.Tensor, int], torch.Tensor]  # made before the clock starts: the peer's best case
    activations: tuple[str, ...] = ("softmax", "sigmoid")
    widen: bool = True  # half precision goes through float32 within the timed call, as autocast has it

    @property
    def title(self) -> str:
        return f"{self.package} {self.name}"

    def loss(self, activation: str) -> Loss:
        """The callable to compare with; half precision logits are widened where the peer needs it."""
        build = self.build(activation)

        def call(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            halves = logits.dtype in (torch.float16, torch.bfloat16)
            return build(logits.float() if halves and self.widen else logits, target)

        return call


def _build_monai(activation: str, name: str, options: dict) -> Loss:
    import monai.losses

    return getattr(monai.losses, name)(to_onehot_y=True, **{activation: True}, **options)


def monai(name: str, activations: tuple[str, ...] = ("softmax", "sigmoid"), **options) -> Peer:
    """`monai.losses.<name>` on labels with a channel axis."""
    return Peer(name, "monai", partial(_build_monai, name=name, options=options), channel_labels, activations)


cross_entropy = Peer("F.cross_entropy", "torch", lambda activation: F.cross_entropy, index_labels, ("softmax",))
binary_cross_entropy = Peer(
    "F.binary_cross_entropy_with_logits",
    "torch",
    lambda activation: F.binary_cross_entropy_with_logits,
    one_hot_labels,
    ("sigmoid",),
)
