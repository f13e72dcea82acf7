"""Calls of segmentation_models_pytorch's losses, drawn at random."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch
from segmentation_models_pytorch import losses
from torch import Tensor

from parity.compare import Draw, draw_dense, draw_dtype, draw_labels, draw_logits, draw_space, pick

_MODES = ("binary", "multiclass", "multilabel")


def draw(rng: random.Random) -> Draw:
    """One call of one of the losses."""
    return rng.choice((_overlap, _overlap, _overlap, _focal, _bce, _ce, _mcc, _lovasz))(rng)


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


def _overlap(rng: random.Random) -> Draw:
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
        logits = logits.detach().softmax(1) if mode == "multiclass" else logits.detach().sigmoid()
        logits.requires_grad_(rng.random() < 0.5)
    target = _target(rng, mode, logits, options["ignore_index"])
    return Draw(name, lambda: getattr(losses, name)(**options), (logits, target), options)


def _focal(rng: random.Random) -> Draw:
    mode, logits = _mode(rng)
    options: dict[str, Any] = {
        "mode": mode,
        "alpha": pick(rng, None, 0.25, 0.6),
        "gamma": pick(rng, 2.0, 0.0, 1.0, 3.0),
        "ignore_index": pick(rng, None, None, None, 255),
        "normalized": rng.random() < 0.2,
        "reduction": pick(rng, "mean", "mean", "sum", "none"),
    }
    if rng.random() < 0.04:
        options["reduced_threshold"] = 0.5
    if rng.random() < 0.04:
        options["from_logits"] = False
        logits = logits.detach().sigmoid().requires_grad_()
    if mode != "binary" and rng.random() < 0.2:
        options["class_weights"] = [rng.choice((0.5, 1.0, 2.0)) for _ in range(logits.shape[1])]
    target = _target(rng, mode, logits, options["ignore_index"])
    if mode == "multiclass" and target.ndim == logits.ndim and rng.random() < 0.8:
        target = target[:, 0]
    return Draw("FocalLoss", lambda: losses.FocalLoss(**options), (logits, target), options)


def _bce(rng: random.Random) -> Draw:
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
    make = partial(losses.SoftBCEWithLogitsLoss, **options)
    return Draw("SoftBCEWithLogitsLoss", make, (logits, target), options, tolerance=1e-5)  # the target's dtype, float32


def _ce(rng: random.Random) -> Draw:
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
    return Draw("SoftCrossEntropyLoss", lambda: losses.SoftCrossEntropyLoss(**options), (logits, target), options)


def _mcc(rng: random.Random) -> Draw:
    logits = _logits(rng, 1)
    logits = logits if rng.random() < 0.5 else logits.float()
    probabilities = logits.detach().sigmoid().requires_grad_(logits.requires_grad)
    if rng.random() < 0.4:
        probabilities = probabilities.detach()[:, 0].requires_grad_(logits.requires_grad)
    target = _masks(rng, logits, None, 0.2)
    target = target[:, 0] if rng.random() < 0.4 else target
    options = {"eps": pick(rng, 1e-5, 1e-3)}
    return Draw("MCCLoss", lambda: losses.MCCLoss(**options), (probabilities, target), options)


def _lovasz(rng: random.Random) -> Draw:
    mode = rng.choice(("multiclass", "multiclass", "binary", "multilabel"))
    logits = _logits(rng, 1 if mode == "binary" else rng.choice((2, 3, 4)))
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
    return Draw("LovaszLoss", lambda: losses.LovaszLoss(**options), (logits, target), options, tolerance=3e-4)
