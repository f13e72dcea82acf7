import copy
import functools
import importlib.metadata
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import timeit
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fastloss
from fastloss.accelerate.fused import dtype_of

L = pytest.importorskip("monai.losses")

LOGITS = torch.randn(2, 3, 4, 5)
LABELS = torch.randint(0, 3, (2, 1, 4, 5))
SEVEN = (
    "DiceLoss",
    "GeneralizedDiceLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "GeneralizedDiceFocalLoss",
    "FocalLoss",
    "TverskyLoss",
)


@pytest.fixture(autouse=True)
def plain():
    """Each test begins and ends with the peers' own functions; without kernels, whose numbers other tests check."""
    before = L.DiceLoss.forward, F.cross_entropy
    with fastloss.backend("reference"):
        yield
    assert (L.DiceLoss.forward, F.cross_entropy) == before


def dice(**options):
    return L.DiceLoss(softmax=True, to_onehot_y=True, **options)


def test_holds_until_undone_and_reports():
    original, loss = L.DiceLoss.forward, dice()
    expected = loss(LOGITS, LABELS)
    handle = fastloss.accelerate("monai")
    try:
        assert L.DiceLoss.forward is not original and L.DiceLoss.forward.__wrapped__ is original
        torch.testing.assert_close(loss(LOGITS, LABELS), expected)
        loss(LOGITS, LABELS.float().requires_grad_())
        report = handle.report()
        assert report["DiceLoss"] == (1, {"target requires a gradient": 1})
        assert "DiceLoss: fused 1, passed on 1 (target requires a gradient 1)" in str(report)
        assert report["FocalLoss"] == (0, {})
    finally:
        handle.undo()
    assert L.DiceLoss.forward is original
    loss(LOGITS, LABELS)
    handle.undo()
    assert handle.report() == report


def test_block_and_nesting():
    original, loss = L.DiceLoss.forward, dice()
    with fastloss.accelerate("monai") as outer:
        wrapper = L.DiceLoss.forward
        with fastloss.accelerate("monai", "torch") as inner:
            assert L.DiceLoss.forward is wrapper
            loss(LOGITS, LABELS)
        assert L.DiceLoss.forward is wrapper and not hasattr(F.cross_entropy, "__wrapped__")
        loss(LOGITS, LABELS)
    assert L.DiceLoss.forward is original
    assert outer.report()["DiceLoss"].fused == 2 and inner.report()["DiceLoss"].fused == 1
    with pytest.raises(RuntimeError, match="within"), fastloss.accelerate("monai"):
        raise RuntimeError("within")


def test_decorator_holds_during_calls_alone():
    handle = fastloss.accelerate("monai")

    @handle
    def step(depth):
        dice()(LOGITS, LABELS)
        assert hasattr(L.DiceLoss.forward, "__wrapped__")
        if depth:
            step(depth - 1)

    assert not hasattr(L.DiceLoss.forward, "__wrapped__")
    step(2)
    assert not hasattr(L.DiceLoss.forward, "__wrapped__")
    dice()(LOGITS, LABELS)
    step(0)
    assert handle.report()["DiceLoss"].fused == 4


def test_what_was_captured_meanwhile_calls_the_original():
    with fastloss.accelerate("monai") as handle:
        loss = dice()
        forward = loss.forward
        forward(LOGITS, LABELS)
    expected = loss(LOGITS, LABELS)
    assert torch.equal(forward(LOGITS, LABELS), expected)
    assert handle.report()["DiceLoss"].fused == 1


def test_a_wrapper_on_top_stays():
    original = L.DiceLoss.forward
    handle = fastloss.accelerate("monai")
    ours = L.DiceLoss.forward

    @functools.wraps(ours)
    def theirs(*args):
        return 2 * ours(*args)

    try:
        L.DiceLoss.forward = theirs
        handle.undo()
        assert L.DiceLoss.forward is theirs
        assert torch.equal(dice()(LOGITS, LABELS), 2 * original(dice(), LOGITS, LABELS))
    finally:
        L.DiceLoss.forward = original


