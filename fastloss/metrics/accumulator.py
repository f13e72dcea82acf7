"""Means of metrics over a data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..passes.distributed import check_process_group, existing_group


class Summary(NamedTuple):
    """A metric over a data set, float64 and int64 of the length of its tables' rows."""

    mean: Tensor
    std: Tensor  # of a sample (n - 1): NaN below two values, and where a distance is infinite
    left_out: Tensor  # how many values were NaN


class Accumulator:
    """Means of tables over the batches of a data set::

        scores = Accumulator()
        for prediction, labels in batches:
            scores.update(dice=confusion_counts(prediction, labels, classes=4).dice())
        scores.compute()["dice"].mean                                   # [C]

    Args:
        process_group: None, ``"world"`` or a group of ``torch.distributed``, over whose processes the data set is
            spread: :meth:`compute`, which all of them call, then is over the samples of all. A sample that a sampler
            gives to two processes, to even them out, counts twice.
    """

    def __init__(self, *, process_group: Any = None) -> None:
        self._tables: dict[str, list[Tensor]] = {}
        self._process_group = check_process_group(process_group)

    def update(self, **tables: Tensor) -> None:
        """Adds tables ``[B, C]`` under their names."""
        for name, table in tables.items():
            if not isinstance(table, Tensor) or table.ndim != 2:
                got = list(table.shape) if isinstance(table, Tensor) else type(table).__name__
                raise ValueError(f"{name}: got {got}, expected a table of samples and classes, [B, C]")
            rows = self._tables.setdefault(name, [])
            if rows and rows[0].shape[1] != table.shape[1]:
                raise ValueError(f"{name}: got {table.shape[1]} classes, expected {rows[0].shape[1]} as before")
            rows.append(table.detach().to("cpu", torch.float64, copy=True))

    def merge(self, other: Accumulator) -> None:
        """Adds the tables of another accumulator, after those that are here."""
        for name, rows in other._tables.items():
            for table in rows:
                self.update(**{name: table})

    def compute(self) -> dict[str, Summary]:
        """Mean and standard deviation of each class over all samples so far, without the NaN."""
        merged = self if self._process_group is None else self._of_all_processes(self._process_group)
        return {name: _summary(torch.cat(rows)) for name, rows in merged._tables.items()}

    def _of_all_processes(self, process_group: str) -> Accumulator:
        group = existing_group(process_group)
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, self._tables, group=group)
        merged = Accumulator()
        for tables in parts:  # in the order of the ranks
            part = Accumulator()
            part._tables = tables
            merged.merge(part)
        return merged


def _summary(table: Tensor) -> Summary:
    missing = table.isnan()
    count = (~missing).sum(0)
    mean = table.nanmean(0)
    squares = torch.where(missing, 0.0, (table - mean) ** 2).sum(0)
    return Summary(mean, (squares / (count - 1).clamp_min(0)).sqrt(), missing.sum(0))
