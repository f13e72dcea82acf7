"""Losses that rank the voxels by their error: no formula on sums over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes import ranked_ops
from ..passes.backends import forced_backend
from ..passes.ops import by_term
from ..passes.options import check_choice, check_flag, check_fraction
from .base import Sums, as_loss
from .options import SegmentationLoss
from .region import DiceLoss
from .weights import check_part_weight, check_weight_length, weighted_sum


def _check_portion(k: float) -> float:
    good = isinstance(k, (int, float)) and not isinstance(k, bool) and 0 < k <= 1
    if not good:
        raise ValueError(f"k: got {k!r}, expected a fraction of the voxels, above 0 and at most 1")
    return float(k)


def _check_topk(count_ignored: bool, label_smoothing: float, class_weight: Any) -> None:
    check_flag(count_ignored=count_ignored)
    check_fraction(label_smoothing=label_smoothing)
    if isinstance(class_weight, nn.Parameter):
        raise ValueError("class_weight: got an nn.Parameter, which a ranking does not learn; expected numbers")


class TopKLoss(SegmentationLoss):
    r"""Cross-entropy of the voxels that are hardest, the fraction k of them.

    .. math::
        \frac{1}{m} \sum_{v \in \text{top}_m} \ell_v, \qquad m = \max(1, \lfloor k\, n \rfloor)

    where :math:`\ell_v = \sum_c \omega_c\, y_c (-\log p_c)` (softmax), of n counted voxels of the whole batch; with
    sigmoid :math:`\omega_c\,[\,y(-\log p) + (1-y)(-\log(1-p))\,]` of n counted voxels and channels. ``k=1`` without
    class weights is :class:`CrossEntropyLoss`.

    Voxels whose loss equals the smallest of the m largest share what is left of m equally in the gradient, whatever
    their order. A mask of weights multiplies the losses before they are ranked; weights are at least 0.

    Args:
        k: the fraction, above 0 and at most 1.
        count_ignored: n is the number of all voxels, and those that are ignored or masked have a loss of 0, as nnU-Net
            has it.
        label_smoothing: s in [0, 1]; of :class:`CrossEntropyLoss`.
        class_weight: ω, one weight a channel, multiplied before the ranking; the mean divides by m all the same.
        activation: ``"softmax"``, ``"sigmoid"`` or None (the input holds probabilities; several channels are read as
            softmax, one as sigmoid).
        ignore_index: label or labels whose voxels are not ranked.
        validate: see :func:`fastloss.voxel_sums`.

    Shapes: as :class:`fastloss.SumLoss`; the loss is a scalar. Memory beyond the inputs: the gradient, and one number a
    voxel (softmax) or logit.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: nnU-Net's ``TopKLoss`` (Isensee et al. 2021), with k in percent there; Wu et al. 2016, arXiv:1605.06885.
    Not in the survey.
    """

    def __init__(
        self,
        *,
        k: float = 0.1,
        count_ignored: bool = False,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | Tensor | None = None,
        activation: str | None = "softmax",
        ignore_index: int | Iterable[int] | None = None,
        validate: bool | None = None,
    ):
        _check_topk(count_ignored, label_smoothing, class_weight)
        super().__init__(activation=activation, ignore_index=ignore_index, class_weight=class_weight, validate=validate)
        self.k, self.count_ignored, self.label_smoothing = _check_portion(k), count_ignored, label_smoothing

    @torch.jit.unused
    def forward(self, logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors."""
        return as_loss(_topk(self, (), logits, target, mask)[1], logits)


