"""Structural similarity loss: cross-entropy where the local structure of prediction and target differ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...passes.backends import forced_backend
from ...passes.options import check_at_least_zero, check_count, check_fraction, check_positive
from ...passes.stencil_ops import structural_map
from ...passes.sums import checked_sums_of_terms
from ...terms import VALIDATE_NOTHING
from ..base import Sums, as_loss, ratio
from ..distribution import CrossEntropyLoss
from ..options import SegmentationLoss

ROUNDING = 1e-6  # of a probability and its means, a few units in the last place


class StructuralSimilarityLoss(CrossEntropyLoss):
    r"""Cross-entropy, and once more where the local structure of prediction and target differ most.

    .. math::
        \lambda\, \text{CrossEntropyLoss} +
        (1 - \lambda)\, \frac{\sum_{bc} \omega_c \sum_v e\, f\, \ell}{\max(\sum_{bcv} f, 1)},
        \qquad
        e = w\,\left|\frac{y - \mu_y + C}{\sigma_y + C} - \frac{p - \mu_p + C}{\sigma_p + C}\right|, \qquad
        f = w\,[\,e > t \max e,\ e > w\, 10^{-6} / C\,]

    with :math:`\mu` and :math:`\sigma` the mean and deviation under a Gaussian window of the voxels that count, the
    maximum over a class of a sample, and :math:`\ell = -y \log p - (1 - y) \log(1 - p)` of each class. e and f are
    constants: no gradient passes through them. Where both are flat e is 0, but for what rounding makes of it, which the
    second bound leaves out; hence the cross-entropy.

    Window and λ could not be checked against the paper.

    Args:
        window: size of the window in voxels, odd.
        sigma: deviation of the window in voxels.
        threshold: t, from 0 to 1.
        ce_weight: λ, from 0 to 1.
        stability: C, above 0.
        **options: ``activation``, ``ignore_index``, ``class_weight`` (ω), ``reduction``, ``validate`` of
            :class:`fastloss.SegmentationLoss`. ``reduction="sum"`` has the numerators, ``"none"`` their table
            ``[B, C]``.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: survey, section II-N (Jadon 2020, arXiv:2006.14822, eq. 24-27); Zhao et al. 2019, Correlation maximized
    structural similarity loss for semantic segmentation, arXiv:1910.08711.
    """

    reductions = SegmentationLoss.reductions  # a structure is none of a voxel
    lazily = channel_masks = False

    def __init__(
        self,
        *,
        window: int = 3,
        sigma: float = 1.5,
        threshold: float = 0.1,
        ce_weight: float = 0.5,
        stability: float = 0.01,
        **options: Any,
    ):
        check_count(window=window)
        if window % 2 == 0:
            raise ValueError(f"window: got {window}, expected an odd number of voxels")
        check_positive(sigma=sigma, stability=stability)
        check_at_least_zero(threshold=threshold)
        check_fraction(threshold=threshold, ce_weight=ce_weight)
        if options.get("process_group") is not None:
            raise TypeError("process_group: is no option of StructuralSimilarityLoss, whose structures are no sums")
        super().__init__(**options)
        self.terms = (*self.terms, "map*ce_pos", "map*ce_neg")
        steps = [(i - window // 2) / sigma for i in range(window)]
        taps = [math.exp(-step * step / 2) for step in steps]  # a square of its own: `**` raises where it is infinite
        self.taps = [tap / sum(taps) for tap in taps]
        self.threshold, self.stability, self.ce_weight = float(threshold), float(stability), float(ce_weight)

    @torch.jit.unused
    def forward(  # type: ignore[override]
        self, logits: Tensor, target: Tensor, *, mask: Tensor | None = None
    ) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors."""
        inputs = self.inputs(logits, target, mask)
        options = (self.activation, inputs.ignore, inputs.dense, inputs.validate)
        stencil = (self.taps, self.threshold, self.stability, ROUNDING / self.stability)
        tensors = (inputs.logits, inputs.target, inputs.mask)
        where, selected = structural_map(*tensors, (*options, *stencil), forced_backend())
        inputs = inputs._replace(weight_map=where, validate=VALIDATE_NOTHING)  # which the map has seen to
        sums = checked_sums_of_terms(inputs, self.terms, self.activation)
        named = dict(zip(self.terms, sums, strict=True))
        loss = self.from_sums(named | {"selected": selected})
        return as_loss(loss, logits)

    def from_sums(self, sums: Sums) -> Tensor:
        cross_entropy = super().from_sums(sums)
        table = sums["map*ce_pos"] + sums["map*ce_neg"]
        weight = self.weights(table)
        if weight is not None:
            table = table * weight
        if self.reduction == "mean":
            structure = ratio(table.sum(), sums["selected"].sum().clamp_min(1), 0.0)
        else:
            structure = self.collapse(table)
        return self.ce_weight * cross_entropy + (1 - self.ce_weight) * structure
