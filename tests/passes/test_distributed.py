"""Losses over a batch that is spread over processes: value and gradient of one process with the whole batch."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from rows import LOSSES
from torch import nn

import fastloss

pytestmark = [
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no torch.distributed with gloo"
    ),
    pytest.mark.usefixtures("reference"),  # what is tested comes after the pass over the voxels
]


SHARES = ((0, 2), (2, 3))  # samples of the processes: not the same number
MORE = {
    "dice batch": lambda **o: fastloss.DiceLoss(batch=True, include_background=False, **o),
    "dice none": lambda **o: fastloss.DiceLoss(reduction="none", class_weight=[1.0, 2.0, 3.0], **o),
    "compound": lambda **o: fastloss.CompoundLoss([fastloss.TverskyLoss(batch=True, **o), fastloss.FocalLoss(**o)]),
}


def losses(**options):
    """Every loss on sums by name."""
    return {str(row): row(**options) for row in LOSSES} | {name: make(**options) for name, make in MORE.items()}


def batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 3, 6, 7, dtype=torch.float64, generator=generator)
    return logits, torch.randint(0, 3, (3, 6, 7), generator=generator)


def value_and_gradient(loss, logits, labels):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels)
    value.sum().backward()
    return value.detach(), leaf.grad


def join(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)


def each_share(rank, folder):
    """What a process has of every loss, saved; and the gradients of a network under DistributedDataParallel."""
    join(rank, folder)
    logits, labels = (tensor[slice(*SHARES[rank])] for tensor in batch())
    loss = fastloss.DiceCELoss(batch=True, process_group=dist.group.WORLD)
    net = nn.parallel.DistributedDataParallel(network())
    with fastloss.backend("reference"):
        found = {name: value_and_gradient(each, logits, labels) for name, each in losses(process_group="world").items()}
        loss(net(logits), labels).backward()
    found["network"] = [parameter.grad for parameter in net.parameters()]
    found["compiled"] = compiled(rank, folder)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def compiled(rank, folder):
    """Under torch.compile, of as many samples in both processes; by the name of a group, copied and saved."""
    logits, labels = (tensor[rank : rank + 1] for tensor in batch())
    group = dist.new_group([0, 1])
    loss = copy.deepcopy(fastloss.DiceCELoss(process_group=group))
    torch.save(loss, f"{folder}/loss{rank}.pt")
    loss = torch.load(f"{folder}/loss{rank}.pt", weights_only=False)
    traced = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with fastloss.backend("reference"):
        value, gradient = value_and_gradient(traced, logits, labels)
        with pytest.raises(ValueError, match=r"process_group: the processes have \[2, 1\] samples"):
            traced(*(tensor[slice(*SHARES[rank])] for tensor in batch()))
    return value, gradient


def network():
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 3, padding=1).double()


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    torch.multiprocessing.spawn(each_share, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", losses())
def test_two_processes_have_the_loss_of_the_whole_batch(name, shares):
    value, gradient = value_and_gradient(losses()[name], *batch())
    for share in shares:
        torch.testing.assert_close(share[name][0], value, rtol=1e-6, atol=1e-9)
    together = torch.cat([share[name][1] for share in shares]) / 2  # as DistributedDataParallel averages
    torch.testing.assert_close(together, gradient, rtol=1e-6, atol=1e-9)
    assert gradient.abs().sum() > 0


def test_a_networks_gradient_is_that_of_one_process(shares):
    logits, labels = batch()
    net = network()
    fastloss.DiceCELoss(batch=True)(net(logits), labels).backward()
    for share in shares:
        for ours, parameter in zip(share["network"], net.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-6, atol=1e-9)


def test_compiled_and_by_the_name_of_a_group(shares):
    logits, labels = (tensor[:2] for tensor in batch())
    value, gradient = value_and_gradient(fastloss.DiceCELoss(), logits, labels)
    for share in shares:
        torch.testing.assert_close(share["compiled"][0], value, rtol=1e-6, atol=1e-9)
    together = torch.cat([share["compiled"][1] for share in shares]) / 2
    torch.testing.assert_close(together, gradient, rtol=1e-6, atol=1e-9)


def test_one_process_alone_is_no_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        alone = value_and_gradient(fastloss.DiceLoss(process_group="world"), *batch())
        assert fastloss.DiceLoss(process_group=dist.group.WORLD).process_group == "world"  # also in other processes
        assert fastloss.DiceLoss(process_group=dist.new_group([0])).process_group != "world"
    finally:
        dist.destroy_process_group()
    for ours, plain in zip(alone, value_and_gradient(fastloss.DiceLoss(), *batch()), strict=True):
        assert torch.equal(ours, plain)


def test_what_is_no_process_group_is_named():
    with pytest.raises(TypeError, match="process_group: got 'all', expected None, 'world'"):
        fastloss.DiceLoss(process_group="all")
    for loss in (fastloss.DiceLoss, fastloss.DiceCELoss):
        with pytest.raises(RuntimeError, match=r"process_group: 'world', but torch.distributed is not initialised"):
            loss(process_group="world")(*batch())
    with pytest.raises(ValueError, match="process_group differs"):
        fastloss.CompoundLoss([fastloss.DiceLoss(process_group="world"), fastloss.FocalLoss()])
