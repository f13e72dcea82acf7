"""One call of a peer, with and without acceleration: value, type, shape, dtype, gradient, warnings and error."""

import copy
import functools
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

import fastloss

# relative to the largest value, beside eight times the peer's own error against float64
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

ERROR = "an error of the peer's"


@dataclass
class Call:
    """``function(*args, **kwargs)``; the first argument gets a gradient."""

    function: Any
    args: tuple
    kwargs: dict = field(default_factory=dict)
    tolerance: float = 0.0  # at least this, where the peer itself is no better in any dtype
    autocast: bool = False  # in bfloat16, on the CPU
    ranked: bool = False  # a loss that ranks voxels: of errors equal but for rounding either voxel may come first
    exact: Any = None  # the function in float64, where it is not the same

    def in_float64(self) -> "Call":
        """The same with floats in float64, for the error of the peer's own arithmetic."""
        double = [_double(value) for value in self.args]
        function = copy.deepcopy(self.function) if self.exact is None else self.exact
        if isinstance(function, torch.nn.Module):
            function.double()
        return Call(function, tuple(double), {name: _double(value) for name, value in self.kwargs.items()})


def _double(value):
    if isinstance(value, list):
        return [_double(item) for item in value]
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@dataclass
class Outcome:
    value: Any = None
    gradients: tuple = ()
    warnings: tuple = ()
    error: Any = None


def outcome(call: Call) -> Outcome:
    first = call.args[0]
    inputs = [x.detach().clone().requires_grad_() for x in (first if isinstance(first, list) else [first])]
    found = Outcome()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=call.autocast):
                value = call.function(inputs if isinstance(first, list) else inputs[0], *call.args[1:], **call.kwargs)
            found.value = value.detach()
            if value.requires_grad:
                weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
                (value.as_subclass(torch.Tensor) * weights).sum().backward()
            found.gradients = tuple(None if x.grad is None else x.grad.as_subclass(torch.Tensor) for x in inputs)
        except Exception as error:
            found.error = (type(error), str(error))
    found.warnings = tuple((entry.category, str(entry.message)) for entry in seen)
    return found


def differences(calls: list[Call], *peers: str) -> list[tuple[str, str]]:
    """For each call what differs with acceleration, or no text; and why it was passed on (the first reason of several
    functions), ``ERROR`` if the peer raises one, or no text if it was fused."""
    expected = [outcome(call) for call in calls]
    found, reasons, before = [], [], Counter()
    with fastloss.accelerate(*peers) as handle:
        for call in calls:
            found.append(outcome(call))
            passed_on = Counter()
            for counted in handle.report().values():
                passed_on.update(counted.passed_on)
            reasons.append(next(iter(passed_on - before), ""))
            before = passed_on
    texts = [_difference(call, a, b) for call, a, b in zip(calls, expected, found, strict=True)]
    reasons = [ERROR if theirs.error else reason for theirs, reason in zip(expected, reasons, strict=True)]
    return list(zip(texts, reasons, strict=True))


def _difference(call: Call, expected: Outcome, found: Outcome) -> str:
    if expected.error != found.error:
        return f"error {found.error}, expected {expected.error}"
    if expected.warnings != found.warnings:
        return f"warnings {found.warnings}, expected {expected.warnings}"
    if expected.error:
        return ""
    if type(expected.value) is not type(found.value):
        return f"type {type(found.value)}, expected {type(expected.value)}"
    if str(getattr(expected.value, "meta", None)) != str(getattr(found.value, "meta", None)):  # of a MetaTensor
        return f"meta {found.value.meta}, expected {expected.value.meta}"
    first = call.args[0][0] if isinstance(call.args[0], list) else call.args[0]
    # of what half precision is rounded to within the peer, whatever its result is
    coarse = max(call.tolerance, TOLERANCE[first.dtype])
    exact = functools.cache(lambda: outcome(call.in_float64()))
    if text := difference_of(expected.value, found.value, lambda: exact().value, coarse):
        return f"value: {text}"
    for level, (a, b) in enumerate(zip(expected.gradients, found.gradients, strict=True)):
        if (a is None) != (b is None):
            return f"gradient {type(b)}, expected {type(a)}"
        if a is None:
            continue
        text = difference_of(a, b, lambda level=level: _at(exact().gradients, level), coarse)
        if text and not (call.ranked and a.shape == b.shape and _few_voxels_differ(a, b, coarse)):
            return f"gradient: {text}"
    return ""


def _kinds(values: torch.Tensor) -> str:
    return f"{int(values.isnan().sum())} NaN and {int(values.isinf().sum())} infinite of {values.numel()}"


def _few_voxels_differ(a, b, coarse) -> bool:
    """Whether at most two pairs of voxels may have changed places."""
    apart = (a.double() - b.double()).abs() > coarse * a.double().abs().max()
    return 0 < int(apart.any(1).sum()) <= 4


def _at(gradients: tuple, level: int):
    return gradients[level] if gradients else None


def difference_of(expected, found, exact, coarse) -> str:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return f"{found.dtype} {list(found.shape)}, expected {expected.dtype} {list(expected.shape)}"
    tolerance = max(coarse, TOLERANCE[expected.dtype])
    a, b = expected.as_subclass(torch.Tensor).double(), found.as_subclass(torch.Tensor).double()
    special = ~a.isfinite()
    if not torch.equal(special, ~b.isfinite()) or not torch.equal(
        a[special].nan_to_num(1, 2, 3), b[special].nan_to_num(1, 2, 3)
    ):
        return f"{_kinds(b)}, expected {_kinds(a)}"
    a, b = a[~special], b[~special]
    if not a.numel():
        return ""
    scale = a.abs().max().clamp_min(1e-6)
    distance = (a - b).abs().max()
    rounding = 4 * torch.finfo(expected.dtype).eps if expected.ndim == 0 else 0.0  # of a difference from 1
    if distance <= tolerance * scale + rounding:
        return ""
    reference = exact()  # None if the peer cannot be run in float64
    if reference is not None and reference.shape == expected.shape:
        c = reference.as_subclass(torch.Tensor).double()[~special]
        if c.isfinite().all() and (b - c).abs().max() <= 8 * (a - c).abs().max() + tolerance * scale:
            return ""
    return f"off by {float(distance):.3g} of {float(scale):.3g}"
