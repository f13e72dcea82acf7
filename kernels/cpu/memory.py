"""How the Numba back end reads and writes strided tensors of any dtype, one row of voxels at a time.

A tensor enters as a :class:`Walk` of integers, so that one compiled kernel serves every dtype and layout; the
caller keeps the tensor alive. Rows are converted to the kernel's own type (float32, or float64 for float64 logits).
"""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

from ..layout import spatial_layout
from .lanes import prefetch
from .math import INNER, no_inline

FLOAT32, FLOAT64, FLOAT16, BFLOAT16, UINT8, INT8, INT16, INT32, INT64 = range(9)
_CODES = {
    torch.float32: FLOAT32,
    torch.float64: FLOAT64,
    torch.float16: FLOAT16,
    torch.bfloat16: BFLOAT16,
    torch.bool: UINT8,
    torch.uint8: UINT8,
    torch.int8: INT8,
    torch.int16: INT16,
    torch.int32: INT32,
    torch.int64: INT64,
}
NO_LABEL = np.int32(-(2**31))


class Walk(NamedTuple):
    """Address, dtype code, and strides in elements of a tensor ``[B, C, *S]``; ``code`` -1: no tensor."""

    address: int
    code: int
    batch: int
    channel: int
    size1: int
    size2: int
    stride0: int
    stride1: int
    stride2: int
    streamed: int  # written past the caches: it is larger than they are


WALK_NUMBERS = len(Walk._fields)
TENSORS = 5  # of a pass: logits, target, mask, map, gradient
ABSENT = Walk(0, -1, 0, 0, 1, 1, 0, 0, 0, 0)
_STREAMED_FROM = 8 << 20  # bytes
_MAPPED_FROM = 32 << 20  # bytes: glibc takes larger blocks from the system, and gives them back, each time
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux has it
_HUGE = 2 << 20  # bytes of a page


