"""Checks of values, made only where they are asked for, or where the fused pass has seen something wrong; and float
labels. All within operators, so that torch.compile does not look inside."""

from __future__ import annotations

import torch
from torch import Tensor

from ..terms import VALIDATE_ALL, Plan, label_count
from .registry import register

_NO_LABEL = torch.iinfo(torch.int64).min


def _whole_labels(target: Tensor, mask: Tensor | None, check: bool) -> Tensor:
    whole = (target == target.round()) & target.isfinite()
    if check and not bool(whole.all()):
        bad = ~whole if mask is None else ~whole & (_by_channel(mask, target.unsqueeze(1)) != 0).any(1)
        if bad.any():
            index = _first(bad)
            raise ValueError(
                f"target: {target[index].item()} at index {index} (sample, then axes) is no whole number, expected "
                f"labels (a target of floats with one channel, for logits with several); {int(bad.sum())} voxels are "
                "affected. A soft target has a channel for each of the logits'"
            )
    return torch.where(whole, target, 0).long().masked_fill_(~whole, _NO_LABEL)


register(
    "whole_labels(Tensor target, Tensor? mask, bool check) -> Tensor",
    _whole_labels,
    lambda target, mask, check: torch.empty(target.shape, dtype=torch.int64, device=target.device),
)


def whole_labels(target: Tensor, mask: Tensor | None, check: bool) -> Tensor:
    """Labels of floats as int64. A voxel that counts and has a fraction is an error, or, unchecked, of no class."""
    labels: Tensor = torch.ops.fastloss.whole_labels(target, mask, check)
    return labels


def check_values(
    logits: Tensor, target: Tensor, mask: Tensor | None, plan: Plan, validate: int, bad_labels: bool | int
) -> None:
    """Raises ValueError for the first value of a counted voxel that is none it may have.

    Args:
        validate: the level: labels, where ``bad_labels`` says that there may be bad ones; with all, also logits
            (finite; as probabilities from 0 to 1), dense targets (from 0 to 1) and weights (finite, at least 0).
    """
    if validate and bad_labels and not plan.dense:
        _check_labels(target, mask, plan, logits.shape[1])
    if validate != VALIDATE_ALL:
        return
    counted = ~uncounted(target, mask, plan)
    if plan.activation == "none":
        _check_range("logits", logits, counted, "probabilities from 0 to 1 for activation=None")
    elif not bool(torch.isfinite(logits).all()):
        _check("logits", logits, ~torch.isfinite(logits) & counted, "finite values")
    if plan.dense and target.is_floating_point():
        _check_range("target", target, counted, "shares from 0 to 1")
    if mask is not None and mask.is_floating_point():
        wrong = ~(torch.isfinite(mask) & (mask >= 0))
        _check("mask", mask, wrong, "finite weights of at least 0", mask.ndim == logits.ndim)


def check_weights(mask: Tensor | None) -> None:
    """Raises ValueError for a weight that ranked voxels cannot have."""
    if mask is not None and mask.is_floating_point():
        _check("mask", mask, mask < 0, "weights of at least 0 for a ranked loss", False)


def _check_range(name: str, values: Tensor, counted: Tensor, expected: str) -> None:
    inside = (values >= 0) & (values <= 1)
    if not bool(inside.all()):
        _check(name, values, ~inside & counted, expected)


def _check(name: str, values: Tensor, bad: Tensor, expected: str, by_class: bool = True) -> None:
    if bad.any():
        index = _first(bad)
        axes = "sample, class, then axes" if by_class else "sample, then axes"
        raise ValueError(
            f"{name}: {values[index].item()} at index {index} ({axes}), expected {expected}; {int(bad.sum())} values "
            "are affected"
        )


def _check_labels(target: Tensor, mask: Tensor | None, plan: Plan, channels: int) -> None:
    labels = target.long()
    bad = ((labels < 0) | (labels >= label_count(channels))) & ~uncounted(target, mask, plan).all(1)
    if bad.any():
        index = _first(bad)
        raise ValueError(
            f"target: label {target[index].item()} at index {index} (sample, then axes) is no class, expected "
            f"0 to {label_count(channels) - 1} or an ignore_index {plan.ignore or '(none is set)'}; "
            f"{int(bad.sum())} voxels are affected. validate=False counts them as no class"
        )


def uncounted(target: Tensor, mask: Tensor | None, plan: Plan) -> Tensor:
    """Which voxels do not count, ``[B, 1, *S]``, or ``[B, C, *S]`` where each channel has a mask of its own."""
    column = target[:, :1] if plan.dense else target.unsqueeze(1).long()  # a small dtype would wrap the ignored labels
    left_out = torch.zeros_like(column, dtype=torch.bool)
    for label in () if plan.dense else plan.ignore:
        left_out = left_out | (column == label)
    return left_out if mask is None else left_out | (_by_channel(mask, column) == 0)


def _by_channel(mask: Tensor, column: Tensor) -> Tensor:
    """A mask with an axis of channels, as ``column`` has."""
    return mask if mask.ndim == column.ndim else mask.unsqueeze(1)


def _first(bad: Tensor) -> tuple[int, ...]:
    return tuple(bad.nonzero()[0].tolist())
