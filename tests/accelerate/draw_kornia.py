"""Calls of kornia's losses, drawn at random."""

from __future__ import annotations

import random
from typing import Any

import torch
from kornia import losses
from torch import Tensor

from .drawing import draw_dense, draw_dtype, draw_labels, draw_logits, draw_space, pick, seeded
from .parity import Call


def draw(seed: int) -> tuple[str, Call]:
    """One call of one of the losses."""
    rng = seeded(seed)
    name, call = rng.choice((_dice, _dice, _tversky, _focal, _focal, _binary, _binary, _lovasz, _hinge, _hausdorff))(
        rng
    )
    call.autocast = rng.random() < 0.08
    return name, call


def _logits(rng: random.Random, channels: int, axes: tuple[int, ...] = (2,)) -> Tensor:
    shape = (rng.randint(1, 3), channels, *draw_space(rng, axes))
    return draw_logits(rng, shape, draw_dtype(rng))


def _labels(rng: random.Random, logits: Tensor, ignore: int | None) -> Tensor:
    shape = (logits.shape[0], *logits.shape[2:])
    kind = torch.int32 if rng.random() < 0.02 else torch.int64
    return draw_labels(rng, shape, logits.shape[1], ignore, kind)


def _vector(rng: random.Random, channels: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor([rng.choice((0.0, 0.5, 1.0, 2.0)) for _ in range(channels)]).to(
        rng.choice((dtype, torch.float32))
    )


def _either(rng: random.Random, function: str, cls: str, options: dict[str, Any]) -> Any:
    if rng.random() < 0.5:
        return function, lambda pred, target: getattr(losses, function)(pred, target, **options)
    return cls, getattr(losses, cls)(**options)


def _ignore(rng: random.Random) -> int | None:
    return pick(rng, -100, -100, None, 255, 0)


def _dice(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((2, 3, 4)))
    options: dict[str, Any] = {
        "average": pick(rng, "micro", "macro"),
        "eps": pick(rng, 1e-8, 1e-5, 0.0, 1.0),
        "ignore_index": _ignore(rng),
    }
    if rng.random() < 0.3:
        options["weight"] = _vector(rng, logits.shape[1], logits.dtype)
    name, loss = _either(rng, "dice_loss", "DiceLoss", options)
    return name, Call(loss, (logits, _labels(rng, logits, options["ignore_index"])))


def _tversky(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((2, 3, 4)))
    options: dict[str, Any] = {
        "alpha": pick(rng, 0.5, 0.3, 0.0, 1.0),
        "beta": pick(rng, 0.5, 0.7, 0.0),
        "eps": pick(rng, 1e-8, 1e-5, 0.0),
        "ignore_index": _ignore(rng),
    }
    name, loss = _either(rng, "tversky_loss", "TverskyLoss", options)
    return name, Call(loss, (logits, _labels(rng, logits, options["ignore_index"])))


def _focal(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((2, 3, 4)), (2, 2, 1, 3))
    options: dict[str, Any] = {
        "alpha": pick(rng, None, 0.25, 0.6),
        "gamma": pick(rng, 2.0, 0.0, 0.5, 1.0, 3.0),
        "reduction": pick(rng, "mean", "sum", "none"),
        "ignore_index": _ignore(rng),
    }
    if rng.random() < 0.2:
        options["weight"] = _vector(rng, logits.shape[1], logits.dtype)
    name, loss = _either(rng, "focal_loss", "FocalLoss", options)
    return name, Call(loss, (logits, _labels(rng, logits, options["ignore_index"])))


def _binary(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((1, 2, 3)), (2, 2, 1, 3))
    options: dict[str, Any] = {
        "alpha": pick(rng, 0.25, None, 0.6),
        "gamma": pick(rng, 2.0, 0.0, 0.5, 1.0, 3.0),
        "reduction": pick(rng, "mean", "sum", "none"),
        "ignore_index": pick(rng, -100, None, 255),
    }
    for name in ("weight", "pos_weight"):
        if rng.random() < 0.2:
            options[name] = _vector(rng, logits.shape[1], logits.dtype)
    target = draw_dense(rng, tuple(logits.shape), rng.choice((torch.float32, logits.dtype, torch.int64)), 0.3)
    if options["ignore_index"] is not None and rng.random() < 0.7:
        target[torch.rand(target.shape) < 0.2] = options["ignore_index"]
    name, loss = _either(rng, "binary_focal_loss_with_logits", "BinaryFocalLossWithLogits", options)
    return name, Call(loss, (logits, target))


def _lovasz(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((2, 3, 4)))
    logits = logits if rng.random() < 0.3 else draw_logits(rng, tuple(logits.shape), torch.float32)
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["weight"] = _vector(rng, logits.shape[1], logits.dtype)
    name, loss = _either(rng, "lovasz_softmax_loss", "LovaszSoftmaxLoss", options)
    return name, Call(loss, (logits, _labels(rng, logits, None)), ranked=True)


def _hinge(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, 1)
    logits = logits if rng.random() < 0.3 else draw_logits(rng, tuple(logits.shape), torch.float32)
    target = draw_dense(rng, (logits.shape[0], *logits.shape[2:]), rng.choice((torch.int64, torch.float32)), 0.0)
    name, loss = _either(rng, "lovasz_hinge_loss", "LovaszHingeLoss", {})
    return name, Call(loss, (logits, target), ranked=True)


def _hausdorff(rng: random.Random) -> tuple[str, Call]:
    cls, axes = rng.choice(((losses.HausdorffERLoss, (2,)), (losses.HausdorffERLoss3D, (3,))))
    logits = _logits(rng, rng.choice((2, 3)), axes)
    logits = logits if rng.random() < 0.3 else draw_logits(rng, tuple(logits.shape), torch.float32)
    probabilities = logits.softmax(1)
    options = {
        "alpha": pick(rng, 2.0, 1.0),
        "k": pick(rng, 10, 3),
        "reduction": pick(rng, "mean", "mean", "sum", "none"),
    }
    target = _labels(rng, logits, None).unsqueeze(1)
    return cls.__name__, Call(cls(**options), (probabilities, target))
