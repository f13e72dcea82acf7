"""torchvision's sigmoid focal loss as a formula on sums. Written against version 0.28."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

from .core import Served
from .fused import HALF, dtype_of
from .shared import check_gamma, check_plain, focal_terms, foreground, reduced_binary, serve

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
    dtype = dtype_of(inputs, entropy=True)
    if not torch.is_autocast_enabled(inputs.device.type):
        dtype = torch.promote_types(dtype, targets.dtype)
        narrow = targets.dtype != dtype and targets.dtype in HALF
        serve(not narrow, "targets in half precision, which the peer rounds to")
    terms = focal_terms(gamma, *((alpha, 1 - alpha) if alpha >= 0 else ()))
    return reduced_binary(inputs, foreground(targets), terms, reduction).to(dtype)
