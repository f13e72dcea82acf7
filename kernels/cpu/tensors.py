"""Tensors as the codes see them: an address and strides, as integers; the caller keeps the tensor alive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, njit, types
from numba.extending import intrinsic

from ..layout import three_axes
from .compiling import INNER


class Walk(NamedTuple):
    """Of a tensor ``[B, C, *S]``: its address, 0 for none; strides in elements; the codes that bring it into rows."""

    address: int = 0  # the first: it alone does not follow from the tensor's dtype, shape and strides
    size: int = 0  # bytes of an element
    batch: int = 0
    channel: int = 0
    size1: int = 1
    size2: int = 1
    stride0: int = 0
    stride1: int = 0
    stride2: int = 0
    in_place: int = 0  # whether rows of voxels lie as the code wants them
    copy: int = 0  # address of the code that gathers a row, or scatters it; 0 where none is needed
    convert: int = 0  # address of the code that converts a gathered row; 0 where none is needed


class Layout(NamedTuple):
    """What a tensor's walk follows from."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def walk(self, channels: bool) -> Walk:
        """Of ``[B, C, *S]`` (``channels``; C of 1 is broadcast) or ``[B, *S]``, without address and codes; ``in_place``
        says whether the voxels lie in a row."""
        first = 2 if channels else 1
        (n0, n1, n2), spatial = three_axes(self.shape[first:], self.strides[first:])
        channel = self.strides[1] if channels and self.shape[1] > 1 else 0
        together = n0 == n1 == 1 and (spatial[2] == 1 or n2 == 1)
        return Walk(0, self.dtype.itemsize, self.strides[0], channel, n1, n2, *spatial, together)


def real_of(dtype: torch.dtype) -> torch.dtype:
    """In which logits of a dtype are computed with."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@intrinsic
def _pointer(typingctx, address, offset, dtype):
    """Address of element ``offset`` of an array of dtype (a dtype, or a number of that type)."""
    element = getattr(dtype, "dtype", dtype)
    signature = types.CPointer(element)(types.int64, types.int64, dtype)

    def codegen(context, builder, signature, args):
        base = builder.inttoptr(args[0], context.get_value_type(signature.return_type))
        return builder.gep(base, [args[1]])

    return signature, codegen


_inlined = njit(inline="always", **INNER)


@_inlined
def array_at(address, shape, dtype):
    """An array of a dtype in memory that its caller keeps alive."""
    return carray(_pointer(address, 0, dtype), shape)


def record_type(fields: Any) -> np.dtype:
    """Of a NamedTuple of numbers, as the codes read it: an int64 each."""
    return np.dtype([(name, np.int64) for name in fields._fields])


@_inlined
def record_at(address, kind):
    """A record of a type, whose numbers may be read and set by their names."""
    return array_at(address, (1,), kind)[0]


WALK = record_type(Walk)