def test_functions_in_all_modules(monkeypatch):
    module = types.ModuleType("user_of_cross_entropy")
    module.ce = original = F.cross_entropy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with fastloss.accelerate("torch") as handle:
        module.ce(LOGITS, LABELS[:, 0])
        torch.nn.CrossEntropyLoss()(LOGITS, LABELS[:, 0])
        assert pickle.loads(pickle.dumps(F.cross_entropy)) is F.cross_entropy
    assert module.ce is F.cross_entropy is original
    assert handle.report()["cross_entropy"].fused == 2


def test_objects_are_the_peers():
    before = dice(weight=[0.5, 1.0, 2.0])
    state, pickled = before.state_dict(), pickle.dumps(before)
    with fastloss.accelerate("monai"):
        after = dice(weight=[0.5, 1.0, 2.0])
        assert after.state_dict().keys() == state.keys() and vars(after).keys() == vars(before).keys()
        after.load_state_dict(state)
        assert type(pickle.loads(pickled)) is type(copy.deepcopy(after)) is L.DiceLoss
        torch.testing.assert_close(copy.deepcopy(after)(LOGITS, LABELS), pickle.loads(pickled)(LOGITS, LABELS))
        assert pickle.loads(pickle.dumps(L.DiceLoss.forward)) is L.DiceLoss.forward
        assert L.DiceLoss.forward.__name__ == "forward" and L.DiceLoss.forward.__module__ == "monai.losses.dice"


class HalfDice(L.DiceLoss):
    def forward(self, input, target):
        return super().forward(input, target) / 2


class OwnEntropy(L.DiceCELoss):
    def ce(self, input, target):
        return super().ce(input, target) * 3


@pytest.mark.parametrize("cls, name, fused", [(HalfDice, "DiceLoss", 1), (OwnEntropy, "DiceCELoss", 0)])
def test_subclasses(cls, name, fused):
    loss = cls(softmax=True, to_onehot_y=True)
    expected = loss(LOGITS, LABELS)
    with fastloss.accelerate("monai") as handle:
        torch.testing.assert_close(loss(LOGITS, LABELS), expected)
    assert handle.report()[name].fused == fused


def test_hooks_of_parts_run():
    loss = L.DiceCELoss(softmax=True, to_onehot_y=True)
    loss.dice.register_forward_hook(lambda module, args, value: 10 * value)
    expected = loss(LOGITS, LABELS)
    with fastloss.accelerate("monai"):
        torch.testing.assert_close(loss(LOGITS, LABELS), expected)


@pytest.mark.parametrize("name", SEVEN)
def test_script(name):
    """torch.jit.script reads the peer's own source."""
    loss = getattr(L, name)(to_onehot_y=True)
    expected = torch.jit.script(loss)(LOGITS, LABELS)
    with fastloss.accelerate("monai", "torch"):
        scripted = torch.jit.script(loss)
    torch.testing.assert_close(scripted(LOGITS, LABELS), expected)


@pytest.mark.parametrize("peer", ["monai", "torch"])
def test_compiles_in_one_graph(peer):
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    loss = L.DiceCELoss(softmax=True, to_onehot_y=True) if peer == "monai" else torch.nn.CrossEntropyLoss()
    labels = LABELS if peer == "monai" else LABELS[:, 0]
    weight = torch.ones(3, 3, requires_grad=True)

    def step(logits):
        value = loss(torch.einsum("bcij,dc->bdij", logits, weight), labels)
        value.backward()
        return value.detach()

    expected, weight.grad = (step(LOGITS), weight.grad), None
    with fastloss.accelerate(peer), fastloss.backend("numba"):
        torch._dynamo.reset()
        graphs = []

        def keep(graph, inputs):
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        forward = torch.compile(
            lambda logits: loss(torch.einsum("bcij,dc->bdij", logits, weight), labels),
            backend=aot_autograd(fw_compiler=keep),
            fullgraph=True,
        )
        value = forward(LOGITS)
        value.backward()
    torch.testing.assert_close((value.detach(), weight.grad), expected)
    assert [any("voxel_sums" in str(node.target) for node in graph.graph.nodes) for graph in graphs] == [True, True]


