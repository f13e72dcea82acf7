"""Deep supervision: one target for logits of several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.autograd import refuse_script
from ..passes.lazy_logits import LazyLogits
from ..passes.options import check_at_least_zero, check_choice, check_iterable
from ..passes.tensors import check_tensor
from .options import CalledWithInput
from .weights import Factors, check_factors, weighted_sum


class DeepSupervision(CalledWithInput):
    r"""A weighted sum of a loss over logits of several resolutions, against one target of full resolution.

    .. math:: \sum_i \lambda_i\, L(z_i, y[\ldots, ::f_i]), \qquad
        \lambda_i = 2^{-i} / \sum_j 2^{-j} \text{ by default}

    A coarse level reads every f-th voxel of target and mask through their strides: nothing is resized or copied. The
    factor f may differ from axis to axis. Of n voxels a level has n/f, rounded up as strided convolutions do: 13 voxels
    are 7, 4 and 2 of coarser levels.

    Args:
        loss: a module called as ``loss(logits, target, mask=..., weight_map=...)``; any loss of this package without
            distances.
        weights: λ, one for each level, finest first, taken as they are; parameters, as
            :class:`fastloss.CompoundLoss` takes them, are learned. A level whose weight is the number 0 is not
            computed; it gets a gradient of zero, so that DistributedDataParallel finds all parameters used.
        sampling: which of f voxels a level reads, as ``F.interpolate(mode=sampling)`` names it: ``"nearest"`` the
            first, where strided convolutions have their centres, or ``"nearest-exact"`` the one in the middle,
            ``f // 2``, as nnU-Net and MONAI do. Of a size that n does not divide that is no stride: the voxels are
            gathered into a copy of the level's size, which may be any up to the target's.

    With ``sampling="nearest-exact"`` and weights ``[4/7, 2/7, 1/7, 0]`` (the last 0, the others halved with a sum of 1)
    it has the numbers of nnU-Net, and with ``[1, 1/2, 1/4, ...]`` those of MONAI's ``DeepSupervisionLoss``.

    Shapes: logits a sequence of ``[B, C, *S_i]``, tensors or :class:`fastloss.LazyLogits`, or tensors of one size
    stacked, ``[B, levels, C, *S]``, as MONAI's DynUNet has them. One tensor ``[B, C, *S]``, what most networks give in
    evaluation, is the loss itself, without a weight. The target is ``[B, *S]``, ``[B, 1, *S]`` or dense ``[B, C, *S]``;
    mask and weight_map as the loss takes them, of full resolution. Each of them may also be a sequence, one for each
    level and of its size, as nnU-Net's loader gives targets. Where a tensor could be both, as a stack of 2D levels
    ``[B, levels, C, X, Y]`` with a dense target ``[B, C, X, Y]``, it is one level: pass ``logits.unbind(1)``.

    Raises:
        ValueError, TypeError: naming the level and the sizes that do not fit, or a wrong number of weights or targets.

    Source: Lee et al. 2015, arXiv:1409.5185; the weights are those of nnU-Net (Isensee et al. 2018, arXiv:1809.10486).
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        weights: Sequence[float | nn.Parameter] | nn.ParameterList | Tensor | None = None,
        *,
        sampling: str = "nearest",
    ):
        super().__init__()
        if not callable(loss):
            raise TypeError(f"loss: got {type(loss).__name__}, expected a loss, called with logits and target")
        if getattr(loss, "reduction", None) == "voxel":
            raise ValueError(
                f"loss: got {type(loss).__name__} with reduction='voxel', whose levels have unlike sizes; expected "
                "another reduction"
            )
        if getattr(loss, "makes_map", False):
            raise ValueError(
                f"loss: got {type(loss).__name__}, whose distances would be in voxels of each level, expected a loss "
                "without distances; add one at full resolution beside it"
            )
        self.sampling = check_choice("sampling", sampling, ("nearest", "nearest-exact"))
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
        logits: Tensor | LazyLogits | Sequence[Tensor | LazyLogits],
        target: Tensor | Sequence[Tensor],
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        weight_map: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The loss, for logits from the finest to the coarsest level."""
        refuse_script(self)
        volumes = {"target": target}
        if mask is not None:
            volumes["mask"] = mask
        if weight_map is not None:
            volumes["weight_map"] = weight_map
        for name, volume in volumes.items():
            _check_volume(name, volume)
        if isinstance(logits, (Tensor, LazyLogits)):
            _check_level(logits, "logits")
            first = target if isinstance(target, Tensor) else target[0]
            if isinstance(logits, LazyLogits) or not _is_stack(logits, first):
                only = {name: _of_levels(name, volume, 1, [()])[0] for name, volume in volumes.items()}
                return self.loss(logits, only.pop("target"), **only)
            logits = logits.unbind(1)
        logits = check_iterable(logits, "logits", "a sequence of tensors, one for each resolution")
        if not logits:
            raise TypeError("logits: got nothing, expected a sequence of tensors, one for each resolution")
        for i, level in enumerate(logits):
            _check_level(level, f"logits[{i}]")
        weights, used, parts = self.level_weights(len(logits)), [], []
        whole = next(((name, volume) for name, volume in volumes.items() if isinstance(volume, Tensor)), None)
        places = [()] * len(logits) if whole is None else _places(logits, *whole, self.sampling)
        for name, volume in volumes.items():
            if isinstance(volume, Tensor) and whole is not None:
                _check_space(name, volume, whole[1].shape[2 - logits[0].ndim :])
        read = {name: _of_levels(name, volume, len(logits), places) for name, volume in volumes.items()}
        for i, (level, weight) in enumerate(zip(logits, weights, strict=True)):
            own = {name: volume[i] for name, volume in read.items()}
            left_out = not isinstance(weight, Tensor) and weight == 0
            used.append(1.0 if left_out else weight)
            parts.append(_nothing(level) if left_out else self.loss(level, own.pop("target"), **own))
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
        return f"weights={self.weights}, sampling={self.sampling!r}"


def _check_level(level: object, name: str) -> None:
    if not isinstance(level, LazyLogits):
        check_tensor(level, name)


def _nothing(level: Tensor | LazyLogits) -> Tensor:
    """0, with a gradient of zero."""
    return level.nothing() if isinstance(level, LazyLogits) else level[:0].sum()


def _check_volume(name: str, volume: Any) -> None:
    items = [volume] if isinstance(volume, Tensor) else volume
    if not isinstance(items, (list, tuple)) or not items or not all(isinstance(item, Tensor) for item in items):
        kinds = [type(item).__name__ for item in volume] if isinstance(volume, (list, tuple)) else type(volume).__name__
        raise TypeError(f"{name}: got {kinds}, expected a torch.Tensor, or a sequence of them, one for each level")
    for item in items:
        check_tensor(item, name)


def _check_space(name: str, volume: Tensor, space: torch.Size) -> None:
    """Whether it has the spatial size of the target, of which a level might read as many voxels otherwise."""
    if volume.ndim <= len(space) or volume.shape[-len(space) :] != space:
        raise ValueError(
            f"{name}: got shape {list(volume.shape)}, expected the spatial size {list(space)} as last axes"
        )


def _of_levels(
    name: str, volume: Tensor | Sequence[Tensor], levels: int, places: Sequence[tuple[slice | int, ...]]
) -> Sequence[Tensor]:
    """What each level has of a volume: of one tensor the voxels at its places."""
    if isinstance(volume, Tensor):
        return [_at(volume, of_level) for of_level in places]
    if len(volume) != levels:
        raise ValueError(f"{name}: got {len(volume)} tensors, expected {levels}, one for each level of the logits")
    return volume


def _is_stack(logits: Tensor, target: Tensor) -> bool:
    """Whether a tensor is levels of one size ``[B, levels, C, *S]``, rather than one level ``[B, C, *S]``."""
    shape, space, stacked = tuple(target.shape[1:]), tuple(logits.shape[2:]), tuple(logits.shape[3:])
    if logits.ndim > 5 or shape in (space, (1, *space), tuple(logits.shape[1:])):
        return logits.ndim > 5
    return logits.ndim > 3 and shape in (stacked, (1, *stacked))


def _places(levels: Sequence[Tensor], name: str, volume: Tensor, sampling: str) -> list[tuple[slice | int, ...]]:
    """Which voxels of a volume each level reads along its axes: a slice, or how many of places that are no stride."""
    full = volume.shape[2 - levels[0].ndim :]
    found: list[tuple[slice | int, ...]] = []
    size, factors = full, (1,) * len(full)
    for i, level in enumerate(levels):
        before, size = size, level.shape[2:]
        exact, fits = sampling == "nearest-exact", len(size) == len(full)
        if fits and exact:
            fits = all(n <= whole and (n > 0) == (whole > 0) for n, whole in zip(size, full, strict=True))
        elif fits:
            given = zip(size, full, before, factors, strict=True)
            factors = tuple(_factor(n, whole, last, by) for n, whole, last, by in given)
            fits = 0 not in factors
        if not fits:
            expected = "at most the target's" if exact else "the target's, divided by whole numbers and rounded up"
            raise ValueError(
                f"logits[{i}]: got spatial size {list(size)} for a {name} of {list(full)}, expected {expected}"
            )
        if exact:
            found.append(tuple(_middles(n, whole) for n, whole in zip(size, full, strict=True)))
        else:
            found.append(tuple(slice(None, None, factor) for factor in factors))
    return found


def _middles(n: int, whole: int) -> slice | int:
    """The middle of each of n equal parts."""
    return n if n and whole % n else slice(whole // max(n, 1) // 2, None, max(whole // max(n, 1), 1))


def _factor(n: int, whole: int, last: int, by: int) -> int:
    """The f of which ``n`` is ``whole / f`` rounded up, 0 if there is none: after a level of ``last`` voxels, each of
    which stands for ``by``, that by which strided convolutions come here."""
    if n == 0:
        return int(whole == 0)
    candidates = (by * -(-last // n), -(-whole // n))
    return next((factor for factor in candidates if factor and -(-whole // factor) == n), 0)


def _at(volume: Tensor, places: tuple[slice | int, ...]) -> Tensor:
    """The voxels at some places along each spatial axis: a view, if all are slices."""
    steps: tuple[Any, ...] = (..., *(place if isinstance(place, slice) else slice(None) for place in places))
    volume = volume[steps]
    for axis, n in enumerate(places, volume.ndim - len(places)):
        if not isinstance(n, slice):
            middle = (torch.arange(n, device=volume.device) + 0.5) * (volume.shape[axis] / n)
            volume = volume.index_select(axis, middle.long())
    return volume
