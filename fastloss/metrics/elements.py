"""Surfaces in elements: the patches in which a surface crosses the cells between neighbouring voxels, with their areas.

A cell has 2, 4 or 8 voxels as corners, in 1 to 3 axes. Its code has a bit for each corner inside, in C order from the
highest bit down, and says which patches its surface has, by marching cubes: between the midpoints of its edges.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

# Normals of the patches, in eighths of the cell's faces, of one code for each way to choose up to half of the corners;
# turns, reflections and exchanging inside and outside give the others. Of a patch's area only its sizes along the axes
# matter, and parallel patches are one.
_PATCHES: dict[int, dict[int, list[tuple[int, ...]]]] = {
    1: {0b01: [(8,)]},
    2: {0b0001: [(4, 4)], 0b0011: [(8, 0)], 0b0110: [(8, 8)]},
    3: {
        0b00000001: [(1, 1, 1)],
        0b00000011: [(4, 4, 0)],
        0b00000110: [(2, 2, 2)],
        0b00000111: [(3, 3, 3), (4, 0, 0)],
        0b00001111: [(8, 0, 0)],
        0b00010110: [(3, 3, 3)],
        0b00010111: [(6, 6, 6)],
        0b00011000: [(2, 2, 2)],
        0b00011001: [(0, 4, 4), (1, 1, 1)],
        0b00011011: [(0, 2, 2), (2, 0, 2), (4, 4, 4)],
        0b00011110: [(4, 4, 4), (4, 0, 0)],
        0b00111100: [(8, 8, 0)],
        0b01101001: [(4, 4, 4)],
    },
}


@functools.cache
def _normals(axes: int) -> np.ndarray:
    """Of the patches of each code, ``[2^(2^axes), patches, axes]``; zeros where there are fewer."""
    corners = np.arange(2**axes)[::-1].reshape([2] * axes)  # the bit of each
    every = (1 << 2**axes) - 1
    found = np.zeros((every + 1, 3, axes))
    for code, patches in _PATCHES[axes].items():
        inside = code >> corners & 1
        for turn in itertools.permutations(range(axes)):
            normals = np.array(patches)[:, turn] / 8
            for flipped in itertools.product((1, -1), repeat=axes):
                turned = inside.transpose(turn)[tuple(slice(None, None, step) for step in flipped)]
                image = int((turned << corners).sum())
                found[[image, every - image], : len(normals)] = normals
    return found


def areas_of_codes(spacing_mm: list[float]) -> np.ndarray:
    """The area of the surface in a cell of each code, mm² (in 2D its length in mm; in 1D 1)."""
    faces = math.prod(spacing_mm) / np.array(spacing_mm)
    areas: np.ndarray = np.linalg.norm(_normals(len(spacing_mm)) * faces, axis=-1).sum(-1)
    return areas


def cell_codes(mask: np.ndarray) -> np.ndarray:
    """uint8 codes of all cells with a voxel of the mask at a corner: on each axis one more than it has voxels, as what
    lies beyond it is outside."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for corner in itertools.product((0, 1), repeat=mask.ndim):
        codes <<= 1
        codes |= padded[tuple(slice(c, c + size) for c, size in zip(corner, codes.shape, strict=True))]
    return codes
