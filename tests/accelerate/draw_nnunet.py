"""Calls of nnU-Net's losses, drawn at random."""

from __future__ import annotations

import random
from typing import Any

import torch
from nnunetv2.training.loss import compound_losses, dice, robust_ce_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor

from .drawing import draw_dense, draw_dtype, draw_labels, draw_logits, draw_space, pick, seeded
from .parity import Call

_DICE = (dice.SoftDiceLoss, dice.MemoryEfficientSoftDiceLoss)
_LABELS = (torch.int16, torch.int64, torch.uint8, torch.int32, torch.float32)


def _dice_options(rng: random.Random, cls: type) -> dict[str, Any]:
    options = {
        "batch_dice": rng.random() < 0.5,
        "do_bg": rng.random() < 0.4,
        "smooth": pick(rng, 1e-5, 0, 1.0, 0.1),
        "ddp": rng.random() < 0.05,
    }
    if cls is dice.SoftDiceLoss and rng.random() < 0.2:
        options["clip_tp"] = rng.choice((0.0, 1.0, 5.0))
    return options


def _entropy_options(rng: random.Random, classes: int, dtype: torch.dtype) -> dict[str, Any]:
    options: dict[str, Any] = {"label_smoothing": pick(rng, 0.0, 0.1, 0.5)}
    if rng.random() < 0.3:
        options["weight"] = torch.tensor([rng.choice((0.0, 0.5, 1.0, 2.0)) for _ in range(classes)]).to(dtype)
    return options


def _labels(rng: random.Random, logits: Tensor, ignore: int | None) -> Tensor:
    shape = (logits.shape[0], 1, *logits.shape[2:])
    return draw_labels(rng, shape, logits.shape[1], ignore, rng.choice(_LABELS))


def draw(seed: int) -> tuple[str, Call]:
    """One call of one of the losses."""
    rng = seeded(seed)
    kind = rng.choice((_soft_dice, _entropy, _topk, _dc_ce, _dc_ce, _dc_bce, _dc_topk, _counts, _deep))
    name, call = kind(rng)
    call.autocast, call.ranked = rng.random() < 0.08, "topk" in name.lower()
    call.tolerance = 1e-5  # sums in float32, of any dtype
    return name, call


def _logits(rng: random.Random, least: int = 1) -> Tensor:
    shape = (rng.randint(1, 3), rng.choice((2, 3, 4, 5)), *draw_space(rng, (2, 2, 3, 1), least))
    return draw_logits(rng, shape, draw_dtype(rng))


def _soft_dice(rng: random.Random) -> tuple[str, Call]:
    logits, cls = _logits(rng), rng.choice(_DICE)
    options = _dice_options(rng, cls)
    nonlin = pick(rng, softmax_helper_dim1, torch.sigmoid, None, _tanh)
    target = _labels(rng, logits, None)
    form = rng.random()
    if form < 0.2:
        target = target[:, 0]
    elif form < 0.4:
        target = draw_dense(rng, tuple(logits.shape), rng.choice((torch.float32, torch.bool, torch.uint8)), 0.3)
    mask = None
    if rng.random() < 0.4:
        mask = draw_dense(rng, (logits.shape[0], 1, *logits.shape[2:]), rng.choice((torch.bool, torch.float32)))
    return cls.__name__, Call(cls(apply_nonlin=nonlin, **options), (logits, target, mask))


