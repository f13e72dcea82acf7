"""Calls of a peer's loss, drawn at random, with and without fastloss: outcome, value, gradient, dtype, warnings."""

from __future__ import annotations

import copy
import functools
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastloss

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class Draw(NamedTuple):
    """A call ``make()(*inputs)``: the first input gets a gradient."""

    name: str
    make: Callable[[], Callable[..., Any]]
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    tolerance: float = 0.0  # at least this, where the peer itself is no better in any dtype


class Outcome(NamedTuple):
    """What a call gives: a tensor, or what it raises; and the gradient of the input."""

    values: tuple[Any, ...]
    gradient: Tensor | None
    error: tuple[type, str] | None
    said: tuple[str, ...]


def outcome(draw: Draw, double: bool = False) -> Outcome:
    """Runs the call, in float64 if asked for."""
    inputs = tuple(_double(item) if double else _copied(item) for item in draw.inputs)
    logits = inputs[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function = draw.make()
            if double and isinstance(function, nn.Module):
                function.double()
            result = function(*inputs)
            values = result if isinstance(result, tuple) else (result,)
            tensors = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
            gradient = None
            if tensors:
                seeds = [
                    torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape).to(value.dtype) for value in tensors
                ]
                (gradient,) = torch.autograd.grad(tensors, logits, seeds, allow_unused=True)
            values = tuple(value.detach() if isinstance(value, Tensor) else value for value in values)
            error = None
        except Exception as raised:  # whatever the peer raises is the outcome
            values, gradient, error = (), None, (type(raised), str(raised))
    return Outcome(values, gradient, error, tuple(str(item.message) for item in caught))


def _double(item: Any) -> Any:
    if not isinstance(item, Tensor):
        return copy.deepcopy(item)
    return (item.detach().double() if item.is_floating_point() else item.clone()).requires_grad_(item.requires_grad)


def _copied(item: Any) -> Any:
    return (
        item.detach().clone(memory_format=torch.preserve_format).requires_grad_(item.requires_grad)
        if isinstance(item, Tensor)
        else copy.deepcopy(item)
    )


def differs(draw: Draw, peer: Outcome, ours: Outcome, exact: Callable[[], Outcome]) -> str:
    """How ours differs from the peer's outcome; empty if it does not."""
    if peer.error != ours.error:
        return f"error {peer.error} for {ours.error}"
    if peer.said != ours.said:
        return f"warnings {peer.said} for {ours.said}"
    if len(peer.values) != len(ours.values):
        return "number of values"
    truth = None
    dtype = draw.inputs[0].dtype
    pairs = [*zip(peer.values, ours.values, strict=True)]
    for i, (theirs, mine) in enumerate([*pairs, (peer.gradient, ours.gradient)]):
        if type(theirs) is not type(mine):
            return f"type {type(theirs)} for {type(mine)}"
        if not isinstance(theirs, Tensor):
            if theirs != mine:
                return f"{theirs} for {mine}"
            continue
        if (theirs.dtype, theirs.shape) != (mine.dtype, mine.shape):
            return f"{theirs.dtype} {tuple(theirs.shape)} for {mine.dtype} {tuple(mine.shape)}"
        gradient = i == len(pairs)
        if _near(theirs, mine, dtype, draw.tolerance, gradient):
            continue
        if truth is None:
            truth = exact()
        if truth.error is not None:
            return f"{_worst(theirs, mine, mine)}, without a truth: {truth.error}"
        right = truth.gradient if gradient else truth.values[i]
        if not _as_right(theirs, mine, right, dtype, gradient):
            what = "gradient" if gradient else "value"
            return f"{what} {_worst(theirs, mine, right)}"
    return ""


def _scale(values: Tensor, gradient: bool) -> Tensor:
    size = values.double().abs()
    finite = torch.where(size.isfinite(), size, 0.0)
    return finite.max() if gradient and finite.numel() else finite


def _near(theirs: Tensor, mine: Tensor, dtype: torch.dtype, least: float, gradient: bool) -> bool:
    tolerance = max(TOLERANCE[dtype], TOLERANCE[theirs.dtype], least)
    a, b = theirs.double(), mine.double()
    if not torch.equal(a.isnan(), b.isnan()):
        return False
    same = (a == b) | a.isnan()
    absolute = 0.0 if gradient else max(4 * torch.finfo(dtype).eps, least / 20)  # a difference from 1 has that error
    return bool((same | ((a - b).abs() <= tolerance * _scale(theirs, gradient) + absolute)).all())