class DiceTopKLoss(SegmentationLoss):
    r"""Dice plus the cross-entropy of the hardest voxels, in one pass over the data (on a GPU, in two forward).

    .. math:: \lambda_D \cdot \text{DiceLoss} + \lambda_K \cdot \text{TopKLoss}

    Args:
        k, count_ignored, label_smoothing: of :class:`TopKLoss`.
        dice_weight: λ_D, at least 0; an ``nn.Parameter`` is learned.
        topk_weight: λ_K, likewise.
        activation, ignore_index, class_weight, validate: of both parts.
        **options: ``smooth``, ``squared``, ``soft_label``, ``include_background``, ``batch`` of :class:`DiceLoss`.

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: nnU-Net's ``DC_and_topk_loss`` (Isensee et al. 2021), whose Dice loss is this one's minus 1. Not in the
    survey.
    """

    def __init__(
        self,
        *,
        k: float = 0.1,
        dice_weight: float | nn.Parameter = 1.0,
        topk_weight: float | nn.Parameter = 1.0,
        count_ignored: bool = False,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | Tensor | None = None,
        activation: str | None = "softmax",
        ignore_index: int | Iterable[int] | None = None,
        validate: bool | None = None,
        **options: Any,
    ):
        check_part_weight(dice_weight=dice_weight, topk_weight=topk_weight)
        _check_topk(count_ignored, label_smoothing, class_weight)
        if "reduction" in options:
            raise TypeError("reduction: is no option of DiceTopKLoss, whose cross-entropy has no value of a class")
        of_dice = {name: options[name] for name in ("include_background", "batch") if name in options}
        of_both = {
            "activation": activation,
            "ignore_index": ignore_index,
            "class_weight": class_weight,
            "validate": validate,
        }
        super().__init__(**of_both, **of_dice)  # type: ignore[arg-type]
        self.dice = DiceLoss(**of_both, **options)  # type: ignore[arg-type]
        self.k, self.count_ignored, self.label_smoothing = _check_portion(k), count_ignored, label_smoothing
        self.dice_weight, self.topk_weight = dice_weight, topk_weight

    @torch.jit.unused
    def forward(self, logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors."""
        terms = self.dice.terms
        sums, hardest = _topk(self, terms, logits, target, mask)
        named: Sums = dict(zip(terms, by_term(sums, terms), strict=True))
        return as_loss(
            weighted_sum((self.dice_weight, self.topk_weight), (self.dice.from_sums(named), hardest)), logits
        )


class _LovaszExtension(SegmentationLoss):
    """The Lovász extension of the Jaccard loss, on some errors of the voxels."""

    errors = ""  # what the operator is told in place of the activation

    def __init__(self, per_sample: bool, **options: Any):
        if "batch" in options:
            raise TypeError(
                f"batch: is no option of {type(self).__name__}, whose per_sample=False takes the batch as one volume"
            )
        super().__init__(**options)
        check_flag(per_sample=per_sample)
        self.per_sample = per_sample

    def check_target(self, target: Tensor, dense: bool) -> None:
        if dense and target.is_floating_point():
            raise ValueError(
                f"target: got a {target.dtype} tensor, expected labels or a bool or integer dense target: the Lovász "
                "extension is of a loss of sets, which a soft target has not"
            )

    @torch.jit.unused
    def forward(self, logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors."""
        inputs = self.inputs(logits, target, mask)
        self.check_target(inputs.target, inputs.dense)
        options = (self.errors or self.activation, inputs.ignore, inputs.dense, inputs.validate, forced_backend())
        table, sizes = ranked_ops.jaccard_extension(inputs.logits, inputs.target, inputs.mask, self.per_sample, options)
        return as_loss(self.reduce_counted(table, sizes > 0), logits)

    def reduce_counted(self, table: Tensor, present: Tensor) -> Tensor:
        """The reduction of the values ``[B or 1, C]``, given which classes the target has."""
        return self.reduce(table)


class LovaszLoss(_LovaszExtension):
    r"""Lovász-softmax loss: the Lovász extension of the Jaccard loss, on the errors of the probabilities.

    .. math::
        \text{mean}_c \sum_i e_{(i)} \left[J_c(i) - J_c(i-1)\right], \qquad
        J_c(i) = 1 - \frac{Y_c - \text{foreground}_c(i)}{Y_c + \text{background}_c(i)}

    with the errors :math:`e = |y - p|` of class c in descending order, and the voxels of the class and of the others
    among the first i. Order and J are constants in the gradient; of equal errors the first voxel ranks first. The mean
    runs over the classes of the batch as one volume.

    With sigmoid each channel is a problem of its own, on the same errors; the paper's binary case, on errors of the
    logits, is :class:`LovaszHingeLoss`. A mask of weights is a measure of the voxels: weight 2 counts as two of them;
    weights are at least 0.

    Args:
        per_sample: the mean over the samples of each one's loss.
        classes: ``"present"``, those with a voxel in the target (none: 0), or ``"all"``; an absent class has its
            largest error as the loss.
        activation: ``"softmax"``, ``"sigmoid"`` or None (the input holds probabilities).
        **options: ``include_background``, ``ignore_index``, ``class_weight`` (multiplies the classes' values),
            ``reduction`` of the table of values (``"mean"``, ``"sum"``, or ``"none"``: ``[B, C]`` if per sample, else
            ``[1, C]``, with 0 for what is not counted), ``validate``; see :class:`fastloss.SegmentationLoss`.

    Shapes: as :class:`fastloss.SumLoss`; labels, or a bool or integer dense target (several classes a voxel). Memory
    beyond the inputs: the gradient, and a float32 number for every logit; while it ranks, eight bytes a voxel besides.

    Raises:
        ValueError, TypeError: X

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: Berman et al. 2018, arXiv:1705.08790. Not in the survey.
    """

    def __init__(
        self,
        *,
        per_sample: bool = False,
        classes: str = "present",
        activation: str | None = "softmax",
        **options: Any,
    ):
        super().__init__(per_sample, activation=activation, **options)
        self.classes = check_choice("classes", classes, ("present", "all"))

    def reduce_counted(self, table: Tensor, present: Tensor) -> Tensor:
        """The reduction of the table over the classes that count."""
        weight = self.weights(table)
        if weight is not None:
            table = table * weight
        if not self.include_background and table.shape[1] > 1:
            table, present = table[:, 1:], present[:, 1:]
        if self.classes == "all":
            return self.collapse(table)
        table = torch.where(present, table, 0.0)
        if self.reduction != "mean":
            return self.collapse(table)
        return (table.sum(1) / present.sum(1).clamp_min(1)).sum() / max(1, table.shape[0])


class LovaszHingeLoss(_LovaszExtension):
    r"""Lovász hinge loss: the Lovász extension of the Jaccard loss, on the hinge errors of the logits.

    It is for one foreground (one channel), or for several that may overlap: each channel is a problem of its own.

    .. math::
        \text{mean}_{bc} \sum_i e_{(i)} \left[J_c(i) - J_c(i-1)\right], \qquad e = \max(1 - z\,(2y - 1),\, 0)

    with the logit z, and J as for :class:`LovaszLoss`. An error of 0 has no gradient. A channel without foreground has
    its largest error as the loss. A mask of weights is a measure of the voxels; weights are at least 0.

    Args:
        per_sample: the loss of each sample, as the authors have it; False takes the batch as one volume.
        **options: ``include_background``, ``ignore_index``, ``class_weight`` (multiplies the channels' values),
            ``reduction`` of the table of values (``"mean"``, ``"sum"``, or ``"none"``: ``[B, C]`` if per sample, else
            ``[1, C]``), ``validate``; see :class:`fastloss.SegmentationLoss`. There is no ``activation``: the logits
            come as they are.

    Shapes: logits ``[B, C, *S]``; labels (with one channel the foreground is label 1), or a bool or integer dense
    target. Memory beyond the inputs as for :class:`LovaszLoss`.

    Raises:
        ValueError, TypeError: X

    Of lazy logits (:class:`fastloss.LazyLogits`) the real ones are made.

    Source: Berman et al. 2018, arXiv:1705.08790, section 3.1; ``lovasz_hinge`` of the authors' code. Not in the survey.
    """

    errors = ranked_ops.HINGE

    def __init__(self, *, per_sample: bool = True, **options: Any):
        if "activation" in options:
            raise TypeError("activation: is no option of LovaszHingeLoss, which takes logits; expected LovaszLoss")
        super().__init__(per_sample, activation=None, **options)


def _topk(
    loss: TopKLoss | DiceTopKLoss, terms: tuple[str, ...], logits: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sums of the terms and the mean of the largest voxel losses."""
    inputs = loss.inputs(logits, target, mask)
    if loss.class_weight is not None:
        check_weight_length(loss.class_weight, inputs.logits.shape[1])
    portion, of_input = (loss.k, loss.count_ignored), (inputs.ignore, inputs.dense, inputs.validate, forced_backend())
    options = (loss.label_smoothing, terms, loss.activation, *of_input)
    return ranked_ops.topk_sums(inputs.logits, inputs.target, inputs.mask, portion, loss.class_weight, options)
