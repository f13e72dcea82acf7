"""Two processes, each with half of a batch: the loss is that of the whole batch, and so is the gradient."""

import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import fastloss


def data() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 16, 16, generator=source), torch.randint(0, 3, (4, 16, 16), generator=source)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 3, 3, padding=1)


def work(rank: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    model = DistributedDataParallel(network())
    images, labels = (tensor[2 * rank : 2 * rank + 2] for tensor in data())
    loss = fastloss.DiceCELoss(batch=True, process_group="world")
    loss(model(images), labels).backward()

    alone = network()  # one process with all four samples
    images, labels = data()
    fastloss.DiceCELoss(batch=True)(alone(images), labels).backward()
    torch.testing.assert_close(model.module.weight.grad, alone.weight.grad, rtol=1e-4, atol=1e-7)
    print(f"process {rank}: the gradient of two processes is that of one with the whole batch")
    dist.destroy_process_group()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (f"{folder}/meeting",), nprocs=2)


if __name__ == "__main__":
    main()
