"""The registration of operators: one function for all devices, and one that gives shapes and dtypes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_DEVICES = ("CPU", "CUDA", "MPS", "XPU")
_library = torch.library.Library("fastloss", "DEF")


def register(
    schema: str, function: Callable[..., Any], fake: Callable[..., Any], on_cpu: Callable[..., Any] | None = None
) -> None:
    """Makes ``torch.ops.fastloss.NAME`` of a schema ``NAME(...) -> ...``; ``on_cpu``: the function of the CPU alone."""
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in _DEVICES:
        _library.impl(name, on_cpu if on_cpu and device == "CPU" else function, device)
    torch.library.register_fake(f"fastloss::{name}", fake)
