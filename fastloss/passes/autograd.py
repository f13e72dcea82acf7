"""What the operators' autograd has in common: first derivatives, in reverse mode, eager or traced by torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


class NoForwardMode:
    """Comes first in a Function's eager version: without a jvp of its own, forward-mode would silently give zero."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise NotImplementedError("fastloss losses have no forward-mode derivative: use reverse mode (backward)")


def first_derivative_only(gradient: Tensor, *inputs: Tensor | None) -> Tensor:
    """Under create_graph=True a gradient whose further derivative, by any of the inputs, raises."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradient
    limited: Tensor = FirstDerivativeOnly.apply(gradient, *(x for x in inputs if x is not None))
    return limited


def apply_function(traced: Any, eager: Any, *arguments: Any) -> Any:
    """Applies the version of an autograd Function that torch.compile traces, or the eager one."""
    if torch.compiler.is_compiling():
        return traced.apply(*arguments)
    refuse_transforms()
    return eager.apply(*arguments)


def save(ctx: Any, tensors: Sequence[Tensor | None], options: Any) -> None:
    """Keeps what backward needs, which gets None, not zeros, for what has no gradient."""
    ctx.save_for_backward(*tensors)
    ctx.options = options
    ctx.set_materialize_grads(False)


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