def _as_right(theirs: Tensor, mine: Tensor, right: Tensor, dtype: torch.dtype, gradient: bool) -> bool:
    """Whether ours is about as near to the peer in float64 as the peer itself is."""
    a, b, r = theirs.double(), mine.double(), right.double()
    if not torch.equal(a.isnan(), b.isnan()):
        return False
    unit = max(torch.finfo(dtype).eps, torch.finfo(theirs.dtype).eps)
    error = _scale(torch.nan_to_num(a - r), gradient)
    band = 2 * unit * _scale(right, gradient)
    good = ((b - r).abs() <= 1.5 * error + band) | (a == b) | a.isnan()
    return bool(good.all())


def _worst(theirs: Tensor, mine: Tensor, right: Tensor) -> str:
    i = int(torch.nan_to_num((theirs.double() - mine.double()).abs(), nan=float("inf")).argmax())
    a, b, r = (each.flatten()[i].item() for each in (theirs, mine, right))
    return f"{b} for {a} (in float64 {r}) at {i} of {tuple(theirs.shape)}"


class Tally(NamedTuple):
    """What came of some draws: a line for each that differs, and by name how many were fused, were passed on for a
    reason, or are answered by the peer with an error."""

    different: list[str]
    outcomes: Counter[tuple[str, str]]

    def share(self, name: str = "") -> float:
        """That of the fused among those, of one name or all, that the peer answers with a value."""
        counted = {key: count for key, count in self.outcomes.items() if name in ("", key[0]) and key[1] != ERROR}
        return sum(count for key, count in counted.items() if key[1] == FUSED) / max(1, sum(counted.values()))


FUSED, ERROR = "fused", "an error of the peer's"


def compare(peer: str, draw: Callable[[random.Random], Draw], seeds: Sequence[int]) -> Tally:
    """Draws a call for each seed and compares its outcomes."""
    peers = [(drawn, outcome(drawn)) for drawn in (draw(random.Random(seed)) for seed in seeds)]
    ours, reasons, before = [], [], Counter[str]()
    with fastloss.accelerate(peer) as held:
        for drawn, _ in peers:
            ours.append(outcome(drawn))
            passed_on = Counter[str]()
            for calls in held.report().values():
                passed_on.update(calls.passed_on)
            reasons.append(min(passed_on - before, default=FUSED))
            before = passed_on
    tally = Tally([], Counter())
    for seed, (drawn, theirs), mine, reason in zip(seeds, peers, ours, reasons, strict=True):
        tally.outcomes[drawn.name, ERROR if theirs.error else reason] += 1
        found = differs(drawn, theirs, mine, functools.partial(outcome, drawn, double=True))
        if found:
            forms = [(tuple(item.shape), item.dtype) if isinstance(item, Tensor) else item for item in drawn.inputs]
            tally.different.append(f"{peer} {seed}: {drawn.name} {drawn.options} of {forms}: {found}")
    return tally


# What is drawn


def pick(rng: random.Random, *values: Any) -> Any:
    """One of them, the first more often than the others."""
    return values[0] if rng.random() < 0.3 else rng.choice(values)


def draw_dtype(rng: random.Random) -> torch.dtype:
    return rng.choice((torch.float32,) * 5 + (torch.float64, torch.float16, torch.bfloat16))


def draw_space(rng: random.Random, axes: tuple[int, ...] = (1, 2, 2, 3), least: int = 1) -> tuple[int, ...]:
    return tuple(rng.randint(least, 9) for _ in range(rng.choice(axes)))


def draw_logits(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normal logits of several widths, in one of several layouts."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * rng.choice((0.3, 1.0, 3.0, 8.0))
    logits = logits.to(dtype)
    layout = rng.random()
    if layout < 0.15 and len(shape) in (4, 5):
        form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        logits = logits.contiguous(memory_format=form)
    elif layout < 0.25:
        logits = torch.stack((logits, logits), -1)[..., 0]
    return logits.detach().requires_grad_(rng.random() < 0.9)


def draw_labels(rng: random.Random, shape: tuple[int, ...], classes: int, ignore: Any, dtype: torch.dtype) -> Tensor:
    """Labels, some of them ignored; sometimes classes are absent, all is ignored, or one label is no class."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    labels = torch.randint(0, rng.choice((classes, classes, max(1, classes - 1), 1)), shape, generator=generator)
    if ignore is not None:
        share = rng.choice((0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.7, 1.0))
        labels[torch.rand(shape, generator=generator) < share] = ignore
    if rng.random() < 0.03 and labels.numel():
        labels.view(-1)[0] = rng.choice((classes, classes + 3, -1))
    return labels.to(dtype)


def draw_dense(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype, soft: float = 0.1) -> Tensor:
    """0 and 1 for each channel; with the chance ``soft`` shares of a voxel."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    target = torch.rand(shape, generator=generator)
    if not (rng.random() < soft and dtype.is_floating_point):
        target = (target < rng.choice((0.5, 0.5, 0.1, 0.0, 1.1))).float()
    return target.to(dtype)
