"""``voxel_sums``: checked inputs through one fused pass to the sums of the terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..terms import parse_term
from . import ops
from .inputs import check_activation, check_ignore_index, check_inputs, validation_level


def voxel_sums(
    logits: Tensor,
    target: Tensor,
    terms: Sequence[str] = ("p", "py", "y"),
    *,
    activation: str | None = "softmax",
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
    weight_map: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    """Sums of voxel terms per sample and class, in one fused pass; differentiable in the logits.

    With ``p`` the activated logits, ``y`` the target and ``w`` the voxel weight (0 where ignored or masked out),
    the entry ``[b, c, k]`` is the sum over the voxels of sample b of ``w`` times term k of class c; see
    :mod:`fastloss.terms` for the terms. Backward is one more fused pass; nothing of the logits' size is kept.

    Args:
        logits: ``[B, C, *S]``, 1 to 3 spatial axes, float32, float64, float16 or bfloat16, any strides.
        target: labels ``[B, *S]`` or ``[B, 1, *S]`` (bool or any integer dtype, read in place), or a dense target
            ``[B, C, *S]``: soft labels (float), multi-label (bool) or one-hot (integer).
        terms: names of terms, each at most once; ``"map*NAME"`` multiplies a term by ``weight_map``.
        activation: ``"softmax"`` (C >= 2), ``"sigmoid"``, or None where the input holds probabilities.
        ignore_index: label or labels whose voxels have weight 0.
        mask: ``[B, *S]`` or ``[B, 1, *S]``, bool or a weight, multiplied into ``w``.
        weight_map: ``[B, *S]``, ``[B, 1, *S]`` or ``[B, C, *S]``; a constant (no gradient).
        validate: True checks labels and logits and names the first bad value with its index; False checks nothing
            (a label that is no class then counts as none); None checks labels on the CPU, where it is free.

    Returns:
        float64 ``[B, C, K]``, on the logits' device.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.
    """
    names = tuple(terms)
    parsed = tuple(parse_term(name) for name in names)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"terms: got {names}, expected at least one term, each once")
    if weight_map is None and any(term.mapped for term in parsed):
        raise ValueError(f"weight_map: is None, expected a map for the terms {names}")
    return checked_sums(
        logits,
        target,
        mask,
        weight_map,
        names,
        check_activation(activation),
        check_ignore_index(ignore_index),
        validate,
    )


def checked_sums(*arguments: Any) -> Tensor:
    """:func:`voxel_sums` for options that are known to be good; they are those of :func:`_checked`."""
    return ops.sums(*_checked(*arguments))


def checked_sums_of_terms(*arguments: Any) -> tuple[Tensor, ...]:
    """The same, ``[B, C]`` for each term; those of the target alone have no gradient."""
    return ops.sums_of_terms(*_checked(*arguments))


def _checked(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    terms: tuple[str, ...],
    activation: str,
    ignore: tuple[int, ...],
    validate: bool | None,
) -> tuple[Any, ...]:
    """The arguments of the operator, its options in one tuple."""
    inputs = check_inputs(logits, target, mask, weight_map, activation, bool(ignore))
    level = validation_level(validate, inputs.logits.device)
    options = (terms, activation, ignore, inputs.dense, level, ops.forced_backend())
    return inputs.logits, inputs.target, inputs.mask, inputs.weight_map, options
