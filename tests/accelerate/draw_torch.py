"""Calls of torch's cross-entropies, drawn at random: as functions and modules, options, shapes, dtypes, targets."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from .parity import Call


def draw(seed: int) -> tuple[str, Call]:
    r = random.Random(seed)
    torch.manual_seed(seed)
    axes = r.choices((0, 1, 2, 3), (0.4, 3, 5, 5))[0]
    batch, channels, shape = r.randint(1, 3), r.choice((2, 3, 5)), [r.randint(2, 6) for _ in range(axes)]
    entropy = r.random() < 0.5
    if r.random() < (0.02 if entropy else 0.3):
        channels = 1
    dtype = r.choices((torch.float32, torch.float64, torch.bfloat16, torch.float16), (88, 6, 4, 2))[0]
    logits = (torch.randn(batch, channels, *shape) * r.choice((1.0, 4.0, 30.0))).to(dtype)
    if axes == 3 and r.random() < 0.2:
        logits = logits.to(memory_format=torch.channels_last_3d)
    options = {"reduction": r.choices(("mean", "sum", "none"), (7, 2, 1))[0]}
    if entropy:
        name, call = "cross_entropy", _entropy(r, logits, batch, channels, shape, options)
    else:
        name, call = "binary_cross_entropy_with_logits", _binary(r, logits, channels, axes, options)
    call.autocast = r.random() < 0.04
    return name, call


def _entropy(r, logits, batch, channels, shape, options):
    if r.random() < 0.4:
        options["weight"] = torch.rand(channels, dtype=logits.dtype)
    options["label_smoothing"] = r.choice((0.0, 0.0, 0.1, 1.0))
    if r.random() < 0.25:
        target = torch.rand_like(logits)
    else:
        target = torch.randint(0, channels, (batch, *shape))
        if r.random() < 0.4:
            ignored = options["ignore_index"] = r.choice((-100, 255, 0))
            target[torch.rand(target.shape) < r.choice((0.2, 1.0))] = ignored
        if r.random() < 0.03:
            target = target.view(-1).index_fill(0, torch.tensor([0]), channels).view(target.shape)  # no class
        elif r.random() < 0.03:
            target = target.int()
    if r.random() < 0.5:
        return Call(nn.CrossEntropyLoss(**options), (logits, target))
    return Call(_ce, (logits, target), options)


def _binary(r, logits, channels, axes, options):
    target = (torch.rand_like(logits.float()) > 0.5).to(logits.dtype) if r.random() < 0.7 else torch.rand_like(logits)
    if r.random() < 0.4:
        whole = torch.rand(channels, *[1] * axes) + 0.2
        options["pos_weight"] = r.choice((whole, torch.tensor(2.0), torch.rand(()))).to(logits.dtype)
    if r.random() < 0.05:
        options["weight"] = torch.rand_like(logits)
    if r.random() < 0.05:
        target = target[..., :1]
    if r.random() < 0.5:
        return Call(nn.BCEWithLogitsLoss(**options), (logits, target))
    return Call(_bce, (logits, target), options)


def _ce(*args, **kwargs):
    return F.cross_entropy(*args, **kwargs)


def _bce(*args, **kwargs):
    return F.binary_cross_entropy_with_logits(*args, **kwargs)
