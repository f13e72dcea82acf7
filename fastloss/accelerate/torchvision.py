"""torchvision's sigmoid focal loss as a formula on sums. Written against version 0.28."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

from ..terms import term_name
from .core import Served
from .shared import check_hard, check_plain, loss_dtype, serve, sums_of, zero_or_one

served = Served()


@served(ops, "sigmoid_focal_loss")
def sigmoid_focal(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """sigmoid_focal_loss; of shares of a voxel its modulating factor is no sum of terms."""
    serve(reduction in ("mean", "sum"), f"reduction {reduction}")
    check_plain(inputs, targets)
    serve(alpha == -1 or 0 <= alpha <= 1, "alpha that is an error")
    serve(gamma == 0 or gamma >= 1, "gamma whose slope is infinite where p is 1")
    serve(inputs.shape == targets.shape and inputs.numel() > 0, "shapes that are an error")
    serve(targets.is_floating_point(), "integers, an error")
    dtype = loss_dtype(inputs)
    if not torch.is_autocast_enabled(inputs.device.type):
        dtype = torch.promote_types(dtype, targets.dtype)
        serve(dtype == targets.dtype, "targets of a narrower dtype, which the peer rounds to")
    shape = inputs.shape if 3 <= inputs.ndim <= 5 else (1, 1, inputs.numel())
    target = zero_or_one(targets, None).reshape(shape)
    names = ("y", "y2", term_name("focal_pos", gamma), term_name("focal_neg", gamma))
    sums = sums_of(inputs.reshape(shape), target, names, "sigmoid")
    check_hard(sums, target)
    _, _, positive, negative = (table.sum() for table in sums.values())
    total = alpha * positive + (1 - alpha) * negative if alpha >= 0 else positive + negative
    return (total / inputs.numel() if reduction == "mean" else total).to(dtype)
