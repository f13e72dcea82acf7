"""Heads that return lazy logits: what they are to the rest of a training."""

import copy
import dataclasses
import logging
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import fastloss
from fastloss.passes.chunks import default_chunk_bytes

SPACE = (5, 6, 4)


class Network(nn.Module):
    def __init__(self, lazily=True, classes=4):
        super().__init__()
        self.body, head = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, classes, 1)
        self.head = fastloss.lazy_head(head, chunk_bytes=2000) if lazily else head

    def forward(self, image):
        return self.head(self.body(image).relu())


def pair():
    """A network with a lazy head, and the same with a plain one."""
    lazily, plain = Network(), Network(lazily=False)
    plain.load_state_dict(lazily.state_dict())
    return lazily, plain


def batch(seed=0, samples=2):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(samples, 1, *SPACE, generator=generator)
    return image, torch.randint(0, 4, (samples, *SPACE), generator=generator)


def assert_same_gradients(network, other, rtol=1e-4, atol=1e-6):
    for (name, a), b in zip(network.named_parameters(), other.parameters(), strict=True):
        assert a.grad is not None and a.grad.dtype == a.dtype, name
        torch.testing.assert_close(a.grad, b.grad, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


pytestmark = pytest.mark.usefixtures("reference")  # what is tested lies around the pass over the voxels


def test_training_and_evaluation():
    network, plain = pair()
    image, labels = batch()
    lazy = network(image)
    assert isinstance(lazy, fastloss.LazyLogits) and lazy.chunk_bytes == 2000
    fastloss.DiceCELoss()(lazy, labels).backward()
    fastloss.DiceCELoss()(plain(image), labels).backward()
    assert_same_gradients(network, plain)
    assert type(network.eval()(image)) is torch.Tensor
    torch.testing.assert_close(network(image), plain(image))


def test_parameters_and_class():
    head = nn.Conv2d(3, 2, 1, bias=False)
    weight, keys = head.weight, list(head.state_dict())
    assert fastloss.lazy_head(head) is head and head.weight is weight and list(head.state_dict()) == keys
    assert isinstance(head, nn.Conv2d) and fastloss.lazy_head(head, chunk_bytes=64) is head  # again: another budget
    assert head(torch.randn(1, 3, 4, 4)).chunk_bytes == 64
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert other(torch.randn(1, 3, 4, 4)).chunk_bytes == 64
    head.undo_lazy_head()
    assert type(head) is nn.Conv2d and type(head(torch.randn(1, 3, 4, 4))) is torch.Tensor
    assert vars(head).keys() == vars(nn.Conv2d(3, 2, 1)).keys()


def test_a_layer_of_ones_own_and_one_with_a_parametrization():
    class Own(nn.Conv1d):
        pass

    head = fastloss.lazy_head(Own(3, 2, 1))
    x = torch.randn(2, 3, 5)
    assert isinstance(head, Own) and isinstance(head(x), fastloss.LazyLogits)
    head.undo_lazy_head()
    assert type(head) is Own
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 2, 1))
    expected = normed(x)
    torch.testing.assert_close(fastloss.lazy_head(normed)(x).tensor(), expected)


def test_what_is_no_pointwise_layer():
    class Other(nn.Conv2d):
        def forward(self, x):
            return x

    wrong = {
        "kernel_size=(1, 3), expected 1": nn.Conv2d(2, 2, (1, 3)),
        "stride=(2, 2), expected 1": nn.Conv2d(2, 2, 1, stride=2),
        "padding=(1,), expected 0": nn.Conv1d(2, 2, 1, padding=1),
        "groups=2, expected 1": nn.Conv3d(2, 2, 1, groups=2),
        "padding_mode='reflect', expected 'zeros'": nn.Conv2d(2, 2, 1, padding_mode="reflect"),
        "Other, expected nn.Conv1d": Other(2, 2, 1),
        "ReLU, expected nn.Conv1d": nn.ReLU(),
        "ConvTranspose3d, expected": nn.ConvTranspose3d(2, 2, 1),
    }
    for text, module in wrong.items():
        cls = type(module)
        with pytest.raises((ValueError, TypeError)) as error:
            fastloss.lazy_head(module)
        assert f"module: got {text}" in str(error.value) and type(module) is cls
    with pytest.raises(ValueError, match="chunk_bytes: got 0, expected an integer of at least 1"):
        fastloss.lazy_head(nn.Conv2d(2, 2, 1), chunk_bytes=0)
    head = fastloss.lazy_head(nn.Conv2d(2, 2, 1))
    head.__class__ = Other
    assert not hasattr(head, "undo_lazy_head")


def test_size_of_a_chunk():
    """Three quarters of the features, within limits."""
    for device, sizes in {"cpu": {8: 16, 32: 24, 400: 64}, "meta": {8: 16, 32: 24, 400: 256}}.items():
        for mebibytes, expected in sizes.items():
            features = torch.empty(1, device=device).expand(1, 4, mebibytes * 2**16)
            assert default_chunk_bytes(features) == expected * 2**20


def test_a_network_without_memory_tells_shapes():
    with torch.device("meta"):
        assert Network()(torch.empty(1, 1, *SPACE)).shape == (1, 4, *SPACE)


