"""The soft skeleton of one class and its derivative (Numba): the clDice loss.

Erosion is the smallest of a voxel and its face neighbours, dilation the largest of its 26 neighbours and itself, within
the volume. Each notes which neighbour it took, in one byte a voxel, so that the derivative goes back to it. Slabs of
planes run in parallel; where derivatives are scattered, first the even and then the odd ones: they reach a plane on.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from .math import INNER, SAFE, SUMS, distinct_rows, no_inline
from .memory import bare
from .threads import serial_and_parallel

_elementwise = njit(fastmath=SAFE, **INNER)
_reduction = njit(fastmath=SUMS, **INNER)
_fast = njit(**INNER)

SLAB = 8
_EROSION_BITS = 3  # of a code, which also holds the dilation's
# Columns of sums: with s the skeleton, of the prediction p and of the target y
PY, P, PRECISION, SKELETON_P, SENSITIVITY, SKELETON_Y, Y = range(7)


@_elementwise
def _erode_row(out, code, c, n, s, u, d):
    distinct_rows()
    last = c.size - 1
    for i in range(c.size):
        v, k = c[i], np.int32(0)
        k = np.int32(3) if n[i] < v else k
        v = n[i] if n[i] < v else v
        k = np.int32(4) if s[i] < v else k
        v = s[i] if s[i] < v else v
        k = np.int32(5) if u[i] < v else k
        v = u[i] if u[i] < v else v
        k = np.int32(6) if d[i] < v else k
        v = d[i] if d[i] < v else v
        out[i] = v
        code[i] = k
    for i in range(1, c.size):
        code[i] = np.int32(1) if c[i - 1] < out[i] else code[i]
        out[i] = c[i - 1] if c[i - 1] < out[i] else out[i]
    for i in range(last):
        code[i] = np.int32(2) if c[i + 1] < out[i] else code[i]
        out[i] = c[i + 1] if c[i + 1] < out[i] else out[i]


@_elementwise
def _largest_in_row(out, code, c):
    """Of a voxel and its neighbours along the row; code 0, 1 (before), 2 (after)."""
    distinct_rows()
    for i in range(c.size):
        out[i] = c[i]
        code[i] = np.int32(0)
    for i in range(1, c.size):
        code[i] = np.int32(1) if c[i - 1] > out[i] else code[i]
        out[i] = c[i - 1] if c[i - 1] > out[i] else out[i]
    for i in range(c.size - 1):
        code[i] = np.int32(2) if c[i + 1] > out[i] else code[i]
        out[i] = c[i + 1] if c[i + 1] > out[i] else out[i]


@_elementwise
def _largest_of_three(out, code, a, ka, b, kb, c, kc, step):
    """Elementwise; the code is that of the chosen row, plus 0, 1 or 2 times the step."""
    distinct_rows()
    for i in range(a.size):
        v, k = a[i], ka[i]
        k = np.int32(kb[i] + step) if b[i] > v else k
        v = b[i] if b[i] > v else v
        k = np.int32(kc[i] + step + step) if c[i] > v else k
        v = c[i] if c[i] > v else v
        out[i] = v
        code[i] = k


@_elementwise
def _narrow(dst, src):
    no_inline()
    for i in range(dst.size):
        dst[i] = src[i]


@_elementwise
def _add_code(codes, code):
    """The dilation's beside the erosion's."""
    no_inline()
    for i in range(codes.size):
        codes[i] = codes[i] | (code[i] << np.int32(_EROSION_BITS))


@_elementwise
def _residue(x, opened):
    """x becomes max(x - opened, 0)."""
    no_inline()
    zero = x.dtype.type(0)
    for i in range(x.size):
        d = x[i] - opened[i]
        x[i] = zero if d <= zero else d


@_elementwise
def _keep_rest(rest, residue):
    """The product of 1 - residue: what is not yet skeleton."""
    no_inline()
    one = rest.dtype.type(1)
    for i in range(rest.size):
        rest[i] *= one - residue[i]


@_fast
def _residue_derivatives(first, later, steps, z, line, y, w, rest, tail, by_precision, by_skeleton):
    """The residues of a row, of the first step and the later ones, become the derivatives by them, zero where the
    residue is. ``rest`` and ``tail``: rows."""
    no_inline()
    _cotangent(tail, y, w, by_precision, by_skeleton)
    for k in range(steps - 1, -1, -1):
        for i in range(rest.size):
            rest[i] = 1
        for j in range(k):
            _keep_rest(rest, later[j - 1, z, line] if j > 0 else first[z, line])
        _residue_derivative(later[k - 1, z, line] if k > 0 else first[z, line], rest, tail)


@_elementwise
def _cotangent(out, y, w, by_precision, by_skeleton):
    no_inline()
    for i in range(out.size):
        out[i] = w[i] * (by_precision * y[i] + by_skeleton)


@_elementwise
def _residue_derivative(residue, rest, tail):
    no_inline()
    zero, one = residue.dtype.type(0), residue.dtype.type(1)
    for i in range(residue.size):
        d = residue[i]
        residue[i] = tail[i] * rest[i] if d > zero else zero
        tail[i] = tail[i] * (one - d if rest[i] > zero else one)


@_reduction
def _sum_weighted(x, w):
    no_inline()
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * w[i]
    return total


@_reduction
def _sum_products(x, y, w):
    no_inline()
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * y[i] * w[i]
    return total


@_elementwise
def _complement(out, rest):
    no_inline()
    one = out.dtype.type(1)
    for i in range(out.size):
        out[i] = one - rest[i]


@_elementwise
def _add_constants(out, rest, y, w, by_sensitivity, by_y, by_p):
    """w (skeleton of y, y and 1 times their coefficients)."""
    distinct_rows()
    one = out.dtype.type(1)
    for i in range(out.size):
        out[i] += w[i] * (by_sensitivity * (one - rest[i]) + (by_y * y[i] + by_p))


@_fast
def _erode_plane(x, out, codes, z):
    no_inline()
    x, out, codes = bare(x), bare(out), bare(codes)
    lines, length = x.shape[1], x.shape[2]
    memory = np.empty(length, np.int32)
    code = bare(memory)
    for y in range(lines):
        north, south = x[z, y - 1 if y > 0 else y], x[z, y + 1 if y + 1 < lines else y]
        above, below = x[z - 1 if z > 0 else z, y], x[z + 1 if z + 1 < x.shape[0] else z, y]
        _erode_row(out[z, y], code, x[z, y], north, south, above, below)
        if codes.size:
            _narrow(codes[z, y], code)
    return memory.size


@_fast
def _largest_in_plane(x, z, largest, code, row, row_code):
    """Of the 3 x 3 neighbours within a plane, into ``largest`` and ``code`` ``[rows, voxels]``."""
    no_inline()
    lines = x.shape[1]
    for y in range(lines):
        _largest_in_row(row[y], row_code[y], x[z, y])
    for y in range(lines):
        a, b = (y - 1 if y > 0 else y), (y + 1 if y + 1 < lines else y)
        _largest_of_three(
            largest[y], code[y], row[y], row_code[y], row[a], row_code[a], row[b], row_code[b], np.int32(3)
        )


@_fast
def _residue_slab(x, eroded, rest, codes, slab):
    """x becomes its residue after opening, rest what it leaves; planes of a slab."""
    no_inline()
    x, eroded, rest, codes = bare(x), bare(eroded), bare(rest), bare(codes)
    planes, lines, length = x.shape
    memory, code_memory = np.empty((4, lines, length), x.dtype), np.empty((4, lines, length), np.int32)
    out_memory, out_code_memory = np.empty(length, x.dtype), np.empty(length, np.int32)
    ring, ring_codes, out, out_code = bare(memory), bare(code_memory), bare(out_memory), bare(out_code_memory)
    start, stop = slab * SLAB, min((slab + 1) * SLAB, planes)
    ready = max(0, start - 1)
    for z in range(start, stop):
        while ready < min(z + 2, planes):
            _largest_in_plane(eroded, ready, ring[ready % 3], ring_codes[ready % 3], ring[3], ring_codes[3])
            ready += 1
        own, a, b = ring[z % 3], ring[max(z - 1, 0) % 3], ring[min(z + 1, planes - 1) % 3]
        of_own, of_a, of_b = ring_codes[z % 3], ring_codes[max(z - 1, 0) % 3], ring_codes[min(z + 1, planes - 1) % 3]
        for y in range(lines):
            _largest_of_three(out, out_code, own[y], of_own[y], a[y], of_a[y], b[y], of_b[y], np.int32(9))
            _residue(x[z, y], out)
            if codes.size:
                _add_code(codes[z, y], out_code)
            else:
                _keep_rest(rest[z, y], x[z, y])
    return memory.size + code_memory.size + out_memory.size + out_code_memory.size


@_fast
def _scatter_slab(out, g, codes, offsets, sign, slab):
    """Adds g to where each voxel's value came from."""
    no_inline()
    out, g, codes, offsets = bare(out), bare(g), bare(codes), bare(offsets)
    start, stop = slab * SLAB, min((slab + 1) * SLAB, g.shape[0])
    size = g.shape[1] * g.shape[2]
    to, values, places = out.reshape(-1), g.reshape(-1), codes.reshape(-1)
    for i in range(start * size, stop * size):
        to[i + offsets[places[i]]] += sign * values[i]


