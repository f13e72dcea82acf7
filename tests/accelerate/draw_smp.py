"""Calls of segmentation_models_pytorch's losses, drawn at random."""

from __future__ import annotations

import random
from typing import Any

import torch
from segmentation_models_pytorch import losses
from torch import Tensor

from .drawing import draw_dense, draw_dtype, draw_labels, draw_logits, draw_space, pick, seeded
from .parity import Call

_MODES = ("binary", "multiclass", "multilabel")


def draw(seed: int) -> tuple[str, Call]:
    """One call of one of the losses."""
    rng = seeded(seed)
    name, call = rng.choice((_overlap, _overlap, _overlap, _focal, _bce, _ce, _mcc, _lovasz))(rng)
    call.autocast = rng.random() < 0.08
    return name, call


def _logits(rng: random.Random, channels: int) -> Tensor:
    shape = (rng.randint(1, 3), channels, *draw_space(rng, (2, 2, 2, 3, 1)))
    return draw_logits(rng, shape, draw_dtype(rng))


def _masks(rng: random.Random, logits: Tensor, ignore: int | None, soft: float = 0.05) -> Tensor:
    """0 and 1 in one of several dtypes, with or without the channel axis, ignored values among them."""
    kind = rng.choice((torch.float32, torch.float32, torch.int64, torch.uint8, torch.bool, logits.dtype))
    target = draw_dense(rng, tuple(logits.shape), kind, soft)
    if ignore is not None and kind != torch.bool and rng.random() < 0.8:
        target[torch.rand(target.shape) < 0.2] = ignore
    if rng.random() < 0.03 and target.numel() and kind != torch.bool:
        target.view(-1)[0] = rng.choice((2, 255, -1) if kind != torch.uint8 else (2, 255))
    return target


def _target(rng: random.Random, mode: str, logits: Tensor, ignore: int | None) -> Tensor:
    if mode == "multiclass":
        shape = (logits.shape[0], *logits.shape[2:])
        kind = pick(rng, torch.int64, torch.int64, torch.uint8, torch.float32) if ignore is not None else torch.int64
        if kind == torch.uint8 and ignore is not None and ignore < 0:
            kind = torch.int64
        labels = draw_labels(rng, shape, logits.shape[1], ignore, kind)
        return labels.unsqueeze(1) if rng.random() < 0.2 else labels
    target = _masks(rng, logits, ignore)
    return target[:, 0] if mode == "binary" and rng.random() < 0.5 else target


def _mode(rng: random.Random) -> tuple[str, Tensor]:
    mode = rng.choice(_MODES)
    return mode, _logits(rng, 1 if mode == "binary" else rng.choice((2, 3, 4)))


def _overlap(rng: random.Random) -> tuple[str, Call]:
    name = rng.choice(("DiceLoss", "JaccardLoss", "TverskyLoss"))
    mode, logits = _mode(rng)
    options: dict[str, Any] = {
        "mode": mode,
        "log_loss": rng.random() < 0.2,
        "smooth": pick(rng, 0.0, 1.0, 1e-5),
        "ignore_index": pick(rng, None, None, 255, -1 if mode != "multiclass" else 0),
        "from_logits": rng.random() < 0.93,
    }
    if mode != "binary" and rng.random() < 0.3:
        options["classes"] = rng.choice(([1], [0, 1], [1, 0], [-1]))
    if mode != "binary" and rng.random() < 0.3:
        options["class_weights"] = [rng.choice((0.5, 1.0, 2.0)) for _ in range(logits.shape[1])]
    if name == "TverskyLoss":
        options |= {"alpha": pick(rng, 0.5, 0.3, 1.0), "beta": pick(rng, 0.5, 0.7), "gamma": pick(rng, 1.0, 0.75, 2.0)}
    if not options["from_logits"]:
        logits = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    target = _target(rng, mode, logits, options["ignore_index"])
    return name, Call(getattr(losses, name)(**options), (logits, target))