def _tanh(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(x)


def _entropy(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng)
    options = _entropy_options(rng, logits.shape[1], logits.dtype)
    options["reduction"] = pick(rng, "mean", "mean", "sum", "none")
    ignore = pick(rng, None, 255, -100, 0)
    if ignore is not None:
        options["ignore_index"] = ignore
    target = draw_labels(
        rng,
        (logits.shape[0], 1, *logits.shape[2:]),
        logits.shape[1],
        ignore if rng.random() < 0.8 else None,
        rng.choice((torch.int16, torch.int64, torch.float32)),
    )
    if rng.random() < 0.3:
        target = target[:, 0]
    return "RobustCrossEntropyLoss", Call(robust_ce_loss.RobustCrossEntropyLoss(**options), (logits, target))


def _topk_options(rng: random.Random, logits: Tensor) -> dict[str, Any]:
    options: dict[str, Any] = {"k": pick(rng, 10, 10, 50, 100)}
    if rng.random() < 0.1:
        options |= _entropy_options(rng, logits.shape[1], logits.dtype)
    return options


def _topk(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, 3)
    options = _topk_options(rng, logits)
    ignore = pick(rng, None, 255, -100)
    if ignore is not None:
        options["ignore_index"] = ignore
    target = draw_labels(
        rng, (logits.shape[0], 1, *logits.shape[2:]), logits.shape[1], ignore, rng.choice((torch.int16, torch.int64))
    )
    return "TopKLoss", Call(robust_ce_loss.TopKLoss(**options), (logits, target))


def _weights(rng: random.Random) -> dict[str, Any]:
    return {"weight_ce": pick(rng, 1, 0.5, 0), "weight_dice": pick(rng, 1, 2.0, 0)}


def _dc_ce(rng: random.Random, logits: Tensor | None = None) -> tuple[str, Call]:
    logits = _logits(rng) if logits is None else logits
    cls = rng.choice(_DICE)
    soft, entropy = _dice_options(rng, cls), _entropy_options(rng, logits.shape[1], logits.dtype)
    ignore = pick(rng, None, logits.shape[1], 255)
    weights = _weights(rng) if rng.random() < 0.3 else {}
    target = _labels(rng, logits, ignore)
    loss = compound_losses.DC_and_CE_loss(soft, entropy, ignore_label=ignore, dice_class=cls, **weights)
    return "DC_and_CE_loss", Call(loss, (logits, target))


def _dc_bce(rng: random.Random) -> tuple[str, Call]:
    logits, cls = _logits(rng), rng.choice(_DICE)
    soft, entropy = _dice_options(rng, cls), {}
    if rng.random() < 0.3:
        entropy["pos_weight"] = torch.rand(logits.shape[1], *(1,) * (logits.ndim - 2))
    if rng.random() < 0.2:
        entropy["reduction"] = "sum"
    ignore = rng.random() < 0.4
    weights = _weights(rng) if rng.random() < 0.3 else {}
    kind = rng.choice((torch.bool, torch.float32, torch.uint8, torch.int16))
    channels = logits.shape[1] + ignore
    target = draw_dense(rng, (logits.shape[0], channels, *logits.shape[2:]), kind)
    if ignore and rng.random() < 0.1:
        target[:, -1] = 1
    loss = compound_losses.DC_and_BCE_loss(entropy, soft, use_ignore_label=ignore, dice_class=cls, **weights)
    return "DC_and_BCE_loss", Call(loss, (logits, target))


def _dc_topk(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng, 3)
    soft, entropy = _dice_options(rng, dice.SoftDiceLoss), _topk_options(rng, logits)
    ignore = pick(rng, None, logits.shape[1], 255)
    weights = _weights(rng) if rng.random() < 0.2 else {}
    target = _labels(rng, logits, ignore)
    loss = compound_losses.DC_and_topk_loss(soft, entropy, ignore_label=ignore, **weights)
    return "DC_and_topk_loss", Call(loss, (logits, target))


def _counts(rng: random.Random) -> tuple[str, Call]:
    logits = _logits(rng)
    probabilities = logits.softmax(1)
    if rng.random() < 0.3:
        probabilities = torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1)
    axes = pick(
        rng, [0, *range(2, logits.ndim)], None, list(range(2, logits.ndim)), None, list(range(2, logits.ndim)), []
    )
    target = _labels(rng, logits, None)
    if rng.random() < 0.3:
        target = draw_dense(rng, tuple(logits.shape), rng.choice((torch.float32, torch.bool)))
    mask = None
    if rng.random() < 0.3:
        mask = draw_dense(rng, (logits.shape[0], 1, *logits.shape[2:]), torch.bool)
    options = {"axes": axes, "mask": mask, "square": rng.random() < 0.2}

    def counts(p: Tensor, y: Tensor) -> Tensor:
        return torch.stack(dice.get_tp_fp_fn_tn(p, y, **options))

    return "get_tp_fp_fn_tn", Call(counts, (probabilities, target))


def _deep(rng: random.Random) -> tuple[str, Call]:
    name, call = rng.choice((_dc_ce, _soft_dice, _entropy))(rng)
    logits, target, *_ = call.args

    return f"DeepSupervisionWrapper({name})", Call(_Deep(call.function), (logits, target))


class _Deep(torch.nn.Module):
    def __init__(self, loss: torch.nn.Module):
        super().__init__()
        self.wrapped = DeepSupervisionWrapper(loss, (0.5, 0.3, 0.0))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.wrapped([logits, logits.flip(0), logits], [target, target, target])
        return value
