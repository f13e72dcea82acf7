"""Deep supervision: one target for logits of several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.inputs import Factors, check_at_least_zero, check_factors, check_iterable, check_tensor, weighted_sum


class DeepSupervision(nn.Module):
    r"""A weighted sum of a loss over logits of several resolutions, against one target of full resolution.

    .. math:: \sum_i \lambda_i\, L(z_i, y[\ldots, ::f_i]), \qquad
        \lambda_i = 2^{-i} / \textstyle\sum_j 2^{-j} \text{ by default}

    A coarse level reads every f-th voxel of target and mask through their strides: nothing is resized or copied. That
    is ``F.interpolate(mode="nearest")`` by the factor 1/f. The factor may differ from axis to axis. Of n voxels a level
    has n/f, rounded up as strided convolutions do: 13 voxels are 7, 4 and 2 of coarser levels.

    Args:
        loss: a module called as ``loss(logits, target, mask=..., weight_map=...)``; any loss of this package without
            distances.
        weights: λ, one for each level, finest first, taken as they are; parameters, as
            :class:`fastloss.CompoundLoss` takes them, are learned. A level whose weight is the number 0 is not computed
            and gets no gradient. nnU-Net gives its coarsest level 0: for its numbers pass ``[4/7, 2/7, 1/7, 0]`` and so
            on.

    Shapes: logits a sequence of ``[B, C, *S_i]``, or such levels of one size stacked, ``[B, levels, C, *S]``, as
    MONAI's DynUNet has them. One tensor ``[B, C, *S]``, what most networks give in evaluation, is the loss itself,
    without a weight. The target is ``[B, *S]``, ``[B, 1, *S]`` or dense ``[B, C, *S]``; mask and weight_map as the loss
    takes them, of full resolution. Where a tensor could be both, as a stack of 2D levels ``[B, levels, C, X, Y]`` with
    a dense target ``[B, C, X, Y]``, it is one level: pass ``logits.unbind(1)``.

    Raises:
        ValueError, TypeError: naming the level and the sizes that do not fit, or a wrong number of weights.

    Source: Lee et al. 2015, arXiv:1409.5185; the weights are those of nnU-Net (Isensee et al. 2018, arXiv:1809.10486).
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        weights: Sequence[float | nn.Parameter] | nn.ParameterList | Tensor | None = None,
    ):
        super().__init__()
        if not callable(loss):
            raise TypeError(f"loss: got {type(loss).__name__}, expected a loss, called with logits and target")
        if getattr(loss, "makes_map", False):
            raise ValueError(
                f"loss: got {type(loss).__name__}, whose distances would be in voxels of each level, expected a loss "
                "without distances; add one at full resolution beside it"
            )
        self.loss = loss
        self.weights: Factors | None = None if weights is None else check_factors(weights)
        if isinstance(self.weights, list):
            for weight in self.weights:
                check_at_least_zero(weights=weight)
            if not any(self.weights):
                raise ValueError(f"weights: got {self.weights}, expected at least one above 0")

    @torch.jit.unused
    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor,
        *,
        mask: Tensor | None = None,
        weight_map: Tensor | None = None,
    ) -> Tensor:
        """The loss, for logits from the finest to the coarsest level."""
        given = {"mask": mask, "weight_map": weight_map}
        volumes = {name: volume for name, volume in given.items() if volume is not None}
        for name, tensor in {"target": target, **volumes}.items():
            check_tensor(tensor, name)
        if isinstance(logits, Tensor):
            check_tensor(logits, "logits")
            if not _is_stack(logits, target):
                return self.loss(logits, target, **volumes)
            logits = logits.unbind(1)
        levels = check_iterable(logits, "logits", "a sequence of tensors, one for each resolution")
        if not levels:
            raise TypeError("logits: got nothing, expected a sequence of tensors, one for each resolution")
        weights, used, parts = self.level_weights(len(levels)), [], []
        factors_of_levels = _factors(levels, target)
        for name, volume in volumes.items():
            _check_space(name, volume, target.shape[-len(factors_of_levels[0]) :])
        for level, factors, weight in zip(levels, factors_of_levels, weights, strict=True):
            if isinstance(weight, Tensor) or weight:
                used.append(weight)
                read = {name: _every(volume, factors) for name, volume in volumes.items()}
                parts.append(self.loss(level, _every(target, factors), **read))
        return weighted_sum(used, parts)

    def level_weights(self, levels: int) -> Factors:
        """λ for a number of levels."""
        if self.weights is None:
            total = sum(0.5**i for i in range(levels))
            return [0.5**i / total for i in range(levels)]
        if len(self.weights) != levels:
            raise ValueError(f"weights: got {len(self.weights)}, expected {levels}, one for each level of the logits")
        return self.weights

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


def _is_stack(logits: Tensor, target: Tensor) -> bool:
    """Whether a tensor is levels of one size ``[B, levels, C, *S]``, rather than one level ``[B, C, *S]``."""
    shape, space, stacked = tuple(target.shape[1:]), tuple(logits.shape[2:]), tuple(logits.shape[3:])
    if logits.ndim > 5 or shape in (space, (1, *space), tuple(logits.shape[1:])):
        return logits.ndim > 5
    return logits.ndim > 3 and shape in (stacked, (1, *stacked))


def _factors(levels: Sequence[Tensor], target: Tensor) -> list[tuple[int, ...]]:
    """How many voxels of the target a voxel of each level stands for, along each axis."""
    for i, level in enumerate(levels):
        check_tensor(level, f"logits[{i}]")
    full = target.shape[2 - levels[0].ndim :]
    found: list[tuple[int, ...]] = []
    size, factors = full, (1,) * len(full)
    for i, level in enumerate(levels):
        before, size = size, level.shape[2:]
        if len(size) == len(full):
            given = zip(size, full, before, factors, strict=True)
            factors = tuple(_factor(n, whole, last, by) for n, whole, last, by in given)
        if len(size) != len(full) or 0 in factors:
            raise ValueError(
                f"logits[{i}]: got spatial size {list(size)} for a target of {list(full)}, expected the target's, "
                "divided by whole numbers and rounded up"
            )
        found.append(factors)
    return found


def _factor(n: int, whole: int, last: int, by: int) -> int:
    """The f of which ``n`` is ``whole / f`` rounded up, 0 if there is none: after a level of ``last`` voxels, each of
    which stands for ``by``, that by which strided convolutions come here."""
    if n == 0:
        return int(whole == 0)
    candidates = (by * -(-last // n), -(-whole // n))
    return next((factor for factor in candidates if factor and -(-whole // factor) == n), 0)


def _check_space(name: str, volume: Tensor, space: torch.Size) -> None:
    if volume.ndim <= len(space) or volume.shape[-len(space) :] != space:
        raise ValueError(
            f"{name}: got shape {list(volume.shape)}, expected the spatial size of the target, {list(space)}, as the "
            "last axes"
        )


def _every(volume: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Every f-th voxel along each spatial axis: a view."""
    steps: tuple[Any, ...] = (..., *(slice(None, None, factor) for factor in factors))
    return volume[steps]
