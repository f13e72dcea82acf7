"""The readable back end: plain PyTorch on any device, the oracle of the tests. It materialises everything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.terms import CONSTANT_KINDS, EPSILON, Plan, Term, first_label


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms for ``logits`` ``[B, C, *S]``."""
    v = _Voxels(logits, target, mask, plan)
    sums = []
    for term in plan.terms:
        value = v.weight * v.value(term)
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
    slopes = [torch.zeros_like(v.p) for _ in range(3)]  # by p, -log p, -log(1 - p)
    for k, term in enumerate(plan.terms):
        if term.kind in CONSTANT_KINDS:
            continue
        g = grad_sums[..., k].to(v.real).reshape(*v.p.shape[:2], *([1] * len(v.spatial)))
        if term.mapped:
            assert weight_map is not None
            g = g * weight_map.to(v.real)
        slopes = [total + g * slope for total, slope in zip(slopes, v.derivatives(term), strict=True)]
    return torch.where(v.counted, v.weight * v.through_activation(*slopes), 0).to(logits.dtype)


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
        self.q = (-self.z).sigmoid() if self.sigmoid else (1 - self.p).clamp_min(0)
        self.l = self._negative_log()
        self.m = -F.logsigmoid(-self.z) if self.sigmoid else -self.q.clamp_min(EPSILON).log()

    def _probability(self) -> Tensor:
        if self.activation == "softmax":
            return self.z.softmax(1)
        return self.z.sigmoid() if self.sigmoid else self.z

    def value(self, term: Term) -> Tensor:
        p, y = self.p, self.y
        simple = {"p": p, "py": p * y, "y": y, "p2": p * p, "y2": y * y, "p2y": p * p * y}
        simple |= {"count": torch.ones_like(p), "nll_pos": self.l, "nll_neg": self.m}
        if term.kind in simple:
            return simple[term.kind]
        name, side = term.kind.rsplit("_", 1)
        y, q, l, _ = self._side(side)
        if name == "ce":
            value = l
        elif name == "focal":
            value = q**term.power * l
        else:
            value = l.clamp_min(EPSILON) ** term.power if name == "log_power" else q**term.power
        return torch.where(y != 0, y * value, 0)  # the logarithm may be infinite where y = 0

    def derivatives(self, term: Term) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
        """d value by p, by -log p and by -log(1 - p), which are kept apart: only so are they finite at p = 0 or 1."""
        simple = {"p": 1.0, "py": self.y, "p2": 2 * self.p, "p2y": 2 * self.p * self.y}
        if term.kind in simple:
            return simple[term.kind], 0.0, 0.0
        name, side = term.kind.rsplit("_", 1)
        y, q, l, sign = self._side(side)
        l = torch.where(y != 0, l, 1)  # infinite where a class is ruled out
        g, by_p, by_l = term.power, 0.0, y
        if name == "nll":
            by_l = 1.0
        elif name == "focal":
            # q^(g-1) l, where l / q tends to 1 as q vanishes
            by_p, by_l = -y * g * q**g * torch.where(q > EPSILON**2, l / q, 1), y * q**g
        elif name == "log_power":
            by_l = torch.where(l > EPSILON, y * g * l ** (g - 1), 0)
        elif name == "miss":
            by_p, by_l = -y * g * q ** (g - 1), 0.0
        return (by_p, by_l, 0.0) if sign > 0 else (-by_p, 0.0, by_l)

    def _side(self, side: str) -> tuple[Tensor, Tensor, Tensor, int]:
        """(y, 1 - p, -log p, 1) of the foreground, or the same of its complement and -1."""
        if side == "pos":
            return self.y, self.q, self.l, 1
        return 1 - self.y, self.p, self.m, -1

    def through_activation(self, by_p: Tensor, by_l: Tensor, by_m: Tensor) -> Tensor:
        """The derivative by the logits."""
        if self.sigmoid:
            return by_p * self.p * self.q - by_l * self.q + by_m * self.p
        by_p = by_p + torch.where(self.q > EPSILON, by_m / self.q, 0)
        if self.activation == "softmax":
            return self.p * (by_p - (self.p * by_p).sum(1, keepdim=True) + by_l.sum(1, keepdim=True)) - by_l
        return by_p - torch.where(self.p > EPSILON, by_l / self.p, 0)

    def _negative_log(self) -> Tensor:
        if self.activation == "softmax":
            return -self.z.log_softmax(1)
        return -F.logsigmoid(self.z) if self.sigmoid else -self.p.clamp_min(EPSILON).log()


def _one_hot(logits: Tensor, target: Tensor, plan: Plan) -> Tensor:
    """``[B, C, *S]``; a label outside the classes belongs to none."""
    if plan.dense:
        return target
    classes = torch.arange(logits.shape[1], device=logits.device) + first_label(logits.shape[1])
    return target.unsqueeze(1) == classes.reshape(-1, *([1] * (logits.ndim - 2)))
