"""The registered operators of the losses on stencils, and their autograd. Knows torch and the back ends only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..terms import Plan, make_plan
from .ops import NoForwardMode, apply_function, choose_room, first_derivative_only
from .values import check_values

_INPUTS = "Tensor logits, Tensor target, Tensor? mask, str activation, int[] ignore, bool dense, int validate"
_SLOPE_TERMS = ["map*d^2"]  # a map times (p - y)^2

_library = torch.library.Library("fastloss", "FRAGMENT")


def _plan(activation: str, ignore: Sequence[int], dense: bool) -> Plan:
    return make_plan((), activation, tuple(ignore), dense)


def _register(schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA", "MPS", "XPU"):
        _library.impl(name, function, key)
    torch.library.register_fake(f"fastloss::{name}", fake)


def _constant_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of a volume that is kept."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _sums_like(logits: Tensor, columns: int) -> Tensor:
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    return logits.new_empty((*logits.shape[:2], columns), dtype=dtype)


# Stencils of the squared error: [B, C, 2] (a sum, and the sum of w), and the derivative of the sum by w (p - y)^2


def _hausdorff_erosion(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    alpha: float,
    erosions: int,
    derivative: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    plan = _plan(activation, ignore, dense)
    stencils = choose_room("stencils", backend, logits.device)
    sums, slope, bad = stencils.hausdorff_erosion(logits, target, mask, plan, alpha, erosions, derivative)
    check_values(logits, target, mask, plan, validate, bad)
    return sums, slope


def _squared_error_fake(logits: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    derivative = inputs[-2]
    slope = logits.new_empty(logits.shape if derivative else (0,), dtype=_constant_dtype(logits))
    return _sums_like(logits, 2), slope


_register(
    f"hausdorff_erosion({_INPUTS}, float alpha, int erosions, bool derivative, str backend) -> (Tensor, Tensor)",
    _hausdorff_erosion,
    _squared_error_fake,
)


def _hausdorff_conv(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    alpha: float,
    radii: Sequence[int],
    hard: bool,
    first: int,
    derivative: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    plan = _plan(activation, ignore, dense)
    stencils = choose_room("stencils", backend, logits.device)
    sums, slope, bad = stencils.hausdorff_conv(logits, target, mask, plan, alpha, list(radii), hard, first)
    check_values(logits, target, mask, plan, validate, bad)
    return sums, slope if derivative else slope.new_empty(0)


_register(
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
        ctx.save_for_backward(logits, target, mask, slope)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_sums = grads[0]
        if grad_sums is None:
            return None, None, None, None, None
        logits, target, mask, slope = ctx.saved_tensors
        activation, ignore, dense = ctx.options[:3]
        gradient = torch.ops.fastloss.voxel_sums_backward(
            grad_sums[..., :1], logits, target, mask, slope, _SLOPE_TERMS, activation, ignore, dense, 0, ctx.options[-1]
        )
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


def _structural_map(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    taps: Sequence[float],
    threshold: float,
    stability: float,
    least: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    plan = _plan(activation, ignore, dense)
    stencils = choose_room("stencils", backend, logits.device)
    field, selected, bad = stencils.structural_map(logits, target, mask, plan, list(taps), threshold, stability, least)
    check_values(logits, target, mask, plan, validate, bad)
    return field, selected


def _structural_map_fake(logits: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape, dtype=_constant_dtype(logits)), _sums_like(logits, 1).squeeze(-1)


_register(
    f"structural_map({_INPUTS}, float[] taps, float threshold, float stability, float least, str backend)"
    " -> (Tensor, Tensor)",
    _structural_map,
    _structural_map_fake,
)


def structural_map(
    logits: Tensor, target: Tensor, mask: Tensor | None, options: tuple[Any, ...], backend: str
) -> tuple[Tensor, Tensor]:
    """Where the structures differ, ``[B, C, *S]``, and over how many voxels, ``[B, C]``; constants."""
    field, selected = torch.ops.fastloss.structural_map(logits.detach(), target, mask, *options, backend)
    return field, selected


# Soft clDice: [B, C, 7], the sums of w times p y, p, s_p y, s_p, s_y p, s_y and y


def _cldice_sums(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    iterations: int,
    first: int,
    backend: str,
) -> Tensor:
    plan = _plan(activation, ignore, dense)
    stencils = choose_room("stencils", backend, logits.device)
    sums, bad = stencils.cldice_sums(logits, target, mask, plan, iterations, first)
    check_values(logits, target, mask, plan, validate, bad)
    return sums


def _cldice_sums_backward(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    iterations: int,
    first: int,
    backend: str,
) -> Tensor:
    plan = _plan(activation, ignore, dense)
    stencils = choose_room("stencils", backend, logits.device)
    gradient: Tensor = stencils.cldice_sums_backward(grad_sums, logits, target, mask, plan, iterations, first)
    return gradient


_CLDICE = f"{_INPUTS}, int iterations, int first, str backend) -> Tensor"
_register(f"cldice_sums({_CLDICE}", _cldice_sums, lambda logits, *inputs: _sums_like(logits, 7))
_register(
    f"cldice_sums_backward(Tensor grad_sums, {_CLDICE}",
    _cldice_sums_backward,
    lambda grad_sums, logits, *inputs: torch.empty_like(logits),
)


class _ClDiceSums(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, mask: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(logits, target, mask)
        ctx.options = options
        ctx.set_materialize_grads(False)
        sums: Tensor = torch.ops.fastloss.cldice_sums(logits, target, mask, *options)
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
