"""The operators of losses that rank the voxels: registration, compilation, autograd, determinism, memory."""

import multiprocessing
import sys

import oracle
import pytest
import torch
from rows import RANKED

one_of_each = pytest.mark.parametrize("loss", [RANKED[0], RANKED[3], RANKED[5], RANKED[7]], ids=str)


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("backend", ["reference", "numba", "triton"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_opcheck(backend, activation):
    logits, labels = oracle.make(activation, 3, (5, 6))
    labels = labels.mT.contiguous().mT  # results do not lie as their inputs do
    inputs, options = (logits, labels, torch.rand(2, 5, 6) > 0.2), (activation, [255], False, 1, backend)
    ops = torch.ops.fastloss
    for terms, *loss in (((), None, 0.0), (("p", "py", "y"), torch.rand(3, dtype=torch.float64), 0.1)):
        torch.library.opcheck(ops.topk_sums, (*inputs, 0.3, False, *loss, terms, *options))
        sums, mean, count, weights = ops.topk_sums(*inputs, 0.3, False, *loss, terms, *options)
        for gradients in ((torch.randn_like(sums), torch.randn_like(mean)), (None, torch.randn_like(mean))):
            given = (*gradients, count, weights, *inputs, *loss, terms, *options)
            torch.library.opcheck(ops.topk_sums_backward, given)
    for per_sample in (False, True):
        torch.library.opcheck(ops.jaccard_extension, (*inputs, per_sample, *options))
        values, _, slopes = ops.jaccard_extension(*inputs, per_sample, *options)
        gradient = torch.randn_like(values)
        torch.library.opcheck(ops.jaccard_extension_backward, (gradient, slopes, *inputs, *options))


@one_of_each
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_compiles_without_breaks_and_with_dynamic_shapes(loss, activation):
    ours = loss(activation, ignore_index=255)
    compiled = torch.compile(lambda z, y: ours(z * 2, y) * 3, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (6, 7, 9):
        logits, labels = oracle.make(activation, 3, (size, 5, 4))
        labels[:, 0] = 255
        value, gradient = oracle.gradient(lambda z, y=labels: compiled(z, y), logits)
        expected, expected_gradient = oracle.gradient(lambda z, y=labels: ours(z * 2, y) * 3, logits)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)


@one_of_each
def test_further_derivatives_raise(loss):
    logits, labels = oracle.make("softmax", 3, (5, 6))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss()(logits, labels), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.square().sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits.detach(), torch.ones_like(logits))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            loss()(dual, labels)
    with pytest.raises(NotImplementedError, match=r"torch\.func transforms"):
        torch.func.grad(lambda z: loss()(z, labels))(logits.detach())


@one_of_each
def test_no_gradient_retained_graph_and_inputs_unchanged(loss):
    logits, labels = oracle.make("softmax", 3, (5, 6))
    mask = torch.rand(2, 5, 6)
    before = [x.clone() for x in (logits, labels, mask)]
    leaf = logits.clone().requires_grad_()
    value = loss()(leaf, labels, mask=mask)
    first = torch.autograd.grad(value, leaf, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(value, leaf)[0])
    assert torch.equal(loss()(logits, labels, mask=mask), value.detach())
    for x, y in zip(before, (logits, labels, mask), strict=True):
        assert torch.equal(x, y)
    leaf = logits.clone().requires_grad_()
    (scaled,) = torch.autograd.grad(3 * loss()(leaf, labels, mask=mask), leaf)
    torch.testing.assert_close(scaled, 3 * first)


def large_problem():
    return oracle.make("softmax", 4, (40, 41, 42))


@one_of_each
def test_bitwise_repeatable_for_any_number_of_threads(loss):
    logits, labels = large_problem()
    results = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 1, 2):
            torch.set_num_threads(n)
            results += [oracle.gradient(lambda z: loss()(z, labels), logits) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


@one_of_each
def test_every_element_is_written(each_backend, loss):
    """In deterministic mode torch.empty is filled with NaN: whatever the kernels leave out shows."""
    logits, labels = oracle.make("softmax", 3, (17, 19))
    labels[:, 3] = 255
    expected = oracle.gradient(lambda z: loss(ignore_index=255)(z, labels), logits)
    torch.use_deterministic_algorithms(True)
    try:
        found = oracle.gradient(lambda z: loss(ignore_index=255)(z, labels), logits)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def forked_child(queue, leaf, labels):
    values = [row()(leaf, labels) for row in (RANKED[3], RANKED[5])]
    gradients = [torch.autograd.grad(value, leaf)[0].numpy().tobytes() for value in values]
    queue.put(([value.item() for value in values], gradients))


@pytest.mark.skipif(sys.platform != "linux", reason="fork is the default on Linux only")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_worker_after_parallel_use_in_the_parent():
    logits, labels = large_problem()
    wanted = [oracle.gradient(lambda z, row=row: row()(z, labels), logits) for row in (RANKED[3], RANKED[5])]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=forked_child, args=(queue, logits.requires_grad_(), labels))
    child.start()
    try:
        values, gradients = queue.get(timeout=120)
        assert values == [value.item() for value, _ in wanted]
        assert gradients == [gradient.numpy().tobytes() for _, gradient in wanted]
    finally:
        child.kill()