def test_inputs_that_are_no_batch_or_do_not_fit():
    head = fastloss.lazy_head(nn.Conv2d(3, 2, 1))
    assert head(torch.randn(3, 4, 4)).shape == (2, 4, 4)
    unbatched = torch.randn(3, 3, 4, 4)  # no batch of three: as deep as it has features
    assert isinstance(fastloss.lazy_head(nn.Conv3d(3, 2, 1))(unbatched), torch.Tensor)
    with pytest.raises(RuntimeError, match="expected input"):
        head(torch.randn(1, 5, 4, 4))


@pytest.mark.parametrize("move", [lambda z: z.movedim(-1, 1), lambda z: torch.permute(z, (0, 3, 1, 2))])
def test_linear_over_the_last_axis(move):
    plain = nn.Linear(5, 3)
    head = fastloss.lazy_head(copy.deepcopy(plain), chunk_bytes=100)
    x, labels = torch.randn(2, 6, 7, 5), torch.randint(0, 3, (2, 6, 7))
    lazy = head(x)
    assert lazy.shape == plain(x).shape
    torch.testing.assert_close(lazy.tensor(), plain(x))
    assert torch.equal(lazy.argmax(-1), plain(x).argmax(-1))
    moved = move(lazy)
    assert isinstance(moved, fastloss.LazyLogits) and moved.shape == (2, 3, 6, 7)
    fastloss.DiceCELoss()(moved, labels).backward()
    fastloss.DiceCELoss()(move(plain(x)), labels).backward()
    assert_same_gradients(head, plain)
    back = moved.permute(0, 2, 3, 1)
    assert back.channels_last and torch.equal(back.tensor(), lazy.tensor())
    tokens = fastloss.lazy_head(nn.Linear(5, 3))(torch.randn(2, 42, 5))  # [B, N, F]
    assert isinstance(tokens.transpose(1, 2), fastloss.LazyLogits) and tokens.transpose(1, 2).shape == (2, 3, 42)
    assert type(tokens.transpose(0, 1)) is torch.Tensor


def test_whatever_else_is_asked_gets_the_logits(caplog):
    network, plain = pair()
    image, labels = batch()
    lazy, real = network(image), plain(image)
    with caplog.at_level(logging.DEBUG, "fastloss"):
        torch.testing.assert_close(F.cross_entropy(lazy, labels), F.cross_entropy(real, labels))
    assert "cross_entropy makes lazy logits real, torch.float32 [2, 4, 5, 6, 4]" in caplog.text
    for ask in (
        lambda z: z.softmax(1),
        lambda z: torch.softmax(z, 1),
        lambda z: z.argmax(1, keepdim=True),
        lambda z: torch.argmax(z, 1),
        lambda z: z.argmax(),
        lambda z: z[:, 1:],
        lambda z: z + 1,
        lambda z: 2 - z,
        lambda z: -z,
        lambda z: z > 0,
        lambda z: torch.cat([z, z], 1),
        lambda z: z.mean(),
        lambda z: next(iter(z)),
        lambda z: z.double().tensor() if isinstance(z, fastloss.LazyLogits) else z.double(),
        lambda z: z.reshape(2, -1),
        lambda z: z.data_ptr() > 0,
        lambda z: torch.as_tensor(z.detach().numpy()),
        lambda z: z.shape[1] + z.size(2) + z.ndim + z.dim() + z.numel() + len(z),
        lambda z: (z.dtype, z.device, z.requires_grad, z.is_floating_point()),
        lambda z: z == z,
        lambda z: z.transpose(0, 1),
        lambda z: z.movedim((0, 1), (1, 0)),
        lambda z: z.to("cpu", torch.float64),
    ):
        found, expected = ask(lazy), ask(real)
        assert type(found) is type(expected)
        if isinstance(found, torch.Tensor):
            torch.testing.assert_close(found, expected, check_dtype=False)
        else:
            assert found == expected
    with torch.no_grad():
        torch.testing.assert_close(lazy.softmax(1), real.softmax(1))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        lazy.nonsense()
    with pytest.raises(dataclasses.FrozenInstanceError):
        lazy.dtype = torch.float64
    assert "[2, 4, 5, 6, 4]" in repr(lazy) and len({lazy, lazy}) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_has_the_layout_of_the_features(layout):
    features = torch.randn(2, 3, 6, 5).to(memory_format=layout).requires_grad_()
    lazy = fastloss.lazy_head(nn.Conv2d(3, 4, 1), chunk_bytes=200)(features)
    (gradient,) = torch.autograd.grad(fastloss.DiceLoss()(lazy, torch.zeros(2, 6, 5).long()), features)
    assert gradient.is_contiguous(memory_format=layout)


def test_argmax_takes_the_first_of_equal_classes_and_nan():
    features = torch.randint(0, 2, (1, 3, 50, 40)).float()
    features[0, 1, 3, 4] = torch.nan
    lazy = fastloss.LazyLogits(features, None, None, torch.float32, 2000)
    assert torch.equal(lazy.argmax(1), features.argmax(1))