def _focal(rng: random.Random) -> tuple[str, Call]:
    mode, logits = _mode(rng)
    options: dict[str, Any] = {
        "mode": mode,
        "alpha": pick(rng, None, 0.25, 0.6),
        "gamma": pick(rng, 2.0, 0.0, 0.5, 1.0, 3.0),
        "ignore_index": pick(rng, None, None, None, 255),
        "normalized": rng.random() < 0.2,
        "reduction": pick(rng, "mean", "mean", "sum", "none"),
    }
    if rng.random() < 0.04:
        options["reduced_threshold"] = 0.5
    if rng.random() < 0.04:
        options["from_logits"] = False
        logits = logits.sigmoid()
    if mode != "binary" and rng.random() < 0.2:
        options["class_weights"] = [rng.choice((0.5, 1.0, 2.0)) for _ in range(logits.shape[1])]
    target = _target(rng, mode, logits, options["ignore_index"])
    if mode == "multiclass" and target.ndim == logits.ndim and rng.random() < 0.8:
        target = target[:, 0]
    return "FocalLoss", Call(losses.FocalLoss(**options), (logits, target))


def _bce(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((1, 1, 2, 3)))
    options: dict[str, Any] = {
        "ignore_index": pick(rng, -100, None, 255),
        "reduction": pick(rng, "mean", "mean", "sum", "none"),
        "smooth_factor": pick(rng, None, 0.1, 0.0),
    }
    if rng.random() < 0.2:
        options["pos_weight"] = torch.rand(rng.choice(((1,), (logits.shape[1], *(1,) * (logits.ndim - 2))))) + 0.5
    if rng.random() < 0.05:
        options["weight"] = torch.rand(logits.shape[2:])
    target = draw_dense(rng, tuple(logits.shape), rng.choice((torch.float32, logits.dtype, torch.int64)), 0.3)
    if options["ignore_index"] is not None and rng.random() < 0.7:
        target[torch.rand(target.shape) < 0.2] = options["ignore_index"]
    loss = losses.SoftBCEWithLogitsLoss(**options)
    return "SoftBCEWithLogitsLoss", Call(loss, (logits, target), tolerance=1e-5)  # it computes in the target's dtype


def _ce(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, rng.choice((2, 3, 4)))
    options: dict[str, Any] = {
        "ignore_index": pick(rng, -100, None, 255, 0),
        "reduction": pick(rng, "mean", "mean", "sum", "none"),
        "smooth_factor": pick(rng, 0.1, 0.0, 0.5, None),
    }
    shape = (logits.shape[0], *logits.shape[2:])
    target = draw_labels(rng, shape, logits.shape[1], options["ignore_index"], torch.int64)
    if rng.random() < 0.2:
        target = target.unsqueeze(1)
    return "SoftCrossEntropyLoss", Call(losses.SoftCrossEntropyLoss(**options), (logits, target))


def _mcc(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, 1)
    logits = logits if rng.random() < 0.5 else logits.float()
    probabilities = logits.sigmoid()
    if rng.random() < 0.4:
        probabilities = probabilities[:, 0]
    target = _masks(rng, logits, None, 0.2)
    target = target[:, 0] if rng.random() < 0.4 else target
    options = {"eps": pick(rng, 1e-5, 1e-3)}
    return "MCCLoss", Call(losses.MCCLoss(**options), (probabilities, target))


def _lovasz(rng: random.Random) -> tuple[str, Call]:
    mode = rng.choice(("multiclass", "multiclass", "binary", "multilabel"))
    logits = _logits(rng, 1 if mode == "binary" else rng.choice((2, 3, 4)))
    logits = logits if rng.random() < 0.3 else draw_logits(rng, tuple(logits.shape), torch.float32)
    options: dict[str, Any] = {
        "mode": mode,
        "per_image": rng.random() < 0.4,
        "ignore_index": pick(rng, None, None, 255),
    }
    if mode == "multiclass":
        shape = (logits.shape[0], *logits.shape[2:])
        target = draw_labels(
            rng, shape, logits.shape[1], options["ignore_index"], rng.choice((torch.int64, torch.uint8))
        )
    else:
        target = _masks(rng, logits, options["ignore_index"])
    return "LovaszLoss", Call(losses.LovaszLoss(**options), (logits, target), tolerance=3e-4, ranked=True)
