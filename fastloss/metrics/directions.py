"""From the parts of one surface to the other surface: means, percentiles, shares. Of NumPy or a GPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Direction(NamedTuple):
    """Of NumPy vectors; empty where there is no surface."""

    mm: np.ndarray  # float32 distances
    area: np.ndarray  # float64, what each part weighs

    def and_back(self, back: Direction) -> Direction:
        """Both directions as one."""
        return Direction(*(np.concatenate(pair) for pair in zip(self, back, strict=True)))

    def mean(self) -> float:
        return float(np.average(self.mm, weights=self.area))

    def share_within(self, mm: float) -> float:
        return float(self.area[self.mm <= np.float32(mm)].sum() / self.area.sum())

    def percentile(self, percent: float, weighted: bool) -> float:
        if not weighted:
            return float(np.percentile(self.mm.astype(np.float64), percent))
        order = np.argsort(self.mm)
        shares = np.cumsum(self.area[order])
        reached = np.searchsorted(shares, percent / 100 * shares[-1])
        return float(self.mm[order[min(reached, len(order) - 1)]])


class DirectionOfTensors(NamedTuple):
    """The same on a device: float64 tensors without axes, for which nothing waits."""

    mm: Tensor
    area: Tensor

    def and_back(self, back: DirectionOfTensors) -> DirectionOfTensors:
        return DirectionOfTensors(*(torch.cat(pair) for pair in zip(self, back, strict=True)))

    def mean(self) -> Tensor:
        return (self.mm * self.area).sum() / self.area.sum()

    def share_within(self, mm: float) -> Tensor:
        return torch.where(self.mm <= float(np.float32(mm)), self.area, 0.0).sum() / self.area.sum()

    def percentile(self, percent: float, weighted: bool) -> Tensor:
        mm, order = self.mm.sort()
        if weighted:
            shares = self.area[order].cumsum(0)
            reached = torch.searchsorted(shares, percent / 100 * shares[-1:])
            return mm.index_select(0, reached.clamp_max(len(mm) - 1))[0].double()
        place = percent / 100 * (len(mm) - 1)
        low = min(int(place), max(len(mm) - 2, 0))
        below, above, share = mm[low].double(), mm[min(low + 1, len(mm) - 1)].double(), place - low
        # as NumPy interpolates, to the last bit
        return below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share)
