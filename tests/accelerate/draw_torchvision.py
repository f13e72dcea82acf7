"""Calls of torchvision's sigmoid focal loss, drawn at random."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor

from .drawing import draw_dense, draw_dtype, draw_logits, pick, seeded
from .parity import Call


def draw(seed: int) -> tuple[str, Call]:
    """One call."""
    rng = seeded(seed)
    logits = draw_logits(
        rng, tuple(rng.randint(1, 9) for _ in range(rng.choice((4, 4, 3, 5, 2, 1, 6)))), draw_dtype(rng)
    )
    target = draw_dense(rng, tuple(logits.shape), pick(rng, logits.dtype, logits.dtype, torch.float32), 0.03)
    options: dict[str, Any] = {
        "alpha": pick(rng, 0.25, -1, 0.6),
        "gamma": pick(rng, 2, 2, 0, 1, 3.0, 1.5, 2.0, 4, 5, 1.2, 2.5, 0.5),
        "reduction": pick(rng, "mean", "sum", "none"),
    }

    def focal(inputs: Tensor, targets: Tensor) -> Any:
        return torchvision.ops.sigmoid_focal_loss(inputs, targets, **options)

    return "sigmoid_focal_loss", Call(focal, (logits, target), autocast=rng.random() < 0.08)