@pytest.mark.filterwarnings("ignore")  # of the tracer, for MONAI's own code
def test_derivatives_that_fused_passes_have_not():
    loss = L.DiceCELoss(softmax=True, to_onehot_y=True)

    def penalty():
        weight = LOGITS.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(weight * weight, LABELS), weight, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    def tangent():
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(LOGITS, torch.randn_like(LOGITS))
            return torch.autograd.forward_ad.unpack_dual(loss(dual, LABELS)).tangent

    def others():
        torch.manual_seed(0)
        by_sample = torch.func.vmap(loss, (0, None))(LOGITS[:, None], LABELS[:1])
        return torch.func.grad(loss)(LOGITS, LABELS), by_sample, tangent()

    expected = penalty(), others()
    with fastloss.accelerate("monai", "torch") as handle:
        torch.testing.assert_close(penalty(), expected[0])
        assert handle.report()["DiceCELoss"].fused == 1
        torch.testing.assert_close(others(), expected[1])
        traced = torch.jit.trace(lambda logits: loss(logits, LABELS), LOGITS, check_trace=False)
    assert handle.report()["DiceCELoss"].fused == 1
    torch.testing.assert_close(traced(LOGITS / 2), loss(LOGITS / 2, LABELS))


def test_wrong_calls_raise_the_peers_errors():
    loss = dice()

    def errors():
        found = []
        bad = LABELS.clone()
        bad[0, 0, 0, 0] = 3
        for args in ((LOGITS,), (LOGITS, LABELS, 3), (LOGITS, LABELS[..., :2]), (LOGITS, bad), (None, LABELS)):
            with pytest.raises(Exception) as error:
                loss(*args)
            found.append((error.type, str(error.value)))
        return found

    expected = errors()
    with fastloss.accelerate("monai"):
        assert errors() == expected


def test_labels_that_no_one_looks_for_are_an_assertion(monkeypatch):
    """On a GPU: so is MONAI's scatter."""
    from fastloss.passes import inputs

    monkeypatch.setattr(inputs, "validation_level", lambda validate, device: 0)
    masked = LABELS.clone()
    masked[0, 0, :2] = 255
    with fastloss.accelerate("monai") as handle:
        dice(ignore_index=255)(LOGITS, masked)
        L.FocalLoss(to_onehot_y=True)(LOGITS, LABELS)
        for loss in (dice(), L.FocalLoss(to_onehot_y=True, use_softmax=True, include_background=False)):
            with pytest.raises(RuntimeError, match="Expected Tensor with single nonzero value"):
                loss(LOGITS, masked)
    assert handle.report()["DiceLoss"] == (1, {}) and handle.report()["FocalLoss"] == (1, {})


def test_a_wrapper_that_is_still_held_calls_the_original():
    with fastloss.accelerate("torch") as handle:
        held = F.cross_entropy
    assert held is not F.cross_entropy
    assert torch.equal(held(LOGITS, LABELS[:, 0]), F.cross_entropy(LOGITS, LABELS[:, 0]))
    assert handle.report()["cross_entropy"] == (0, {})


