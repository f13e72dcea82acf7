"""The operators: registration, compilation, autograd, determinism, threads and processes."""

import concurrent.futures
import gc
import multiprocessing
import os
import resource
import subprocess
import sys
import textwrap

import oracle
import pytest
import torch
from rows import one_of_each
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import fastloss
from fastloss.passes import backends

TERMS = ("p", "py", "y", "ce_pos", "p2")


def operator_arguments(activation="softmax", backend="numba", grad=True):
    logits, labels = oracle.make(activation, 3, (5, 6))
    return logits.requires_grad_(grad), labels, None, None, list(TERMS), activation, [255], False, 1, backend


@pytest.mark.parametrize("backend", ["reference", "numba", "triton"])
def test_opcheck(backend):
    arguments = operator_arguments(backend=backend, grad=False)
    torch.library.opcheck(torch.ops.fastloss.voxel_sums, arguments)
    grad_sums = torch.randn(2, 3, len(TERMS), dtype=torch.float64)
    torch.library.opcheck(torch.ops.fastloss.voxel_sums_backward, (grad_sums, *arguments))


def test_every_operator_is_one_on_every_device():
    """Also on those that are not here."""
    found = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    names = {name for library, _, name in found if library == "fastloss"}
    assert {"voxel_sums", "topk_sums", "hausdorff_conv", "gather_sums", "distance_fields", "whole_labels"} <= names
    for name in names:
        assert torch.Tag.pt2_compliant_tag in getattr(torch.ops.fastloss, name).default.tags, name
        for device in ("CPU", "CUDA", "MPS", "XPU"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastloss::{name}", device), (name, device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
def test_sums_are_float64_where_a_device_has_it(device):
    options, ops = ("softmax", [], False, 0), torch.ops.fastloss
    with FakeTensorMode():
        inputs = torch.empty(2, 3, 4, device=device), torch.empty(2, 4, dtype=torch.uint8, device=device)
        found = (
            ops.voxel_sums(*inputs, None, None, ["p"], *options, ""),
            *ops.topk_sums(*inputs, None, 0.1, False, None, 0.0, ["p"], *options, "")[:3],
            *ops.jaccard_extension(*inputs, None, False, *options, "")[:2],
            ops.hausdorff_erosion(*inputs, None, *options, 2.0, 3, False, "")[0],
            ops.cldice_sums(*inputs, None, *options, 3, 0, ""),
        )
        masks = torch.ones(2, 1, 4, dtype=torch.bool, device=device)
        fields = ops.distance_fields([masks], torch.ones(1), 1, "mask", True, False, True)
    assert fields[0].dtype == torch.float64 and fields[0].device.type == device
    for sums in found:
        assert sums.dtype == (torch.float32 if device == "mps" else torch.float64) and sums.device.type == device


@pytest.mark.parametrize("backend", ["reference", "numba", "triton"])
@pytest.mark.parametrize("per_class", [False, True])
def test_opcheck_of_voxel_losses(backend, per_class):
    *tensors, terms, activation, ignore, dense, validate, name = operator_arguments(backend=backend, grad=False)
    coefficients = torch.randn(2, 3, len(TERMS), dtype=torch.float64)
    arguments = (coefficients, *tensors, per_class, terms, activation, ignore, dense, validate, name)
    torch.library.opcheck(torch.ops.fastloss.voxel_losses, arguments)


@pytest.mark.parametrize("per_class", [False, True])
def test_voxel_losses_compile_without_breaks_and_with_dynamic_shapes(per_class):
    weight = torch.rand(3, dtype=torch.float64).requires_grad_()

    def loss(z, y):
        each = fastloss.voxel_losses(z * 2, y, {"ce_pos": weight, "p2": 0.5}, per_class=per_class, ignore_index=255)
        return (each * each.detach()).mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (6, 7):
        logits, labels = oracle.make("softmax", 3, (size, 5))
        labels[:, 0] = 255
        found, expected = [], []
        for function, results in ((compiled, found), (loss, expected)):
            leaf = logits.clone().requires_grad_()
            value = function(leaf, labels)
            results += [value.detach(), *torch.autograd.grad(value, (leaf, weight))]
        torch.testing.assert_close(found, expected)


def test_a_loss_of_each_voxel_compiles_and_has_first_derivatives_only():
    loss = fastloss.FocalLoss(alpha=0.3, reduction="voxel")
    logits, labels = oracle.make("softmax", 3, (5, 6))
    torch.testing.assert_close(torch.compile(loss, fullgraph=True)(logits, labels), loss(logits, labels))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.square().sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits.detach(), torch.ones_like(logits))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            loss(dual, labels)


