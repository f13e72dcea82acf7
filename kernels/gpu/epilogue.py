"""From the sums of a pass to a loss and its slopes by each of them, in one small Triton kernel.

A loss that is a sum of quotients of linear forms of the sums (:class:`fastloss.quotients.Quotient`) needs no more.
"""

# ruff: noqa: RUF005 (Triton compiles no starred tuples)

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from fastloss.quotients import Quotient

from .launch import Launch

MOST_CELLS = 4096  # samples and classes, each to a power of two, that one program holds


@dataclass(frozen=True)
class Part:
    """What a quotient is compiled for, besides its forms; no tuple, whose names some versions of Triton forget."""

    table: bool
    first: int
    last: int
    batch: bool
    smooth_above: float
    smooth_below: float
    weigh_below: bool


def fits(batch: int, channels: int) -> bool:
    """Whether the kernel takes so many samples and classes."""
    return triton.next_power_of_2(batch) * triton.next_power_of_2(channels) <= MOST_CELLS


@triton.jit
def quotients(
    sums, weights, factors, value, slopes, BATCH: tl.constexpr, CHANNELS: tl.constexpr, COUNT: tl.constexpr,
    PARTS: tl.constexpr, ABOVE: tl.constexpr, BELOW: tl.constexpr, ADDED_TO: tl.constexpr,
    BP: tl.constexpr, CP: tl.constexpr,
):  # fmt: skip
    """The value, and the slopes [B, C, K]; ``ABOVE``, ``BELOW``: coefficients of the sums, part by part; ``ADDED_TO``:
    for each term that to whose slope its own is added, too, or -1."""
    sample = tl.arange(0, BP)[:, None]
    channel = tl.arange(0, CP)[None, :]
    there = (sample < BATCH) & (channel < CHANNELS)
    cell = sample * CHANNELS + channel
    zero = tl.zeros([BP, CP], tl.float64)
    terms = ()
    by = ()
    for k in tl.static_range(COUNT):
        terms = terms + (tl.load(sums + cell * COUNT + k, there, other=0),)
        by = by + (zero,)
    total = tl.sum(tl.sum(zero, axis=1), axis=0)
    for i in tl.static_range(len(PARTS)):
        factor = tl.cast(factors[2 * i], tl.float64) + tl.cast(factors[2 * i + 1], tl.float64)
        above = zero
        below = zero
        for k in tl.static_range(COUNT):
            if ABOVE[i * COUNT + k] != 0:
                above += ABOVE[i * COUNT + k] * terms[k]
            if BELOW[i * COUNT + k] != 0:
                below += BELOW[i * COUNT + k] * terms[k]
        scale = tl.where(there & (channel >= PARTS[i].first), 1.0, 0.0).to(tl.float64)
        if weights[i] is not None:
            scale *= tl.load(weights[i] + channel, channel < CHANNELS, other=0)
        if PARTS[i].table:
            if PARTS[i].batch:
                above = tl.sum(above, axis=0)[None, :] + zero
                below = tl.sum(below, axis=0)[None, :] + zero
            counts = scale
            if PARTS[i].batch:  # the samples' one row
                counts = tl.where(sample == 0, scale, 0.0)
            whole = below + PARTS[i].smooth_below
            some = (whole != 0) & ((below != 0) | (PARTS[i].smooth_above == 0))
            found = tl.where(some, (above + PARTS[i].smooth_above) / tl.where(some, whole, 1.0), 0.0)
            total += factor * tl.sum(tl.sum(counts * found, axis=1), axis=0)
            by_above = factor * tl.where(some, scale / tl.where(some, whole, 1.0), 0.0)
            by_below = -by_above * found
        else:
            of_below = tl.where(there & (channel < PARTS[i].last), 1.0, 0.0).to(tl.float64)
            if PARTS[i].weigh_below:
                of_below *= scale
            above_all = tl.sum(tl.sum(scale * above, axis=1), axis=0)
            below_all = tl.sum(tl.sum(of_below * below, axis=1), axis=0)
            some_all = below_all != 0
            inverse = tl.where(some_all, factor / tl.where(some_all, below_all, 1.0), 0.0)
            total += above_all * inverse
            by_above = scale * inverse
            by_below = of_below * (-above_all * inverse / tl.where(some_all, below_all, 1.0))
        more = ()
        for k in tl.static_range(COUNT):
            slope = by[k]
            if ABOVE[i * COUNT + k] != 0:
                slope += ABOVE[i * COUNT + k] * by_above
            if BELOW[i * COUNT + k] != 0:
                slope += BELOW[i * COUNT + k] * by_below
            more = more + (slope,)
        by = more
    tl.store(value, total.to(value.dtype.element_ty))
    for k in tl.static_range(COUNT):
        slope = by[k]
        for j in tl.static_range(COUNT):
            if ADDED_TO[j] == k:
                slope += by[j]
        tl.store(slopes + cell * COUNT + k, slope, there)


def launch_of(
    sums: Tensor, names: tuple[str, ...], parts: tuple[Quotient, ...], added_to: tuple[int, ...], dtype: torch.dtype,
) -> tuple[Launch, Tensor, Tensor]:  # fmt: skip
    """The kernel's call, the value that it fills, and the slopes by each of the sums."""
    batch, channels, count = sums.shape
    value, slopes = torch.empty((), dtype=dtype, device=sums.device), torch.empty_like(sums)
    options = tuple(Part(**{field.name: getattr(part, field.name) for field in fields(Part)}) for part in parts)
    above, below = (
        tuple(getattr(part, side).get(name, 0.0) for part in parts for name in names) for side in ("above", "below")
    )
    # a kernel takes numbers as float32: two of them have the digits, and none is compiled in, as users change weights
    factors = tuple(number for part in parts for number in halves(part.factor))
    constants = {
        "BATCH": batch, "CHANNELS": channels, "COUNT": count, "PARTS": options, "ABOVE": above,
        "BELOW": below, "ADDED_TO": added_to,
        "BP": triton.next_power_of_2(batch), "CP": triton.next_power_of_2(channels), "num_warps": 4,
        "enable_fp_fusion": True,
    }  # fmt: skip
    args = (sums, tuple(part.weight for part in parts), factors, value, slopes)
    return Launch(quotients, (1,), args, constants), value, slopes


def halves(number: float) -> tuple[float, float]:
    """Two float32 numbers that add up to a float64, to 48 bits."""
    first = float(np.float32(number))
    return first, float(np.float32(number - first))
