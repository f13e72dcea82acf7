"""The mechanism of ``fastloss.accelerate``: a peer's functions are wrapped, and each call is served or passed on.

A peer has a module of its own here, named as in ``PEERS`` of ``startup/hook.py``, which imports the peer at its top and
declares what it serves::

    from .core import Served, Unserved, check_tensors, dtype_of, run_pass

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
import importlib
import logging
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ContextDecorator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..passes.inputs import FLOATS, Inputs, check_activation, check_inputs
from ..passes.sums import checked_sums_of_terms, checked_voxel_losses
from .startup.hook import PEERS, installed_peers

HALF = (torch.float16, torch.bfloat16)
_log = logging.getLogger("fastloss")
_lock = threading.RLock()
_PASSED_ON: Any = object()


class Unserved(Exception):
    """Raised by what is served for a call that the original has to answer; its text is the reason."""


# Wrapping


class _Target:
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


def _wrapper(original: Callable[..., Any], target: _Target) -> Callable[..., Any]:
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


class Served(list[_Target]):
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
                self.append(_Target(owner, attribute, serve, self.subclass, begins_with_target))
            return serve

        return note


# Counting

_Counts = Counter[tuple[_Target, str]]
_counts: _Counts = Counter()  # by reason; "" where it was fused


def _count(target: _Target, reason: str) -> None:
    with _lock:
        _counts[target, reason] += 1
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("fastloss.accelerate: %s: %s", target.name, f"passed on: {reason}" if reason else "fused")


class Calls(NamedTuple):
    """How often a function was fused, and how often the peer's own code ran, by reason."""

    fused: int
    passed_on: dict[str, int]


class Report(dict[str, Calls]):
    """The calls of each function that is replaced; as text, a line for each."""

    def __str__(self) -> str:
        lines = []
        for name, (fused, passed_on) in self.items():
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(passed_on.items()))
            lines.append(f"{name}: fused {fused}, passed on {sum(passed_on.values())}{reasons and f' ({reasons})'}")
        return "\n".join(lines)


# The public function

_applied: Counter[str] = Counter()  # how many hold a peer accelerated


def _targets(peer: str) -> Served:
    served: Served = importlib.import_module(f"{__package__}.{peer}").served
    return served


def _hold(peer: str) -> None:
    with _lock:
        targets = _targets(peer)
        _applied[peer] += 1
        if _applied[peer] == 1:
            for target in targets:
                target.apply()


def _release(peer: str) -> None:
    with _lock:
        _applied[peer] -= 1
        if _applied[peer] == 0:
            for target in reversed(_targets(peer)):
                target.undo()


class accelerate(ContextDecorator):
    """Lets the losses of other libraries run as fused passes, without a change to the program that uses them.

    The ``forward`` of the peer's classes is wrapped: what a fused pass serves with the same value, shape, dtype and
    gradient is computed by one; all else, errors and warnings included, is left to the peer's own code. Losses that
    were made or imported before are accelerated, too. For all threads of this process; several may be nested.

    ``fastloss.accelerate("monai")`` holds until :meth:`undo`; ``with fastloss.accelerate("monai"):`` to the end of the
    block, and ``@fastloss.accelerate("monai")`` during the calls of a function.

    Args:
        *peers: ``"monai"``, ``"nnunet"``, ``"smp"``, ``"kornia"``, ``"torchvision"``, ``"torch"``; without any, all of
            these that are installed.

    Raises:
        ValueError: for another name.
        ModuleNotFoundError: for a peer that is not installed.
    """

    def __init__(self, *peers: str):
        for peer in peers:
            if peer not in PEERS:
                raise ValueError(f"peers: got {peer!r}, expected any of {', '.join(PEERS)}")
        found = installed_peers()
        for peer in peers:
            if peer not in found:
                raise ModuleNotFoundError(f"peers: {peer!r} is not installed, expected one of {', '.join(found)}")
        self.peers = tuple(dict.fromkeys(peers or found))
        for peer in self.peers:
            _targets(peer)  # so that an error leaves nothing applied
        self._seen: _Counts = Counter()  # counts of the times before
        self._before: _Counts = Counter()  # all counts when this one began
        self._holds = 0
        self._start()
        self._waiting = True  # applied by the constructor, not yet taken over by a with

    def _start(self) -> None:
        with _lock:
            for peer in self.peers:
                _hold(peer)
            self._holds += 1
            if self._holds == 1:
                self._before = Counter(_counts)

    def _stop(self) -> None:
        with _lock:
            if self._holds:
                self._seen, self._before = self._counted(), Counter(_counts)
                self._holds -= 1
                for peer in reversed(self.peers):
                    _release(peer)

    def _counted(self) -> _Counts:
        return self._seen + (_counts - self._before) if self._holds else self._seen

    def __enter__(self) -> accelerate:
        if not self._waiting:
            self._start()
        self._waiting = False
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop()

    def __call__(self, function: Any) -> Any:
        self.undo()  # until the function is called
        return super().__call__(function)

    def undo(self) -> None:
        """Gives the peers their own functions back, unless another ``accelerate`` holds them."""
        self._waiting = False
        while self._holds:
            self._stop()

    def report(self) -> Report:
        """The calls so far, by class or function (with the peer's name where several have one of that name), of all
        threads while this was in force; those within compiled graphs are not counted."""
        with _lock:
            seen = self._counted()
        targets = [(peer, target) for peer in self.peers for target in _targets(peer)]
        times = Counter(target.name for _, target in targets)
        report = Report()
        for peer, target in targets:
            name = target.name if times[target.name] == 1 else f"{peer}.{target.name}"
            passed_on = {reason: count for (of, reason), count in seen.items() if of is target and reason}
            report[name] = Calls(seen[target, ""], passed_on)
        return report


