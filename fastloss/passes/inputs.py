"""What comes in: the only place for shapes, dtypes, ignored labels and dense targets. Every problem is named here."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..terms import ACTIVATIONS, VALIDATE_ALL, VALIDATE_LABELS, VALIDATE_NOTHING
from .lazy_logits import LazyLogits
from .values import whole_labels

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
_MOST = 2**63 - 1  # of integers as scalars of tensors
_validate_everywhere = os.environ.get("FASTLOSS_VALIDATE", "") == "1"


class Inputs(NamedTuple):
    """The checked tensors of a pass, in the shapes that the operators take."""

    logits: Tensor  # [B, C, *S]; LazyLogits for sums, which have what is asked of a tensor
    target: Tensor  # [B, *S] labels, or [B, C, *S]
    mask: Tensor | None  # [B, *S], or [B, C, *S] where each channel has its own
    weight_map: Tensor | None  # [B, 1 or C, *S]
    dense: bool
    ignore: tuple[int, ...]  # the ignored labels, as int64
    validate: int  # a level of terms.py


# Options


def as_number(value: Any, name: str) -> Any:
    """A NumPy scalar, or an array or tensor without axes, as the number that it is, in a list or tuple as well;
    anything else, parameters included, as it came.

    Raises:
        ValueError: for a tensor that requires a gradient and is no parameter, of which a loss has a copy without one;
            for one without plain values (nested, sparse, on meta).
    """
    if isinstance(value, (list, tuple)):
        items = [as_number(item, name) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            f"{name}: got a tensor that requires a gradient, expected numbers, or an nn.Parameter where they are to be "
            "learned"
        )
    if isinstance(value, Tensor):
        check_has_values(value, name)
    return value.item() if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0 else value


def check_activation(activation: str | None) -> str:
    """``None`` becomes ``"none"``, the operators' word for it."""
    name = "none" if activation is None else activation
    if not _is_one_of(name, ACTIVATIONS):
        raise ValueError(f"activation: got {activation!r}, expected 'softmax', 'sigmoid' or None")
    return name


def check_ignore_index(ignore_index: int | Iterable[int] | None) -> tuple[int, ...]:
    """One label, several or none, as a tuple."""
    given = as_number(ignore_index, "ignore_index")
    if given is None:
        return ()
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
    labels = tuple(as_number(label, "ignore_index") for label in given) if several else (given,)
    for label in labels:
        if not isinstance(label, int) or isinstance(label, bool):
            raise TypeError(f"ignore_index: got {label!r}, expected an integer or several")
    return labels


