"""Distance transforms of other libraries as calls on a mask; each imports what it needs when it is made."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Field = Callable[[], np.ndarray]
Ways = dict[str, Field]


@dataclass(frozen=True)
class Transform:
    """`make(mask, spacing, threads)` gives calls by the dtype, order and settings, inputs made before the clock starts.

    The fastest of them is timed, and its field brought to fastloss's by `comparable`.
    """

    title: str
    package: str | None  # None: fastloss itself
    make: Callable[[np.ndarray, tuple[float, ...], int], Ways]
    comparable: Callable[[np.ndarray], np.ndarray] = lambda field: field
    outside_only: bool = False  # measures to another boundary inside: only the outside is compared


def fastloss_edt(mask, spacing, threads) -> Ways:
    """fastloss.distance.edt"""
    from fastloss.distance import edt

    return {"bool": lambda: edt(mask, spacing, threads=threads)}


def fastloss_signed(mask, spacing, threads) -> Ways:
    """fastloss.distance.signed_edt"""
    from fastloss.distance import signed_edt

    return {"bool": lambda: signed_edt(mask, spacing, threads=threads)}


def _edt_ways(name: str, mask, spacing, threads) -> Ways:
    import edt

    function = getattr(edt, name)

    def way(dtype, order: str, parallel: int) -> Field:
        given = np.asarray(mask, dtype, order)
        return lambda: function(given, anisotropy=spacing, parallel=parallel)

    ways = {np.dtype(dtype).name: way(dtype, "C", threads) for dtype in (np.uint8, bool, np.uint16, np.uint32)}
    ways["uint8, Fortran order"] = way(np.uint8, "F", threads)
    if threads > 1:
        ways |= {f"{np.dtype(dtype).name}, parallel=1": way(dtype, "C", 1) for dtype in (np.uint8, bool)}
    return ways


def edt_edt(mask, spacing, threads) -> Ways:
    """edt.edt, which takes no account of the volume's edge by default."""
    return _edt_ways("edt", mask, spacing, threads)


def edt_sdf(mask, spacing, threads) -> Ways:
    """edt.sdf"""
    return _edt_ways("sdf", mask, spacing, threads)


def scipy_edt(mask, spacing, threads) -> Ways:
    """scipy.ndimage.distance_transform_edt, which knows one thread."""
    from scipy.ndimage import distance_transform_edt

    out, labels = np.empty(mask.shape), mask.astype(np.int8)

    def into_memory() -> np.ndarray:
        distance_transform_edt(labels, spacing, distances=out)
        return out

    return {"bool": lambda: distance_transform_edt(mask, spacing), "int8, into given memory": into_memory}


def scipy_signed(mask, spacing, threads) -> Ways:
    """Both sides by SciPy, one after the other."""
    outside, inside = scipy_edt(~mask, spacing, threads), scipy_edt(mask, spacing, threads)
    return {way: lambda way=way: outside[way]() - inside[way]() for way in outside}


def signed_maurer(mask, spacing, threads) -> Ways:
    """SimpleITK's SignedMaurerDistanceMap; images made and read outside of the call."""
    import SimpleITK

    maurer = SimpleITK.SignedMaurerDistanceMapImageFilter()
    maurer.SetSquaredDistance(False)
    maurer.SetUseImageSpacing(True)
    maurer.SetInsideIsPositive(False)
    maurer.SetNumberOfThreads(threads)

    def way(dtype) -> Field:
        image = SimpleITK.GetImageFromArray(mask.astype(dtype))
        image.SetSpacing([float(mm) for mm in reversed(spacing)])
        return lambda: maurer.Execute(image)

    return {np.dtype(dtype).name: way(dtype) for dtype in (np.uint8, np.int16, np.uint32)}


def array_of_image(image) -> np.ndarray:
    """A SimpleITK image as an array."""
    import SimpleITK

    return SimpleITK.GetArrayFromImage(image)


TRANSFORMS = {
    "unsigned": (
        Transform("fastloss", None, fastloss_edt),
        Transform("edt", "edt", edt_edt),
        Transform("scipy", "scipy", scipy_edt),
    ),
    "signed": (
        Transform("fastloss", None, fastloss_signed),
        Transform("edt.sdf", "edt", edt_sdf, comparable=np.negative),
        Transform("SignedMaurer", "SimpleITK", signed_maurer, comparable=array_of_image, outside_only=True),
        Transform("scipy", "scipy", scipy_signed),
    ),
}
