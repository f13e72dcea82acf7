"""torchvision's sigmoid focal loss as a formula on sums. Written against version 0.28."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

from ..terms import term_name
from .core import Served
from .shared import check_gamma, check_plain, foreground, loss_dtype, losses_of, serve, sums_of

served = Served()


@served(ops, "sigmoid_focal_loss")
def sigmoid_focal(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """sigmoid_focal_loss; of shares of a voxel its modulating factor is no sum of terms."""
    serve(reduction in ("mean", "sum", "none"), f"reduction {reduction}")
    check_plain(inputs, targets)
    serve(alpha == -1 or 0 <= alpha <= 1, "alpha that is an error")
    serve(inputs.shape == targets.shape and inputs.numel() > 0, "shapes that are an error")
    serve(targets.is_floating_point() and inputs.is_floating_point(), "integers, an error")
    check_gamma(gamma, inputs)
    dtype = loss_dtype(inputs)
    if not torch.is_autocast_enabled(inputs.device.type):
        dtype = torch.promote_types(dtype, targets.dtype)
        serve(dtype == targets.dtype, "targets of a narrower dtype, which the peer rounds to")
    shape = inputs.shape if 3 <= inputs.ndim <= 5 else (1, 1, inputs.numel())
    logits, target = inputs.reshape(shape), foreground(targets).reshape(shape)
    positive, negative = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    terms = {term_name("focal_pos", gamma): positive, term_name("focal_neg", gamma): negative}
    if reduction == "none":
        return losses_of(logits, target, terms, "sigmoid", True).reshape(inputs.shape).to(dtype)
    one, other = (
        value * table.sum()
        for value, table in zip(terms.values(), sums_of(logits, target, tuple(terms), "sigmoid").values(), strict=True)
    )
    return ((one + other) / inputs.numel() if reduction == "mean" else one + other).to(dtype)
