"""The soft skeleton of one class and its derivative (Numba): the clDice loss.

Erosion is the smallest of a voxel and its face neighbours, dilation the largest of its 26 neighbours and itself, within
the volume. Each notes which neighbour it took, in one byte a voxel, so that the derivative goes back to it. Slabs of
planes run in parallel; where derivatives are scattered, first the even and then the odd ones: they reach a plane on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import INNER, SAFE, SUMS, distinct_rows, no_inline
from .loops import Loop, array, number, part

_elementwise = njit(fastmath=SAFE, **INNER)
_reduction = njit(fastmath=SUMS, **INNER)
_fast = njit(**INNER)
real = np.float32  # the clones of a loop have their own

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


@_elementwise
def _set_one(x):
    no_inline()
    for i in range(x.size):
        x[i] = 1


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
        tail[i] *= one - d


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
def _largest_in_plane(x, z, largest, code, row, row_code):
    """Of the 3 x 3 neighbours within plane z; ``largest`` and ``row``, for what is in between, and their codes
    ``[rows * voxels]``."""
    no_inline()
    lines, n = x.shape[1], x.shape[2]
    for y in range(lines):
        _largest_in_row(part(row, y * n, n), part(row_code, y * n, n), x[z, y])
    for y in range(lines):
        at, a, b = y * n, max(y - 1, 0) * n, min(y + 1, lines - 1) * n
        own, of_own = part(row, at, n), part(row_code, at, n)
        before, of_before = part(row, a, n), part(row_code, a, n)
        after, of_after = part(row, b, n), part(row_code, b, n)
        to, to_code = part(largest, at, n), part(code, at, n)
        _largest_of_three(to, to_code, own, of_own, before, of_before, after, of_after, np.int32(3))


# Loops over planes, or slabs


def _erode(arguments, z):  # type: ignore[no-untyped-def]
    x, out, codes = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, np.uint8)
    lines = x.shape[1]
    memory = np.empty(x.shape[2], np.int32)
    code = part(memory, 0, memory.size)
    for y in range(lines):
        north, south = x[z, max(y - 1, 0)], x[z, min(y + 1, lines - 1)]
        above, below = x[max(z - 1, 0), y], x[min(z + 1, x.shape[0] - 1), y]
        _erode_row(out[z, y], code, x[z, y], north, south, above, below)
        if codes.size:
            _narrow(codes[z, y], code)
    return memory.size  # its last use: until here it must live


def _residue_of_opening(arguments, slab):  # type: ignore[no-untyped-def]
    """x becomes its residue after opening, rest what it leaves; planes of a slab."""
    x, eroded, rest = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    codes = array(arguments, 3, 3, np.uint8)
    planes, lines, n = x.shape
    size = lines * n
    # the last three planes, one for what is in between, and a row
    memory, code_memory = np.empty(4 * size + n, real), np.empty(4 * size + n, np.int32)
    row, row_code = part(memory, 3 * size, size), part(code_memory, 3 * size, size)
    out, out_code = part(memory, 4 * size, n), part(code_memory, 4 * size, n)
    start, stop = slab * SLAB, min((slab + 1) * SLAB, planes)
    ready = max(0, start - 1)
    for z in range(start, stop):
        while ready < min(z + 2, planes):
            at = ready % 3 * size
            _largest_in_plane(eroded, ready, part(memory, at, size), part(code_memory, at, size), row, row_code)
            ready += 1
        for y in range(lines):
            at, a, b = z % 3 * size + y * n, max(z - 1, 0) % 3 * size + y * n, min(z + 1, planes - 1) % 3 * size + y * n
            own, of_own = part(memory, at, n), part(code_memory, at, n)
            before, of_before = part(memory, a, n), part(code_memory, a, n)
            after, of_after = part(memory, b, n), part(code_memory, b, n)
            _largest_of_three(out, out_code, own, of_own, before, of_before, after, of_after, np.int32(9))
            _residue(x[z, y], out)
            if codes.size:
                _add_code(codes[z, y], out_code)
            else:
                _keep_rest(rest[z, y], x[z, y])
    return memory.size + code_memory.size


def _scatter(arguments, i):  # type: ignore[no-untyped-def]
    """Adds g to where each voxel's value came from; the even slabs, or the odd ones."""
    out, g, codes = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, np.uint8)
    offsets, sign = array(arguments, 3, 1, np.int64), array(arguments, 4, 1, real)[0]
    slab = 2 * i + number(arguments, 5)
    start, stop = slab * SLAB, min((slab + 1) * SLAB, g.shape[0])
    size = g.shape[1] * g.shape[2]
    to, values, places = part(out, 0, g.size), part(g, 0, g.size), part(codes, 0, g.size)
    for i in range(start * size, stop * size):
        to[i + offsets[places[i]]] += sign * values[i]
    return 0