def test_threads_are_counted():
    loss = dice()
    with fastloss.accelerate("monai") as handle:
        threads = [threading.Thread(target=lambda: [loss(LOGITS, LABELS) for _ in range(25)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert handle.report()["DiceLoss"] == (100, {})


def test_debug_log_says_why(caplog):
    with caplog.at_level(logging.DEBUG, "fastloss"), fastloss.accelerate("monai"):
        dice()(LOGITS, LABELS)
        dice()(LOGITS[..., 0, 0], LABELS[..., 0, 0])
        dice()(LOGITS[..., None, None], LABELS[..., None, None])
    assert [record.message for record in caplog.records] == [
        "fastloss.accelerate: DiceLoss: fused",
        "fastloss.accelerate: DiceLoss: passed on: 0 spatial axes",
        "fastloss.accelerate: DiceLoss: passed on: 4 spatial axes",
    ]


def test_dtypes_are_those_of_autocast():
    half, single, double = (torch.ones(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert dtype_of(half, entropy=True) is (torch.float32 if enabled else torch.bfloat16)
            assert dtype_of(half) is torch.bfloat16 and dtype_of(half, single) is torch.float32
            assert dtype_of(double, entropy=True) is dtype_of(half, double, entropy=True) is torch.float64


def test_overhead_of_a_call_that_is_passed_on():
    logits, labels = torch.randn(8, 5), torch.randint(0, 5, (8,))

    def best():
        run = timeit.Timer(lambda: F.cross_entropy(logits, labels), timer=time.thread_time)
        return min(run.repeat(number=1000, repeat=20)) / 1000

    before = best()
    with fastloss.accelerate("torch"):
        after = best()
    assert after - before < 20e-6  # measured: 5; what else runs on the machine may slow it down


@pytest.mark.parametrize("peers, error", [(("keras",), ValueError), (("monai", 3), ValueError)])
def test_unknown_peers(peers, error):
    with pytest.raises(error, match=r"peers: got .*expected any of torch, monai"):
        fastloss.accelerate(*peers)


def test_a_peer_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(fastloss.accelerate.__init__.__globals__["PEERS"], "smp", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match="'smp' is not installed"):
        fastloss.accelerate("smp")


STARTUP = Path(fastloss.__file__).parent / "accelerate" / "startup"


@pytest.mark.parametrize("door", ["-m fastloss.accelerate", "FASTLOSS_ACCELERATE"])
def test_program_that_cannot_be_edited(door, tmp_path):
    """Its spawned children too; and the environment's own sitecustomize runs."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(STARTUP / "fastloss_accelerate.pth", site)
    own = f"import os, site\nos.environ['OWN'] = 'ran'\nsite.addsitedir({str(site)!r})\n"  # as it is installed
    (tmp_path / "sitecustomize.py").write_text(own)
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, os, sys

        def show():
            import importlib.util
            assert importlib.util.find_spec("monai")  # asks, but does not import
            import torch
            import torch.nn.functional as F
            F.cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
            accelerated = [hasattr(F.cross_entropy, "__wrapped__")]
            import monai.losses
            accelerated.append(hasattr(monai.losses.DiceLoss.forward, "__wrapped__"))
            print(accelerated, os.environ["OWN"], sys.argv[1:], flush=True)

        if __name__ == "__main__":
            assert "torch" not in sys.modules
            show()
            child = multiprocessing.get_context("spawn").Process(target=show)
            child.start()
            child.join()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(script), "--epochs", "3"]
    if door.startswith("-m"):
        command[1:2] = ["-m", "fastloss.accelerate", "--peers", "monai,torch", "--report", "-m", "train"]
    else:
        environment |= {"FASTLOSS_ACCELERATE": "monai,torch", "FASTLOSS_ACCELERATE_REPORT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.splitlines() == ["[True, True] ran ['--epochs', '3']"] * 2, done.stderr
    assert done.stderr.count("cross_entropy: fused 0, passed on 1 (0 spatial axes 1)") == 2, done.stderr


def test_a_start_without_the_variable_costs_nothing(monkeypatch):
    """Python executes the line at each of its starts."""
    monkeypatch.delenv("FASTLOSS_ACCELERATE", raising=False)
    line = (STARTUP / "fastloss_accelerate.pth").read_text()
    assert line.startswith("import ") and line.count("\n") == 1
    assert min(timeit.repeat(lambda: exec(line), number=10, repeat=5)) / 10 < 1e-4


def test_the_line_is_installed():
    distribution = importlib.metadata.distribution("fastloss")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
    if origin != STARTUP.parents[2].as_uri():
        pytest.skip("these sources are not the ones installed")
    assert "fastloss_accelerate.pth" in [file.name for file in distribution.files if len(file.parts) == 1]


@pytest.mark.parametrize(
    "arguments, error", [([], "expected a program"), (["--peers", "keras", "x.py"], "got 'keras'")]
)
def test_door_says_what_is_wrong(arguments, error, monkeypatch, capsys):
    from fastloss.accelerate.__main__ import main

    monkeypatch.setattr(sys, "argv", ["fastloss.accelerate", *arguments])
    monkeypatch.setenv("FASTLOSS_ACCELERATE", "")  # which main() sets for the program, and which is to be put back
    with pytest.raises(SystemExit):
        main()
    assert error in capsys.readouterr().err