@pytest.mark.parametrize("loss_class", [fastloss.DiceCELoss, fastloss.CrossEntropyLoss, fastloss.TverskyLoss])
def test_compiles_without_breaks_and_with_dynamic_shapes(loss_class):
    loss = loss_class(ignore_index=255)
    compiled = torch.compile(lambda z, y: loss(z * 2, y) * 3, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=False):
        for size in (6, 7, 9):
            logits, labels = oracle.make("softmax", 3, (size, 5, 4))
            labels[:, 0] = 255
            value, gradient = oracle.gradient(lambda z, y=labels: compiled(z, y), logits)
            expected, expected_gradient = oracle.gradient(lambda z, y=labels: loss(z * 2, y) * 3, logits)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradient, expected_gradient)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (10, 12):
            logits, labels = oracle.make("softmax", 3, (size, 5, 4))
            oracle.gradient(lambda z, y=labels: compiled(z, y), logits)


@one_of_each
def test_every_loss_compiles_without_breaks(loss):
    """Traced alone: what a compiler makes of it is torch's own matter."""
    ours = loss(ignore_index=255)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    logits, labels = oracle.make("softmax", 3, (5, 4))
    value, gradient = oracle.gradient(lambda z: compiled(z, labels), logits)
    expected, expected_gradient = oracle.gradient(lambda z: ours(z, labels), logits)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_compiled_label_check_still_raises():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    labels[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"label 7 at index \(1, 2, 3\)"):
        torch.compile(fastloss.DiceLoss(), fullgraph=True)(logits, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_takes_logits_as_they_are_and_returns_float32(dtype):
    network = torch.nn.Conv2d(1, 3, 1)
    image, labels = torch.randn(2, 1, 8, 8), torch.randint(0, 3, (2, 8, 8))
    with torch.autocast("cpu", dtype):
        logits = network(image)
        assert logits.dtype == dtype
        logits.retain_grad()
        value = fastloss.DiceCELoss()(logits, labels)
    assert value.dtype == torch.float32
    value.backward()
    assert logits.grad.dtype == dtype
    assert network.weight.grad is not None
    torch.testing.assert_close(value, fastloss.DiceCELoss()(logits.detach().float(), labels))


# Autograd


def test_double_backward_raises():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(fastloss.DiceLoss()(logits, labels), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.square().sum().backward()
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(gradient.sum(), logits, allow_unused=True)


def test_forward_mode_raises():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, torch.ones_like(logits))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            fastloss.DiceLoss()(dual, labels)


def test_functorch_raises_clearly():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    loss = fastloss.DiceLoss()
    with pytest.raises(NotImplementedError, match=r"torch\.func transforms"):
        torch.func.grad(lambda z: loss(z, labels))(logits)
    with pytest.raises(NotImplementedError, match=r"torch\.func transforms"):
        torch.func.vmap(lambda z, y: loss(z[None], y[None]))(logits, labels)


def test_no_gradient_wanted():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    loss = fastloss.DiceCELoss()
    expected = loss(logits.clone().requires_grad_(), labels).detach()
    assert torch.equal(loss(logits, labels), expected)
    with torch.no_grad():
        assert torch.equal(loss(logits.clone().requires_grad_(), labels), expected)
    with torch.inference_mode():
        assert torch.equal(loss(logits, labels), expected)


def test_two_losses_checkpoint_and_retained_graph_on_the_same_logits():
    weight = torch.randn(2, 3, 5, 6)
    logits, labels = oracle.make("softmax", 3, (5, 6))
    dice, cross_entropy = fastloss.DiceLoss(), fastloss.CrossEntropyLoss()

    def both(z):
        return dice(z, labels) + checkpoint(cross_entropy, z, labels, use_reentrant=False) + (z * weight).sum()

    value, gradient = oracle.gradient(both, logits)
    parts = [oracle.gradient(lambda z, f=f: f(z, labels), logits)[1] for f in (dice, cross_entropy)]
    torch.testing.assert_close(gradient, parts[0] + parts[1] + weight)
    leaf = logits.clone().requires_grad_()
    value = dice(leaf, labels)
    first = torch.autograd.grad(value, leaf, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(value, leaf)[0])


def test_logits_changed_in_place_are_noticed():
    leaf = torch.randn(1, 2, 4, requires_grad=True)
    logits = leaf * 1
    value = fastloss.DiceLoss()(logits, torch.zeros(1, 4, dtype=torch.uint8))
    logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_gradient_keeps_the_layout_of_the_logits():
    logits = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d).requires_grad_()
    fastloss.DiceLoss()(logits, torch.zeros(2, 4, 5, 6, dtype=torch.uint8)).backward()
    assert logits.grad.stride() == logits.stride()