def _derivatives(arguments, z):  # type: ignore[no-untyped-def]
    """The residues, of the first step and the later ones, become the derivatives by them, zero where the residue is."""
    first, later, steps = array(arguments, 0, 3, real), array(arguments, 1, 4, real), number(arguments, 2)
    y, w, factors = array(arguments, 3, 3, real), array(arguments, 4, 3, real), array(arguments, 5, 1, real)
    n = y.shape[2]
    memory = np.empty(2 * n, real)
    rest, tail = part(memory, 0, n), part(memory, n, n)
    for line in range(y.shape[1]):
        _cotangent(tail, y[z, line], w[z, line], factors[0], factors[1])
        for k in range(steps - 1, -1, -1):
            _set_one(rest)
            for j in range(k):
                _keep_rest(rest, later[j - 1, z, line] if j > 0 else first[z, line])
            _residue_derivative(later[k - 1, z, line] if k > 0 else first[z, line], rest, tail)
    return memory.size


def _sums_of_skeleton(arguments, z):  # type: ignore[no-untyped-def]
    """Sums of w s x, w s and w x per plane, s being 1 - rest; x the other volume."""
    rest, other, w = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    sums = array(arguments, 3, 2, np.float64)
    memory = np.empty(rest.shape[2], real)
    skeleton = part(memory, 0, memory.size)
    overlap, size, total = 0.0, 0.0, 0.0
    for line in range(rest.shape[1]):
        _complement(skeleton, rest[z, line])
        overlap += _sum_products(skeleton, other[z, line], w[z, line])
        size += _sum_weighted(skeleton, w[z, line])
        total += _sum_weighted(other[z, line], w[z, line])
    sums[z, 0], sums[z, 1], sums[z, 2] = overlap, size, total
    return memory.size


def _overlap(arguments, z):  # type: ignore[no-untyped-def]
    p, y, w = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    sums, overlap = array(arguments, 3, 2, np.float64), 0.0
    for line in range(p.shape[1]):
        overlap += _sum_products(p[z, line], y[z, line], w[z, line])
    sums[z, 0] = overlap
    return 0


def _constants(arguments, z):  # type: ignore[no-untyped-def]
    out, rest, y = array(arguments, 0, 3, real), array(arguments, 1, 3, real), array(arguments, 2, 3, real)
    w, factors = array(arguments, 3, 3, real), array(arguments, 4, 1, real)
    for line in range(out.shape[1]):
        _add_constants(out[z, line], rest[z, line], y[z, line], w[z, line], factors[0], factors[1], factors[2])
    return 0


ERODE, RESIDUE, SCATTER, DERIVATIVES = map(Loop, (_erode, _residue_of_opening, _scatter, _derivatives))
SUMS_OF_SKELETON, OVERLAP, CONSTANTS = map(Loop, (_sums_of_skeleton, _overlap, _constants))


def erosion_offsets(grid: tuple[int, int, int]) -> np.ndarray:
    """How far away, in voxels, the neighbour lies that the erosion took, for each value of a code."""
    plane, line = grid[1] * grid[2], grid[2]
    steps = [0, -1, 1, -line, line, -plane, plane, 0]
    return np.array(steps * 2 ** (8 - _EROSION_BITS), np.int64)


def dilation_offsets(grid: tuple[int, int, int]) -> np.ndarray:
    """The same of the dilation: 9 (plane) + 3 (row) + voxel, each 0, 1 (before) or 2 (after)."""
    step = np.array([0, -1, 1], np.int64)
    plane, line = grid[1] * grid[2], grid[2]
    return (step[:, None, None] * plane + step[:, None] * line + step).reshape(-1).repeat(2**_EROSION_BITS)
