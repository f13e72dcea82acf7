"""Distance transforms of other libraries as calls on a mask; each imports what it needs when it is made."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Field = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Transform:
    """`make(mask, spacing, threads)` gives the call to be timed, whose field `comparable` brings to fastloss's."""

    title: str
    package: str | None  # None: fastloss itself
    make: Callable[[np.ndarray, tuple[float, ...], int], Field]
    comparable: Callable[[np.ndarray], np.ndarray] = lambda field: field
    outside_only: bool = False  # measures to another boundary inside: only the outside is compared


def fastloss_edt(mask, spacing, threads) -> Field:
    """fastloss.distance.edt"""
    from fastloss.distance import edt

    return lambda: edt(mask, spacing, threads=threads)


def fastloss_signed(mask, spacing, threads) -> Field:
    """fastloss.distance.signed_edt"""
    from fastloss.distance import signed_edt

    return lambda: signed_edt(mask, spacing, threads=threads)


def edt_edt(mask, spacing, threads) -> Field:
    """edt.edt, which takes no account of the volume's edge by default."""
    import edt

    return lambda: edt.edt(mask, anisotropy=spacing, parallel=threads)


def edt_sdf(mask, spacing, threads) -> Field:
    """edt.sdf"""
    import edt

    return lambda: edt.sdf(mask, anisotropy=spacing, parallel=threads)


def scipy_edt(mask, spacing, threads) -> Field:
    """scipy.ndimage.distance_transform_edt, which knows one thread."""
    from scipy import ndimage

    return lambda: ndimage.distance_transform_edt(mask, spacing)


def scipy_signed(mask, spacing, threads) -> Field:
    """Both sides by SciPy, one after the other."""
    from scipy import ndimage

    other = ~mask
    return lambda: ndimage.distance_transform_edt(other, spacing) - ndimage.distance_transform_edt(mask, spacing)


def signed_maurer(mask, spacing, threads) -> Field:
    """SimpleITK's SignedMaurerDistanceMap; images made and read outside of the call."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([float(mm) for mm in reversed(spacing)])
    maurer = SimpleITK.SignedMaurerDistanceMapImageFilter()
    maurer.SetSquaredDistance(False)
    maurer.SetUseImageSpacing(True)
    maurer.SetInsideIsPositive(False)
    maurer.SetNumberOfThreads(threads)
    return lambda: maurer.Execute(image)


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
