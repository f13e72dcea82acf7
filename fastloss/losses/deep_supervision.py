"""Deep supervision: one target for logits of several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.inputs import check_at_least_zero


class DeepSupervision(nn.Module):
    r"""A weighted sum of a loss over logits of several resolutions, against one target of full resolution.

    .. math:: \sum_i \lambda_i\, L(z_i, y[\ldots, ::f_i]), \qquad
        \lambda_i = 2^{-i} / \textstyle\sum_j 2^{-j} \text{ by default}

    A coarse level reads every f-th voxel of target and mask through their strides: nothing is resized or copied. That
    is ``F.interpolate(mode="nearest")`` by the factor 1/f. The factor may differ from axis to axis.

    Args:
        loss: a module called as ``loss(logits, target, mask=..., weight_map=...)``; any loss of this package.
        weights: λ, one for each level, finest first, taken as they are. A level of weight 0 is not computed and gets
            no gradient. nnU-Net gives its coarsest level 0: for its numbers pass ``[4/7, 2/7, 1/7, 0]`` and so on.

    Shapes: logits a sequence of ``[B, C, *S_i]`` whose sizes divide those of the target; the target ``[B, *S]``,
    ``[B, 1, *S]`` or dense ``[B, C, *S]``; mask and weight_map as the loss takes them, of full resolution.

    Raises:
        ValueError, TypeError: naming the level and the sizes that do not divide, or a wrong number of weights.

    Source: Lee et al. 2015, arXiv:1409.5185; the weights are those of nnU-Net (Isensee et al. 2018, arXiv:1809.10486).
    """

    def __init__(self, loss: Callable[..., Tensor], weights: Sequence[float] | None = None):
        super().__init__()
        if not callable(loss):
            raise TypeError(f"loss: got {type(loss).__name__}, expected a loss, called with logits and target")
        if getattr(loss, "makes_map", False):
            raise ValueError(
                f"loss: got {type(loss).__name__}, whose distances would be in voxels of each level, expected a loss "
                "without distances; add one at full resolution beside it"
            )
        if weights is not None:
            for weight in weights:
                check_at_least_zero(weights=weight)
            if not any(weights):
                raise ValueError(f"weights: got {list(weights)}, expected at least one above 0")
        self.loss = loss
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)

    def forward(
        self, logits: Sequence[Tensor], target: Tensor, *, mask: Tensor | None = None, weight_map: Tensor | None = None
    ) -> Tensor:
        """The loss, for logits from the finest to the coarsest level."""
        if isinstance(logits, Tensor) or not logits:
            came = "a tensor" if isinstance(logits, Tensor) else "nothing"
            raise TypeError(f"logits: got {came}, expected a sequence of tensors, one for each resolution")
        full = target.shape[2 - logits[0].ndim :]
        parts = []
        for i, (level, weight) in enumerate(zip(logits, self.level_weights(len(logits)), strict=True)):
            factors = _factors(level, full, i)
            if weight:
                volumes = {"mask": mask, "weight_map": weight_map}
                given = {name: _every(volume, factors) for name, volume in volumes.items() if volume is not None}
                parts.append(weight * self.loss(level, _every(target, factors), **given))
        return torch.stack(parts).sum(0)

    def level_weights(self, levels: int) -> tuple[float, ...]:
        """λ for a number of levels."""
        if self.weights is None:
            total = sum(0.5**i for i in range(levels))
            return tuple(0.5**i / total for i in range(levels))
        if len(self.weights) != levels:
            raise ValueError(f"weights: got {len(self.weights)}, expected {levels}, one for each level of the logits")
        return self.weights

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


def _factors(level: Tensor, full: torch.Size, index: int) -> tuple[int, ...]:
    """How many voxels of the target a voxel of the level stands for, along each axis."""
    if not isinstance(level, Tensor):
        raise TypeError(f"logits[{index}]: got {type(level).__name__}, expected a torch.Tensor")
    size = level.shape[2:]
    if len(size) != len(full) or any(n != whole and (n == 0 or whole % n) for n, whole in zip(size, full, strict=True)):
        raise ValueError(
            f"logits[{index}]: got spatial size {list(size)} for a target of {list(full)}, expected sizes that divide "
            "the target's"
        )
    return tuple(1 if n == whole else whole // n for n, whole in zip(size, full, strict=True))


def _every(volume: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Every f-th voxel along each spatial axis: a view."""
    steps: tuple[Any, ...] = (..., *(slice(None, None, factor) for factor in factors))
    return volume[steps]
