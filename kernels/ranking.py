"""What ranks voxels by torch's own sort, on any device and without waiting for it: shared by the back ends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NO_LOSS = -1.0  # marks the loss of a voxel that does not count; the others are at least 0


def select_largest(losses: Tensor, k: float, of_all: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of the ``m = max(1, floor(k n))`` largest of the n losses that count, m, and weights.

    With ``of_all`` n is the number of all losses, and those that do not count are 0 in the mean. Weights have the shape
    of ``losses``: 1 above the smallest of the largest, and equal shares of what is left for all losses that equal it.
    Mean and number are float64 without axes, 0 where nothing counts.
    """
    order = torch.sort(losses.flatten(), descending=True).values
    real = _sum_dtype(losses)
    valid = (losses >= 0) | losses.isnan()
    n = valid.sum()
    of = torch.where(n > 0, _portion(torch.full_like(n, losses.numel()) if of_all else n, k), 0)
    count = torch.minimum(of, n)
    if losses.numel() == 0:
        zero = losses.new_zeros((), dtype=real)
        return zero, zero.clone(), losses.clone()
    threshold = order.index_select(0, (count - 1).clamp_min(0).reshape(1)).squeeze(0)
    above = valid & ((losses > threshold) | (losses.isnan() & ~threshold.isnan()))
    tied = valid & ((losses == threshold) | (losses.isnan() & threshold.isnan()))
    left = (count - above.sum()).to(real)
    share = left / tied.sum().clamp_min(1)
    total = torch.where(above, losses, 0).sum(dtype=real) + torch.where(left > 0, left * threshold, 0)
    mean = torch.where(of > 0, total / of.clamp_min(1), 0)
    weights = torch.where(above, 1.0, torch.where(tied, share, 0.0)).to(losses.dtype)
    return mean.to(real), of.to(real), weights


def jaccard_of_class(errors: Tensor, foreground: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The Lovász extension of the Jaccard loss of one class ``[N]``, and its slopes by the errors (constants).

    In the order of the errors, the largest first and of equal ones the first: what a voxel of weight w adds to the
    Jaccard loss of all before it; no slope where the error is 0. ``weight`` is 0 where a voxel does not count; float64
    results.
    """
    w = weight.to(_sum_dtype(errors))
    order = torch.where(w != 0, errors, NO_LOSS).sort(descending=True, stable=True).indices
    true, w = foreground[order], w[order]
    inside, outside = (w * true).cumsum(0), (w * ~true).cumsum(0)
    total = inside[-1:]
    before, union = total + outside - w * ~true, total + outside
    # of a class without foreground the first voxel is all of the loss
    of_background = torch.where(before > 0, (total - inside) / before * (w / union), (w > 0).to(w))
    slopes = torch.where(true, w / union, of_background)
    slopes = torch.where(w > 0, slopes, 0)
    errors = errors[order]
    value = torch.where(w > 0, slopes * errors, 0).sum()
    slopes = torch.where(errors == 0, 0, slopes)
    return value, torch.zeros_like(slopes).scatter_(0, order, slopes)


def jaccard_of_groups(
    errors: Tensor, true_of: Callable[[slice, int], Tensor], weight: Tensor, per_sample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`jaccard_of_class` for every class, of each sample or of the batch: values and foreground ``[B or 1, C]``,
    and slopes by p or the logit, ``[C, B, *S]``, of the type of ``errors`` ``[B, C, *S]``. ``true_of(samples, c)`` is
    where class c is true; weight ``[B, 1, *S]``."""
    batch, channels = errors.shape[:2]
    real = _sum_dtype(errors)
    slopes = torch.empty((channels, batch, *errors.shape[2:]), dtype=errors.dtype, device=errors.device)
    groups = [slice(b, b + 1) for b in range(batch)] if per_sample else [slice(None)]
    values = torch.zeros((len(groups), channels), dtype=real, device=errors.device)
    sizes = torch.zeros_like(values)
    if errors.numel() == 0:
        return values, sizes, slopes
    for i, samples in enumerate(groups):
        w = weight[samples].flatten()
        for c in range(channels):
            true = true_of(samples, c).flatten()
            value, slope = jaccard_of_class(errors[samples, c].flatten(), true, w)
            values[i, c] = value
            sizes[i, c] = (w * true).sum(dtype=real)
            slopes[c, samples] = torch.where(true, -slope, slope).to(slopes.dtype).view(slopes[c, samples].shape)
    return values, sizes, slopes


def _portion(n: Tensor, k: float) -> Tensor:
    return (n.to(_sum_dtype(n)) * k).floor().long().clamp_min(1)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # MPS has no float64
