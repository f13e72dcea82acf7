"""Masks of a size for the benchmark of distance transforms: short distances and long ones."""

import numpy as np
from scipy import ndimage


def blobs(size: int) -> np.ndarray:
    """Smoothed noise above half its spread: organs of a sixteenth of the volume's size."""
    noise = np.random.default_rng(0).standard_normal((size,) * 3, np.float32)
    smooth = ndimage.gaussian_filter(noise, size / 16, mode="wrap")
    return smooth > 0.5 * smooth.std()


def lesions(size: int) -> np.ndarray:
    """Twelve small balls."""
    random, mask = np.random.default_rng(1), np.zeros((size,) * 3, bool)
    for _ in range(12):
        mask |= inside_ball(size, random.uniform(0, size, 3), random.uniform(2, max(size / 24, 3)))
    return mask


def inside_ball(size: int, centre, radius: float) -> np.ndarray:
    """Voxels within the radius of a centre."""
    square = sum((x - c) ** 2 for x, c in zip(np.ogrid[:size, :size, :size], centre, strict=True))
    return square < radius**2


def ball(size: int) -> np.ndarray:
    """One ball of 0.7 of the volume's size."""
    return inside_ball(size, (size / 2,) * 3, 0.35 * size)


def noise(size: int) -> np.ndarray:
    """Every voxel by the toss of a coin."""
    return np.random.default_rng(2).random((size,) * 3, np.float32) < 0.5


def empty_slab(size: int) -> np.ndarray:
    """All foreground but a slab of a quarter of the volume at one end."""
    mask = np.ones((size,) * 3, bool)
    mask[: size // 4] = False
    return mask


def complement(mask):
    """A mask of everything that another leaves out."""
    return lambda size: ~mask(size)


MASKS = {
    "blobs": blobs,
    "not blobs": complement(blobs),
    "lesions": lesions,
    "not lesions": complement(lesions),
    "ball": ball,
    "not ball": complement(ball),
    "noise": noise,
    "empty slab": empty_slab,
}
