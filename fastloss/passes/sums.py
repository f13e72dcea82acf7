"""``voxel_sums`` and ``voxel_losses``: checked inputs through one fused pass to the sums of the terms over the voxels,
or to those of each voxel over the terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..quotients import Quotient
from ..terms import MAP_PREFIX, check_terms
from . import ops, voxel_ops
from .backends import forced_backend
from .inputs import Inputs, check_inputs
from .lazy_logits import LazyLogits
from .lazy_ops import lazy_sums
from .options import as_number, check_activation, check_finite, check_flag, check_ignore_index
from .tensors import sum_dtype


def voxel_sums(
    logits: Tensor | LazyLogits,
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
        logits: ``[B, C, *S]``, 1 to 3 spatial axes, float32, float64, float16 or bfloat16, any strides; or
            :class:`fastloss.LazyLogits`, which are made chunk by chunk.
        target: labels ``[B, *S]`` or ``[B, 1, *S]`` (bool or any integer dtype, read in place; whole numbers as floats
            are taken as ``[B, 1, *S]`` where C > 1, and copied), or a dense target ``[B, C, *S]``: soft labels (float),
            multi-label or one-hot (bool, or integers: whatever is not 0 is 1).
        terms: names of terms, each at most once; ``"map*NAME"`` multiplies a term by ``weight_map``.
        activation: ``"softmax"`` (C >= 2), ``"sigmoid"``, or None where the input holds probabilities.
        ignore_index: label or labels whose voxels have weight 0.
        mask: ``[B, *S]`` or ``[B, 1, *S]``, multiplied into ``w``: bool or integer (whatever is not 0 counts), or a
            float weight of each voxel; without softmax also ``[B, C, *S]``, where each channel has its own.
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
    inputs = check_inputs(logits, target, mask, weight_map, activation, ignore, validate, True)
    return checked_sums(inputs, names, activation)


def voxel_losses(
    logits: Tensor | LazyLogits,
    target: Tensor,
    terms: Mapping[str, float | Sequence[float] | Tensor],
    *,
    per_class: bool = False,
    activation: str | None = "softmax",
    ignore_index: int | Iterable[int] | None = None,
    mask: Tensor | None = None,
    weight_map: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""The loss of each voxel, a weighted sum of terms, in one fused pass; differentiable in the logits.

    .. math:: \ell_{bv} = w_{bv} \sum_{ck} \alpha_{bck}\, T_k(p_{bcv}, y_{bcv})

    with the terms :math:`T_k` of :mod:`fastloss.terms`, their coefficients :math:`\alpha` and the weight w of the voxel
    (0 where it is ignored or masked out: then the loss is 0); ``per_class`` leaves the sum over the classes out. The
    sum over the voxels is that of :func:`voxel_sums` with the same coefficients. Backward is one more fused pass (two,
    if ``per_class`` under softmax has terms with a map beside others); nothing of the logits' size is kept.

    ``voxel_losses(z, y, {"ce_pos": w})`` is ``F.cross_entropy(z, y, w, reduction="none")``; with sigmoid and
    ``per_class=True``, ``{"ce_pos": 1, "ce_neg": 1}`` is ``F.binary_cross_entropy_with_logits`` with it, and
    ``{"focal_pos(2.0)": 1, "focal_neg(2.0)": 1}`` is MONAI's ``FocalLoss(reduction="none")``.

    Args:
        logits, target, activation, ignore_index, mask, weight_map, validate: see :func:`voxel_sums`; of lazy logits the
            real ones are made.
        terms: for the name of each term its coefficient: a number, one for each channel ``[C]``, or ``[B, C]``. A
            tensor that requires a gradient gets one, by one more fused pass.
        per_class: whether the value of each class is kept apart.

    Returns:
        ``[B, *S]``, or ``[B, C, *S]`` if ``per_class``; float32, or float64 for float64 logits.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.
    """
    if not isinstance(terms, Mapping) or not terms:
        raise TypeError(
            f"terms: got {terms!r}, expected a coefficient for the name of each term, such as {{'ce_pos': 1}}"
        )
    check_flag(per_class=per_class)
    activation, ignore = check_activation(activation), check_ignore_index(ignore_index)
    check_terms(tuple(terms), activation)
    inputs = check_inputs(logits, target, mask, weight_map, activation, ignore, validate, True)
    coefficients = {name: _coefficient(name, value, inputs.logits) for name, value in terms.items()}
    return checked_voxel_losses(inputs, coefficients, activation, per_class)


