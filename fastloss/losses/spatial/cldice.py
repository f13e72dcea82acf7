"""Centreline Dice: overlap of soft skeletons, for tubular structures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...passes.backends import forced_backend
from ...passes.options import Smooth, check_fraction, check_natural, check_smooth
from ...passes.stencil_ops import cldice_sums
from ..base import Sums, as_loss, ratio
from ..options import SegmentationLoss
from ..region import one_minus_ratio

_COLUMNS = ("py", "p", "precision", "skeleton_p", "sensitivity", "skeleton_y", "y")


class SoftCLDiceLoss(SegmentationLoss):
    r"""One minus the harmonic mean of topology precision and sensitivity, from soft skeletons.

    .. math::
        1 - \frac{2\,T_p\,T_s}{T_p + T_s}, \qquad
        T_p = \frac{\sum_v w\, s(p)\, y + \epsilon}{\sum_v w\, s(p) + \epsilon}, \qquad
        T_s = \frac{\sum_v w\, s(y)\, p + \epsilon}{\sum_v w\, s(y) + \epsilon}

    The soft skeleton s is that of the authors' PyTorch code: the erosion :math:`E` is the smallest of a voxel and its
    face neighbours (pools of 3 along each axis), the dilation :math:`D` the largest of the :math:`3^d` voxels around,

    .. math:: s(x) = 1 - \prod_{k=0}^{K} \big(1 - \max(E^k x - D E^{k+1} x,\, 0)\big)

    which is what their recursion adds up to. Neighbours outside the volume do not take part. A voxel that does not
    count is background to its neighbours and leaves the sums.

    Args:
        iterations: K, at least 0; at least the largest radius of a structure in voxels.
        smooth: ε, at least 0; a pair is that of the numerators and that of the denominators.
        **options: ``activation``, ``include_background`` (here False by default, as the authors leave out channel 0),
            ``batch``, ``ignore_index``, ``class_weight``, ``reduction``, ``validate`` of
            :class:`fastloss.SegmentationLoss`. With ``batch=True`` and one foreground class it is the authors'
            ``soft_cldice``.

    Shapes: logits ``[B, C, *S]``, target ``[B, *S]``, ``[B, 1, *S]`` or dense ``[B, C, *S]``; a scalar, or ``[B, C]``
    for ``reduction="none"``.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: Shit et al. 2021, arXiv:2003.07311, and its code.
    """

    def __init__(self, *, iterations: int = 3, smooth: Smooth = 1.0, include_background: bool = False, **options: Any):
        check_natural(iterations=iterations)
        self.smooth_pair = check_smooth(smooth)
        super().__init__(include_background=include_background, **options)
        self.iterations, self.smooth = iterations, smooth

    @torch.jit.unused
    def forward(self, logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors."""
        inputs = self.inputs(logits, target, mask)
        first = 0 if self.include_background or inputs.logits.shape[1] == 1 else 1
        options = (
            self.activation,
            inputs.ignore,
            inputs.dense,
            inputs.validate,
            self.iterations,
            first,
            forced_backend(),
        )
        sums = cldice_sums(inputs.logits, inputs.target, inputs.mask, options)
        if self.batch:
            sums = sums.sum(0, keepdim=True)
        named = dict(zip(_COLUMNS, sums.unbind(-1), strict=True))
        named |= {name: named[name].detach() for name in ("skeleton_y", "y")}
        loss = self.reduce(self.formula(named))
        return as_loss(loss, logits)

    def formula(self, sums: Sums) -> Tensor:
        """The value per sample and class, ``[B, C]``; 0 where no voxel counts."""
        above, below = self.smooth_pair
        precision = ratio(sums["precision"] + above, sums["skeleton_p"] + below, 1.0)
        sensitivity = ratio(sums["sensitivity"] + above, sums["skeleton_y"] + below, 1.0)
        value = 1 - ratio(2 * precision * sensitivity, precision + sensitivity, 0.0)
        return value if above == below else torch.where(sums["p"] + sums["y"] == 0, 0.0, value)


class SoftDiceCLDiceLoss(SoftCLDiceLoss):
    r"""Dice and centreline Dice, in one pass.

    .. math:: (1 - \alpha) \Big(1 - \frac{2I + \epsilon}{P + Y + \epsilon}\Big) + \alpha\, \text{SoftCLDiceLoss}

    Args:
        cldice_weight: α, from 0 to 1.
        iterations, smooth: of :class:`SoftCLDiceLoss`; ε is that of both.
        **options: see :class:`SoftCLDiceLoss`.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: Shit et al. 2021, arXiv:2003.07311 (their ``soft_dice_cldice``).
    """

    def __init__(self, *, cldice_weight: float = 0.5, **options: Any):
        check_fraction(cldice_weight=cldice_weight)
        super().__init__(**options)
        self.cldice_weight = float(cldice_weight)

    def formula(self, sums: Sums) -> Tensor:
        volumes = sums["p"] + sums["y"]
        dice = one_minus_ratio(torch.sub(volumes, sums["py"], alpha=2), volumes, self.smooth_pair)
        return (1 - self.cldice_weight) * dice + self.cldice_weight * super().formula(sums)