def in_huge_pages(tensor: Tensor) -> Tensor:
    """The same tensor, not yet written: if it is large, Linux is asked for huge pages, as NumPy does for its arrays.

    Clearing small ones one by one, as each is first written, takes longer than a gradient does.
    """
    if _ADVICE is not None and tensor.nbytes >= _MAPPED_FROM:
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        first, last = -(-start // _HUGE) * _HUGE, stop // _HUGE * _HUGE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _ADVICE)  # advice: may fail
    return tensor


def walk(tensor: Tensor | None, channels: bool) -> Walk:
    """The walk of ``[B, C, *S]`` (``channels``; C of 1 is broadcast) or ``[B, *S]``."""
    if tensor is None:
        return ABSENT
    (_, n1, n2), spatial = spatial_layout(tensor, 2 if channels else 1)
    strides = tensor.stride()
    channel = strides[1] if channels and tensor.shape[1] > 1 else 0
    streamed = tensor.nbytes >= _STREAMED_FROM
    return Walk(tensor.data_ptr(), _CODES[tensor.dtype], strides[0], channel, n1, n2, *spatial, streamed)


@intrinsic
def _pointer(typingctx, address, offset, dtype):
    """Address of element ``offset`` of an array of dtype (a dtype, or a number of that type)."""
    element = getattr(dtype, "dtype", dtype)
    signature = types.CPointer(element)(types.int64, types.int64, dtype)

    def codegen(context, builder, signature, args):
        base = builder.inttoptr(args[0], context.get_value_type(signature.return_type))
        return builder.gep(base, [args[1]])

    return signature, codegen


@intrinsic
def _address(typingctx, pointer):
    def codegen(context, builder, signature, args):
        return builder.ptrtoint(args[0], context.get_value_type(types.int64))

    return types.int64(pointer), codegen


_inlined = njit(inline="always", **INNER)
_fast = njit(**INNER)


@_inlined
def array_at(address, shape, dtype):
    """An array of a dtype in memory that its caller keeps alive."""
    return carray(_pointer(address, 0, dtype), shape)


@_inlined
def bare(array):
    """The array without its owner, whose references Numba would count, by atomic operations, at every call."""
    return carray(_pointer(np.int64(array.ctypes.data), 0, array.dtype.type(0)), array.shape)


class Tile(NamedTuple):
    """The rows of one tile, ``n`` voxels each, in one buffer at ``base``.

    Rows are made from their address where they are used: Numba counts references to an array with every copy of
    its variable, which for rows held in a tuple cost several times what the arithmetic did.
    """

    base: int
    pitch: int
    n: int
    like: float  # a number of the kernel's floating type


@_inlined
def address(t, k):
    """Row k of a tile, as a number."""
    return _address(pointer(t, k))


@_inlined
def pointer(t, k):
    """Row k of a tile, as an address with a type."""
    return _pointer(t.base, k * t.pitch, t.like)


@_inlined
def label_pointer(t, k):
    """Row k of a tile, as the address of int32."""
    return _pointer(_address(_pointer(t.base, k * t.pitch, t.like)), 0, np.int32)


@_inlined
def row(t, k):
    """Row k of a tile, as an array."""
    return carray(pointer(t, k), (t.n,))


@_inlined
def label_row(t, k):
    """Row k of a tile, as an array of int32."""
    return carray(label_pointer(t, k), (t.n,))


@_inlined
def _copy(dst, src, stride):
    if stride == 1:
        for i in range(dst.size):
            dst[i] = src[i]
    else:
        for i in range(dst.size):
            dst[i] = src[i * stride]


@_fast
def _bfloat16_to_float(dst, src):
    no_inline()
    for i in range(dst.size):
        dst[i] = np.uint32(np.uint32(src[i]) << np.uint32(16)).view(np.float32)


@_fast
def _half_to_float(dst, src):
    no_inline()
    subnormal_base = np.uint32(113 << 23).view(np.float32)
    for i in range(dst.size):
        half = np.uint32(src[i])
        bits = np.uint32(np.uint32(half & np.uint32(0x7FFF)) << np.uint32(13))
        exponent = np.uint32(bits & np.uint32(0x0F800000))
        normal = np.uint32(bits + np.uint32(112 << 23))
        special = np.uint32(bits + np.uint32(224 << 23))
        subnormal = np.float32(np.uint32(bits + np.uint32(113 << 23)).view(np.float32) - subnormal_base)
        value = special if exponent == np.uint32(0x0F800000) else normal
        value = subnormal.view(np.uint32) if exponent == np.uint32(0) else value
        sign = np.uint32(np.uint32(half & np.uint32(0x8000)) << np.uint32(16))
        dst[i] = np.uint32(value | sign).view(np.float32)


@_fast
def _float_to_bfloat16(dst, src):
    no_inline()
    for i in range(src.size):
        bits = np.float32(src[i]).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(np.uint32(bits + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16))
        dst[i] = np.uint16(rounded if src[i] == src[i] else np.uint32(0x7FC0))


@_fast
def _float_to_half(dst, src):
    """Round to nearest even, subnormal results included (Giesen's float_to_half_fast3_rtne)."""
    no_inline()
    magic_bits = np.uint32(126 << 23)
    magic = magic_bits.view(np.float32)
    for i in range(src.size):
        bits = np.float32(src[i]).view(np.uint32)
        sign = np.uint32(np.uint32(bits & np.uint32(0x80000000)) >> np.uint32(16))
        size = np.uint32(bits & np.uint32(0x7FFFFFFF))
        small = np.uint32(np.float32(size.view(np.float32) + magic).view(np.uint32) - magic_bits)
        odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
        normal = np.uint32(np.uint32(size + np.uint32(np.uint32(0xC8000FFF) + odd)) >> np.uint32(13))
        value = small if size < np.uint32(113 << 23) else normal
        value = np.uint32(0x7C00) if size >= np.uint32(143 << 23) else value
        value = np.uint32(0x7E00) if size > np.uint32(255 << 23) else value
        dst[i] = np.uint16(np.uint32(value | sign))


@_inlined
def _offset(w, b, c, voxel):
    rest = voxel // w.size2
    return (
        b * w.batch
        + c * w.channel
        + rest // w.size1 * w.stride0
        + rest % w.size1 * w.stride1
        + voxel % w.size2 * w.stride2
    )


@_inlined
def _step(w, voxel, left):
    """How many of the voxels left one stride can walk."""
    return min(w.size2 - voxel % w.size2, left)


@_inlined
def _at(w, offset, size, dtype):
    """The memory of ``size`` voxels from ``offset`` on, as an array of dtype."""
    span = (size - 1) * w.stride2 + 1
    return carray(_pointer(w.address, offset, dtype), (span,))


@_inlined
def byte_address(w, b, voxel):
    """Of a voxel of 8 bits without channels."""
    return w.address + _offset(w, b, np.int64(0), voxel)


@_inlined
def is_half(w):
    return w.code == BFLOAT16 or w.code == FLOAT16


@_fast
def load_integers(dst, w, b, c, voxel):
    """Voxels ``voxel`` to ``voxel + dst.size`` as int32; one that does not fit becomes ``NO_LABEL``."""
    no_inline()
    done = 0
    while done < dst.size:
        n = _step(w, voxel + done, dst.size - done)
        offset, part = _offset(w, b, c, voxel + done), dst[done : done + n]
        if w.code == UINT8:
            _copy(part, _at(w, offset, n, np.uint8), w.stride2)
        elif w.code == INT64:
            labels = _at(w, offset, n, np.int64)
            for i in range(n):
                label = labels[i * w.stride2]
                part[i] = label if -(2**31) <= label < 2**31 else NO_LABEL
        elif w.code == INT32:
            _copy(part, _at(w, offset, n, np.int32), w.stride2)
        elif w.code == INT16:
            _copy(part, _at(w, offset, n, np.int16), w.stride2)
        else:
            _copy(part, _at(w, offset, n, np.int8), w.stride2)
        done += n


@_fast
def _load_halves(dst, w, b, c, voxel):
    """Of bfloat16 or float16 values."""
    no_inline()
    done = 0
    while done < dst.size:
        n = _step(w, voxel + done, dst.size - done)
        part, bits = dst[done : done + n], _at(w, _offset(w, b, c, voxel + done), n, np.uint16)
        if w.stride2 != 1:
            together = np.empty(n, np.uint16)
            _copy(together, bits, w.stride2)
            bits = together
        if w.code == BFLOAT16:
            _bfloat16_to_float(part, bits)
        else:
            _half_to_float(part, bits)
        done += n


@_fast
def load_row(dst, w, b, c, voxel):
    """Voxels ``voxel`` to ``voxel + dst.size`` of channel c of sample b, as dst's floating type."""
    no_inline()
    if w.code == FLOAT32 or w.code == FLOAT64:
        done = 0
        while done < dst.size:
            n = _step(w, voxel + done, dst.size - done)
            offset, part = _offset(w, b, c, voxel + done), dst[done : done + n]
            if w.code == FLOAT32:
                _copy(part, _at(w, offset, n, np.float32), w.stride2)
            else:
                _copy(part, _at(w, offset, n, np.float64), w.stride2)
            done += n
    elif is_half(w):
        _load_halves(dst, w, b, c, voxel)
    else:
        integers = np.empty(dst.size, np.int32)
        load_integers(integers, w, b, c, voxel)
        for i in range(dst.size):
            dst[i] = integers[i]


@intrinsic
def _stream(typingctx, destination, source):
    """Copies 32 bytes to an address that is a multiple of 32, past the caches."""

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(32), 8)
        loaded = builder.load(builder.inttoptr(args[1], vector.as_pointer()), typ=vector)
        loaded.align = 4
        stored = builder.store(loaded, builder.inttoptr(args[0], vector.as_pointer()))
        stored.align = 32
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def stream_fence(typingctx):
    """Makes what was streamed visible to other threads."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@_fast
def _stream_row(dst, src):
    """Copies a row to memory that will not be read soon."""
    no_inline()
    to, start, size = np.int64(dst.ctypes.data), np.int64(src.ctypes.data), src.itemsize
    head = min(src.size, (-to % 32) // size)
    blocks = (src.size - head) * size // 32
    for i in range(head):
        dst[i] = src[i]
    for i in range(blocks):
        _stream(to + head * size + 32 * i, start + head * size + 32 * i)
    for i in range(head + blocks * 32 // size, src.size):
        dst[i] = src[i]


@_inlined
def _scatter(dst, src, stride):
    if stride == 1:
        for i in range(src.size):
            dst[i] = src[i]
    else:
        for i in range(src.size):
            dst[i * stride] = src[i]


@_fast
def _store_halves(src, w, b, c, voxel):
    no_inline()
    done = 0
    while done < src.size:
        n = _step(w, voxel + done, src.size - done)
        part, out = src[done : done + n], _at(w, _offset(w, b, c, voxel + done), n, np.uint16)
        bits = out if w.stride2 == 1 else np.empty(n, np.uint16)
        if w.code == BFLOAT16:
            _float_to_bfloat16(bits, part)
        else:
            _float_to_half(bits, part)
        if w.stride2 != 1:
            _scatter(out, bits, w.stride2)
        done += n


@_fast
def store_row(src, w, b, c, voxel):
    """The inverse of load_row, for the floating types."""
    no_inline()
    if is_half(w):
        _store_halves(src, w, b, c, voxel)
        return
    done = 0
    while done < src.size:
        n = _step(w, voxel + done, src.size - done)
        part, dst = src[done : done + n], _at(w, _offset(w, b, c, voxel + done), n, src.dtype.type)
        if w.streamed and w.stride2 == 1:
            _stream_row(dst, part)
        else:
            _scatter(dst, part, w.stride2)  # a gradient has the kernel's own type
        done += n


class ClassRows(NamedTuple):
    """Where the rows of all classes of a tile are: in a tensor's own memory, or in the tile."""

    address: int
    step: int  # bytes from class to class
    in_place: bool