def _coefficient(name: str, value: float | Sequence[float] | Tensor, logits: Tensor) -> Tensor:
    """Of a term, without axes, ``[C]``, ``[1, C]`` or ``[B, C]``."""
    argument, (batch, channels) = f"terms[{name!r}]", logits.shape[:2]
    if not isinstance(value, Tensor):
        value = as_number(value, argument)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"{argument}: got {value!r}, expected a number, one for each channel, or a tensor")
            check_finite(**{argument: number})
        value = torch.tensor(value, dtype=sum_dtype(logits.device), device=logits.device)
    if value.device != logits.device and value.ndim:
        raise ValueError(f"{argument}: is on {value.device}, expected {logits.device}, the logits' device")
    if value.shape not in ((), (channels,), (1, channels), (batch, channels)):
        raise ValueError(
            f"{argument}: got shape {list(value.shape)}, expected a number, [{channels}] (the channels), or "
            f"[{batch}, {channels}]"
        )
    return value


def checked_voxel_losses(
    inputs: Inputs, coefficients: Mapping[str, Tensor], activation: str, per_class: bool
) -> Tensor:
    """:func:`voxel_losses` of checked inputs, options and coefficients."""
    if isinstance(inputs.logits, LazyLogits):
        inputs = inputs._replace(logits=inputs.logits.tensor("a loss of each voxel"))
    (batch, channels), dtype = inputs.logits.shape[:2], sum_dtype(inputs.logits.device)
    logits, target, mask, weight_map, options = _arguments(inputs, tuple(coefficients), activation)
    columns = [value.to(logits.device, dtype).expand(batch, channels) for value in coefficients.values()]
    return voxel_ops.voxel_losses(torch.stack(columns, -1), logits, target, mask, weight_map, per_class, options)


def checked_sums(inputs: Inputs, terms: tuple[str, ...], activation: str) -> Tensor:
    """:func:`voxel_sums` of checked inputs and options."""
    logits, *others = _arguments(inputs, terms, activation)
    return (lazy_sums if isinstance(logits, LazyLogits) else ops.sums)(logits, *others)


def checked_sums_of_terms(inputs: Inputs, terms: tuple[str, ...], activation: str) -> tuple[Tensor, ...]:
    """The same, ``[B, C]`` for each term; those of the target alone have no gradient."""
    if isinstance(inputs.logits, LazyLogits):
        return ops.by_term(checked_sums(inputs, terms, activation), terms)
    return ops.sums_of_terms(*_arguments(inputs, terms, activation))


def checked_quotients(
    inputs: Inputs, terms: tuple[str, ...], activation: str, quotients: Callable[[int, int], list[Quotient] | None]
) -> Tensor | None:
    """The loss that is ``quotients(batch, channels)`` of the sums, where the device finishes them in one step."""
    if not ops.takes_quotients(inputs[:4], forced_backend()):
        return None
    parts = quotients(*inputs.logits.shape[:2])
    if parts is None or any(p.weight is not None and p.weight.device != inputs.logits.device for p in parts):
        return None
    return ops.quotient_loss(*_arguments(inputs, terms, activation), tuple(parts))


def _arguments(inputs: Inputs, terms: tuple[str, ...], activation: str) -> tuple[Any, ...]:
    """The arguments of the operator, its options in one tuple."""
    if (inputs.weight_map is not None) != reads_map(terms):
        if inputs.weight_map is None:
            raise ValueError(f"weight_map: is None, expected a map for the terms {terms}")
        raise ValueError(
            f"weight_map: given, but none of the terms {terms} reads it, expected terms 'map*NAME'; to weight voxels "
            "pass mask=, a float weight of each"
        )
    options = (terms, activation, inputs.ignore, inputs.dense, inputs.validate, forced_backend())
    return inputs.logits, inputs.target, inputs.mask, inputs.weight_map, options


def reads_map(terms: tuple[str, ...]) -> bool:
    """Whether a term is multiplied by the voxel weight map."""
    return any(name.startswith(MAP_PREFIX) for name in terms)
