"""torch's cross-entropies of volumes, ``F.cross_entropy`` and ``F.binary_cross_entropy_with_logits``, which its modules
``CrossEntropyLoss`` and ``BCEWithLogitsLoss`` call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.base import never_zero
from .core import Served, Unserved
from .fused import check_tensors, dtype_of, run_pass, run_voxels
from .shared import require

served = Served()
MOST_CHANNELS = 1000  # beyond it are vocabularies, not segmentations


class Entropy(NamedTuple):
    """The options of a cross-entropy."""

    weight: Tensor | None  # of the classes
    reduction: str
    label_smoothing: float = 0.0
    ignore_index: int = -100
    pos_weight: Tensor | None = None


def softmax_terms(options: Entropy, input: Tensor, labels: bool) -> tuple[str, ...]:
    """What a softmax cross-entropy sums. Raises Unserved for options that it is not served with."""
    if options.reduction not in ("mean", "sum", "none"):
        raise Unserved("an unknown reduction")
    if not 1 < input.shape[1] <= MOST_CHANNELS:
        raise Unserved("one channel, or very many")
    if not 0 <= options.label_smoothing <= 1:
        raise Unserved("label_smoothing out of its range")
    weight = options.weight
    if weight is not None:
        _check_weight(weight, input, weight.shape == (input.shape[1],))
    terms = ("ce_pos", "y") if labels else ("ce_pos",)
    return (*terms, "nll_pos") if options.label_smoothing else terms


def softmax_value(
    options: Entropy, sums: dict[str, Tensor], input: Tensor, labels: bool, dtype: torch.dtype | None = None
) -> Tensor:
    """Of labels the mean is over the weights of the classes, of probabilities over the voxels; in torch's dtype, if no
    other is given."""
    weight = options.weight

    def total(name: str) -> Tensor:
        found = sums[name]
        return (found if weight is None else found * weight.to(found)).sum()

    parts = [total(name) for name in ("ce_pos", "nll_pos") if name in sums]
    if options.reduction == "mean" and labels:
        parts = divided(parts, total("y"), sums["y"].sum() == 0)
    elif options.reduction == "mean":
        parts = [part / (input.numel() // input.shape[1]) for part in parts]
    value = smoothed(parts, options.label_smoothing, input.shape[1])
    return value.to(dtype or dtype_of(input, entropy=True))


def divided(parts: Sequence[Tensor], weights: Tensor, nothing: Tensor, empty: float = torch.nan) -> list[Tensor]:
    """The parts by the weights of the voxels: where none counts ``empty``, with a gradient of 0, as in torch."""
    if never_zero(weights):
        return [part / weights for part in parts]
    if weights.device.type == "cpu" and not torch.compiler.is_compiling():
        require(nothing, "classes of weight 0 alone")  # whose NaN is the gradient of their voxels, no others'
    divisor = torch.where(nothing, 1.0, weights)
    return [torch.where(nothing, empty, part / divisor) for part in parts]


def smoothed(parts: Sequence[Tensor], label_smoothing: float, classes: int) -> Tensor:
    """The cross-entropy, from those of the label and, under label smoothing, of all classes."""
    if not label_smoothing:
        return parts[0]
    return (1 - label_smoothing) * parts[0] + label_smoothing / classes * parts[1]


def sigmoid_terms(options: Entropy, input: Tensor) -> tuple[str, ...]:
    """What a binary cross-entropy sums. Raises Unserved for options that it is not served with."""
    if options.reduction not in ("mean", "sum", "none"):
        raise Unserved("an unknown reduction")
    if options.weight is not None:
        raise Unserved("weights of elements")
    weight = options.pos_weight
    if weight is not None:
        channels = weight.shape == (input.shape[1], *[1] * (input.ndim - 2))
        _check_weight(weight, input, channels or (weight.numel() == 1 and weight.ndim <= input.ndim))
    return ("ce_pos", "ce_neg")


def sigmoid_value(options: Entropy, sums: dict[str, Tensor], input: Tensor) -> Tensor:
    positive = sums["ce_pos"]
    if options.pos_weight is not None:
        positive = positive * options.pos_weight.reshape(-1).to(positive)
    value = (positive + sums["ce_neg"]).sum()
    if options.reduction == "mean":
        value = value / input.numel()
    return value.to(dtype_of(input, entropy=True))


def _check_weight(weight: Tensor, input: Tensor, fits: bool) -> None:
    if not fits:
        raise Unserved("a weight of another shape")
    if weight.requires_grad or weight.device != input.device:
        raise Unserved("a weight with a gradient, or on another device")
    if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise Unserved("a weight of another dtype")


@served(F, "cross_entropy")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    check_tensors(input, target)
    if size_average is not None or reduce is not None:
        raise Unserved("deprecated arguments")
    labels = target.shape == (input.shape[0], *input.shape[2:])
    if labels and target.dtype != torch.int64:
        raise Unserved(f"labels of {target.dtype}")
    if not labels and (target.shape != input.shape or target.dtype != input.dtype):
        raise Unserved("a target of another shape or dtype")
    options, ignored = Entropy(weight, reduction, label_smoothing), ignore_index if labels else None
    terms = softmax_terms(options, input, labels)
    if reduction != "none":
        sums = run_pass(input, target, terms, "softmax", ignore_index=ignored)
        return softmax_value(options, sums, input, labels)
    weights = input.new_ones((), dtype=torch.float64) if weight is None else weight.double()
    factors = {"ce_pos": (1 - label_smoothing) * weights}
    if label_smoothing:
        factors["nll_pos"] = label_smoothing / input.shape[1] * weights
    return run_voxels(input, target, factors, "softmax", ignore_index=ignored).to(dtype_of(input, entropy=True))


@served(F, "binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    check_tensors(input, target)
    if size_average is not None or reduce is not None:
        raise Unserved("deprecated arguments")
    if target.shape != input.shape or target.dtype != input.dtype:
        raise Unserved("a target of another shape or dtype")
    options = Entropy(weight, reduction, pos_weight=pos_weight)
    terms = sigmoid_terms(options, input)
    if reduction != "none":
        return sigmoid_value(options, run_pass(input, target, terms, "sigmoid"), input)
    positive = (
        1.0 if pos_weight is None else pos_weight.reshape(-1) if pos_weight.numel() > 1 else pos_weight.reshape(())
    )
    factors = dict(zip(terms, (positive, 1.0), strict=True))
    return run_voxels(input, target, factors, "sigmoid", per_class=True).to(dtype_of(input, entropy=True))
