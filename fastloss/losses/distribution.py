"""Distribution-based losses: the cross-entropy of a voxel, averaged over the counted voxels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.inputs import Inputs
from ..passes.options import check_activation, check_fraction
from ..passes.sums import checked_sums
from ..passes.tensors import sum_dtype
from ..quotients import Quotient
from ..terms import is_constant
from .base import SumLoss, Sums, ratio
from .weights import check_factor, check_weight_length


class VoxelLoss(SumLoss):
    """The base of losses that each voxel has, averaged over the counted voxels; its options are those of all of them.

    Channels that are classes of one softmax need the terms of the foreground only; channels on their own (sigmoid, or
    one channel of probabilities) also those of its complement.

    Args:
        terms: those that are always summed.
        complement_terms: those that independent channels need besides.
        activation: ``"softmax"``, ``"sigmoid"`` or None (the input holds probabilities).
        ignore_index: label or labels whose voxels leave the mean and the gradient.
        class_weight: ω, one weight a channel.
        reduction: ``"mean"`` over the counted voxels (and independent channels); ``"sum"``; ``"none"``: the sums
            over the voxels as a table ``[B, C]``; ``"voxel"``: the loss of each voxel ``[B, *S]``, of independent
            channels ``[B, C, *S]``, times the voxel's weight, which is 0 where it does not count.
        validate: see :func:`fastloss.voxel_sums`.
        process_group: see :class:`fastloss.SumLoss`.
    """

    reductions = (*SumLoss.reductions, "voxel")
    per_target = False  # the mean of a softmax divides by Σ ω y, not by the number of voxels
    of_target: tuple[str, ...] = ()  # terms of the target alone on whose sums the weights of a voxel's loss depend

    def __init__(
        self,
        terms: tuple[str, ...],
        complement_terms: tuple[str, ...],
        *,
        activation: str | None = "softmax",
        ignore_index: int | Iterable[int] | None = None,
        class_weight: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: Any = None,
    ):
        counted = ("y",) if self.per_target else ("count",)
        self.terms = (*counted, *terms)
        if check_activation(activation) != "softmax":
            self.terms = tuple(dict.fromkeys((*counted, "count", *terms, *complement_terms)))
        super().__init__(
            activation=activation,
            ignore_index=ignore_index,
            class_weight=class_weight,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )
        if reduction == "voxel" and self.process_group is not None:
            raise ValueError(
                "process_group: given with reduction='voxel', expected None: the voxels of other processes are theirs"
            )

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        """The sums of the voxels' losses ``[B, C]``, before the class weights: linear in the sums of all terms but
        those ``of_target``."""
        raise NotImplementedError(f"{type(self).__name__} has no voxel_table")

    def linear_terms(self, exclusive: bool, channels: int) -> dict[str, float]:
        """Coefficients of the sums in the table, as ``voxel_table`` of the same class has them, if they are numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no linear_terms")

    def quotients(self, batch: int, channels: int) -> list[Quotient] | None:
        if not self.has_forms("voxel_table", "linear_terms") or self.reduction != "mean":
            return None
        if self.class_weight is not None:
            check_weight_length(self.class_weight, channels)
        exclusive = self.exclusive(channels)
        per_target = exclusive and self.per_target
        part = Quotient(
            self.linear_terms(exclusive, channels),
            {"y" if per_target else "count": 1.0},
            factor=1.0,
            table=False,
            last=1 if exclusive and not per_target else channels,
            weight=self.class_weight,
            weigh_below=per_target,
        )
        return [part]

    def voxels_count_whole(self, channels: int) -> bool:
        return self.exclusive(channels)

    def coefficients(self, inputs: Inputs) -> Sums:
        """The table where the sum of one term is 1 and those of the others are 0, for each term with a gradient."""
        logits, names = inputs.logits, [name for name in self.terms if not is_constant(name)]
        known: Sums = {}
        if self.of_target:
            with torch.no_grad():
                sums = checked_sums(inputs._replace(weight_map=None), self.of_target, self.activation)
            known = dict(zip(self.of_target, sums.unbind(-1), strict=True))
        rows, channels = (logits.shape[0] if known else 1), logits.shape[1]
        unit = torch.eye(len(names), dtype=sum_dtype(logits.device), device=logits.device)
        columns = unit.view(len(names), 1, len(names)).expand(-1, rows, -1).reshape(-1, 1, len(names))
        given = dict(zip(names, columns.expand(-1, channels, -1).unbind(-1), strict=True))
        constant = {name: value.repeat(len(names), 1) for name, value in known.items()}
        table = self.voxel_table(given | constant, self.exclusive(channels))
        weight = self.weights(table)
        if weight is not None:
            table = table * weight
        return dict(zip(names, table.view(len(names), rows, channels).unbind(0), strict=True))

    def from_sums(self, sums: Sums) -> Tensor:
        exclusive = self.exclusive(next(iter(sums.values())).shape[1])
        table = self.voxel_table(sums, exclusive)
        weight = self.weights(table)
        if weight is not None:
            table = table * weight
        if self.reduction != "mean":
            return self.collapse(table)
        if not exclusive:
            counted = sums["count"]
        elif self.per_target:
            counted = sums["y"] if weight is None else sums["y"] * weight
        else:
            counted = sums["count"][:, :1]
        return ratio(table.sum(), counted.sum(), 0.0)


class CrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy, averaged over the counted voxels.

    .. math::
        \text{softmax:}\quad \frac{\sum_{bc} \omega_c \sum_v w\, y\, (-\log p)}{\sum_{bc} \omega_c \sum_v w\, y}
        \qquad
        \text{sigmoid:}\quad
        \frac{\sum_{bc} \omega_c \sum_v w\,[\,y\,(-\log p) + (1-y)(-\log(1-p))\,]}{\sum_{bc} \sum_v w}

    Equals ``F.cross_entropy(logits, labels, weight, ignore_index=..., label_smoothing=...)`` and, for sigmoid,
    ``F.binary_cross_entropy_with_logits``. With an activation of None the clamped forms
    :math:`\log\max(p, 10^{-7})` are used; several channels are read as softmax, one as sigmoid.

    Args:
        label_smoothing: s in [0, 1]; the numerator has :math:`y(1-s) + s/C` for y, as torch has it, and with sigmoid,
            where a channel has two classes, :math:`y(1-s) + s/2`.
        **options: ``activation``, ``ignore_index``, ``class_weight`` (ω), ``reduction``, ``validate`` of
            :class:`fastloss.SumLoss`. ``reduction="sum"`` is the numerator, ``"none"`` its table ``[B, C]``,
            ``"voxel"`` what each voxel adds to it, as the ``reduction="none"`` of torch's functions.

    Source: survey, section II-A (Jadon 2020, arXiv:2006.14822, eq. 1). Label smoothing: Szegedy et al. 2016,
    arXiv:1512.00567.
    """

    per_target = True

    def __init__(self, *, label_smoothing: float = 0.0, **options: Any):
        check_fraction(label_smoothing=label_smoothing)
        smoothed = label_smoothing > 0
        super().__init__(
            ("ce_pos", "nll_pos") if smoothed else ("ce_pos",),
            ("ce_neg", "nll_neg") if smoothed else ("ce_neg",),
            **options,
        )
        self.label_smoothing = label_smoothing

    def linear_terms(self, exclusive: bool, channels: int) -> dict[str, float]:
        s = self.label_smoothing
        found: dict[str, float] = {}
        for side, classes in (("pos", channels),) if exclusive else (("pos", 2), ("neg", 2)):
            found |= {f"ce_{side}": 1 - s} | ({f"nll_{side}": s / classes} if s else {})
        return found

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        if exclusive:
            return self.smoothed(sums, "pos", sums["ce_pos"].shape[1])
        return self.smoothed(sums, "pos", 2) + self.smoothed(sums, "neg", 2)

    def smoothed(self, sums: Sums, side: str, classes: int) -> Tensor:
        """The cross-entropy of the foreground or of the complement, for the smoothed target."""
        hard, s = sums[f"ce_{side}"], self.label_smoothing
        return hard if s == 0 else (1 - s) * hard + s / classes * sums[f"nll_{side}"]


class WeightedCrossEntropyLoss(CrossEntropyLoss):
    r"""Cross-entropy with a weight β of the foreground, against false negatives (β > 1) or false positives (β < 1).

    .. math::
        \text{sigmoid:}\quad
        \frac{\sum_{bc} \omega_c \sum_v w\,[\,\beta\, y\,(-\log p) + (1-y)(-\log(1-p))\,]}{\sum_{bc} \sum_v w}

    which is the ``pos_weight`` of ``F.binary_cross_entropy_with_logits``. With softmax β has one weight a class and is
    the ``class_weight`` of :class:`CrossEntropyLoss`.

    Args:
        beta: β, at least 0; one number (sigmoid) or one for each channel.
        **options: as :class:`CrossEntropyLoss`; a ``class_weight`` multiplies besides.

    Source: survey, section II-B, eq. 2 (Pihur et al. 2007 there).
    """

    beta: Tensor

    def __init__(self, *, beta: float | Sequence[float] | Tensor, **options: Any):
        super().__init__(**options)
        self.register_class_vector("beta", check_factor(beta, "beta"))
        if self.activation == "softmax":
            self._check_one_a_class()

    def _check_one_a_class(self) -> None:
        if self.beta.ndim == 0:
            raise ValueError(f"beta: got {self.beta.item()}, expected one weight a class, [C], for a softmax")

    def weights(self, table: Tensor) -> Tensor | None:
        weight = super().weights(table)
        if not self.exclusive(table.shape[1]):
            return weight
        self._check_one_a_class()
        check_weight_length(self.beta, table.shape[1], "beta")
        return self.beta if weight is None else self.beta * weight

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        if exclusive:
            return super().voxel_table(sums, exclusive)
        if self.beta.ndim:
            check_weight_length(self.beta, sums["ce_pos"].shape[1], "beta")
        return self.beta * self.smoothed(sums, "pos", 2) + self.smoothed(sums, "neg", 2)


class BalancedCrossEntropyLoss(CrossEntropyLoss):
    r"""Cross-entropy balanced by the share β of the voxels that are not of the class, in each sample.

    .. math::
        \text{softmax:}\quad
        \frac{\sum_{bc} \omega_c\, \beta_{bc} \sum_v w\, y\, (-\log p)}{\sum_b N_b}
        \qquad
        \text{sigmoid:}\quad
        \frac{\sum_{bc} \omega_c \sum_v w\,[\,\beta_{bc}\, y\,(-\log p) + (1-\beta_{bc})(1-y)(-\log(1-p))\,]}
        {\sum_{bc} N_b}
        \qquad \beta_{bc} = \frac{N_b - Y_{bc}}{N_b}

    with :math:`N = \sum w`, :math:`Y = \sum w y`; β is a constant.

    Args:
        **options: as :class:`CrossEntropyLoss`.

    Source: Xie & Tu 2015, Holistically-nested edge detection, arXiv:1504.06375. The survey's eq. 3 has its β without
    the sum over y.
    """

    per_target = False
    of_target = ("y", "count")

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.terms = ("y", *self.terms)

    def voxel_table(self, sums: Sums, exclusive: bool) -> Tensor:
        beta = ratio(sums["count"] - sums["y"], sums["count"], 0.0)
        if exclusive:
            return beta * super().voxel_table(sums, exclusive)
        return beta * self.smoothed(sums, "pos", 2) + (1 - beta) * self.smoothed(sums, "neg", 2)
