"""The class of the largest logit at another resolution (Triton): a thread holds the largest of its voxels so far, and
the caches the corners that neighbouring voxels share."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..layout import Axis
from .sums import Launch

BLOCK = 256


def write_labels(logits: Tensor, axes: tuple[Axis, Axis, Axis], labels: Tensor) -> None:
    """Fills ``labels`` ``[planes, lines, length]``, uint8 or int16, contiguous.

    Args:
        logits: ``[C, planes, lines, length]``, contiguous, of any float dtype.
        axes: of which voxels each output along an axis is made.
    """
    if labels.numel():
        resample_launch(logits, axes, labels).run()


def resample_launch(logits: Tensor, axes: tuple[Axis, Axis, Axis], labels: Tensor) -> Launch:
    """The call of the kernel."""
    wide = max(logits.numel(), labels.numel()) >= 2**31 - BLOCK
    constants = {"BLOCK": BLOCK, "INDEX": tl.int64 if wide else tl.int32, "num_warps": 4}
    places = [part for axis in axes for part in axis]
    sizes = (*logits.shape, *labels.shape)
    return Launch(labels_kernel, (triton.cdiv(labels.numel(), BLOCK),), (logits, labels, *places, *sizes), constants)


@triton.jit
def between(a, b, share):
    """As torch has it."""
    return a * (1.0 - share) + b * share


@triton.jit
def interpolated(row, x0, x1, y0, y1, z0, z1, x, y, z, there, REAL: tl.constexpr):
    """Of a class, from the last axis to the first."""
    a = between(tl.load(row + z0 + y0 + x0, there).to(REAL), tl.load(row + z0 + y0 + x1, there).to(REAL), x)
    b = between(tl.load(row + z0 + y1 + x0, there).to(REAL), tl.load(row + z0 + y1 + x1, there).to(REAL), x)
    c = between(tl.load(row + z1 + y0 + x0, there).to(REAL), tl.load(row + z1 + y0 + x1, there).to(REAL), x)
    d = between(tl.load(row + z1 + y1 + x0, there).to(REAL), tl.load(row + z1 + y1 + x1, there).to(REAL), x)
    return between(between(a, b, y), between(c, d, y), z)


@triton.jit
def labels_kernel(
    logits, labels,
    z_low, z_high, z_share, y_low, y_high, y_share, x_low, x_high, x_share,
    classes, depth, height, width, planes, lines, length,
    BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The class of the largest logit, the first of equal ones or of NaN, of BLOCK voxels of the result."""
    REAL: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    voxel = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    there = voxel < planes.to(INDEX) * lines * length
    i, row = voxel % length, voxel // length
    j, k = row % lines, row // lines
    z0, z1 = tl.load(z_low + k, there).to(INDEX), tl.load(z_high + k, there).to(INDEX)
    y0, y1 = tl.load(y_low + j, there).to(INDEX), tl.load(y_high + j, there).to(INDEX)
    x0, x1 = tl.load(x_low + i, there).to(INDEX), tl.load(x_high + i, there).to(INDEX)
    z, y, x = (tl.load(z_share + k, there), tl.load(y_share + j, there), tl.load(x_share + i, there))
    z, y, x = z.to(REAL), y.to(REAL), x.to(REAL)
    z0, z1, y0, y1 = z0 * height * width, z1 * height * width, y0 * width, y1 * width
    step = depth.to(INDEX) * height * width
    best = interpolated(logits, x0, x1, y0, y1, z0, z1, x, y, z, there, REAL)
    label = tl.zeros((BLOCK,), tl.int32)
    for c in range(1, classes):
        value = interpolated(logits + c * step, x0, x1, y0, y1, z0, z1, x, y, z, there, REAL)
        better = ((value <= best) == 0) & (best == best)
        best = tl.where(better, value, best)
        label = tl.where(better, c, label)
    tl.store(labels + voxel, label.to(labels.dtype.element_ty), there)
