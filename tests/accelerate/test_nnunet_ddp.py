"""nnU-Net's losses over two processes: accelerated as they are, and of the trainers exact."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

pytest.importorskip("nnunetv2")

import fastloss
from fastloss.integrations.nnunet.fastloss_trainers import nnUNetTrainerFastloss

from .test_nnunet_trainers import trainer

pytestmark = [
    pytest.mark.slow,  # two more processes that import nnU-Net
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="no torch.distributed with gloo"),
]


def batch():
    """Two samples of which the second has most of its voxels ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, generator=generator)
    labels = torch.randint(0, 3, (2, 1, 6, 7), generator=generator)
    labels[1, :, 1:] = 3
    return logits, labels


def value_and_gradient(loss, logits, labels):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    return value.detach(), leaf.grad


def trainer_loss(ddp):
    made = trainer(nnUNetTrainerFastloss, ignore=3, batch_dice=True, deep=False)
    made.is_ddp = ddp
    return made.fused_loss()


def each_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss

    mine = [tensor[rank : rank + 1] for tensor in batch()]
    found = {}
    with fastloss.backend("reference"):
        for cls in (SoftDiceLoss, MemoryEfficientSoftDiceLoss):
            loss = DC_and_CE_loss({"batch_dice": True, "ddp": True}, {}, ignore_label=3, dice_class=cls)
            found[cls.__name__, "peer"] = value_and_gradient(loss, *mine)
            with fastloss.accelerate("nnunet") as handle:
                found[cls.__name__, "ours"] = value_and_gradient(loss, *mine)
            found[cls.__name__, "fused"] = handle.report()["DC_and_CE_loss"].fused
            held = fastloss.accelerate("nnunet") if rank else None  # one process alone: the messages are the same
            found[cls.__name__, "mixed"] = value_and_gradient(loss, *mine)
            if held:
                held.undo()
        found["trainer"] = value_and_gradient(trainer_loss(True), *mine)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(each_process, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for process in found:
        for name in ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss"):
            assert process[name, "fused"] == 1
            for kind in ("ours", "mixed"):
                for ours, theirs in zip(process[name, kind], process[name, "peer"], strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    with fastloss.backend("reference"):
        value, gradient = value_and_gradient(trainer_loss(False), *batch())
    for process in found:
        torch.testing.assert_close(process["trainer"][0], value)
    mean = torch.cat([process["trainer"][1] for process in found]) / 2  # DistributedDataParallel divides by it
    torch.testing.assert_close(mean, gradient)
