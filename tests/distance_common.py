"""Masks and brute-force distances that the tests of the distance transforms share."""

import math

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

SPACINGS = st.one_of(
    st.sampled_from([1.0, 0.5, 3.0, 0.1, 1 / 3, 1e-3, 1e3]),
    st.floats(1e-2, 1e2, allow_nan=False),
)


def brute_force_squared(mask, spacing):
    """Every voxel against every zero voxel, in float64."""
    voxels, sites = np.indices(mask.shape).reshape(mask.ndim, -1), np.argwhere(mask == 0).T
    if not sites.shape[1]:
        return np.full(mask.shape, math.inf)
    squares = [((v[:, None] - s[None]) * mm) ** 2 for v, s, mm in zip(voxels, sites, spacing, strict=True)]
    return sum(squares[1:], squares[0]).min(1).reshape(mask.shape)


def brute_force_to_other_label(labels, spacing):
    """Every voxel against every voxel of another label, in float64; 0 where there is none."""
    out = np.zeros(labels.shape)
    for label in np.unique(labels):
        squared = brute_force_squared(labels == label, spacing)
        out += np.where(np.isfinite(squared), squared, 0.0)
    return np.sqrt(out)


def random_mask(shape, foreground, seed=0):
    return np.random.default_rng(seed).random(shape) < foreground


def blobs(shape, seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return noise > 0.3 * noise.std()
