"""The extension through Python, for valgrind: every kind of call, but without torch, which takes long to import."""

import importlib.machinery
import importlib.util
import itertools
from pathlib import Path

import numpy as np


def extension():
    """fastloss._C by its file, as importing the package would import torch."""
    file = Path(__file__).parents[2] / "fastloss" / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    spec = importlib.util.spec_from_file_location("fastloss._C", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def brute_force(mask, spacing):
    """Squared distances to the nearest voxel that is 0."""
    places = np.stack(np.indices(mask.shape), -1).reshape(-1, mask.ndim) * np.array(spacing)
    zeros = places[mask.ravel() == 0]
    return ((places[:, None] - zeros) ** 2).sum(-1).min(1).reshape(mask.shape)


def main():
    transform, random, calls = extension().distance_transform, np.random.default_rng(0), 0
    for shape, spacing in (
        ((9,), [1.0]),
        ((7, 11), [1.0, 1.0]),
        ((5, 6, 9), [0.7, 1.3, 2.1]),
        ((3, 4, 33), [1.0, 2.0, 1.0]),
    ):
        for dtype, layout in itertools.product((np.uint8, np.int64), ("C", "F", "flipped")):
            mask = (random.random((2, *shape)) < 0.8).astype(dtype, order="F" if layout == "F" else "C")
            mask[..., 0] = 0
            mask = mask[..., ::-1] if layout == "flipped" else mask
            for mode, double, indices, threads in itertools.product(
                ("mask", "sides", "labels"), (False, True), (False, True), (1, 3)
            ):
                if indices and mode != "mask":
                    continue
                field, sites = transform(
                    mask,
                    spacing,
                    mode,
                    root=False,
                    negative_inside=mode == "sides",
                    double_precision=double,
                    indices=indices,
                    threads=threads,
                )
                calls += 1
                for volume, squares in zip(mask, np.abs(field), strict=True):
                    expected = brute_force(volume, spacing)
                    inside = volume != 0 if mode == "sides" else ...
                    if mode != "labels":
                        np.testing.assert_allclose(squares[inside], expected[inside], rtol=1e-6)
                assert sites is None or sites.min() >= 0
    print(f"{calls} calls right")


if __name__ == "__main__":
    main()