def test_passes_are_counted(monkeypatch):
    """Several losses in one: one forward and one backward call of the operators, whatever the terms."""
    from fastloss.passes import backends

    calls = []
    cpu = backends._module("numba")
    for name in ("forward_with_bad_labels", "backward"):
        original = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *a, f=original, n=name: (calls.append(n), f(*a))[1])
    logits, labels = oracle.make("softmax", 3, (5, 6))
    parts = [fastloss.DiceLoss(squared=True), fastloss.CrossEntropyLoss(), fastloss.JaccardLoss()]
    loss = fastloss.CompoundLoss([fastloss.CompoundLoss(parts), fastloss.TverskyLoss()])
    loss(logits.requires_grad_(), labels).backward()
    assert calls == ["forward_with_bad_labels", "backward"]


def test_a_profiler_sees_the_operators():
    logits, labels = oracle.make("softmax", 3, (5, 6))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fastloss.DiceLoss()(logits.requires_grad_(), labels).backward()
    seen = {event.key for event in profile.key_averages()}
    assert {"fastloss::voxel_sums", "fastloss::voxel_sums_backward"} <= seen


def test_a_tensor_that_waits_to_be_negated():
    labels = oracle.make("softmax", 3, (5, 6))[1]
    lazy = torch.randn(*labels.shape[:1], 3, *labels.shape[1:], dtype=torch.complex64).conj().imag
    assert lazy.is_neg()
    loss = fastloss.DiceCELoss(ignore_index=255)
    value, gradient = oracle.gradient(lambda z: loss(z, labels), lazy.resolve_neg())
    negated = lazy.detach().requires_grad_()
    again = loss(negated, labels)
    again.backward()
    assert torch.equal(again.detach(), value) and torch.equal(negated.grad, gradient)


def test_a_term_without_influence_and_terms_of_the_target_alone():
    class Half(fastloss.SumLoss):
        terms = ("p2", "y", "py")  # a formula need not use all of them

        def formula(self, sums):
            assert not sums["y"].requires_grad and sums["p2"].requires_grad
            return sums["py"] / sums["y"].clamp_min(1)

    class Volume(fastloss.SumLoss):
        terms = ("y",)

        def formula(self, sums):
            return sums["y"]

    logits, labels = oracle.make("softmax", 3, (5, 6))
    found = oracle.gradient(lambda z: Half()(z, labels), logits)
    expected = oracle.gradient(lambda z: plain_half(z, labels), logits)
    torch.testing.assert_close(found, expected, check_dtype=False)
    assert not Volume()(logits.requires_grad_(), labels).requires_grad


def plain_half(logits, labels):
    y = torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1)
    return ((logits.softmax(1) * y).flatten(2).sum(2) / y.flatten(2).sum(2).clamp_min(1)).mean()


# Determinism, threads, processes


def large_problem():
    logits, labels = oracle.make("softmax", 4, (40, 41, 42))
    return logits, labels


def test_bitwise_repeatable_for_any_number_of_threads():
    logits, labels = large_problem()
    loss = fastloss.DiceCELoss()
    results = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 1, 2):
            torch.set_num_threads(n)
            results += [oracle.gradient(lambda z: loss(z, labels), logits) for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_deterministic_mode():
    logits, labels = large_problem()
    loss = fastloss.DiceCELoss()
    expected = oracle.gradient(lambda z: loss(z, labels), logits)
    torch.use_deterministic_algorithms(True)
    try:
        value, gradient = oracle.gradient(lambda z: loss(z, labels), logits)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])


