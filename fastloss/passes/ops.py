"""The registered operators: one boundary per direction, and their autograd. Knows torch and the back ends only."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..quotients import Quotient
from ..terms import Plan, is_constant, make_plan
from .values import check_values

BACKENDS = ("reference", "numba", "triton")
_MODULES = {"reference": "reference", "numba": "cpu", "triton": "gpu"}
_log = logging.getLogger("fastloss")


# Choice of the back end


def _checked_backend(name: str) -> str:
    if not isinstance(name, str) or (name and name not in BACKENDS):
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(BACKENDS)}")
    return name


_forced = _checked_backend(os.environ.get("FASTLOSS_BACKEND", ""))


def forced_backend() -> str:
    """The back end that is forced in this process, or an empty string."""
    return _forced


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces a back end (``"reference"``, ``"numba"`` or ``"triton"``) in this process, for all threads.

    A forced back end that cannot run raises; nothing falls back in silence. The environment variable
    ``FASTLOSS_BACKEND`` does the same from the start.
    """
    global _forced
    before, _forced = _forced, _checked_backend(name)
    try:
        yield
    finally:
        _forced = before


def _unavailable(name: str, device: torch.device) -> str:
    """Why a back end cannot run on a device; empty if it can."""
    if name == "numba":
        if device.type != "cpu":
            return f"the numba back end takes CPU tensors, got {device}"
        if not importlib.util.find_spec("numba"):
            return "Numba is not installed"
        return "NUMBA_DISABLE_JIT is set" if importlib.import_module("numba").config.DISABLE_JIT else ""
    if name == "triton":
        if not importlib.util.find_spec("triton"):
            return "Triton is not installed"
        return str(_module("triton").unavailable(device))
    return ""


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"fastloss.kernels.{_MODULES[name]}.sums")


_chosen: dict[tuple[str, str], ModuleType] = {}


def choose(forced: str, device: torch.device) -> ModuleType:
    """The back end that serves a device, or the one that is forced."""
    key = (forced, device.type)
    if key not in _chosen:
        wanted = forced or {"cpu": "numba", "cuda": "triton"}.get(device.type, "reference")
        problem = _unavailable(wanted, device)
        if problem and forced:
            raise ValueError(f"backend: {forced!r} is forced and cannot run: {problem}")
        if problem or (wanted == "reference" and not forced):
            reason = problem or f"no kernels for {device.type} devices"
            _log.warning("fastloss: using the reference back end on %s (slow): %s", device.type, reason)
            wanted = "reference"
        _chosen[key] = _module(wanted)
    return _chosen[key]


def distances_in_triton(device: torch.device) -> bool:
    """Whether distances of a device's tensors are Triton's: of a GPU's, or where Triton is forced and can run there."""
    wanted = _forced or ("triton" if device.type == "cuda" else "")
    return wanted == "triton" and not _unavailable("triton", device)


def choose_room(room: str, forced: str, device: torch.device) -> ModuleType:
    """Of the chosen back end another module than ``sums``: ``values``, ``ranked``, ``stencils`` or ``resample``."""
    return importlib.import_module(f"{choose(forced, device).__package__}.{room}")


# The operators

