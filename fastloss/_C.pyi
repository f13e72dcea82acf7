from typing import Any

import numpy as np
import numpy.typing as npt

def distance_transform(
    mask: npt.NDArray[np.integer | np.bool_],
    spacing: list[float],
    mode: str,
    *,
    root: bool,
    negative_inside: bool,
    double_precision: bool,
    indices: bool,
    threads: int,
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.int64] | None]: ...
