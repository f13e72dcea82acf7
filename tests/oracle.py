"""An independent plain-PyTorch oracle, differentiated by autograd, and the cases that the tests share."""

import torch
import torch.nn.functional as F

from fastloss.terms import parse_term

EPSILON = 1e-7
POWER_TERMS = (
    "focal_pos(2.0)",
    "focal_neg(1.5)",
    "focal_pos(0.5)",
    "log_power_pos(0.3)",
    "log_power_neg(0.7)",
    "miss_pos(3.0)",
    "miss_neg(2.5)",
)


def probability(logits, activation):
    if activation == "softmax":
        return logits.softmax(1)
    return logits.sigmoid() if activation == "sigmoid" else logits


def one_hot(labels, channels):
    """``[B, C, *S]``; one channel is the foreground, label 1."""
    first = 1 if channels == 1 else 0
    return torch.stack([labels == c + first for c in range(channels)], 1)


def logs(logits, activation):
    """-log p and -log(1 - p) by the definitions of the losses."""
    p = probability(logits, activation)
    if activation == "sigmoid":
        return -F.logsigmoid(logits), -F.logsigmoid(-logits)
    positive = -logits.log_softmax(1) if activation == "softmax" else -p.clamp_min(EPSILON).log()
    return positive, -(1 - p).clamp_min(EPSILON).log()


def power(x, exponent):
    """x^exponent, whose slope is 0 where it would be infinite."""
    if exponent == 0 or exponent >= 1:
        return x**exponent
    return torch.where(x > 0, torch.where(x > 0, x, 1.0) ** exponent, 0.0)


def log_power(log, exponent):
    """log^exponent, constant below EPSILON for powers other than 0 and 1."""
    return log**exponent if exponent in (0, 1) else log.clamp_min(EPSILON) ** exponent


def sums(logits, y, weight, terms, activation, weight_map=None):
    """``[B, C, K]`` in float64, differentiable; see :func:`values`."""
    return values(logits, y, weight, terms, activation, weight_map).flatten(3).sum(3).movedim(0, -1)


def by_channel(weight, logits):
    """A weight ``[B, *S]`` or ``[B, C, *S]`` as one of channels."""
    return weight if weight.ndim == logits.ndim else weight.unsqueeze(1)


def values(logits, y, weight, terms, activation, weight_map=None):
    """Of each voxel, ``[K, B, C, *S]`` in float64, differentiable; y ``[B, C, *S]``, weight ``[B, *S]`` or as y."""
    z, y, w = logits.double(), y.double(), by_channel(weight, logits).double()
    p = probability(z, activation)
    q = (-z).sigmoid() if activation == "sigmoid" else (1 - p).clamp_min(0)
    shares = {"1": torch.ones_like(y), "y": y, "r": 1 - y, "y2": y**2}
    columns = []
    for name in terms:
        share, *exponents, mapped = parse_term(name)
        # Where the share is 0 the logarithms must not be infinite: neither 0 * inf nor its slope is a number.
        positive, negative = (torch.where(shares[share] != 0, log, 1.0) for log in logs(z, activation))
        rules = (power, power, log_power, log_power, power, power)
        value = w * shares[share]
        found = (p, q, positive, negative, (-p).exp(), (p - y).abs())
        for rule, x, exponent in zip(rules, found, exponents, strict=True):
            value = value * rule(x, exponent)
        columns.append((value * weight_map.double() if mapped else value).expand_as(z))
    return torch.stack(columns)


def counted(labels, ignore=(), mask=None):
    """The voxel weight ``[B, *S]``."""
    weight = torch.ones(labels.shape, dtype=torch.float64)
    for label in ignore:
        weight = weight * (labels != label)
    return weight if mask is None else weight * mask.double()


def make(activation, channels, space, *, batch=2, dtype=torch.float32, scale=2.0):
    """Logits (or probabilities) and labels."""
    logits = torch.randn(batch, channels, *space, dtype=torch.float64) * scale
    if activation is None:
        logits = logits.sigmoid() if channels == 1 else logits.softmax(1)
    labels = torch.randint(0, max(2, channels), (batch, *space), dtype=torch.uint8 if channels <= 256 else torch.int16)
    return logits.to(dtype), labels


def gradient(function, logits):
    """The value of function(logits) and its gradient."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(leaf)
    (grad,) = torch.autograd.grad(value, leaf)
    return value.detach(), grad


def assert_close(actual, expected, tolerance):
    """To ``tolerance`` of the largest expected magnitude."""
    actual, expected = actual.double(), expected.double()
    scale = max(expected.abs().max().item() if expected.numel() else 0.0, 1e-30)
    error = (actual - expected).abs().max().item() / scale if expected.numel() else 0.0
    assert error <= tolerance, f"error {error:.2e} of the largest magnitude, tolerance {tolerance:.0e}"


def close(actual, expected, tolerance=2e-6):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def value_and_gradient(loss, logits, target, **arguments):
    return gradient(lambda z: loss(z, target, **arguments), logits)
