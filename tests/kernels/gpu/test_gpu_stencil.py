"""The Triton kernels of the losses on stencils: in the interpreter, and executed as PTX. The code that is compiled for
four targets: ``test_gpu_compiled.py``."""

import os

import pytest
import torch
from rows_of_kernels import executed

from bench.kernels.problems import make_problem

pytest.importorskip("triton")

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
overflows = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SPACES = [(40,), (13, 11), (9, 8, 8)]


def wrong_regions(space, channels=3, activation="softmax", dtype=torch.float64, **options):
    """Errors over large regions, which survive erosions, among others that do not."""
    problem = make_problem(
        channels, space, activation, dtype, (), batch=1, target_dtype=torch.int16, **options
    )  # fmt: skip
    half = problem.target.shape[1] // 2
    problem.target[:, half:] = problem.target[:, half:].clamp_max(1)
    if activation != "none":
        problem.logits[:, 0] += 3
    return problem


def results(backend, problem, iterations=2):
    tensors = (problem.logits, problem.target, problem.mask, problem.plan)
    first = int(problem.logits.shape[1] > 1)
    by_sums = torch.randn(*problem.logits.shape[:2], 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_sums[:, :first] = 0
    return (
        *backend.hausdorff_erosion(*tensors, 1.5, 3, True)[:2],
        *backend.structural_map(*tensors, [0.1, 0.2, 0.4, 0.2, 0.1], 0.1, 0.01, 1e-4)[:2],
        backend.cldice_sums(*tensors, iterations, first)[0],
        backend.cldice_sums_backward(by_sums, *tensors, iterations, first),
        *backend.hausdorff_conv(*tensors, 2.0, [1, 3], False, first)[:2],
    )


@interpreted
@overflows
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(
    ("channels", "activation", "options"),
    [
        (3, "softmax", {"mask": "weight"}),
        (2, "sigmoid", {"mask": "bool", "ignore": (1, 70000)}),
        (1, "none", {}),
    ],
    ids=str,
)
def test_equals_the_reference(space, channels, activation, options):
    from fastloss.kernels.gpu import stencils as gpu_stencil
    from fastloss.kernels.reference import stencils as reference_stencil

    problem = wrong_regions(space, channels, activation, **options)
    pairs = zip(results(gpu_stencil, problem), results(reference_stencil, problem), strict=True)
    for found, wanted in pairs:
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@interpreted
@overflows
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision(dtype):
    from fastloss.kernels.gpu import stencils as gpu_stencil
    from fastloss.kernels.reference import stencils as reference_stencil

    problem = wrong_regions((5, 6, 7), dtype=dtype, mask="weight")
    wanted = results(reference_stencil, problem)
    for found, want in zip(results(gpu_stencil, problem), wanted, strict=True):
        assert found.dtype == want.dtype
        step = 2**-8 if found.dtype == torch.bfloat16 else 2e-5
        torch.testing.assert_close(found.double(), want.double(), rtol=step, atol=step * want.abs().max().item())


@interpreted
@overflows
def test_as_many_classes_at_once_as_fill_a_device(monkeypatch):
    from fastloss.kernels.gpu import stencils as gpu_stencil

    problem = wrong_regions((6, 9), 5)
    together = results(gpu_stencil, problem)
    for voxels in (1, 2 * 6 * 9):
        monkeypatch.setattr(gpu_stencil, "TOGETHER", voxels)
        for found, wanted in zip(results(gpu_stencil, problem), together, strict=True):
            assert torch.equal(found, wanted)


def test_compiled_code_gives_the_reference_values():
    rows = executed("stencils")
    assert len(rows) == 3
    for row in rows:
        assert {"window", "cross_derivative", "gather", "residue_derivatives"} <= set(row["kernels"])
        assert {name: error for name, error in row["errors"].items() if not error <= 5e-6} == {}