def test_other_dtypes_are_made_lazily():
    network, plain = pair()
    image, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        lazy = network(image)
    assert lazy.dtype == torch.bfloat16 and lazy.tensor().dtype == torch.bfloat16
    assert lazy.float().dtype == torch.float32 and lazy.to(torch.float64).dtype == torch.float64
    fastloss.DiceCELoss()(lazy.float(), labels).backward()
    fastloss.DiceCELoss()(plain(image), labels).backward()
    assert_same_gradients(network, plain, rtol=0.05, atol=0.002)


def test_autocast_around_the_loss():
    network, plain = pair()
    image, labels = batch()
    for net in (network, plain):
        with torch.autocast("cpu", torch.bfloat16):
            fastloss.DiceCELoss()(net(image), labels).backward()
    assert_same_gradients(network, plain, rtol=0.05, atol=0.002)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_accumulation_and_two_uses(reentrant):
    network, plain = pair()
    dice, focal = fastloss.DiceCELoss(), fastloss.FocalLoss()

    def run(net, image):
        if reentrant:  # of what comes before the head
            return net.head(checkpoint(lambda x: net.body(x).relu(), image, use_reentrant=True))
        return checkpoint(net, image, use_reentrant=False)

    for step in range(2):
        image, labels = batch(step)
        image.requires_grad_()  # which a reentrant checkpoint asks for
        for net, run_it in ((network, run), (plain, lambda net, image: net(image))):
            logits = run_it(net, image)
            (dice(logits, labels) + 2 * focal(logits, labels)).backward()
    assert_same_gradients(network, plain)


def test_pytrees_see_the_tensors():
    network, _ = pair()
    lazy = network(batch()[0])
    leaves, tree = pytree.tree_flatten({"out": [lazy]})
    assert [x.shape for x in leaves] == [lazy.features.shape, lazy.weight.shape, lazy.bias.shape]
    again = pytree.tree_unflatten(leaves, tree)["out"][0]
    assert torch.equal(again.tensor(), lazy.tensor()) and again.maker == lazy.maker


def test_compiled_without_a_break():
    network, plain = pair()
    image, labels = batch()
    loss = fastloss.DiceCELoss(ignore_index=1)
    step = torch.compile(lambda image, labels: loss(network(image), labels), fullgraph=True, backend="aot_eager")
    step(image, labels).backward()
    loss(plain(image), labels).backward()
    assert_same_gradients(network, plain)


def test_a_compiled_network_returns_lazy_logits():
    network, plain = pair()
    image, labels = batch()
    lazy = torch.compile(network, fullgraph=True, backend="aot_eager")(image)
    assert isinstance(lazy, fastloss.LazyLogits)
    fastloss.DiceLoss()(lazy, labels).backward()
    fastloss.DiceLoss()(plain(image), labels).backward()
    assert_same_gradients(network, plain)


def test_traced_and_exported_networks_have_logits():
    network, plain = pair()
    image, _ = batch()
    torch.testing.assert_close(torch.jit.trace(network, image, check_trace=False)(image), plain(image))
    torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), plain(image))


KINDS = {"ddp": {}, "static": {"static_graph": True}, "unused": {"find_unused_parameters": True}, "fsdp": None}


def wrapped(network, options):
    if options is not None:
        return nn.parallel.DistributedDataParallel(network, **options)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for module in (network.head, network):
        fully_shard(module, mesh=init_device_mesh("cpu", (2,)), reshard_after_forward=True)
    return network


def in_processes(rank, folder):
    """The gradients of a network in two processes, a sample each, saved."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    image, labels = (x[rank : rank + 1] for x in batch())
    found = {}
    for kind, options in KINDS.items():
        torch.manual_seed(0)
        network = Network()
        parallel = wrapped(network, options)
        with fastloss.backend("reference"):
            for _ in range(2):  # of a static graph the second step is another
                network.zero_grad()
                lazy = parallel(image)
                assert isinstance(lazy, fastloss.LazyLogits)
                fastloss.DiceCELoss()(lazy, labels).backward()
        grads = [p.grad for p in network.parameters()]
        found[kind] = [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
def test_processes(tmp_path):
    torch.multiprocessing.spawn(in_processes, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    plain = Network()
    plain.head.undo_lazy_head()
    image, labels = batch()
    loss = fastloss.DiceCELoss()
    sum(loss(plain(image[k : k + 1]), labels[k : k + 1]) / 2 for k in range(2)).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert list(found) == list(KINDS)
        for grads in found.values():
            torch.testing.assert_close(grads, [p.grad for p in plain.parameters()], rtol=1e-4, atol=1e-6)


def test_accelerated_losses_of_other_libraries_get_the_real_logits():
    head, features = fastloss.lazy_head(nn.Conv3d(4, 3, 1)), torch.randn(1, 4, *SPACE)
    labels = torch.randint(0, 3, (1, *SPACE))
    expected = F.cross_entropy(head(features).tensor(), labels)
    with fastloss.accelerate("torch") as handle:
        torch.testing.assert_close(F.cross_entropy(head(features), labels), expected)
    assert handle.report()["cross_entropy"].passed_on