def _erode_loop(x, out, codes):  # type: ignore[no-untyped-def]
    for z in prange(x.shape[0]):
        _erode_plane(x, out, codes, np.int64(z))  # prange counts in uint64, which makes z - 1 a float


def _residue_loop(x, eroded, rest, codes):  # type: ignore[no-untyped-def]
    for slab in prange(-(-x.shape[0] // SLAB)):
        _residue_slab(x, eroded, rest, codes, np.int64(slab))


def _scatter_loop(out, g, codes, offsets, sign):  # type: ignore[no-untyped-def]
    slabs = -(-g.shape[0] // SLAB)
    for half in range(2):
        for slab in prange((slabs + 1 - half) // 2):
            _scatter_slab(out, g, codes, offsets, sign[0], 2 * np.int64(slab) + half)


def _derivatives_loop(first, later, steps, y, w, factors):  # type: ignore[no-untyped-def]
    for z in prange(y.shape[0]):
        memory = np.empty((2, y.shape[2]), y.dtype)
        for line in range(y.shape[1]):
            own_y, own_w, rest, tail = y[z, line], w[z, line], memory[0], memory[1]
            _residue_derivatives(first, later, steps, z, line, own_y, own_w, rest, tail, factors[0], factors[1])


def _sums_loop(rest, other, w, sums):  # type: ignore[no-untyped-def]
    """Sums of w s x, w s and w x per plane, s being 1 - rest; x the other volume."""
    for z in prange(rest.shape[0]):
        skeleton = np.empty(rest.shape[2], rest.dtype)
        overlap, size, total = 0.0, 0.0, 0.0
        for line in range(rest.shape[1]):
            _complement(skeleton, rest[z, line])
            overlap += _sum_products(skeleton, other[z, line], w[z, line])
            size += _sum_weighted(skeleton, w[z, line])
            total += _sum_weighted(other[z, line], w[z, line])
        sums[z, 0], sums[z, 1], sums[z, 2] = overlap, size, total


def _overlap_loop(p, y, w, sums):  # type: ignore[no-untyped-def]
    for z in prange(p.shape[0]):
        overlap = 0.0
        for line in range(p.shape[1]):
            overlap += _sum_products(p[z, line], y[z, line], w[z, line])
        sums[z, 0] = overlap


def _constants_loop(out, rest, y, w, factors):  # type: ignore[no-untyped-def]
    for z in prange(out.shape[0]):
        for line in range(out.shape[1]):
            _add_constants(out[z, line], rest[z, line], y[z, line], w[z, line], factors[0], factors[1], factors[2])


ERODE, RESIDUE, SCATTER, DERIVATIVES = map(
    serial_and_parallel, (_erode_loop, _residue_loop, _scatter_loop, _derivatives_loop)
)
SUMS_OF_SKELETON, OVERLAP, CONSTANTS = map(serial_and_parallel, (_sums_loop, _overlap_loop, _constants_loop))


def erosion_offsets(grid: tuple[int, int, int]) -> np.ndarray:
    """How far away, in voxels, the neighbour lies that the erosion took, for each value of a code."""
    plane, line = grid[1] * grid[2], grid[2]
    steps = [0, -1, 1, -line, line, -plane, plane, 0]
    return np.array(steps * 2 ** (8 - _EROSION_BITS))


def dilation_offsets(grid: tuple[int, int, int]) -> np.ndarray:
    """The same of the dilation: 9 (plane) + 3 (row) + voxel, each 0, 1 (before) or 2 (after)."""
    step = np.array([0, -1, 1])
    plane, line = grid[1] * grid[2], grid[2]
    return (step[:, None, None] * plane + step[:, None] * line + step).reshape(-1).repeat(2**_EROSION_BITS)
