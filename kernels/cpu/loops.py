"""Loops over planes, blocks or parts of arrays: what Python hands to a code of :mod:`kernels.cpu.threads`, and how a
code, which is Numba's, reads it.

Arrays are made from their addresses, which Python keeps alive: nothing is counted, and there is less to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .threads import code_of, made_once, run

_AXES = 4  # of an array, at most: an argument is an address and so many sizes, or a number
_SLOT = 1 + _AXES


class Loop:
    """A function of ``(arguments, i)`` for every i below a number, compiled for a floating type when it first runs.

    The function's globals ``real`` and ``bits`` are that type, and the integers of its size.
    """

    def __init__(self, function: Callable[..., Any]):
        def code(real: type) -> Any:
            bits = np.int64 if real is np.float64 else np.int32
            return code_of(function, f"{function.__name__}_{real.__name__}", real=real, bits=bits)

        self._code = made_once(code)

    def __call__(self, count: int, size: int, like: np.ndarray, *arguments: np.ndarray | int) -> None:
        """Runs it; ``size`` as for :func:`run`, ``like``: the first argument, of the floating type."""
        run(self._code(like.dtype.type).address, _packed(like, *arguments), count, size)


def _packed(*arguments: np.ndarray | int) -> np.ndarray:
    packed = np.zeros((len(arguments), _SLOT), np.int64)
    for slot, argument in zip(packed, arguments, strict=True):
        if isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            slot[0], slot[1 : 1 + argument.ndim] = argument.ctypes.data, argument.shape
        else:
            slot[0] = argument
    return packed


def _loaded(builder: ir.IRBuilder, arguments: Any, k: int, count: int) -> list[Any]:
    """The first numbers of argument k."""
    slots = builder.inttoptr(arguments, ir.IntType(64).as_pointer())
    return [builder.load(builder.gep(slots, [ir.Constant(ir.IntType(64), k * _SLOT + i)])) for i in range(count)]


def _array(context: Any, builder: ir.IRBuilder, kind: types.Array, data: Any, shape: list[Any]) -> Any:
    """An array without an owner."""
    array, size = context.make_array(kind)(context, builder), context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [context.get_constant(types.intp, size)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=strides[-1], meminfo=None)
    return array._getvalue()


@intrinsic(prefer_literal=True)
def number(typingctx, arguments, k):  # type: ignore[no-untyped-def]
    """Argument k, a number."""

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return _loaded(builder, values[0], k.literal_value, 1)[0]

    return types.int64(types.int64, k), codegen


@intrinsic(prefer_literal=True)
def array(typingctx, arguments, k, axes, dtype):  # type: ignore[no-untyped-def]
    """Argument k, an array of so many axes, as an array of a dtype of that size."""
    kind = types.Array(dtype.dtype, axes.literal_value, "C")

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        address, *shape = _loaded(builder, values[0], k.literal_value, 1 + kind.ndim)
        data = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
        return _array(context, builder, kind, data, shape)

    return kind(types.int64, k, axes, dtype), codegen


@intrinsic
def part(typingctx, whole, start, size):  # type: ignore[no-untyped-def]
    """So many elements of a contiguous array from one on, in the order of memory: a slice, of which Numba would first
    ask whether its ends are negative. What it is part of has to stay in use for as long."""
    kind = types.Array(whole.dtype, 1, "C")

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        data = context.make_array(whole)(context, builder, values[0]).data
        return _array(context, builder, kind, builder.gep(data, [values[1]]), [values[2]])

    return kind(whole, types.int64, types.int64), codegen