def test_every_gradient_element_is_written():
    """In deterministic mode torch.empty is filled with NaN: whatever the kernels leave out shows."""
    torch.use_deterministic_algorithms(True)
    try:
        for backend in ("numba", "triton"):
            with fastloss.backend(backend):
                for layout in (torch.contiguous_format, torch.channels_last):
                    logits = torch.randn(2, 3, 17, 19).to(memory_format=layout)
                    labels = torch.randint(0, 4, (2, 17, 19))
                    loss = fastloss.DiceCELoss(ignore_index=3)
                    gradient = oracle.gradient(lambda z, f=loss, y=labels: f(z, y), logits)[1]
                    assert gradient.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_several_python_threads_at_once():
    logits, labels = large_problem()
    loss = fastloss.DiceCELoss()
    expected = oracle.gradient(lambda z: loss(z, labels), logits)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(oracle.gradient, lambda z: loss(z, labels), logits) for _ in range(24)]
        for job in jobs:
            value, gradient = job.result(timeout=120)
            assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])


def forked_child(queue, leaf, labels):
    value = fastloss.DiceCELoss()(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    queue.put((value.item(), gradient.numpy().tobytes()))


@pytest.mark.skipif(sys.platform != "linux", reason="fork is the default on Linux only")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_worker_after_parallel_use_in_the_parent():
    """The leaf comes from the parent: a large torch operation (a clone, say) hangs in a forked child."""
    logits, labels = large_problem()
    value, gradient = oracle.gradient(lambda z: fastloss.DiceCELoss()(z, labels), logits)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=forked_child, args=(queue, logits.requires_grad_(), labels))
    child.start()
    try:
        assert queue.get(timeout=120) == (value.item(), gradient.numpy().tobytes())
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()


def test_two_thousand_calls_keep_memory_flat():
    logits, labels = oracle.make("softmax", 2, (64, 64))
    loss = fastloss.DiceCELoss()

    def run(calls):
        for _ in range(calls):
            oracle.gradient(lambda z: loss(z, labels), logits)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = run(200)
    assert run(2000) - before < 4096  # KiB


def test_processes_racing_on_a_cold_kernel_cache(tmp_path):
    script = textwrap.dedent("""
        import torch, fastloss
        z = torch.zeros(1, 2, 8, requires_grad=True)
        loss = fastloss.DiceLoss()(z, torch.zeros(1, 8, dtype=torch.uint8))
        loss.backward()
        print(round(loss.item(), 3))
    """)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate(timeout=300)[0].strip() for run in runs] == ["0.667", "0.667"]


# Back ends


def test_forced_back_end_that_cannot_run_raises():
    message = "backend: got 'cuda', expected one of reference, numba, triton"
    with pytest.raises(ValueError, match=message), fastloss.backend("cuda"):
        pass
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch, fastloss\nfastloss.DiceLoss()(torch.zeros(1, 2, 4), torch.zeros(1, 4, dtype=torch.uint8))",
        ],
        env={**os.environ, "TRITON_INTERPRET": "0", "FASTLOSS_BACKEND": "triton"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ValueError: backend: 'triton' is forced and cannot run" in done.stderr


def test_falls_back_to_the_reference_with_one_warning():
    script = textwrap.dedent("""
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        sys.modules["numba"] = None
        import torch, fastloss
        for _ in range(3):
            fastloss.DiceLoss()(torch.zeros(1, 2, 4), torch.zeros(1, 4, dtype=torch.uint8))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("using the reference back end") == 1


def test_a_device_without_kernels_is_named_once_and_a_forced_reference_never(monkeypatch, caplog):
    monkeypatch.setattr(backends, "_chosen", {})
    for forced in ("reference", "", ""):
        assert backends.choose(forced, torch.device("meta")).__name__ == "fastloss.kernels.reference.sums"
        assert len(caplog.records) == (not forced)
    (record,) = caplog.records
    assert "using the reference back end on meta (slow): no kernels for meta devices" in record.message
