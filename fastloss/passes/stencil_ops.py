"""The registered operators of the losses on stencils, and their autograd. Knows torch and the back ends only."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..terms import VALIDATE_NOTHING, make_plan
from .autograd import NoForwardMode, apply_function, first_derivative_only, save
from .backends import choose_room
from .registry import register
from .tensors import loss_dtype, sum_dtype
from .values import check_values

_INPUTS = "Tensor logits, Tensor target, Tensor? mask, str activation, int[] ignore, bool dense, int validate"
_SLOPE_TERMS = ["map*d^2"]  # a map times (p - y)^2


def _run(name: str, *arguments: Any) -> Any:
    """The tensors that a back end's function of the operator's name gives, once the values are checked."""
    logits, target, mask, activation, ignore, dense, validate, *own, backend = arguments
    plan = make_plan((), activation, tuple(ignore), dense)
    stencils = choose_room("stencils", backend, logits.device)
    *found, bad_labels = getattr(stencils, name)(logits, target, mask, plan, *own)
    check_values(logits, target, mask, plan, validate, bad_labels)
    return found[0] if len(found) == 1 else tuple(found)


def _sums_like(logits: Tensor, columns: int) -> Tensor:
    return logits.new_empty((*logits.shape[:2], columns), dtype=sum_dtype(logits.device))


# Stencils of the squared error: [B, C, 2] (a sum, and the sum of w), and the derivative of the sum by w (p - y)^2


def _squared_error_fake(logits: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    derivative = inputs[-2]
    slope = logits.new_empty(logits.shape if derivative else (0,), dtype=loss_dtype(logits))
    return _sums_like(logits, 2), slope


register(
    f"hausdorff_erosion({_INPUTS}, float alpha, int erosions, bool derivative, str backend) -> (Tensor, Tensor)",
    functools.partial(_run, "hausdorff_erosion"),
    _squared_error_fake,
)


def _hausdorff_conv(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, derivative, backend = arguments
    sums, slope = _run("hausdorff_conv", *given, backend)
    return sums, slope if derivative else slope.new_empty(0)


register(
    f"hausdorff_conv({_INPUTS}, float alpha, int[] radii, bool hard, int first, bool derivative, str backend)"
    " -> (Tensor, Tensor)",
    _hausdorff_conv,
    _squared_error_fake,
)


class _SquaredErrorSums(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, mask: Tensor | None, name: str, options: tuple[Any, ...]
    ) -> Tensor:
        sums, slope = getattr(torch.ops.fastloss, name)(logits, target, mask, *options)
        save(ctx, (logits, target, mask, slope), options)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_sums = grads[0]
        if grad_sums is None:
            return None, None, None, None, None
        logits, target, mask, slope = ctx.saved_tensors
        options = (_SLOPE_TERMS, *ctx.options[:3], VALIDATE_NOTHING, ctx.options[-1])
        gradient = torch.ops.fastloss.voxel_sums_backward(grad_sums[..., :1], logits, target, mask, slope, *options)
        return first_derivative_only(gradient, grad_sums, logits), None, None, None, None


class _EagerSquaredErrorSums(NoForwardMode, _SquaredErrorSums):
    pass


def squared_error_sums(
    name: str, logits: Tensor, target: Tensor, mask: Tensor | None, options: tuple[Any, ...], backend: str
) -> Tensor:
    """Differentiable ``[B, C, 2]`` of the operator of a name; ``options`` are those between its tensors and
    ``derivative``."""
    derivative = logits.requires_grad and torch.is_grad_enabled()
    arguments = (*options, derivative, backend)
    result: Tensor = apply_function(_SquaredErrorSums, _EagerSquaredErrorSums, logits, target, mask, name, arguments)
    return result


# Structural similarity: constants, without a gradient


def _structural_map_fake(logits: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape, dtype=loss_dtype(logits)), _sums_like(logits, 1).squeeze(-1)


register(
    f"structural_map({_INPUTS}, float[] taps, float threshold, float stability, float least, str backend)"
    " -> (Tensor, Tensor)",
    functools.partial(_run, "structural_map"),
    _structural_map_fake,
)


def structural_map(
    logits: Tensor, target: Tensor, mask: Tensor | None, options: tuple[Any, ...], backend: str
) -> tuple[Tensor, Tensor]:
    """Where the structures differ, ``[B, C, *S]``, and over how many voxels, ``[B, C]``; constants."""
    field, selected = torch.ops.fastloss.structural_map(logits.detach(), target, mask, *options, backend)
    return field, selected


# Soft clDice: [B, C, 7], the sums of w times p y, p, s_p y, s_p, s_y p, s_y and y


def _cldice_sums_backward(grad_sums: Tensor, *arguments: Any) -> Tensor:
    *tensors, activation, ignore, dense, _, iterations, first, backend = arguments
    stencils = choose_room("stencils", backend, grad_sums.device)
    plan = make_plan((), activation, tuple(ignore), dense)
    gradient: Tensor = stencils.cldice_sums_backward(grad_sums, *tensors, plan, iterations, first)
    return gradient


_CLDICE = f"{_INPUTS}, int iterations, int first, str backend) -> Tensor"
register(
    f"cldice_sums({_CLDICE}",
    functools.partial(_run, "cldice_sums"),
    lambda logits, *inputs: _sums_like(logits, 7),
)
register(
    f"cldice_sums_backward(Tensor grad_sums, {_CLDICE}",
    _cldice_sums_backward,
    lambda grad_sums, logits, *inputs: torch.empty_like(logits),
)


class _ClDiceSums(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, options = arguments
        save(ctx, inputs, options)
        sums: Tensor = torch.ops.fastloss.cldice_sums(*inputs, *options)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_sums = grads[0]
        if grad_sums is None:
            return None, None, None, None
        logits, target, mask = ctx.saved_tensors
        gradient = torch.ops.fastloss.cldice_sums_backward(grad_sums, logits, target, mask, *ctx.options)
        return first_derivative_only(gradient, grad_sums, logits), None, None, None


class _EagerClDiceSums(NoForwardMode, _ClDiceSums):
    pass


def cldice_sums(logits: Tensor, target: Tensor, mask: Tensor | None, options: tuple[Any, ...]) -> Tensor:
    """Differentiable ``[B, C, 7]``; ``options`` are the operator's, after its tensors."""
    result: Tensor = apply_function(_ClDiceSums, _EagerClDiceSums, logits, target, mask, options)
    return result
