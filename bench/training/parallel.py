"""Training by several processes, as torchrun starts them: each a share of every batch, one loss over all of it."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def is_parallel() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_parallel() else 1


def is_first() -> bool:
    """Whether this process reads data, validates, writes and prints for all."""
    return not is_parallel() or dist.get_rank() == 0


def start(device: str) -> torch.device:
    """Joins the processes that torchrun started, by NCCL on GPUs and Gloo elsewhere; the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_parallel():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device != "cuda":
        return torch.device(device)
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device())


def stop() -> None:
    """Leaves the other processes."""
    if is_parallel():
        dist.destroy_process_group()


def wrap(net: nn.Module) -> nn.Module:
    """The network with gradients averaged over the processes."""
    if not is_parallel():
        return net
    device = next(net.parameters()).device
    return DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None)


def share(batch: list[int]) -> list[int]:
    """This process's part of a batch."""
    return batch[dist.get_rank() :: world_size()] if is_parallel() else batch


def agreed(condition: bool) -> bool:
    """The first process's word, so that all stop at the same step."""
    return from_first(lambda: condition)


def from_first(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, in all; an exception there is raised in all."""
    if not is_parallel():
        return work()
    answer: list = [None, None]
    if is_first():
        try:
            answer[0] = work()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]
