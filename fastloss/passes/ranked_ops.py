"""The registered operators of losses that rank voxels. Their gradient is that of voxel sums, weighted by rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..terms import make_plan
from .autograd import NoForwardMode, apply_function, first_derivative_only, save
from .backends import choose, choose_room
from .registry import register
from .tensors import loss_dtype, sum_dtype
from .values import check_values, check_weights, uncounted

HINGE = "hinge"  # in place of an activation: the errors are the hinges of the logits

_INPUTS = "Tensor logits, Tensor target, Tensor? mask"
_OPTIONS = "str activation, int[] ignore, bool dense, int validate, str backend"


def is_exclusive(activation: str, channels: int) -> bool:
    """Whether the channels are the classes of a voxel, rather than each a problem of its own."""
    return activation == "softmax" or (activation == "none" and channels > 1)


# Top-k cross-entropy, and voxel sums of the same pass

_LOSS = "Tensor? class_weight, float label_smoothing"  # of the cross-entropy


def _cross_entropy(
    logits: Tensor, class_weight: Tensor | None, label_smoothing: float, exclusive: bool
) -> tuple[tuple[str, ...], Tensor]:
    """The terms of a voxel's cross-entropy and their factors ``[B, C, K]``."""
    s, batch, channels = label_smoothing, *logits.shape[:2]
    shares = [("ce", 1 - s)] if s == 0 else [("ce", 1 - s), ("nll", s / (channels if exclusive else 2))]
    sides = ("pos",) if exclusive else ("pos", "neg")
    names = tuple(f"{kind}_{side}" for side in sides for kind, _ in shares)
    real = sum_dtype(logits.device)
    factors = torch.tensor([share for _ in sides for _, share in shares], dtype=real, device=logits.device)
    weight = torch.ones(channels, dtype=real, device=logits.device) if class_weight is None else class_weight.to(real)
    return names, (weight.unsqueeze(1) * factors).expand(batch, channels, len(names))


