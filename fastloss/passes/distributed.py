"""Sums of a batch that is spread over processes, so that each has the loss of all of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

WORLD = "world"


def check_process_group(process_group: object) -> Any:
    """None, ``"world"``, or a process group of torch."""
    known = dist.is_available() and isinstance(process_group, dist.ProcessGroup)
    if process_group is None or process_group == WORLD or known:
        return process_group
    raise TypeError(
        f"process_group: got {process_group!r}, expected None, 'world', or a torch.distributed.ProcessGroup"
    )


def gather_sums(sums: Tensor, process_group: Any) -> Tensor:
    """The sums ``[B, C, K]`` of the samples of all processes, in the order of their ranks.

    Each process may have another number of samples. The gradient of a process's own sums comes times the number of
    processes, since DistributedDataParallel divides by it: each process has the loss of the whole batch, and the
    parameters' gradient is that of one process with all of it. Backward needs no communication.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            f"process_group: {process_group!r}, but torch.distributed is not initialised; expected "
            "torch.distributed.init_process_group() before the loss is called"
        )
    gathered: Tensor = _Gather.apply(sums, None if process_group == WORLD else process_group)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, group: Any) -> Tensor:
        world, rank = dist.get_world_size(group), dist.get_rank(group)
        rows = torch.tensor([sums.shape[0]], device=sums.device)
        each = [torch.empty_like(rows) for _ in range(world)]
        dist.all_gather(each, rows, group=group)
        counts = [int(count) for count in each]
        padded = sums.new_zeros((max(counts), *sums.shape[1:]))  # all_gather takes equal shapes
        padded[: sums.shape[0]] = sums
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded, group=group)
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        ctx.world = world
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own] * ctx.world, None
