"""What comes in: the only place for shapes, dtypes, ignored labels and dense targets. Every problem is named here."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..terms import ACTIVATIONS, VALIDATE_ALL, VALIDATE_LABELS, VALIDATE_NOTHING

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_validate_everywhere = os.environ.get("FASTLOSS_VALIDATE", "") == "1"


class Inputs(NamedTuple):
    """The checked tensors of a pass, in the shapes that the operators take."""

    logits: Tensor  # [B, C, *S]
    target: Tensor  # [B, *S] labels, or [B, C, *S]
    mask: Tensor | None  # [B, *S]
    weight_map: Tensor | None  # [B, 1 or C, *S]
    dense: bool


def check_activation(activation: str | None) -> str:
    """``None`` becomes ``"none"``, the operators' word for it."""
    name = "none" if activation is None else activation
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected 'softmax', 'sigmoid' or None")
    return name


def check_ignore_index(ignore_index: int | Iterable[int] | None) -> tuple[int, ...]:
    """One label, several or none, as a tuple."""
    if ignore_index is None:
        return ()
    labels = (ignore_index,) if isinstance(ignore_index, int) else tuple(ignore_index)
    for label in labels:
        if not isinstance(label, int) or isinstance(label, bool):
            raise TypeError(f"ignore_index: got {label!r}, expected an integer or several")
    return labels


def check_reduction(reduction: str) -> str:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: got {reduction!r}, expected 'mean', 'sum' or 'none'")
    return reduction


def check_at_least_zero(**values: float) -> None:
    """Raises ValueError naming the first of the options that is negative or not finite."""
    for name, value in values.items():
        _check_number(name, value, _is_finite(value) and value >= 0, "a finite number of at least 0")


def check_positive(**values: float) -> None:
    """Raises ValueError naming the first of the options that is not a finite number above 0."""
    for name, value in values.items():
        _check_number(name, value, _is_finite(value) and value > 0, "a finite number above 0")


def check_fraction(**values: float) -> None:
    """Raises ValueError naming the first of the options that is not between 0 and 1."""
    for name, value in values.items():
        _check_number(name, value, _is_finite(value) and 0 <= value <= 1, "a number from 0 to 1")


def check_finite(**values: float) -> None:
    """Raises ValueError naming the first of the options that is no finite number."""
    for name, value in values.items():
        _check_number(name, value, _is_finite(value), "a finite number")


def check_count(**values: int) -> None:
    """Raises ValueError naming the first of the options that is no integer of at least 1."""
    for name, value in values.items():
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        _check_number(name, value, good, "an integer of at least 1")