def _topk_sums(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    k: float,
    of_all: bool,
    class_weight: Tensor | None,
    label_smoothing: float,
    terms: Sequence[str],
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plan = make_plan(tuple(terms), activation, tuple(ignore), dense)
    exclusive = is_exclusive(activation, logits.shape[1])
    module = choose_room("ranked", backend, logits.device)
    bad_labels = True
    if class_weight is not None or label_smoothing:
        inputs, options = (logits, target, mask, None), (activation, ignore, dense, validate, backend)
        names, factors = _cross_entropy(logits, class_weight, label_smoothing, exclusive)
        losses = torch.ops.fastloss.voxel_losses(factors, *inputs, not exclusive, names, *options)
        losses = losses.unsqueeze(1) if exclusive else losses
        losses = torch.where(uncounted(target, mask, plan), -1.0, losses.abs()).contiguous()  # else as the target lies
        nothing = logits.new_zeros((*logits.shape[:2], 0), dtype=sum_dtype(logits.device))
        sums = choose(backend, logits.device).forward(*inputs, plan) if terms else nothing
        out = (sums, *module.largest(losses, k, of_all))
        bad_labels = False  # or the losses had raised
    elif hasattr(module, "largest_losses_with_bad_labels"):
        *out, bad_labels = module.largest_losses_with_bad_labels(logits, target, mask, plan, exclusive, k, of_all)
    else:
        out = module.largest_losses(logits, target, mask, plan, exclusive, k, of_all)
    sums, mean, count, weights = out
    if validate:
        check_weights(mask)
        check_values(logits, target, mask, plan, validate, bad_labels)
    return sums, mean, count, weights.contiguous()


def _topk_sums_backward(
    grad_sums: Tensor | None,
    grad_mean: Tensor | None,
    count: Tensor,
    weights: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    terms: Sequence[str],
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> Tensor:
    module = choose(backend, logits.device)
    names: tuple[str, ...] = ()
    parts = []
    if grad_sums is not None and terms:
        names, parts = tuple(terms), [grad_sums]
    if grad_mean is not None:
        exclusive = is_exclusive(activation, logits.shape[1])
        of_loss, factors = _cross_entropy(logits, class_weight, label_smoothing, exclusive)
        names = (*names, *(f"map*{name}" for name in of_loss))
        parts.append(factors * (grad_mean / count.clamp_min(1)))
    if not parts:
        return torch.zeros_like(logits)
    plan = make_plan(names, activation, tuple(ignore), dense)
    gradient: Tensor = module.backward(torch.cat(parts, -1), logits, target, mask, weights, plan)
    return gradient


def _topk_sums_fake(logits: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    terms, activation, real = *inputs[6:8], sum_dtype(logits.device)
    shape = (logits.shape[0], 1 if is_exclusive(activation, logits.shape[1]) else logits.shape[1], *logits.shape[2:])
    return (
        logits.new_empty((logits.shape[0], logits.shape[1], len(terms)), dtype=real),
        logits.new_empty((), dtype=real),
        logits.new_empty((), dtype=real),
        logits.new_empty(shape, dtype=loss_dtype(logits)),
    )


def _topk_sums_backward_fake(
    grad_sums: Tensor | None, grad_mean: Tensor | None, count: Tensor, weights: Tensor, logits: Tensor, *rest: Any
) -> Tensor:
    return torch.empty_like(logits)


register(
    f"topk_sums({_INPUTS}, float k, bool of_all, {_LOSS}, str[] terms, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _topk_sums,
    _topk_sums_fake,
)
register(
    "topk_sums_backward(Tensor? grad_sums, Tensor? grad_mean, Tensor count, Tensor weights, "
    f"{_INPUTS}, {_LOSS}, str[] terms, {_OPTIONS}) -> Tensor",
    _topk_sums_backward,
    _topk_sums_backward_fake,
)


# The Lovász extension of the Jaccard loss


def _jaccard_extension(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    per_sample: bool,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    hinge = activation == HINGE
    plan = make_plan((), "none" if hinge else activation, tuple(ignore), dense)
    module = choose_room("ranked", backend, logits.device)
    bad_labels = True
    if hasattr(module, "jaccard_with_bad_labels"):
        *out, bad_labels = module.jaccard_with_bad_labels(logits, target, mask, plan, per_sample, hinge)
    else:
        out = module.jaccard(logits, target, mask, plan, per_sample, hinge)
    values, sizes, slopes = out
    if validate:
        check_weights(mask)
        plan = plan._replace(activation="sigmoid") if hinge else plan  # any finite logits
        check_values(logits, target, mask, plan, validate, bad_labels)
    return values, sizes, slopes


def _jaccard_extension_backward(
    grad_values: Tensor,
    slopes: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> Tensor:
    # the value is linear in p between two changes of order: its slopes are a voxel weight map of the term p
    plan = make_plan(("map*p",), "none" if activation == HINGE else activation, tuple(ignore), dense)
    grad_sums = grad_values.expand(logits.shape[:2]).unsqueeze(-1)
    counted = None if mask is None else mask != 0  # the slopes have the weights in them
    module = choose(backend, logits.device)
    gradient: Tensor = module.backward(grad_sums, logits, target, counted, slopes.transpose(0, 1), plan)
    return gradient


def _jaccard_extension_fake(
    logits: Tensor, target: Tensor, mask: Tensor | None, per_sample: bool, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    real = sum_dtype(logits.device)
    batch, channels = logits.shape[:2]
    values = logits.new_empty((batch if per_sample else 1, channels), dtype=real)
    slopes = logits.new_empty((channels, batch, *logits.shape[2:]), dtype=loss_dtype(logits))
    return values, torch.empty_like(values), slopes


def _jaccard_extension_backward_fake(grad_values: Tensor, slopes: Tensor, logits: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(logits)


register(
    f"jaccard_extension({_INPUTS}, bool per_sample, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _jaccard_extension,
    _jaccard_extension_fake,
)
register(
    f"jaccard_extension_backward(Tensor grad_values, Tensor slopes, {_INPUTS}, {_OPTIONS}) -> Tensor",
    _jaccard_extension_backward,
    _jaccard_extension_backward_fake,
)


# Autograd


class _TopK(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *inputs, portion, class_weight, options = arguments
        sums, mean, count, weights = torch.ops.fastloss.topk_sums(*inputs, *portion, class_weight, *options)
        save(ctx, (count, weights, *inputs, class_weight), options)
        return sums, mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_sums, grad_mean = grads
        nothing = (None,) * 5
        if grad_sums is None and grad_mean is None:
            return None, *nothing
        gradient = torch.ops.fastloss.topk_sums_backward(grad_sums, grad_mean, *ctx.saved_tensors, *ctx.options)
        return first_derivative_only(gradient, grad_sums, grad_mean, ctx.saved_tensors[2]), *nothing


class _EagerTopK(NoForwardMode, _TopK):
    pass


class _Jaccard(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *inputs, per_sample, options = arguments
        values, sizes, slopes = torch.ops.fastloss.jaccard_extension(*inputs, per_sample, *options)
        save(ctx, (slopes, *inputs), options)
        ctx.mark_non_differentiable(sizes)
        return values, sizes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_values = grads[0]
        nothing = (None,) * 4
        if grad_values is None:
            return None, *nothing
        gradient = torch.ops.fastloss.jaccard_extension_backward(grad_values, *ctx.saved_tensors, *ctx.options)
        return first_derivative_only(gradient, grad_values, ctx.saved_tensors[1]), *nothing


class _EagerJaccard(NoForwardMode, _Jaccard):
    pass


def topk_sums(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    portion: tuple[float, bool],
    class_weight: Tensor | None,
    options: tuple[Any, ...],
) -> tuple[Tensor, Tensor]:
    """Differentiable sums ``[B, C, K]`` and the mean of the largest voxel losses: of a portion k, and whether of all
    voxels; ``options``: those of the operator from the label smoothing on."""
    sums, mean = apply_function(_TopK, _EagerTopK, logits, target, mask, portion, class_weight, options)
    return sums, mean


def jaccard_extension(
    logits: Tensor, target: Tensor, mask: Tensor | None, per_sample: bool, options: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss ``[B or 1, C]``, differentiable, and the weight of each class."""
    values, sizes = apply_function(_Jaccard, _EagerJaccard, logits, target, mask, per_sample, options)
    return values, sizes
