"""Options: the only place for the checks of their kinds (numbers, flags, choices). Every problem is named here."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..terms import ACTIVATIONS
from .tensors import check_has_values

_MOST = 2**63 - 1  # of integers as scalars of tensors


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
