"""Hausdorff losses on stencils: by erosion and by convolution of the squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...passes.backends import forced_backend
from ...passes.options import as_number, check_at_least_zero, check_count, check_flag, check_iterable, check_power_of
from ...passes.stencil_ops import squared_error_sums
from ..base import as_loss, ratio
from ..options import SegmentationLoss


class _SquaredErrorLoss(SegmentationLoss):
    """A sum over a stencil of the squared error, divided by the sum of the voxels' weights."""

    _operator: str

    def __init__(self, *, include_background: bool = False, **options: Any):
        super().__init__(include_background=include_background, **options)

    def _stencil(self, channels: int) -> tuple[Any, ...]:
        """The operator's own options."""
        raise NotImplementedError

    @torch.jit.unused
    def forward(self, logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors."""
        inputs = self.inputs(logits, target, mask)
        options = (
            self.activation,
            inputs.ignore,
            inputs.dense,
            inputs.validate,
            *self._stencil(inputs.logits.shape[1]),
        )
        sums = squared_error_sums(self._operator, inputs.logits, inputs.target, inputs.mask, options, forced_backend())
        if self.batch:
            sums = sums.sum(0, keepdim=True)
        loss = self.reduce(ratio(sums[..., 0], sums[..., 1].detach(), 0.0))
        return as_loss(loss, logits)


class HausdorffErosionLoss(_SquaredErrorLoss):
    r"""Hausdorff loss by erosion: how many erosions errors survive.

    .. math::
        \frac{\sum_v \sum_{k=0}^{K} k^\alpha b_k}{\sum_v w}, \qquad
        b_0 = w\,(p - y)^2, \qquad b_k = \operatorname{norm}\big(\max(K_\times * b_{k-1} - \tfrac12, 0)\big)

    with :math:`K_\times` the mean of a voxel and its face neighbours (zeros outside the volume) and
    :math:`\operatorname{norm}(x) = (x - \min x) / (\max x - \min x)` over a class of a sample, which leaves x as it is
    where all its values are equal. Differentiated throughout, minimum and maximum included.

    A voxel that does not count has no error, and is background to its neighbours. The gradient is that of a weight of
    the squared error, which the forward pass computes and keeps: one float32 volume of the logits' size.

    Args:
        alpha: the power of an erosion's number, at least 0.
        erosions: K, at least 1.
        **options: ``activation``, ``include_background`` (here False by default), ``batch``, ``ignore_index``,
            ``class_weight``, ``reduction``, ``validate`` of :class:`fastloss.SegmentationLoss`.

    Shapes: logits ``[B, C, *S]``, target ``[B, *S]``, ``[B, 1, *S]`` or dense ``[B, C, *S]``; a scalar, or ``[B, C]``
    for ``reduction="none"``.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: survey, section II-M (Jadon 2020, arXiv:2006.14822); Karimi & Salcudean 2019, arXiv:1904.10030. Equals
    kornia's ``HausdorffERLoss`` and ``HausdorffERLoss3D`` of the probabilities with ``include_background=True``.
    """

    _operator = "hausdorff_erosion"

    def __init__(self, *, alpha: float = 2.0, erosions: int = 10, **options: Any):
        check_at_least_zero(alpha=alpha)
        check_count(erosions=erosions)
        check_power_of(erosions, alpha=alpha)
        super().__init__(**options)
        self.alpha = float(alpha)
        self.erosions = erosions

    def _stencil(self, channels: int) -> tuple[Any, ...]:
        return self.alpha, self.erosions


class HausdorffConvLoss(_SquaredErrorLoss):
    r"""Hausdorff loss by convolution: errors weighted by the balls that would lie wholly inside or outside the objects.

    .. math::
        \frac{1}{\sum_v w} \sum_v w\, (p - y)^2 \sum_r r^\alpha \Big(
        \bar p\, \big[f(B_r * (1 - y)) + f(B_r * \bar p)\big] + y\, \big[f(B_r * y) + f(B_r * (1 - \bar p))\big]
        \Big), \qquad f(x) = \max(x - \tfrac12, 0)

    with :math:`B_r` the mean over the voxels within r of a voxel, :math:`\bar p` p without its gradient: the whole
    weight is a constant. Outside the volume p and y are 0 and their complements 1. A voxel that does not count is
    background to its neighbours. The published formula could not be checked.

    The means are taken in the precision of the logits (float32 for half precision): on the CPU by sums over rings of
    rows where the balls are small, else by Fourier transforms.

    With ``hard=True`` the balls are taken from hard masks, p and y above a half, and f is a half where a ball lies
    wholly within, else 0: :math:`\tfrac12 [D_y > r]` for :math:`f(B_r * y)`, :math:`D_y` being the distance in voxels
    to the nearest voxel outside. Two distance transforms replace the means of all radii. It is
    another loss, never larger where p is hard: balls that lie on one side in part add nothing.

    Args:
        alpha: the power of a radius, at least 0.
        radii: of the balls, in voxels, integers of at least 1.
        hard: whether only balls within hard masks count.
        **options: ``activation``, ``include_background`` (here False by default), ``batch``, ``ignore_index``,
            ``class_weight``, ``reduction``, ``validate`` of :class:`fastloss.SegmentationLoss`.

    Shapes: logits ``[B, C, *S]``, target ``[B, *S]``, ``[B, 1, *S]`` or dense ``[B, C, *S]``; a scalar, or ``[B, C]``
    for ``reduction="none"``.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: survey, section II-M (Jadon 2020, arXiv:2006.14822); Karimi & Salcudean 2019, arXiv:1904.10030.
    """

    _operator = "hausdorff_conv"

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        radii: Sequence[int] = (3, 6, 9, 12, 15, 18),
        hard: bool = False,
        **options: Any,
    ):
        check_at_least_zero(alpha=alpha)
        check_flag(hard=hard)
        super().__init__(**options)
        self.alpha = float(alpha)
        self.hard, expected = hard, "one or more integers of at least 1"
        self.radii = [as_number(radius, "radii") for radius in check_iterable(radii, "radii", expected)]
        if not self.radii:
            raise ValueError(f"radii: got none, expected {expected}")
        for radius in self.radii:
            check_count(radii=radius)
            check_power_of(radius, alpha=alpha)

    def _stencil(self, channels: int) -> tuple[Any, ...]:
        return self.alpha, self.radii, self.hard, 0 if self.include_background or channels == 1 else 1
