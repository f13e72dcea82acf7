"""A seeded population of deformed head phantoms, written as NIfTI files in the layout of NFBS."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from fastloss.metrics.nifti import DataError

SUBJECTS, SIZE = 10, 64
SEED = 2020
# semi-axes (right, anterior, superior) in half sizes of the volume, and brightness, from the outside inwards
SHELLS = (
    ((0.72, 0.86, 0.82), 900.0),  # scalp
    ((0.66, 0.80, 0.76), 120.0),  # skull
    ((0.60, 0.74, 0.70), 300.0),  # fluid
    ((0.57, 0.71, 0.67), 620.0),  # grey matter
    ((0.46, 0.60, 0.56), 820.0),  # white matter
    ((0.14, 0.26, 0.16), 290.0),  # ventricles
)
BRAIN = 2  # the shell that bounds the mask
P_I_R = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)  # columns: world axes of the file's axes, as NFBS has them


def phantom(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its brain mask `[right, anterior, superior]`, both float32, of one subject."""
    random = np.random.default_rng((SEED, seed))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij"))
    turn = np.eye(3) + random.normal(0, 0.06, (3, 3))
    warp = ndimage.gaussian_filter(random.standard_normal(grid.shape), (0, *[size / 8] * 3))
    place = np.einsum("ij,jxyz->ixyz", turn, grid) + 0.05 * warp / warp.std() + random.normal(0, 0.03, (3, 1, 1, 1))
    folds = 0.03 * np.sin(9 * place).sum(0)
    image, mask = np.zeros(grid.shape[1:]), None
    for number, (axes, brightness) in enumerate(SHELLS):
        radius = np.sqrt(((place / np.array(axes)[:, None, None, None]) ** 2).sum(0))
        inside = radius + (folds if number > BRAIN else 0) < 1
        image[inside] = brightness
        mask = inside if number == BRAIN else mask
    bias = ndimage.gaussian_filter(random.standard_normal(image.shape), size / 4)
    image = ndimage.gaussian_filter(image, 0.6) * (1 + 0.1 * bias / bias.std())
    image += random.normal(0, 25, image.shape)
    return image.clip(0).astype(np.float32), mask.astype(np.float32)


def write_nfbs(root: Path, seed: int, image: np.ndarray, mask: np.ndarray) -> None:
    """Both as files of NFBS, axes P-I-R, a few voxels of the mask fractional."""
    name = f"A{seed:08d}"
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[:3, :3] = P_I_R
    mask = mask.copy()
    edge = np.argwhere(mask != ndimage.grey_erosion(mask, 3))
    for voxel in edge[:: max(1, len(edge) // 5)]:
        mask[tuple(voxel)] = 0.75
    for end, voxels in (("", image), ("_brainmask", mask)):
        turned = voxels.transpose(1, 2, 0)[::-1, ::-1]
        nibabel.save(nibabel.Nifti1Image(turned, affine), folder / f"sub-{name}_ses-NFB3_T1w{end}.nii.gz")


def synthetic(where: str, cache: Path) -> Path:
    """The folder of `N` phantoms of `SIZE` voxels a side, `where` being `[N[,SIZE]]`; made once."""
    try:
        numbers = [int(part) for part in where.split(",")] if where else []
        count, size = (*numbers, *(SUBJECTS, SIZE)[len(numbers) :])
    except ValueError:
        raise DataError(f"--data synthetic:{where}: expected synthetic:SUBJECTS,SIZE, two integers") from None
    if count < 1 or size < 16:
        raise DataError(f"--data synthetic:{where}: expected at least 1 subject of at least 16 voxels a side")
    root = cache / f"synthetic-{count}-{size}"
    if not root.is_dir():
        partial = cache / f"{root.name}.{os.getpid()}"
        for seed in range(count):
            write_nfbs(partial, seed, *phantom(seed, size))
        try:
            partial.rename(root)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return root
