"""The registered operator of losses that are kept apart for each voxel. Its gradient is that of voxel sums: what comes
in for a voxel is a weight of it, and what comes in for the classes of a softmax is a voxel weight map."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..terms import MAP_PREFIX, VALIDATE_NOTHING, make_plan
from .autograd import NoForwardMode, apply_function, first_derivative_only, save
from .backends import choose_room
from .registry import register
from .tensors import loss_dtype
from .values import check_values


def _voxel_losses(
    coefficients: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    per_class: bool,
    terms: Sequence[str],
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> Tensor:
    plan = make_plan(tuple(terms), activation, tuple(ignore), dense)
    module = choose_room("values", backend, logits.device)
    arguments = (coefficients, logits, target, mask, weight_map, plan, per_class)
    losses: Tensor
    if hasattr(module, "voxel_losses_with_bad_labels"):
        losses, bad_labels = module.voxel_losses_with_bad_labels(*arguments)
    else:
        losses, bad_labels = module.voxel_losses(*arguments), True
    if validate:
        check_values(logits, target, mask, plan, validate, bad_labels)
    return losses


def _voxel_losses_fake(coefficients: Tensor, logits: Tensor, *inputs: Any) -> Tensor:
    per_class = inputs[3]
    shape = logits.shape if per_class else (logits.shape[0], *logits.shape[2:])
    return logits.new_empty(shape, dtype=loss_dtype(logits))


register(
    "voxel_losses(Tensor coefficients, Tensor logits, Tensor target, Tensor? mask, Tensor? weight_map, bool per_class, "
    "str[] terms, str activation, int[] ignore, bool dense, int validate, str backend) -> Tensor",
    _voxel_losses,
    _voxel_losses_fake,
)


class _VoxelLosses(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, per_class, options = arguments
        save(ctx, tensors, (per_class, *options))
        losses: Tensor = torch.ops.fastloss.voxel_losses(*tensors, per_class, *options)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        nothing = (None,) * 5
        if grads[0] is None:
            return None, None, *nothing
        coefficients, logits, target, mask, weight_map = ctx.saved_tensors
        per_class, terms, activation, ignore, dense, _, backend = ctx.options
        of_logits: list[Tensor] = []
        of_coefficients: dict[int, Tensor] = {}
        for numbers, names, weights, volume in _passes(grads[0], mask, weight_map, terms, activation, per_class):
            inputs = (logits, target, weights, volume, names, activation, ignore, dense, VALIDATE_NOTHING, backend)
            if ctx.needs_input_grad[0]:
                sums = torch.ops.fastloss.voxel_sums(*inputs)
                of_coefficients |= dict(zip(numbers, sums.unbind(-1), strict=True))
            if ctx.needs_input_grad[1]:
                of_logits.append(torch.ops.fastloss.voxel_sums_backward(coefficients[..., numbers], *inputs))
        by = (grads[0], coefficients, logits)
        columns = [of_coefficients[k] for k in sorted(of_coefficients)]
        return (
            first_derivative_only(torch.stack(columns, -1), *by) if columns else None,
            first_derivative_only(functools.reduce(torch.add, of_logits), *by) if of_logits else None,
            *nothing,
        )


class _EagerVoxelLosses(NoForwardMode, _VoxelLosses):
    pass


_Pass = tuple[list[int], list[str], Tensor | None, Tensor | None]


def _passes(
    grad: Tensor, mask: Tensor | None, weight_map: Tensor | None, terms: Sequence[str], activation: str, per_class: bool
) -> list[_Pass]:
    """The passes over sums that give the gradient: numbers of terms, their names, weights and map of the voxels.

    One, unless what comes in for each class of a softmax meets terms with a map and others.
    """
    if not per_class or activation != "softmax":
        return [(list(range(len(terms))), list(terms), _weighted(grad, mask), weight_map)]
    mapped = [name.startswith(MAP_PREFIX) for name in terms]
    found: list[_Pass] = []
    for under_map in dict.fromkeys(mapped):
        numbers = [k for k, of_term in enumerate(mapped) if of_term == under_map]
        names = [MAP_PREFIX + terms[k].removeprefix(MAP_PREFIX) for k in numbers]
        volume = grad if weight_map is None or not under_map else grad * weight_map
        found.append((numbers, names, mask, volume))
    return found


def _weighted(grad: Tensor, mask: Tensor | None) -> Tensor:
    """What comes in, times the weights of the voxels; either may have an axis of channels."""
    if mask is None:
        return grad
    if mask.ndim > grad.ndim:
        grad = grad.unsqueeze(1)
    return grad * (mask.unsqueeze(1) if mask.ndim < grad.ndim else mask)


def voxel_losses(
    coefficients: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    per_class: bool,
    options: tuple[Any, ...],
) -> Tensor:
    """The sum of terms of each voxel ``[B, *S]``, or also of each class ``[B, C, *S]``, differentiable in logits and
    coefficients ``[B, C, K]``; ``options`` end the operator's."""
    arguments = (coefficients, logits, target, mask, weight_map, per_class, options)
    losses: Tensor = apply_function(_VoxelLosses, _EagerVoxelLosses, *arguments)
    return losses
