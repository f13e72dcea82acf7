"""The bases of losses on sums: ``SumLoss`` is a formula on the sums of a fused pass, ``CompoundLoss`` several of those
in one pass."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.distributed import check_process_group, gathered_sums
from ..passes.inputs import Inputs
from ..passes.lazy_logits import LazyLogits
from ..passes.ops import by_term
from ..passes.options import check_iterable
from ..passes.sums import checked_quotients, checked_sums, checked_sums_of_terms, checked_voxel_losses, reads_map
from ..quotients import Quotient
from ..terms import check_terms
from .options import SegmentationLoss, of_this_package, option_names
from .weights import Factors, check_factors, weighted_sum

Sums = dict[str, Tensor]
"""The sums of a pass: for the name of each term a float64 tensor ``[B, C]``."""


def ratio(numerator: Tensor, denominator: Tensor, empty: float) -> Tensor:
    """``numerator / denominator``; ``empty``, with a zero gradient, where the denominator is 0."""
    if never_zero(denominator):
        return numerator / denominator
    nothing = denominator == 0
    return (numerator / denominator.masked_fill(nothing, 1.0)).masked_fill(nothing, empty)


def never_zero(values: Tensor) -> bool:
    """Whether that is known: asked of numbers on the CPU, where it costs less than the operators that it saves."""
    plain = type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and not _has_zero(values.tolist())


def _has_zero(values: Any) -> bool:
    """Of nested lists: for as few numbers as samples and classes, quicker than an operator."""
    return any(map(_has_zero, values)) if isinstance(values, list) else values == 0


def as_loss(value: Tensor, logits: Tensor | LazyLogits) -> Tensor:
    """A loss in its dtype: float32, or float64 for float64 logits."""
    return value if logits.dtype == torch.float64 else value.to(torch.float32)


class SumLoss(SegmentationLoss):
    """A loss that is a formula on voxel sums: one fused pass forward, one backward.

    A loss of your own names its terms and gives a formula that turns the sums, each ``[B, C]``, into a value per
    sample and class; the options below do the rest. Override :meth:`from_sums` instead of :meth:`formula` where
    the loss is no table of values per class.

    Args:
        **options: those of every loss: ``activation`` (``"softmax"``, ``"sigmoid"`` or None for probabilities),
            ``include_background``, ``batch``, ``ignore_index``, ``class_weight``, ``reduction``, ``validate``; see
            :class:`fastloss.SegmentationLoss`.
        process_group: None for the loss of this process's samples. ``"world"``, or a ``torch.distributed`` group, for
            that of the samples of all its processes, as one with all of them has it: the sums are gathered, one small
            message a call. Its gradient is for a trainer that averages over processes, as DistributedDataParallel does.

    Shapes: logits ``[B, C, *S]``, or :class:`fastloss.LazyLogits`, which are made chunk by chunk (but as a whole for
    ``reduction="voxel"``), target ``[B, *S]``, ``[B, 1, *S]`` or dense ``[B, C, *S]``; the loss is a scalar, or
    ``[B, C]`` (``[1, C]`` with ``batch``; without the background's column if that is dropped) for ``reduction="none"``.
    It is float32, or float64 for float64 logits. Where every voxel is ignored, and for an empty batch, it is 0 with a
    zero gradient.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.
    """

    terms: tuple[str, ...] = ()
    lazily = True
    channel_masks = True
    makes_map = False  # whether voxel_map gives the map of the terms "map*NAME", from distances, rather than the caller

    def __init__(self, *, process_group: Any = None, **options: Any):
        super().__init__(**options)
        self.process_group = check_process_group(process_group)
        check_terms(self.terms, self.activation)
        if not self.terms:
            raise ValueError(f"terms: {type(self).__name__} names none, expected a tuple of terms")

    def formula(self, sums: Sums) -> Tensor:
        """The value per sample and class, ``[B, C]``, from the sums of the terms."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def from_sums(self, sums: Sums) -> Tensor:
        """The loss from the sums of its terms; sums of parts of a volume, or of ranks, may be added first."""
        return self.reduce(self.formula(self.merge(sums)))

    def quotients(self, batch: int, channels: int) -> list[Quotient] | None:
        """The same loss as :meth:`from_sums` as quotients of linear forms, which a GPU finishes in one step; None where
        it is something else, or has weights that are learned."""
        return None

    def has_forms(self, formula: str, forms: str) -> bool:
        """Whether a method that gives linear forms is of the class whose formula they are, and the weights of the
        classes are the plain constants."""

        def owner(name: str) -> type:
            return next(cls for cls in type(self).__mro__ if name in vars(cls))

        plain = owner("weights") is SegmentationLoss and not isinstance(self.class_weight, nn.Parameter)
        return plain and of_this_package(type(self)) and owner(forms) is owner(formula)

    def merge(self, sums: Sums) -> Sums:
        """With ``batch``, the sums over the samples, ``[1, C]``."""
        return {name: value.sum(0, keepdim=True) for name, value in sums.items()} if self.batch else sums

    def voxels_count_whole(self, channels: int) -> bool:
        """Whether a voxel counts for all channels or for none, which leaves no masks of each channel."""
        return self.activation == "softmax"

    def coefficients(self, inputs: Inputs) -> Sums:
        """What a voxel's loss has of each term, ``[C]`` or ``[B, C]``, for ``reduction="voxel"``."""
        raise NotImplementedError(f"{type(self).__name__} has no coefficients")

    def voxel_map(self, inputs: Inputs, maps: Tensor | None, spacing: Any) -> Tensor:
        """The voxel weight map of a loss that makes its own: from ``maps`` where the caller has the labels' part, and
        with ``spacing`` where the caller has that of each sample."""
        raise NotImplementedError(f"{type(self).__name__} has no voxel_map")

    @torch.jit.unused
    def forward(
        self,
        logits: Tensor | LazyLogits,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        weight_map: Tensor | None = None,
        maps: Tensor | None = None,
        spacing: Any = None,
    ) -> Tensor:
        """The loss; see :func:`fastloss.voxel_sums` for the forms of the tensors.

        ``weight_map``: for a loss with terms ``"map*NAME"`` of its own alone. To weight voxels in any loss pass
        ``mask``, a float weight of each: all sums over voxels are weighted then, those that a mean divides by included.
        ``maps``: for a loss with distances, what its ``label_map(target, channels)`` gives, if that is known already.
        ``spacing``: for a loss with distances, in place of its own, also ``[B, axes]``, a row for each sample.
        """
        inputs = self.inputs(logits, target, mask, weight_map)
        self.check_target(inputs.target, inputs.dense)
        channels = inputs.logits.shape[1]
        if inputs.mask is not None and inputs.mask.ndim == inputs.logits.ndim and self.voxels_count_whole(channels):
            raise ValueError(
                f"mask: got shape {list(inputs.mask.shape)}, one for each channel, expected one for all: several "
                f"channels of probabilities are the classes of a voxel for {type(self).__name__}"
            )
        if self.makes_map:
            if weight_map is not None:
                raise ValueError(f"weight_map: given, but {type(self).__name__} makes its own; expected maps= or mask=")
            with torch.no_grad():
                inputs = inputs._replace(weight_map=self.voxel_map(inputs, maps, spacing))
        else:
            for name, value in (("maps", maps), ("spacing", spacing)):
                if value is not None:
                    raise ValueError(f"{name}: given, but {type(self).__name__} takes no distances; expected None")
        if self.reduction == "voxel":
            per_class = not self.exclusive(channels)
            return checked_voxel_losses(inputs, self.coefficients(inputs), self.activation, per_class)
        if self.process_group is None:
            finished = checked_quotients(inputs, self.terms, self.activation, self.quotients)
            if finished is not None:
                return finished
            sums = checked_sums_of_terms(inputs, self.terms, self.activation)
        else:
            gathered = gathered_sums(checked_sums(inputs, self.terms, self.activation), self.process_group)
            sums = by_term(gathered, self.terms)
        return as_loss(self.from_sums(dict(zip(self.terms, sums, strict=True))), logits)


class CompoundLoss(SumLoss):
    """A weighted sum of losses on sums, computed in one fused pass over the union of their terms.

    Args:
        losses: :class:`SumLoss` modules with the same activation, ignore_index, validate and process_group.
        weights: one finite factor for each loss; 1 by default. Parameters (an ``nn.Parameter`` ``[N]``, an
            ``nn.ParameterList``, or a list of numbers and parameters) are learned.

    ``loss_weights`` are the factors, which may be changed between calls. ``include_background``, ``batch`` and
    ``reduction`` are those of the parts that have such an option, None where these differ; class weights are the
    parts' own.

    Raises:
        ValueError: losses that cannot share a pass, or a wrong number of weights.
    """

    loss_weights: Factors

    def __init__(
        self,
        losses: Iterable[SumLoss],
        weights: Sequence[float | nn.Parameter] | nn.ParameterList | Tensor | None = None,
    ):
        members = check_iterable(losses, "losses", "one or more losses on sums (SumLoss)")
        if not members or not all(isinstance(loss, SumLoss) for loss in members):
            kinds = [type(loss).__name__ for loss in members]
            raise ValueError(f"losses: got {kinds}, expected one or more losses on sums (SumLoss)")
        for loss in members:
            if type(loss).forward is not SumLoss.forward:
                raise ValueError(
                    f"losses: {type(loss).__name__} has more than sums in its forward, expected losses that can share "
                    "a pass; add its value to that of the others"
                )
        factors = [1.0] * len(members) if weights is None else check_factors(weights)
        if len(factors) != len(members):
            raise ValueError(f"weights: got {len(factors)}, expected {len(members)}, one for each loss")
        first = members[0]
        for name in ("activation", "ignore_index", "validate", "process_group"):
            values = [getattr(loss, name) for loss in members]
            if any(value != values[0] for value in values):
                raise ValueError(f"losses: {name} differs ({values}), expected the same in all, to share one pass")
        with_map = [type(loss).__name__ for loss in members if loss.makes_map]
        if len(with_map) > 1 or (with_map and any(reads_map(loss.terms) and not loss.makes_map for loss in members)):
            raise ValueError(f"losses: {with_map} make a voxel map, expected at most one in a pass, and no other map")
        self.makes_map = bool(with_map)
        self.terms = tuple(dict.fromkeys(name for loss in members for name in loss.terms))
        super().__init__(
            activation=None if first.activation == "none" else first.activation,
            ignore_index=first.ignore_index,
            validate=first.validate,
            process_group=first.process_group,
        )
        self.losses = nn.ModuleList(members)
        self.loss_weights = factors
        for name in ("include_background", "batch", "reduction"):
            having = [part for part in members if isinstance(part, CompoundLoss) or name in option_names(type(part))]
            found = {getattr(part, name) for part in having or members}
            if len(found) > 1 and "voxel" in found:
                raise ValueError(
                    f"losses: their reductions are {sorted(map(str, found))}, expected 'voxel' in all or none"
                )
            setattr(self, name, found.pop() if len(found) == 1 else None)
        del self.class_weight
        self._class_vectors = ()

    def check_target(self, target: Tensor, dense: bool) -> None:
        for loss in self.losses:
            loss.check_target(target, dense)  # type: ignore[operator]

    def voxel_map(self, inputs: Inputs, maps: Tensor | None, spacing: Any) -> Tensor:
        (member,) = (loss for loss in self.losses if loss.makes_map)
        found: Tensor = member.voxel_map(inputs, maps, spacing)  # type: ignore[operator]
        return found

    def voxels_count_whole(self, channels: int) -> bool:
        return any(loss.voxels_count_whole(channels) for loss in self.losses)  # type: ignore[operator]

    def coefficients(self, inputs: Inputs) -> Sums:
        found: dict[str, list[Tensor]] = {}
        for weight, loss in zip(self.loss_weights, self.losses, strict=True):
            for name, part in loss.coefficients(inputs).items():  # type: ignore[operator]
                found.setdefault(name, []).append(weighted_sum([weight], [part]))
        return {name: functools.reduce(torch.add, parts) for name, parts in found.items()}

    def quotients(self, batch: int, channels: int) -> list[Quotient] | None:
        if not of_this_package(type(self)) or not isinstance(self.loss_weights, list):
            return None
        found: list[Quotient] = []
        for weight, loss in zip(self.loss_weights, self.losses, strict=True):
            parts = loss.quotients(batch, channels)  # type: ignore[operator]
            if parts is None:
                return None
            found += (part._replace(factor=weight * part.factor) for part in parts)
        return found

    def from_sums(self, sums: Sums) -> Tensor:
        parts: list[Tensor] = [loss.from_sums(sums) for loss in self.losses]  # type: ignore[operator]
        shapes = [tuple(part.shape) for part in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"losses: their values have the shapes {shapes}, expected the same reduction in all")
        return weighted_sum(self.loss_weights, parts)

    def extra_repr(self) -> str:
        names = ("activation", "ignore_index", "include_background", "batch", "reduction")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return options if isinstance(self.loss_weights, nn.ParameterList) else f"weights={self.loss_weights}, {options}"
