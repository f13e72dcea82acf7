"""Sums of a batch that is spread over processes, so that each has the loss of all of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .autograd import apply_function
from .registry import register

WORLD = "world"


def check_process_group(process_group: object) -> str | None:
    """None, or the name of the group, by which a loss can be copied and saved: ``"world"`` for all processes."""
    if process_group is None or (isinstance(process_group, str) and process_group == WORLD):
        return process_group
    if dist.is_available() and isinstance(process_group, dist.ProcessGroup):
        return WORLD if process_group is dist.group.WORLD else str(process_group.group_name)
    if isinstance(process_group, str) and _group_of(process_group) is not None:
        return process_group
    raise TypeError(
        f"process_group: got {process_group!r}, expected None, 'world', or a torch.distributed.ProcessGroup (or its "
        "name, in a process that has such a group)"
    )


def _group_of(name: str) -> Any:
    """The group of a name in this process, or None."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if name == WORLD:
        return dist.group.WORLD
    try:
        return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type, attr-defined]
    except (RuntimeError, ValueError, KeyError):
        return None


def gather_sums(sums: Tensor, process_group: Any = WORLD) -> Tensor:
    """The sums of the samples of all processes, in the order of their ranks; differentiable.

    What losses do with ``process_group=``, for formulas on sums of your own, or where one part of a loss is that of the
    whole batch and another that of each process: gather the sums of the first alone.

    Each process may have another number of samples, unless torch.compile has traced the call. The gradient of a
    process's own sums comes times the number of processes, since DistributedDataParallel divides by it: each process
    has the loss of the whole batch, and the parameters' gradient is that of one process with all of it. One small
    message forward; backward needs no communication.

    Args:
        sums: ``[B, ...]`` of floats, such as :func:`fastloss.voxel_sums` gives (``[B, C, K]``), of this process's B
            samples; equal in all processes but for B.
        process_group: ``"world"``, or a ``torch.distributed`` group.

    Returns:
        ``[B of all processes, ...]``, of the same dtype and device.

    Raises:
        ValueError, TypeError: naming the argument, what came and what was expected.
        RuntimeError: where ``torch.distributed`` is not initialised.
    """
    if not isinstance(sums, Tensor) or not sums.is_floating_point() or sums.ndim < 1:
        got = f"{sums.dtype} {list(sums.shape)}" if isinstance(sums, Tensor) else type(sums).__name__
        raise TypeError(f"sums: got {got}, expected a float tensor [B, ...], a row for each sample")
    group = check_process_group(process_group)
    if group is None:
        raise TypeError("process_group: got None, expected 'world' or a torch.distributed.ProcessGroup")
    return gathered_sums(sums, group)


def gathered_sums(sums: Tensor, process_group: str) -> Tensor:
    """:func:`gather_sums` of a group as :func:`check_process_group` gives it."""
    gathered: Tensor = apply_function(_Gather, _Gather, sums, process_group, _world_size(process_group))
    return gathered


def _world_size(process_group: str) -> int:
    return dist.get_world_size(existing_group(process_group))


# What torch.compiler.assume_constant_result does, which would import the compiler with the package
_world_size._dynamo_marked_constant = True  # type: ignore[attr-defined]


def existing_group(process_group: str) -> Any:
    """The group of a name that :func:`check_process_group` gave; RuntimeError where this process has none."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            f"process_group: {process_group!r}, but torch.distributed is not initialised; expected "
            "torch.distributed.init_process_group() before the loss is called"
        )
    group = _group_of(process_group)
    if group is None:
        raise RuntimeError(
            f"process_group: this process has no group {process_group!r}, expected one made before the call"
        )
    return group


def _gather_sums(sums: Tensor, name: str, world: int, alike: bool) -> tuple[Tensor, Tensor]:
    """All sums, and the place of this process's first sample among them (on the CPU)."""
    group = _group_of(name)
    rows = torch.tensor([sums.shape[0]], device=sums.device)
    each = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(each, rows, group=group)
    counts = [int(count) for count in each]
    if alike and len(set(counts)) > 1:
        raise ValueError(
            f"process_group: the processes have {counts} samples, expected as many in each under torch.compile"
        )
    padded = sums.new_zeros((max(counts), *sums.shape[1:]))  # all_gather takes equal shapes
    padded[: sums.shape[0]] = sums
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    first = torch.tensor(sum(counts[: dist.get_rank(group)]))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), first


def _own_sums(gathered: Tensor, first: Tensor, count: int) -> Tensor:
    start = int(first)
    return gathered[start : start + count].clone()


register(
    "gather_sums(Tensor sums, str group, int world, bool alike) -> (Tensor, Tensor)",
    _gather_sums,
    lambda sums, name, world, alike: (
        sums.new_empty((world * sums.shape[0], *sums.shape[1:])),
        torch.empty((), dtype=torch.int64),
    ),
)
register(
    "own_sums(Tensor gathered, Tensor first, int count) -> Tensor",
    _own_sums,
    lambda gathered, first, count: gathered.new_empty((count, *gathered.shape[1:])),
)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, name: str, world: int) -> Tensor:
        gathered, first = torch.ops.fastloss.gather_sums(sums, name, world, torch.compiler.is_compiling())
        ctx.save_for_backward(first)
        ctx.count, ctx.world = sums.shape[0], world
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (first,) = ctx.saved_tensors
        own = torch.ops.fastloss.own_sums(gradients[0].contiguous(), first, ctx.count)
        return own * ctx.world, None, None
