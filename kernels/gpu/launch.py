"""A call of a Triton kernel, complete, and how tensors are handed to it."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Field(NamedTuple):
    """A tensor as a kernel sees it: strides in elements, the space merged into at most three axes."""

    pointer: Tensor
    sample: int
    channel: int
    size1: int
    size2: int
    stride0: int
    stride1: int
    stride2: int
    far: int | None  # 1, else None: both are compile-time constants; whether channels are 2^31 elements apart


class Launch(NamedTuple):
    """One kernel call, complete: ``kernel[grid](*args, **constants)``."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple
    constants: dict[str, Any]

    def run(self) -> None:
        first = self.args[0]
        device = (first.pointer if isinstance(first, Field) else first).device
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            self.kernel[self.grid](*self.args, **self.constants)