_library = torch.library.Library("fastloss", "DEF")
_TENSORS = "Tensor logits, Tensor target, Tensor? mask, Tensor? weight_map"
_OPTIONS = "str[] terms, str activation, int[] ignore, bool dense, int validate, str backend"
_library.define(f"voxel_sums({_TENSORS}, {_OPTIONS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    f"voxel_sums_backward(Tensor grad_sums, {_TENSORS}, {_OPTIONS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


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


def sum_dtype(device: torch.device) -> torch.dtype:
    """Of sums, and of the coefficients of terms."""
    return torch.float32 if device.type == "mps" else torch.float64


def loss_dtype(logits: Tensor) -> torch.dtype:
    """Of what is computed of each voxel."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _voxel_sums_fake(logits: Tensor, *inputs: Any) -> Tensor:
    terms = inputs[3]
    return logits.new_empty((logits.shape[0], logits.shape[1], len(terms)), dtype=sum_dtype(logits.device))


def _voxel_sums_backward_fake(grad_sums: Tensor, logits: Tensor, *inputs: Any) -> Tensor:
    return torch.empty_like(logits)


for _key in ("CPU", "CUDA", "MPS", "XPU"):
    _library.impl("voxel_sums", _voxel_sums, _key)
    _library.impl("voxel_sums_backward", _voxel_sums_backward, _key)
torch.library.register_fake("fastloss::voxel_sums", _voxel_sums_fake)
torch.library.register_fake("fastloss::voxel_sums_backward", _voxel_sums_backward_fake)


# Autograd

_DOUBLE = (
    "fastloss losses have first derivatives only, on every back end: for a second one write the loss's equation, which "
    "its docstring has, in plain PyTorch"
)


class FirstDerivativeOnly(torch.autograd.Function):
    """The gradient under create_graph=True: a further derivative raises instead of being silently wrong."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(_DOUBLE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise NotImplementedError(_DOUBLE)


class _VoxelSums(torch.autograd.Function):
    """What torch.compile traces: it takes no Function with a jvp."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight_map: Tensor | None,
        options: tuple[Any, ...],
    ) -> Tensor:
        _save(ctx, (logits, target, mask, weight_map, options))
        sums: Tensor = torch.ops.fastloss.voxel_sums(logits, target, mask, weight_map, *options)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        grad_sums = grads[0]
        if grad_sums is None:
            return None, None, None, None, None
        logits, *others = ctx.saved_tensors
        gradient = torch.ops.fastloss.voxel_sums_backward(grad_sums, logits, *others, *ctx.options)
        return first_derivative_only(gradient, grad_sums, logits), None, None, None, None


class NoForwardMode:
    """Comes first in a Function's eager version: without a jvp of its own, forward-mode would silently give zero."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise NotImplementedError("fastloss losses have no forward-mode derivative: use reverse mode (backward)")


class _EagerVoxelSums(NoForwardMode, _VoxelSums):
    pass


class _EagerSumsOfTerms(NoForwardMode, torch.autograd.Function):
    """A tensor for each term: each operator on small tensors costs as much as thousands of voxels do."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight_map: Tensor | None,
        options: tuple[Any, ...],
    ) -> tuple[Tensor, ...]:
        inputs = (logits, target, mask, weight_map)
        _save(ctx, (*inputs, options))
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
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight_map: Tensor | None,
        options: tuple[Any, ...],
        parts: tuple[Quotient, ...],
    ) -> Tensor:
        terms, *form, validate, backend = options
        plan = _plan(terms, *form)
        value, slopes = choose(backend, logits.device).quotient_loss(
            logits, target, mask, weight_map, plan, tuple(terms), parts
        )
        if validate:
            check_values(logits, target, mask, plan, validate, True)
        _save(ctx, (logits, target, mask, weight_map, slopes, (plan, backend)))
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


def first_derivative_only(gradient: Tensor, *inputs: Tensor | None) -> Tensor:
    """Under create_graph=True a gradient whose further derivative, by any of the inputs, raises."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradient
    limited: Tensor = FirstDerivativeOnly.apply(gradient, *(x for x in inputs if x is not None))
    return limited


def refuse_transforms() -> None:
    """Raises NotImplementedError under torch.func and torch.jit.trace."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        raise NotImplementedError(
            "fastloss losses cannot be traced by torch.jit.trace, which would record their values: trace the network "
            "without its loss, or use torch.compile"
        )
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "fastloss losses do not run under torch.func transforms (grad, vmap, jvp, ...): use loss.backward() or "
            "torch.autograd.grad, and reduction='none' for a value per sample"
        )


def refuse_script(loss: Any) -> None:
    """Raises NotImplementedError for what torch.jit.script has made of a loss."""
    if isinstance(loss, torch.jit.ScriptModule):
        raise NotImplementedError(
            "fastloss losses do not run in TorchScript: script the network and call the loss, which is not scripted, "
            "on its output; or use torch.compile or torch.export"
        )


def apply_function(traced: Any, eager: Any, *arguments: Any) -> Any:
    """Applies the version of an autograd Function that torch.compile traces, or the eager one."""
    if torch.compiler.is_compiling():
        return traced.apply(*arguments)
    refuse_transforms()
    return eager.apply(*arguments)


def _save(ctx: Any, inputs: tuple[Any, ...]) -> None:
    *tensors, ctx.options = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


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
