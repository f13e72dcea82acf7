"""The readable back end: plain PyTorch on any device, the oracle of the tests. It materialises everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.terms import EPSILON, FACTORS, Plan, Term, first_label


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms for ``logits`` ``[B, C, *S]``."""
    v = _Voxels(logits, target, mask, plan)
    sums = []
    for term in plan.terms:
        value = v.weight * v.value(term)
        if term.mapped:
            assert weight_map is not None
            value = value * torch.where(v.counted, weight_map.to(v.real), 0)
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
    slopes = _Slopes(*(torch.zeros_like(v.p) for _ in _Slopes._fields))
    for k, term in enumerate(plan.terms):
        if term.constant:
            continue
        g = v.of_class(grad_sums[..., k])
        if term.mapped:
            assert weight_map is not None
            g = g * weight_map.to(v.real)
        slopes = _Slopes(*(total + g * slope for total, slope in zip(slopes, v.slopes(term), strict=True)))
    return like(logits, torch.where(v.counted, v.weight * v.through_activation(slopes), 0))


def like(logits: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the dtype and the strides that the operators promise."""
    return torch.empty_like(logits).copy_(gradient)


def _sum_dtype(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64


# Factors that are functions of p: their values, and the derivatives of their logarithms
_OF_P: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor | float]]] = {
    "e": (lambda p: (-p).exp(), lambda p: -1.0),
}


class _Slopes(NamedTuple):
    """The derivatives of a term, or of a weighted sum of terms, apart: only so are they finite at p = 0 and 1."""

    by_p: Tensor | float  # that of powers of p and q, but for
    steep_p: Tensor | float  # p times that of p to a power below 1, and
    steep_q: Tensor | float  # q times that of q to a power below 1
    by_l: Tensor | float
    by_m: Tensor | float


def _ratio(a: Tensor | float, b: Tensor) -> Tensor:
    """a / b, 0 where b vanishes: there a is b to a power above 0 times what vanishes like b."""
    return torch.where(b > torch.finfo(b.dtype).tiny, a / b, 0)


class _Voxels:
    """The voxel quantities of one pass, all ``[B, C, *S]`` (weight and counted: ``[B, 1, *S]``, unless each channel has
    a mask of its own)."""

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
            weight = weight * (mask if mask.ndim == logits.ndim else mask.unsqueeze(1)).to(self.real)
        self.weight, self.counted = weight, weight != 0
        # An uncounted voxel may hold anything, NaN included: replaced before it can spread.
        self.z = torch.where(self.counted, logits.to(self.real), 0)
        self.y = torch.where(self.counted, _one_hot(logits, target, plan).to(self.real), 0)
        self.p = self._probability()
        self.q = (-self.z).sigmoid() if self.sigmoid else (1 - self.p).clamp_min(0)
        if self.activation == "softmax":  # of the leading class, where 1 - p has few digits, from the others
            self.leads = torch.zeros_like(self.p, dtype=torch.bool).scatter_(1, self.z.argmax(1, keepdim=True), True)
            self.q = torch.where(self.leads, self.others(self.p), self.q)
        self.l = self._negative_log()
        self.d = torch.where(self.y > 0.5, self.q - (1 - self.y), self.p - self.y).abs()
        self.of_p = {name: value(self.p) for name, (value, _) in _OF_P.items()}
        self.m = -F.logsigmoid(-self.z) if self.sigmoid else -self.q.clamp_min(EPSILON).log()

    def of_class(self, table: Tensor) -> Tensor:
        """Numbers ``[B, C]`` for all voxels."""
        return table.to(self.real).reshape(*self.p.shape[:2], *([1] * len(self.spatial)))

    def _probability(self) -> Tensor:
        if self.activation == "softmax":
            return self.z.softmax(1)
        return self.z.sigmoid() if self.sigmoid else self.z

    def others(self, x: Tensor) -> Tensor:
        """For each class the sum of all others, that of the leading class without a difference."""
        rest = torch.where(self.leads, 0, x)
        leader = torch.where(self.leads, x, 0).sum(1, keepdim=True)
        return rest.sum(1, keepdim=True) - rest + torch.where(self.leads, 0, leader)

    def value(self, term: Term) -> Tensor:
        """The product of the share and the factors to their powers."""
        product = torch.ones_like(self.p)
        for factor in FACTORS:
            power, x = getattr(term, factor), self.of_p.get(factor, getattr(self, factor, None))
            if power == 1:
                product = product * x
            elif power:
                product = product * (x.clamp_min(EPSILON) if factor in "lm" else x) ** power
        share = {"1": torch.ones_like(self.p), "y": self.y, "r": 1 - self.y, "y2": self.y * self.y}[term.share]
        return torch.where(share != 0, share * product, 0)  # the logarithm may be infinite where the share is 0

    def slopes(self, term: Term) -> _Slopes:
        by_p, steep_p, steep_q = torch.zeros_like(self.p), 0.0, 0.0
        if term.p >= 1:
            by_p = by_p + term.p * self.value(term._replace(p=term.p - 1))
        elif term.p:
            steep_p = term.p * self.value(term)
        for factor, (_, slope) in _OF_P.items():
            if getattr(term, factor):
                by_p = by_p + getattr(term, factor) * slope(self.p) * self.value(term)
        if term.d:
            by_p = by_p + term.d * self.value(term._replace(d=term.d - 1)) * self._side()
        if term.q >= 1:
            by_p = by_p - term.q * self.value(term._replace(q=term.q - 1))
        elif term.q:
            steep_q = term.q * self.value(term)
        return _Slopes(by_p, steep_p, steep_q, self._slope_by_log(term, "l"), self._slope_by_log(term, "m"))

    def _side(self) -> Tensor:
        """The slope of |p - y|: at y = 0 and 1 that of the side on which p lies."""
        side = torch.where(self.y <= 0, 1.0, (self.p - self.y).sign())
        return torch.where(self.y >= 1, -1.0, side).to(self.real)

    def _slope_by_log(self, term: Term, factor: str) -> Tensor | float:
        power = getattr(term, factor)
        if not power:
            return 0.0
        if power == 1:
            return self.value(term._replace(**{factor: 0.0}))
        x = getattr(self, factor)
        return torch.where(x > EPSILON, power * self.value(term) / x.clamp_min(EPSILON), 0)

    def through_activation(self, s: _Slopes) -> Tensor:
        """The derivative by the logits."""
        p, q = self.p, self.q
        if self.sigmoid:
            return p * q * s.by_p + q * (s.steep_p - s.by_l) - p * (s.steep_q - s.by_m)
        by_m = torch.where(q > EPSILON, s.by_m / q, 0)
        by_q = _ratio(s.steep_q, q)
        if self.activation == "none":
            return s.by_p + _ratio(s.steep_p, p) - by_q + by_m - torch.where(p > EPSILON, s.by_l / p, 0)
        t, u = p * s.by_p + s.steep_p - s.by_l, p * (by_m - by_q)
        return t - p * t.sum(1, keepdim=True) + u * q - p * self.others(u)

    def _negative_log(self) -> Tensor:
        if self.activation == "softmax":
            return -self.z.log_softmax(1)
        return -F.logsigmoid(self.z) if self.sigmoid else -self.p.clamp_min(EPSILON).log()


def _one_hot(logits: Tensor, target: Tensor, plan: Plan) -> Tensor:
    """``[B, C, *S]``; a label outside the classes belongs to none."""
    if plan.dense:
        return target
    classes = torch.arange(logits.shape[1], device=logits.device) + first_label(logits.shape[1])
    return target.unsqueeze(1).long() == classes.reshape(-1, *([1] * (logits.ndim - 2)))