def check_flag(**values: bool) -> None:
    """Raises TypeError naming the first of the options that is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}: got {value!r}, expected True or False")


def as_flag(value: Any, name: str) -> bool:
    """True or False, of Python, NumPy or a tensor without axes."""
    flag: bool = as_number(value, name)
    check_flag(**{name: flag})
    return flag


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


Smooth = float | tuple[float, float]
"""The smoothing of a quotient: a number, or one of the numerator and one of the denominator."""


def check_smooth(smooth: Smooth) -> tuple[float, float]:
    """As a pair.

    Raises:
        ValueError: for what is neither a number of at least 0 nor two of them.
    """
    pair = tuple(smooth) if isinstance(smooth, (list, tuple)) else (smooth, smooth)
    if len(pair) != 2:
        raise ValueError(f"smooth: got {smooth!r}, expected a number or a pair (of the numerator, of the denominator)")
    for value in pair:
        check_at_least_zero(smooth=value)
    return float(pair[0]), float(pair[1])  # a whole number may be larger than what tensors take


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if not _is_one_of(value, choices):
        *others, last = map(repr, choices)
        raise ValueError(f"{name}: got {value!r}, expected {', '.join(others)} or {last}")
    return value


def _is_one_of(value: object, choices: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in choices  # arrays and the like compare to something else than a bool


def check_power_of(base: int, **exponents: float) -> None:
    """Raises ValueError naming the first of the exponents, numbers of at least 0, to which the base is infinite."""
    for name, exponent in exponents.items():
        if exponent * math.log(base) >= math.log(sys.float_info.max):
            raise ValueError(f"{name}: got {exponent!r}, expected a power of {base} that is finite")


def check_iterable(value: Any, name: str, expected: str) -> list[Any]:
    """The items of what is no text, in a list."""
    try:
        if not isinstance(value, (str, bytes)):
            return list(value)
    except (TypeError, RuntimeError):  # torch's word for what has no axes
        pass
    raise TypeError(f"{name}: got {value!r}, expected {expected}")


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= (_MOST if isinstance(value, int) else sys.float_info.max)


def _check_number(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        larger = ", as a float where 64 bits do not hold it" if isinstance(value, int) and abs(value) > _MOST else ""
        raise ValueError(f"{name}: got {value!r}, expected {expected}{larger}")


def check_factor(value: float | Sequence[float] | Tensor, name: str) -> Tensor:
    """A number, or one for each channel, as a float64 tensor of 0 or 1 axes; a parameter as it is."""
    value = as_number(value, name)
    if isinstance(value, nn.Parameter) and value.ndim == 0:
        _check_weights(value, name)
        return value
    if isinstance(value, (int, float)):
        check_at_least_zero(**{name: value})
        return torch.tensor(float(value), dtype=torch.float64)
    factor = check_class_weight(value, name)
    if factor is None:
        raise ValueError(f"{name}: got None, expected a number or one for each channel")
    return factor


def check_class_weight(class_weight: Sequence[float] | Tensor | None, name: str = "class_weight") -> Tensor | None:
    """A float64 vector, or the parameter that was given; its length is checked by :func:`check_weight_length`."""
    weight = as_number(class_weight, name)
    if weight is None:
        return None
    if isinstance(weight, (list, tuple, nn.ParameterList)) and any(isinstance(item, Tensor) for item in weight):
        raise ValueError(f"{name}: got several tensors, expected numbers or one tensor or nn.Parameter, [C]")
    if not isinstance(weight, nn.Parameter):
        try:
            if isinstance(weight, (Tensor, np.ndarray)) and "complex" in str(weight.dtype):
                raise TypeError("complex numbers would lose their imaginary parts")
            weight = torch.as_tensor(weight, dtype=torch.float64).as_subclass(Tensor)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TypeError(f"{name}: got {class_weight!r}, expected one weight a class, [C]") from error
    if weight.ndim != 1:
        raise ValueError(f"{name}: got shape {list(weight.shape)}, expected one weight a class, [C]")
    _check_weights(weight, name)
    return weight


def _check_weights(weight: Tensor, name: str) -> None:
    check_has_values(weight, name)
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(f"{name}: got {weight.tolist()}, expected finite weights of at least 0")


Factors = list[float] | nn.Parameter | nn.ParameterList


def check_factors(weights: Any, name: str = "weights") -> Factors:
    """A finite number for each part of a sum, as a list. Parameters stay what they are: one ``[N]``, or a list of them
    and of numbers, each parameter of one element."""
    if isinstance(weights, nn.Parameter) and weights.ndim == 1:
        return weights
    if isinstance(weights, Tensor):
        weights = as_number(weights, name)
        weights = weights.tolist() if isinstance(weights, Tensor) else weights
    factors = [as_number(weight, name) for weight in check_iterable(weights, name, "a sequence of numbers")]
    for factor in factors:
        if not (isinstance(factor, nn.Parameter) and factor.numel() == 1):
            check_finite(**{name: factor})
    return nn.ParameterList(factors) if any(isinstance(factor, nn.Parameter) for factor in factors) else factors


def check_part_weight(**values: float | nn.Parameter) -> None:
    """Raises ValueError naming the first of the weights that is no finite number of at least 0, nor a parameter of one
    element that is."""
    for name, value in values.items():
        number: Any = value
        if isinstance(value, nn.Parameter) and value.numel() == 1:
            check_has_values(value, name)
            number = value.item()
        check_at_least_zero(**{name: number})


def weighted_sum(weights: Iterable[float | Tensor], parts: Iterable[Tensor]) -> Tensor:
    """The sum of the parts, each times its weight."""
    factors = [weight.reshape(()) if isinstance(weight, Tensor) else weight for weight in weights]
    pairs = zip(factors, parts, strict=True)
    scaled = [part if not isinstance(weight, Tensor) and weight == 1 else weight * part for weight, part in pairs]
    return functools.reduce(torch.add, scaled)


def check_weight_length(weight: Tensor, classes: int, name: str = "class_weight") -> None:
    if weight.shape[0] != classes:
        raise ValueError(f"{name}: got {weight.shape[0]} weights, expected {classes}, one for each channel")


# Tensors


def validation_level(validate: bool | None, device: torch.device) -> int:
    """None: labels where it costs nothing, on the CPU; True: all values; False: nothing."""
    if validate is None:
        if _validate_everywhere:
            return VALIDATE_ALL
        return VALIDATE_LABELS if device.type == "cpu" else VALIDATE_NOTHING
    return VALIDATE_ALL if as_flag(validate, "validate") else VALIDATE_NOTHING


def check_inputs(
    logits: Tensor | LazyLogits,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    activation: str,
    ignore: tuple[int, ...],
    validate: bool | None,
    channel_masks: bool = False,
) -> Inputs:
    """Checks the tensors of a pass and gives them the operators' shapes. Nothing is copied, but for float labels, which
    become integers, and integers of a dense target or a mask, which become bool: whether they are not 0.

    Args:
        logits: ``[B, C, *S]`` with 1 to 3 spatial axes; lazy ones come through as they are.
        target: labels ``[B, *S]`` or ``[B, 1, *S]``, or a dense target ``[B, C, *S]``.
        mask: ``[B, *S]``, ``[B, 1, *S]``, or, if ``channel_masks`` allows it and there is no softmax, ``[B, C, *S]``.
        weight_map: ``[B, *S]``, ``[B, 1, *S]`` or ``[B, C, *S]``.
        activation: as :func:`check_activation` gives it.
        ignore: as :func:`check_ignore_index` gives it; a dense target cannot have any.
        validate: None, True or False.
    """
    unsigned = isinstance(target, Tensor) and target.dtype == torch.uint64
    target = _plain(target, "target")
    if isinstance(logits, LazyLogits) and not logits.channels_last:
        logits = cast(Tensor, logits)
    else:
        logits = _plain(logits.tensor("a loss") if isinstance(logits, LazyLogits) else logits, "logits")
    if logits.dtype not in FLOATS:
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
    level = validation_level(validate, logits.device)
    if mask is not None:
        mask = _yes_or_no(_mask(logits, _plain(mask, "mask"), channel_masks and activation != "softmax"))
    if weight_map is not None:
        weight_map = _volume(logits, _plain(weight_map, "weight_map"), "weight_map", True)
    target, dense = _target(logits, target, mask, level)
    if dense and ignore:
        raise ValueError(
            f"ignore_index: set, but target of shape {list(target.shape)} is dense, expected labels; leave voxels of "
            "a dense target out with mask="
        )
    return Inputs(logits, target, mask, weight_map, dense, as_int64(ignore, unsigned), level)


def as_int64(ignore: tuple[int, ...], unsigned: bool) -> tuple[int, ...]:
    """The labels that 64 bits hold, as the int64 of the same bits."""
    if unsigned:
        return tuple((label + 2**63) % 2**64 - 2**63 for label in ignore if 0 <= label < 2**64)
    return tuple(label for label in ignore if -(2**63) <= label < 2**63)


def _yes_or_no(volume: Tensor) -> Tensor:
    return volume if volume.dtype in FLOATS or volume.dtype == torch.bool else volume != 0


def check_maps(maps: Tensor, logits: Tensor) -> Tensor:
    """Distances that are known beforehand, ``[B, 1 or C, *S]``."""
    maps = _plain(maps, "maps")
    if maps.dtype not in FLOATS:
        raise TypeError(f"maps: got {maps.dtype}, expected a float tensor, as label_map gives it")
    return _volume(logits, maps, "maps", True)


def check_layout(tensor: Tensor, name: str) -> None:
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "a nested tensor" if tensor.is_nested else tensor.layout
        raise ValueError(f"{name}: got {layout}, expected a dense tensor (torch.strided)")


def check_has_values(tensor: Tensor, name: str) -> None:
    check_layout(tensor, name)
    if tensor.device.type == "meta" or tensor.is_quantized:
        what = f"has dtype {tensor.dtype}" if tensor.is_quantized else "is on meta"
        raise ValueError(f"{name}: {what}, expected a tensor with values")


def check_tensor(tensor: object, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, expected a torch.Tensor")
    if not torch.compiler.is_compiling():
        check_layout(tensor, name)


def _plain(tensor: Tensor, name: str) -> Tensor:
    check_tensor(tensor, name)
    if tensor.dtype == torch.uint64:  # of which torch can do next to nothing: the same bits, as int64
        tensor = tensor.view(torch.int64)
    if type(tensor) is Tensor or torch.compiler.is_compiling():
        return tensor
    if type(tensor).__torch_function__ is torch._C._disabled_torch_function_impl:
        return tensor  # parameters, fake tensors
    return tensor.as_subclass(Tensor)  # MONAI's MetaTensor and the like: same storage, same graph


def _target(logits: Tensor, target: Tensor, mask: Tensor | None, level: int) -> tuple[Tensor, bool]:
    """The target in the operators' shape, and whether it is dense."""
    if target.dtype not in FLOATS + INTEGERS:
        raise TypeError(f"target: got {target.dtype}, expected integer or bool labels, or a float or bool dense target")
    _same_device(logits, target, "target")
    if target.requires_grad:
        raise ValueError("target: requires a gradient, which the losses do not compute; expected target.detach()")
    batch, channels, space = logits.shape[0], logits.shape[1], logits.shape[2:]
    floating = target.dtype in FLOATS
    if target.shape == logits.shape and (floating or channels > 1):
        return _yes_or_no(target), True
    if not floating and target.shape == (batch, *space):
        return target, False
    if target.shape == (batch, 1, *space):
        labels = target.squeeze(1)
        return (whole_labels(labels, mask, level > VALIDATE_NOTHING) if floating else labels), False
    dense = [batch, channels, *space]
    form = "a float" if floating else f"an integer or bool ({target.dtype})"
    expected = f"labels {[batch, *space]} or {[batch, 1, *space]}, or a dense target {dense}"
    if floating and target.shape == (batch, *space):
        expected += ": labels of floats need the axis 1 of size 1, or an integer dtype, target.long()"
    raise ValueError(
        f"target: got {form} tensor of shape {list(target.shape)} for logits {list(logits.shape)}, expected {expected}"
    )


def _mask(logits: Tensor, mask: Tensor, channels: bool) -> Tensor:
    """The mask ``[B, *S]``, or ``[B, C, *S]`` if there may be one for each of several channels."""
    by_channel = mask.shape == logits.shape and logits.shape[1] > 1
    if by_channel and not channels:
        raise ValueError(
            f"mask: got shape {list(mask.shape)}, one for each channel, expected {[mask.shape[0], *mask.shape[2:]]}: "
            "of the classes of a softmax, and in losses that rank voxels or see neighbours, a voxel counts for all "
            "channels or for none"
        )
    return _volume(logits, mask, "mask", by_channel)


def _volume(logits: Tensor, volume: Tensor, name: str, channels: bool) -> Tensor:
    if volume.dtype not in FLOATS + INTEGERS:
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
