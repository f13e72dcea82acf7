import numpy as np
import numpy.typing as npt

def distance_transform(
    mask: npt.NDArray[np.integer | np.bool_], spacing: list[float], *, root: bool, threads: int
) -> npt.NDArray[np.float32]: ...