def check_natural(**values: int) -> None:
    """Raises ValueError naming the first of the options that is no integer of at least 0."""
    for name, value in values.items():
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        _check_number(name, value, good, "an integer of at least 0")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected {' or '.join(map(repr, choices))}")
    return value


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _check_number(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def check_factor(value: float | Sequence[float] | Tensor, name: str) -> Tensor:
    """A number, or one for each channel, as a float64 tensor of 0 or 1 axes."""
    if isinstance(value, (int, float)):
        check_at_least_zero(**{name: value})
        return torch.tensor(float(value), dtype=torch.float64)
    factor = check_class_weight(value, name)
    if factor is None:
        raise ValueError(f"{name}: got None, expected a number or one for each channel")
    return factor


def check_class_weight(class_weight: Sequence[float] | Tensor | None, name: str = "class_weight") -> Tensor | None:
    """A float64 vector; its length is checked against the logits by :func:`check_weight_length`."""
    if class_weight is None:
        return None
    weight = torch.as_tensor(class_weight, dtype=torch.float64).detach()
    if weight.ndim != 1:
        raise ValueError(f"{name}: got shape {list(weight.shape)}, expected one weight a class, [C]")
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(f"{name}: got {weight.tolist()}, expected finite weights of at least 0")
    return weight


def check_weight_length(weight: Tensor, classes: int, name: str = "class_weight") -> None:
    if weight.shape[0] != classes:
        raise ValueError(f"{name}: got {weight.shape[0]} weights, expected {classes}, one for each channel")


def validation_level(validate: bool | None, device: torch.device) -> int:
    """None: labels where it costs nothing, on the CPU; True: labels and logits; False: nothing."""
    if validate is None:
        if _validate_everywhere:
            return VALIDATE_ALL
        return VALIDATE_LABELS if device.type == "cpu" else VALIDATE_NOTHING
    return VALIDATE_ALL if validate else VALIDATE_NOTHING


def check_inputs(
    logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, activation: str, ignored: bool
) -> Inputs:
    """Checks the tensors of a pass and gives them the operators' shapes, without copying.

    Args:
        logits: ``[B, C, *S]`` with 1 to 3 spatial axes.
        target: labels ``[B, *S]`` or ``[B, 1, *S]``, or a dense target ``[B, C, *S]``.
        mask: ``[B, *S]`` or ``[B, 1, *S]``.
        weight_map: ``[B, *S]``, ``[B, 1, *S]`` or ``[B, C, *S]``.
        activation: as :func:`check_activation` gives it.
        ignored: whether labels are ignored, which a dense target cannot have.
    """
    logits, target = _plain(logits, "logits"), _plain(target, "target")
    if logits.dtype not in _FLOATS:
        raise TypeError(f"logits: got {logits.dtype}, expected float32, float64, float16 or bfloat16")
    if not 3 <= logits.ndim <= 5:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected [B, C, *S] with 1 to 3 spatial axes")
    if logits.shape[1] < 1:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected at least one channel")
    if activation == "softmax" and logits.shape[1] == 1:
        raise ValueError(
            "logits: one channel with activation='softmax' (whose probability is always 1), expected at least two "
            "channels, or activation='sigmoid'"
        )
    target, dense = _target(logits, target)
    if dense and ignored:
        raise ValueError(
            f"ignore_index: set, but target of shape {list(target.shape)} is dense, expected labels; leave voxels of "
            "a dense target out with mask="
        )
    if mask is not None:
        mask = _volume(logits, _plain(mask, "mask"), "mask", False)
    if weight_map is not None:
        weight_map = _volume(logits, _plain(weight_map, "weight_map"), "weight_map", True)
    return Inputs(logits, target, mask, weight_map, dense)


def check_maps(maps: Tensor, logits: Tensor) -> Tensor:
    """Distances that are known beforehand, ``[B, 1 or C, *S]``."""
    maps = _plain(maps, "maps")
    if maps.dtype not in _FLOATS:
        raise TypeError(f"maps: got {maps.dtype}, expected a float tensor, as label_map gives it")
    return _volume(logits, maps, "maps", True)


def _plain(tensor: Tensor, name: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, expected a torch.Tensor")
    if type(tensor) is Tensor or torch.compiler.is_compiling():
        return tensor
    if type(tensor).__torch_function__ is torch._C._disabled_torch_function_impl:
        return tensor  # parameters, fake tensors
    return tensor.as_subclass(Tensor)  # MONAI's MetaTensor and the like: same storage, same graph


def _target(logits: Tensor, target: Tensor) -> tuple[Tensor, bool]:
    """The target in the operators' shape, and whether it is dense."""
    if target.dtype not in _FLOATS + _INTEGERS:
        raise TypeError(f"target: got {target.dtype}, expected integer or bool labels, or a float or bool dense target")
    _same_device(logits, target, "target")
    if target.requires_grad:
        raise ValueError("target: requires a gradient, which the losses do not compute; expected target.detach()")
    batch, channels, space = logits.shape[0], logits.shape[1], logits.shape[2:]
    floating = target.dtype in _FLOATS
    if target.shape == logits.shape and (floating or channels > 1):
        return target, True
    if not floating:
        if target.shape == (batch, *space):
            return target, False
        if target.shape == (batch, 1, *space):
            return target.squeeze(1), False
    labels, dense = [batch, *space], [batch, channels, *space]
    form = "a float" if floating else f"an integer or bool ({target.dtype})"
    expected = f"{dense}" if floating else f"labels {labels} or [{batch}, 1, ...], or a dense target {dense}"
    raise ValueError(
        f"target: got {form} tensor of shape {list(target.shape)} for logits {list(logits.shape)}, expected {expected}"
        + (" (labels must have an integer dtype)" if floating and target.shape == (batch, *space) else "")
    )


def _volume(logits: Tensor, volume: Tensor, name: str, channels: bool) -> Tensor:
    if volume.dtype not in _FLOATS + _INTEGERS:
        raise TypeError(f"{name}: got {volume.dtype}, expected a bool, integer or float tensor")
    _same_device(logits, volume, name)
    if volume.requires_grad:
        raise ValueError(f"{name}: requires a gradient, which the losses do not compute; expected {name}.detach()")
    batch, space = logits.shape[0], logits.shape[2:]
    single = (batch, 1, *space)
    if volume.shape == (batch, *space):
        return volume.unsqueeze(1) if channels else volume
    if volume.shape == single:
        return volume if channels else volume.squeeze(1)
    if channels and volume.shape == logits.shape:
        return volume
    expected = f"[{batch}, *{list(space)}] or {list(single)}" + (f" or {list(logits.shape)}" if channels else "")
    raise ValueError(f"{name}: got shape {list(volume.shape)} for logits {list(logits.shape)}, expected {expected}")


def _same_device(logits: Tensor, tensor: Tensor, name: str) -> None:
    if tensor.device != logits.device:
        raise ValueError(f"{name}: is on {tensor.device}, expected {logits.device}, the logits' device")
