"""Weights: of classes, of channels, of the parts of a sum; numbers, or parameters that are learned."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..passes.options import as_number, check_at_least_zero, check_finite, check_iterable
from ..passes.tensors import check_has_values

Factors = list[float] | nn.Parameter | nn.ParameterList


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


def check_weight_length(weight: Tensor, classes: int, name: str = "class_weight") -> None:
    if weight.shape[0] != classes:
        raise ValueError(f"{name}: got {weight.shape[0]} weights, expected {classes}, one for each channel")


def _check_weights(weight: Tensor, name: str) -> None:
    check_has_values(weight, name)
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(f"{name}: got {weight.tolist()}, expected finite weights of at least 0")


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
