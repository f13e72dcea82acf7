"""The mechanism of ``fastloss.accelerate``: a peer's functions are wrapped, and each call is served or passed on.

A peer has a module of its own here, named as in ``PEERS`` of ``startup/hook.py``, which imports the peer at its top and
declares what it serves::

    from .core import Served, Unserved
    from .fused import check_tensors, dtype_of, run_pass

    served = Served()  # this name; accelerate() looks for it

    @served(peer.losses.DiceLoss)  # a class: its forward, or another method by name. What is None is left out
    def dice_loss(self, input, target):  # the parameters of the original, by the same names
        check_tensors(input, target)  # what no pass takes raises Unserved, and the original runs
        if self.reduction == "none":
            raise Unserved("reduction='none'")  # a few words: they are counted and shown by report()
        sums = run_pass(input, target, ("p", "py", "y"), "softmax")  # float64 [B, C] by name
        table = 1 - 2 * sums["py"] / (sums["p"] + sums["y"])  # 0/0 stays NaN, if that is the peer's
        return table.mean().to(dtype_of(input, target))

    @served(peer.functional, "dice_score")  # a function, in all modules that hold it
    def dice_score(...): ...

What is served reads the object's attributes at each call and has no side effect; it returns the peer's value, or raises
``Unserved`` before anything is seen of it. Warnings and errors are the original's to give: pass such calls on.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("fastloss")
_PASSED_ON: Any = object()


class Unserved(Exception):
    """Raised by what is served for a call that the original has to answer; its text is the reason."""


class Target:
    """A function of a peer, and what serves it."""

    def __init__(
        self,
        owner: Any,
        attribute: str,
        serve: Callable[..., Any],
        subclass: type | None,
        begins_with_target: Callable[[Any], bool],
    ):
        self.owner, self.attribute, self.serve, self.subclass = owner, attribute, serve, subclass
        self.begins_with_target = begins_with_target
        self.name = attribute if isinstance(owner, types.ModuleType) else owner.__name__
        self.original: Any = None
        self.places: list[tuple[Any, str, bool]] = []  # where the wrapper is; whether the attribute was the place's own
        self.wrapper: Any = None
        self.active = False

    def apply(self) -> None:
        self.original = getattr(self.owner, self.attribute)
        self.wrapper = _wrapper(self.original, self)
        if isinstance(self.owner, types.ModuleType):
            self.places = [(module, name, True) for module, name in _holders(self.original)]
        else:
            self.places = [(self.owner, self.attribute, self.attribute in vars(self.owner))]
        self.active = True
        for place, name, _ in self.places:
            setattr(place, name, self.wrapper)

    def undo(self) -> None:
        self.active = False  # wherever the wrapper is still held, it only calls the original
        for place, name, own in self.places:
            if vars(place).get(name) is not self.wrapper:
                continue  # someone has wrapped it again
            if own:
                setattr(place, name, self.original)
            else:
                delattr(place, name)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The fused value, or ``_PASSED_ON``."""
        if not self.active:
            return _PASSED_ON
        if torch.compiler.is_compiling():  # nothing is counted: a count would be a guard that every call breaks
            try:
                return self.serve(*args, **kwargs)
            except Unserved:
                return _PASSED_ON
        reason, value = "", _PASSED_ON
        try:
            _refuse_transforms()
            value = self._serve(args, kwargs)
        except Unserved as unserved:
            reason = str(unserved)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next.tb_next is not None:  # type: ignore[union-attr]
                raise
            reason = "arguments of another form"  # the call itself failed
        _count(self, reason)
        return value

    def _serve(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plain, named, zeros = _plain(self.subclass, args, kwargs) if self.subclass else (args, kwargs, ())
        value = self.serve(*plain, **named)
        if isinstance(value, Tensor) and value.requires_grad:
            value = _with_second_derivative(value, self.original, args, kwargs)
        if len(zeros) > 1 and self.begins_with_target(args[0]):
            zeros = zeros[::-1]
        for zero in zeros:  # by which the result becomes one of the subclass, as the peer's own arithmetic has it
            value = value + zero.to(value.dtype)
        return value


def _plain(
    subclass: type, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Sequence[Tensor]]:
    """The arguments with plain tensors for those of a subclass, and of each of these a zero."""
    given: list[Any] = [value for value in (*args, *kwargs.values()) if isinstance(value, subclass)]
    if not given:
        return args, kwargs, ()

    def plain(value: Any) -> Any:
        return value.as_subclass(Tensor) if isinstance(value, subclass) and isinstance(value, Tensor) else value

    zeros = [value.new_zeros(()) for value in given]
    return tuple(map(plain, args)), {name: plain(value) for name, value in kwargs.items()}, zeros


def _wrapper(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    """The original as seen from outside; torch.jit.script follows ``__wrapped__`` and reads the globals, which
    therefore are the original's own: so the function below uses no name of this module."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        value = _fastloss_target.call(args, kwargs)
        return _fastloss_original(*args, **kwargs) if value is _fastloss_passed_on else value

    _fastloss_target, _fastloss_original, _fastloss_passed_on = target, original, _PASSED_ON
    function = getattr(original, "__globals__", vars(sys.modules[__name__]))
    made = types.FunctionType(wrapper.__code__, function, original.__name__, None, wrapper.__closure__)
    return functools.wraps(original)(made)


def _holders(function: Any) -> Iterable[tuple[types.ModuleType, str]]:
    """The modules that hold a function, by whatever name."""
    for module in list(sys.modules.values()):
        if isinstance(module, types.ModuleType):
            for name, value in list(vars(module).items()):
                if value is function:
                    yield module, name


def _refuse_transforms() -> None:
    if torch._C._are_functorch_transforms_active():
        raise Unserved("torch.func")
    if torch._C._get_tracing_state() is not None:
        raise Unserved("torch.jit.trace")
    if torch.autograd.forward_ad._current_level >= 0:
        raise Unserved("forward-mode derivatives")


class _Twice(torch.autograd.Function):
    """The fused value; under ``create_graph=True`` its gradient is that of the original, which has further derivatives,
    where fused passes have none."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, original: Callable[[Sequence[Tensor]], Tensor], *tensors: Tensor) -> Tensor:
        ctx.original = original
        ctx.save_for_backward(*tensors)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        tensors = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return grads[0], None, *[None] * len(tensors)
        inputs = [x for x in tensors if x.requires_grad]
        found = iter(torch.autograd.grad(ctx.original(tensors), inputs, grads[0], create_graph=True, allow_unused=True))
        return None, None, *(next(found) if x.requires_grad else None for x in tensors)


def _with_second_derivative(
    value: Tensor, original: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    given = (*args, *kwargs.values())
    others = [None if isinstance(x, Tensor) else x for x in given]  # the tensors are autograd's to keep, or to let go
    places = [i for i, x in enumerate(given) if isinstance(x, Tensor)]

    def call(tensors: Sequence[Tensor]) -> Tensor:
        values = list(others)
        for place, tensor in zip(places, tensors, strict=True):
            values[place] = tensor
        return original(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

    twice: Tensor = _Twice.apply(value, call, *(given[place] for place in places))
    return twice


class Served(list[Target]):
    """What a peer's module serves: a decorator that notes the owner and the name of an original.

    Args:
        subclass: the peer's own class of tensors, if it has one: what is served gets them as plain tensors.
    """

    def __init__(self, subclass: type | None = None):
        super().__init__()
        self.subclass = subclass

    def __call__(
        self, owner: Any, attribute: str = "forward", begins_with_target: Callable[[Any], bool] = lambda self: False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """``begins_with_target``: whether an object's results have the target's metadata, not the input's."""

        def note(serve: Callable[..., Any]) -> Callable[..., Any]:
            if owner is not None:
                self.append(Target(owner, attribute, serve, self.subclass, begins_with_target))
            return serve

        return note


# Counting

lock = threading.RLock()  # of the counts, and of what is applied
Counts = Counter[tuple[Target, str]]
counts: Counts = Counter()  # by reason; "" where it was fused


def _count(target: Target, reason: str) -> None:
    with lock:
        counts[target, reason] += 1
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("fastloss.accelerate: %s: %s", target.name, f"passed on: {reason}" if reason else "fused")