@_fast
def class_rows(t, k, w, b, voxel, allowed):
    """In place if allowed, and if the voxels lie contiguously and have the tile's type; else rows k, k + 1, ..."""
    no_inline()
    size = row(t, k).itemsize
    whole = voxel % w.size2 + t.n <= w.size2
    if allowed and whole and w.stride2 == 1 and w.code == (FLOAT64 if size == 8 else FLOAT32):
        return ClassRows(w.address + size * _offset(w, b, 0, voxel), size * w.channel, True)
    return ClassRows(np.int64(t.base) + size * k * t.pitch, size * t.pitch, False)


@_fast
def own_rows(t, k, w, b, voxel, allowed, raw):
    """As :func:`class_rows`; ``raw``: of a contiguous tensor of 16 bits as it is."""
    no_inline()
    if not raw:
        return class_rows(t, k, w, b, voxel, allowed)
    if allowed:
        return ClassRows(w.address + 2 * _offset(w, b, 0, voxel), 2 * w.channel, True)
    size = row(t, k).itemsize
    return ClassRows(np.int64(t.base) + size * k * t.pitch, size * t.pitch, False)


@_fast
def load_own_row(t, place, w, b, c, voxel, raw):
    """Fills the tile's row at an address with channel c."""
    no_inline()
    if raw:
        _copy(array_at(place, (t.n,), np.uint16), _at(w, _offset(w, b, c, voxel), t.n, np.uint16), 1)
    else:
        load_row(carray(_pointer(place, 0, t.like), (t.n,)), w, b, c, voxel)


@_fast
def store_own_row(t, place, w, b, c, voxel, raw):
    """The inverse."""
    no_inline()
    if raw:
        _copy(_at(w, _offset(w, b, c, voxel), t.n, np.uint16), array_at(place, (t.n,), np.uint16), 1)
    else:
        store_row(carray(_pointer(place, 0, t.like), (t.n,)), w, b, c, voxel)


@_inlined
def class_pointer(t, r, c):
    """The row of class c, as an address with a type."""
    return _pointer(r.address + c * r.step, 0, t.like)


@_inlined
def class_row(t, r, c):
    """The row of class c, as an array."""
    return carray(class_pointer(t, r, c), (t.n,))


@intrinsic
def _prefetch(typingctx, address):
    """Asks for the cache line at an address."""

    def codegen(context, builder, signature, args):
        prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@_fast
def prefetch_classes(t, z, classes):
    """Asks for the next tile's logits where this one's are read in place: many short rows leave the processor's own
    prediction behind. Past the end of a tensor a prefetch does nothing."""
    no_inline()
    if z.in_place:
        size = row(t, 0).itemsize * t.n
        for c in range(classes):
            address = z.address + c * z.step + size
            for line in range(0, size, 64):
                _prefetch(address + line)
