"""The operators of voxel sums: one boundary per direction, and their autograd. Knows torch and the back ends only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..terms import Plan, is_constant, make_plan
from .autograd import NoForwardMode, apply_function, first_derivative_only, refuse_transforms, save
from .backends import choose
from .registry import register
from .tensors import sum_dtype
from .values import check_values

_TENSORS = "Tensor logits, Tensor target, Tensor? mask, Tensor? weight_map"
_OPTIONS = "str[] terms, str activation, int[] ignore, bool dense, int validate, str backend"


def _plan(terms: Sequence[str], activation: str, ignore: Sequence[int], dense: bool) -> Plan:
    return make_plan(tuple(terms), activation, tuple(ignore), dense)


def _voxel_sums(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    terms: Sequence[str],
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> Tensor:
    plan = _plan(terms, activation, ignore, dense)
    module = choose(backend, logits.device)
    if hasattr(module, "forward_with_bad_labels"):
        sums, bad_labels = module.forward_with_bad_labels(logits, target, mask, weight_map, plan)
    else:
        sums = module.forward(logits, target, mask, weight_map, plan)
        bad_labels = True
    if validate:
        check_values(logits, target, mask, plan, validate, bad_labels)
    return sums


def _voxel_sums_backward(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    terms: Sequence[str],
    activation: str,
    ignore: Sequence[int],
    dense: bool,
    validate: int,
    backend: str,
) -> Tensor:
    plan = _plan(terms, activation, ignore, dense)
    module = choose(backend, logits.device)
    gradient: Tensor = module.backward(grad_sums, logits, target, mask, weight_map, plan)
    return gradient


def _voxel_sums_fake(logits: Tensor, *inputs: Any) -> Tensor:
    terms = inputs[3]
    return logits.new_empty((logits.shape[0], logits.shape[1], len(terms)), dtype=sum_dtype(logits.device))


def _voxel_sums_backward_fake(grad_sums: Tensor, logits: Tensor, *inputs: Any) -> Tensor:
    return torch.empty_like(logits)


register(f"voxel_sums({_TENSORS}, {_OPTIONS}) -> Tensor", _voxel_sums, _voxel_sums_fake)
register(
    f"voxel_sums_backward(Tensor grad_sums, {_TENSORS}, {_OPTIONS}) -> Tensor",
    _voxel_sums_backward,
    _voxel_sums_backward_fake,
)


# Autograd


class _VoxelSums(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, options = arguments
        save(ctx, inputs, options)
        sums: Tensor = torch.ops.fastloss.voxel_sums(*inputs, *options)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_sums = grads[0]
        if grad_sums is None:
            return None, None, None, None, None
        logits, *others = ctx.saved_tensors
        gradient = torch.ops.fastloss.voxel_sums_backward(grad_sums, logits, *others, *ctx.options)
        return first_derivative_only(gradient, grad_sums, logits), None, None, None, None


class _EagerVoxelSums(NoForwardMode, _VoxelSums):
    pass


class _EagerSumsOfTerms(NoForwardMode, torch.autograd.Function):
    """A tensor for each term: each operator on small tensors costs as much as thousands of voxels do."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *inputs, options = arguments
        save(ctx, inputs, options)
        forward = _voxel_sums if _unobserved(inputs) else torch.ops.fastloss.voxel_sums
        found: tuple[Tensor, ...] = forward(*inputs, *options).unbind(-1)
        constant = (x for x, name in zip(found, options[0], strict=True) if is_constant(name))
        ctx.mark_non_differentiable(*constant)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        given = [grad for grad in grads if grad is not None]
        if not given:
            return None, None, None, None, None
        zero = torch.zeros_like(given[0])
        grad_sums = torch.stack([zero if grad is None else grad for grad in grads], -1)
        inputs = ctx.saved_tensors
        backward = _voxel_sums_backward if _unobserved(inputs) else torch.ops.fastloss.voxel_sums_backward
        gradient = backward(grad_sums, *inputs, *ctx.options)
        return first_derivative_only(gradient, *given, inputs[0]), None, None, None, None


class _Quotients(NoForwardMode, torch.autograd.Function):
    """A loss that is quotients of sums, which a back end finishes without an operator for each step."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, options, parts = arguments
        logits, target, mask, _ = inputs
        terms, *form, validate, backend = options
        plan = _plan(terms, *form)
        value: Tensor
        value, slopes = choose(backend, logits.device).quotient_loss(*inputs, plan, tuple(terms), parts)
        if validate:
            check_values(logits, target, mask, plan, validate, True)
        save(ctx, (*inputs, slopes), (plan, backend))
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad = grads[0]
        if grad is None:
            return None, None, None, None, None, None
        *inputs, slopes = ctx.saved_tensors
        plan, backend = ctx.options
        with torch.no_grad():
            gradient = choose(backend, grad.device).quotient_backward(slopes, grad, *inputs, plan)
        return first_derivative_only(gradient, grad, inputs[0]), None, None, None, None, None


def takes_quotients(inputs: Sequence[Tensor | None], backend: str) -> bool:
    """Whether :func:`quotient_loss` serves tensors: of back ends with a step for it, in eager code."""
    logits = inputs[0]
    if logits is None or (logits.device.type == "cpu" and backend != "triton"):  # soonest said, as calls are short
        return False
    if torch.compiler.is_compiling() or not all(x is None or type(x) is Tensor for x in inputs):
        return False
    module = choose(backend, logits.device)
    return hasattr(module, "quotient_loss") and module.takes_quotients(*logits.shape[:2]) and logits.numel() > 0


def quotient_loss(*inputs: Any) -> Tensor:
    """The sum of :class:`Quotient` of sums as a differentiable scalar; arguments as of :func:`sums`, and these."""
    refuse_transforms()
    value: Tensor = _Quotients.apply(*inputs)
    return value


def _unobserved(inputs: Sequence[Tensor | None]) -> bool:
    """Whether no mode, subclass or profiler wants to see an operator, and no tensor waits to be negated: then its
    function may be called without torch's dispatcher."""
    if torch._C._len_torch_dispatch_stack() or torch._C._autograd._profiler_enabled():
        return False
    return all(x is None or (type(x) is Tensor and x.device.type == "cpu" and not x.is_neg()) for x in inputs)


def sums(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    options: tuple[Any, ...],
) -> Tensor:
    """Differentiable sums ``[B, C, K]``; ``options`` are the operator's, after its tensors."""
    result: Tensor = apply_function(_VoxelSums, _EagerVoxelSums, logits, target, mask, weight_map, options)
    return result


def sums_of_terms(*inputs: Any) -> tuple[Tensor, ...]:
    """As :func:`sums`, ``[B, C]`` for each term; those of the target alone have no gradient."""
    if torch.compiler.is_compiling():
        *_, options = inputs
        return by_term(sums(*inputs), options[0])
    refuse_transforms()
    found: tuple[Tensor, ...] = _EagerSumsOfTerms.apply(*inputs)
    return found


def by_term(sums: Tensor, terms: Sequence[str]) -> tuple[Tensor, ...]:
    """Sums ``[B, C, K]`` taken apart; those of the target alone have no gradient, which a formula may make infinite."""
    parts = zip(sums.unbind(-1), terms, strict=True)
    return tuple(part.detach() if is_constant(name) else part for part, name in parts)
