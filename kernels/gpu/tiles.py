"""Reading and writing a tile of voxels in Triton, whatever its shape.

Tensors come as :class:`kernels.gpu.sums.Field`: pointer, strides of sample and channel, sizes and strides of the
space.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

import triton
import triton.language as tl

from .products import compare, either, plus, product_slopes, product_value, soften, times


@triton.jit
def offsets(field, sample, voxel, AXES: tl.constexpr):
    """Element offsets of channel 0, where ``AXES`` spatial axes are left after merging."""
    if AXES == 1:
        inside = voxel.to(tl.int64) * field.stride2
    else:
        row = voxel // field.size2
        inside = (voxel % field.size2).to(tl.int64) * field.stride2
        if AXES == 2:
            inside += row.to(tl.int64) * field.stride1
        else:
            inside += (row % field.size1).to(tl.int64) * field.stride1
            inside += (row // field.size1).to(tl.int64) * field.stride0
    return sample * field.sample + inside


@triton.jit
def of_channel(field, channel):
    """Elements from channel 0 to another, in 64 bits where 32 do not hold them: those take fewer registers."""
    if field.far is None:
        return channel * field.channel
    else:
        return tl.cast(channel, tl.int64) * field.channel


@triton.jit
def within(voxel, voxels, EVEN: tl.constexpr):
    """Which voxels exist; all of them where the tiles divide the volume, and then masks fold away."""
    return voxel >= voxel if EVEN else voxel < voxels


@triton.jit
def narrow(labels):
    """Labels as int32; those that do not fit belong to no class."""
    if labels.dtype == tl.int64:
        small = labels.to(tl.int32)
        return tl.where(small.to(tl.int64) == labels, small, -1)
    else:
        return labels.to(tl.int32)


@triton.jit
def weigh(
    target, mask, sample, voxel, channel, inside, IGNORE: tl.constexpr, DENSE: tl.constexpr, MASK: tl.constexpr,
    AXES: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Labels (-1: no class), which voxels count, 1 where they do, and their weights (absent: 1).

    The channel matters where each has a mask of its own (``MASK`` is ``"channel"``, not ``"voxel"``).
    """
    counted = inside
    labels = voxel
    weight = ()
    if MASK != "none":
        place = offsets(mask, sample, voxel, AXES[2]) + of_channel(mask, channel)
        factor = tl.load(mask.pointer + place, inside, other=0)
        counted = counted & (factor != 0)
        if mask.pointer.dtype.element_ty != tl.uint8:  # as which a bool mask comes
            weight = (factor.to(REAL),)
    if not DENSE:
        labels = tl.load(target.pointer + offsets(target, sample, voxel, AXES[1]), inside, other=0)
        for i in tl.static_range(len(IGNORE)):
            counted = counted & (labels != IGNORE[i])
        labels = tl.where(counted, narrow(labels), -1)
    return labels, counted, tl.where(counted, 1.0, 0.0).to(REAL), weight


@triton.jit
def read(field, place, channel, inside, counted, SELECT: tl.constexpr, REAL: tl.constexpr):
    """One channel of a field; what is not counted becomes 0, whatever it holds."""
    x = tl.load(field.pointer + place + of_channel(field, channel), inside, other=0).to(REAL)
    return tl.where(counted, x, 0.0) if SELECT else x


@triton.jit
def read_truth(
    target, place, channel, inside, labels, counted, one, SELECT: tl.constexpr, DENSE: tl.constexpr,
    CHANNELS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The truth of one channel: (y, y != 0, 1 - y, 1 - y != 0)."""
    if DENSE:
        return soften(read(target, place, channel, inside, counted, SELECT, REAL), one)
    else:
        return compare(channel, 1 if CHANNELS == 1 else 0, labels, counted, REAL)


@triton.jit
def slopes(coefficients, map_value, parts, one, truth, TERMS: tl.constexpr, DENSE: tl.constexpr):
    """Derivatives of the weighted sum of terms of one channel: :func:`product_slopes`."""
    totals = (), (), (), (), (), ()
    for k in tl.static_range(len(TERMS)):
        found = product_slopes(TERMS, k, parts, one, truth, DENSE)
        factor = coefficients[k]
        if TERMS[k].of_target != k:
            factor = either(truth, coefficients[TERMS[k].of_target], factor, DENSE)
        if TERMS[k].mapped:
            factor = factor * map_value
        sums = ()
        for i in tl.static_range(len(found)):
            sums = sums + (plus(totals[i], times(factor, found[i])),)
        totals = sums
    return totals


@triton.jit
def combine(coefficients, map_value, parts, one, truth, TERMS: tl.constexpr, DENSE: tl.constexpr):
    """The sum of terms of one channel, each times its coefficient; absent coefficients are 1."""
    total = one
    for k in tl.static_range(len(TERMS)):
        value = product_value(TERMS, k, parts, one, truth, DENSE)
        if len(coefficients) > 0:
            value *= coefficients[k]
        if TERMS[k].mapped:
            value *= map_value
        total = value if k == 0 else total + value
    return total


@triton.jit
def write(grad, place, channel, inside, counted, slope, weight, SELECT: tl.constexpr):
    """One channel of the gradient; exactly zero where a voxel does not count."""
    if len(slope) == 0:
        slope = tl.where(counted, 0.0, 0.0)
    else:
        slope = slope[0]
    if len(weight) > 0:
        slope *= weight[0]
    if SELECT:
        slope = tl.where(counted, slope, 0.0)
    tl.store(grad.pointer + place + of_channel(grad, channel), slope.to(grad.pointer.dtype.element_ty), inside)


@triton.jit
def load_coefficients(coefficients, sample, channel, COUNT: tl.constexpr, CHANNELS: tl.constexpr):
    """Those of the terms of a channel, or of a row of channels; absent ones stay so."""
    found = ()
    if coefficients is not None:
        for k in tl.static_range(COUNT):
            at = coefficients + (sample * CHANNELS + channel) * COUNT + k
            found = found + (tl.load(at, channel < CHANNELS, other=0),)
    return found
