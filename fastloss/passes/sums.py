"""``voxel_sums``: checked inputs through one fused pass to the sums of the terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..terms import MAP_PREFIX, check_terms
from . import ops
from .inputs import Inputs, check_activation, check_ignore_index, check_inputs


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
        target: labels ``[B, *S]`` or ``[B, 1, *S]`` (bool or any integer dtype, read in place; whole numbers as floats
            are taken as ``[B, 1, *S]`` where C > 1, and copied), or a dense target ``[B, C, *S]``: soft labels (float),
            multi-label or one-hot (bool, or integers: whatever is not 0 is 1).
        terms: names of terms, each at most once; ``"map*NAME"`` multiplies a term by ``weight_map``.
        activation: ``"softmax"`` (C >= 2), ``"sigmoid"``, or None where the input holds probabilities.
        ignore_index: label or labels whose voxels have weight 0.
        mask: ``[B, *S]`` or ``[B, 1, *S]``, multiplied into ``w``: bool or integer (whatever is not 0 counts), or a
            float weight of each voxel.
        weight_map: ``[B, *S]``, ``[B, 1, *S]`` or ``[B, C, *S]``, a constant (no gradient) of the terms ``"map*NAME"``;
            an error if there are none.
        validate: True checks labels, logits (finite; as probabilities from 0 to 1), dense targets (from 0 to 1) and
            weights (finite, at least 0), and names the first bad value with its index; False checks nothing (a label
            that is no class then counts as none); None checks labels on the CPU, where it is free.

    Returns:
        float64 ``[B, C, K]``, on the logits' device.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.
    """
    activation, ignore = check_activation(activation), check_ignore_index(ignore_index)
    check_terms(terms, activation)
    names = tuple(terms)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"terms: got {names}, expected at least one term, each once")
    inputs = check_inputs(logits, target, mask, weight_map, activation, ignore, validate)
    return checked_sums(inputs, names, activation)


def checked_sums(inputs: Inputs, terms: tuple[str, ...], activation: str) -> Tensor:
    """:func:`voxel_sums` of checked inputs and options."""
    return ops.sums(*_arguments(inputs, terms, activation))


def checked_sums_of_terms(inputs: Inputs, terms: tuple[str, ...], activation: str) -> tuple[Tensor, ...]:
    """The same, ``[B, C]`` for each term; those of the target alone have no gradient."""
    return ops.sums_of_terms(*_arguments(inputs, terms, activation))


def _arguments(inputs: Inputs, terms: tuple[str, ...], activation: str) -> tuple[Any, ...]:
    """The arguments of the operator, its options in one tuple."""
    if (inputs.weight_map is not None) != reads_map(terms):
        if inputs.weight_map is None:
            raise ValueError(f"weight_map: is None, expected a map for the terms {terms}")
        raise ValueError(
            f"weight_map: given, but none of the terms {terms} reads it, expected terms 'map*NAME'; to weight voxels "
            "pass mask=, a float weight of each"
        )
    options = (terms, activation, inputs.ignore, inputs.dense, inputs.validate, ops.forced_backend())
    return inputs.logits, inputs.target, inputs.mask, inputs.weight_map, options


def reads_map(terms: tuple[str, ...]) -> bool:
    """Whether a term is multiplied by the voxel weight map."""
    return any(name.startswith(MAP_PREFIX) for name in terms)