# For the peers' modules


def check_tensors(logits: Any, target: Any) -> None:
    """Raises Unserved unless the passes take the tensors, and kernels are there for them: ``logits`` ``[B, C, *S]`` of
    floats with 1 to 3 spatial axes, ``target`` without a gradient, both on one device, CPU or CUDA."""
    for tensor in (logits, target):
        if not isinstance(tensor, Tensor):
            raise Unserved("not a tensor")
        if torch.compiler.is_compiling():
            continue
        if type(tensor) not in _PLAIN:
            raise Unserved(f"a {type(tensor).__name__}")
        if tensor.layout is not torch.strided or tensor.is_nested:
            raise Unserved("not a dense tensor")
    if not 3 <= logits.ndim <= 5:
        raise Unserved(f"{max(logits.ndim - 2, 0)} spatial axes")
    if logits.dtype not in FLOATS:
        raise Unserved(f"input of {logits.dtype}")
    if target.is_complex():
        raise Unserved(f"target of {target.dtype}")
    if logits.device.type not in ("cpu", "cuda") or logits.device != target.device:
        raise Unserved(f"devices {logits.device.type} and {target.device.type}")
    if target.requires_grad:
        raise Unserved("target requires a gradient")
    if logits.numel() == 0:
        raise Unserved("an empty input")


_PLAIN = (Tensor, torch.nn.Parameter)


def checked_inputs(
    logits: Tensor,
    target: Tensor,
    activation: str | None,
    *,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    weight_map: Tensor | None = None,
    validate: bool | None = None,
) -> Inputs:
    """The tensors of a pass; what it refuses, such as a label that is no class, is Unserved."""
    ignore = () if ignore_index is None else (int(ignore_index),)
    found: Inputs = attempt(
        check_inputs, logits, target, mask, weight_map, check_activation(activation), ignore, validate
    )
    return found


def run_pass(
    logits: Tensor, target: Tensor, terms: Sequence[str], activation: str | None, **options: Any
) -> dict[str, Tensor]:
    """The sums of :func:`fastloss.voxel_sums` by the names of their terms, float64 ``[B, C]``; those of the target
    alone have no gradient. ``options`` are those of :func:`checked_inputs`. On a GPU, where the pass does not look for
    labels that are no class, they are an assertion on the device, as in the peers; with ``validate=False`` nowhere."""
    inputs = checked_inputs(logits, target, activation, **options)
    names, name = tuple(dict.fromkeys(terms)), check_activation(activation)
    unseen = options.get("validate") is None and _unseen(inputs)
    if unseen:
        names = tuple(dict.fromkeys((*names, "y", "count")))
    sums = dict(zip(names, attempt(checked_sums_of_terms, inputs, names, name), strict=True))
    if unseen:
        torch._assert_async((sums["y"].sum(1) == sums["count"][:, 0]).all())
    return sums


def run_voxels(
    logits: Tensor,
    target: Tensor,
    terms: Mapping[str, Any],
    activation: str | None,
    per_class: bool = False,
    **options: Any,
) -> Tensor:
    """:func:`fastloss.voxel_losses`, with the options, refusals and labels of :func:`run_pass`."""
    inputs = checked_inputs(logits, target, activation, **options)
    if _unseen(inputs):
        labels = inputs.target.long()
        good = (labels >= 0) & (labels < logits.shape[1])
        for ignored in inputs.ignore:
            good = good | (labels == ignored)
        torch._assert_async(good.all())
    wanted = {term: torch.as_tensor(value, dtype=torch.float64, device=logits.device) for term, value in terms.items()}
    found: Tensor = attempt(checked_voxel_losses, inputs, wanted, check_activation(activation), per_class)
    return found


def _unseen(inputs: Inputs) -> bool:
    """Whether no one looks for labels that are no class; weights that are no whole numbers are not to be compared."""
    weighted = inputs.mask is not None and inputs.mask.is_floating_point()
    return not (inputs.validate or inputs.dense or weighted) and inputs.logits.shape[1] > 1


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function of fastloss, whose refusals are Unserved."""
    try:
        return function(*args)
    except (ValueError, TypeError) as error:
        _log.debug("fastloss.accelerate: %s", error)
        raise Unserved(f"a {str(error).partition(':')[0]} that fastloss refuses") from None


def dtype_of(*tensors: Tensor, entropy: bool = False) -> torch.dtype:
    """The dtype of plain PyTorch's sums of products of these tensors, the first the logits. Half precision is float32
    under CUDA's autocast and, of ``entropy``, which is torch's cross-entropies, under the CPU's, too."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    device = tensors[0].device.type
    if dtype in HALF and (entropy or device == "cuda") and torch.is_autocast_enabled(device):
        return torch.float32
    return dtype
