"""The readable back end: plain PyTorch on any device, the oracle of the tests. It materialises everything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.terms import CONSTANT_KINDS, EPSILON, Plan, first_label


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms for ``logits`` ``[B, C, *S]``."""
    v = _Voxels(logits, target, mask, plan)
    sums = []
    for term in plan.terms:
        value = v.weight * v.value(term.kind)
        if term.mapped:
            assert weight_map is not None
            value = value * weight_map.to(v.real)
        sums.append(value.expand_as(v.p).sum(v.spatial, dtype=_sum_dtype(logits)))
    return torch.stack(sums, -1)


def backward(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    v = _Voxels(logits, target, mask, plan)
    by_p = torch.zeros_like(v.p)  # derivative with respect to p, to go through the activation
    by_z = torch.zeros_like(v.p)  # derivative with respect to the logits, where that is the stable form
    for k, term in enumerate(plan.terms):
        if term.kind in CONSTANT_KINDS:
            continue
        g = grad_sums[..., k].to(v.real).reshape(*v.p.shape[:2], *([1] * len(v.spatial)))
        if term.mapped:
            assert weight_map is not None
            g = g * weight_map.to(v.real)
        if plan.activation != "none" and (term.kind == "ce_pos" or (v.sigmoid and term.kind == "ce_neg")):
            by_z = by_z + v.logit_derivative(term.kind, g)
        else:
            by_p = by_p + g * v.derivative(term.kind)
    return torch.where(v.counted, v.weight * (v.through_activation(by_p) + by_z), 0).to(logits.dtype)


def _sum_dtype(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64


class _Voxels:
    """The voxel quantities of one pass, all ``[B, C, *S]`` (weight and counted: ``[B, 1, *S]``)."""

    def __init__(self, logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan):
        # On the CPU it is the oracle of the tests, elsewhere the fallback, where float64 may be slow or missing.
        exact = logits.device.type == "cpu" or logits.dtype == torch.float64
        self.real = torch.float64 if exact else torch.float32
        self.spatial = tuple(range(2, logits.ndim))
        self.activation, self.sigmoid = plan.activation, plan.activation == "sigmoid"
        counted = torch.ones_like(logits[:, :1], dtype=torch.bool)
        if not plan.dense:
            for label in plan.ignore:
                counted = counted & (target.unsqueeze(1).long() != label)  # int8 would wrap 255
        weight = counted.to(self.real)
        if mask is not None:
            weight = weight * mask.unsqueeze(1).to(self.real)
        self.weight, self.counted = weight, weight != 0
        # An uncounted voxel may hold anything, NaN included: replaced before it can spread.
        self.z = torch.where(self.counted, logits.to(self.real), 0)
        self.y = torch.where(self.counted, _one_hot(logits, target, plan).to(self.real), 0)
        self.p = self._probability()

    def _probability(self) -> Tensor:
        if self.activation == "softmax":
            return self.z.softmax(1)
        return self.z.sigmoid() if self.sigmoid else self.z

    def value(self, kind: str) -> Tensor:
        p, y = self.p, self.y
        if kind == "ce_pos":
            return torch.where(y != 0, y * self._negative_log(), 0)
        if kind == "ce_neg":
            return torch.where(y != 1, (1 - y) * self._negative_log_complement(), 0)
        simple = {"p": p, "py": p * y, "y": y, "p2": p * p, "y2": y * y, "p2y": p * p * y}
        return simple[kind] if kind in simple else torch.ones_like(p)

    def derivative(self, kind: str) -> Tensor:
        """d value / d p."""
        p, y = self.p, self.y
        if kind == "ce_pos":
            return torch.where(p > EPSILON, -y / p, 0)
        if kind == "ce_neg":
            return torch.where(1 - p > EPSILON, (1 - y) / (1 - p), 0)
        return {"p": torch.ones_like(p), "py": y, "p2": 2 * p, "p2y": 2 * p * y}[kind]

    def logit_derivative(self, kind: str, g: Tensor) -> Tensor:
        """d (g value) / d logits: of -log_softmax, -logsigmoid(z) or -logsigmoid(-z)."""
        if kind == "ce_neg":
            return g * (1 - self.y) * self.p
        if self.sigmoid:
            return g * self.y * (self.p - 1)
        return self.p * (g * self.y).sum(1, keepdim=True) - g * self.y

    def through_activation(self, by_p: Tensor) -> Tensor:
        if self.activation == "softmax":
            return self.p * (by_p - (self.p * by_p).sum(1, keepdim=True))
        return by_p * self.p * (1 - self.p) if self.sigmoid else by_p

    def _negative_log(self) -> Tensor:
        if self.activation == "softmax":
            return -self.z.log_softmax(1)
        return -F.logsigmoid(self.z) if self.sigmoid else -self.p.clamp_min(EPSILON).log()

    def _negative_log_complement(self) -> Tensor:
        return -F.logsigmoid(-self.z) if self.sigmoid else -(1 - self.p).clamp_min(EPSILON).log()


def _one_hot(logits: Tensor, target: Tensor, plan: Plan) -> Tensor:
    """``[B, C, *S]``; a label outside the classes belongs to none."""
    if plan.dense:
        return target
    classes = torch.arange(logits.shape[1], device=logits.device) + first_label(logits.shape[1])
    return target.unsqueeze(1) == classes.reshape(-1, *([1] * (logits.ndim - 2)))
