"""The Triton pass that writes what is ranked, or each voxel's loss: in the interpreter, and executed as PTX."""

import os

import pytest
import torch
from rows_of_kernels import executed

from bench.kernels.problems import make_problem

pytest.importorskip("triton")

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")

FAMILIES = [(2, "softmax"), (5, "softmax"), (18, "softmax"), (3, "sigmoid"), (1, "sigmoid"), (17, "none")]


@interpreted
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize(
    ("weights", "dtype", "dense"),
    [
        ("mask", torch.float32, False),
        ("ignore", torch.float64, False),
        ("all", torch.bfloat16, False),
        ("mask", torch.bfloat16, True),
    ],
)
def test_values(channels, activation, weights, dtype, dense):
    from fastloss.kernels.gpu import ranked as gpu_ranked
    from fastloss.kernels.gpu import values as gpu_values
    from fastloss.kernels.reference import ranked as reference_ranked
    from fastloss.kernels.reference.sums import _Voxels

    options = {"all": {}, "ignore": {"ignore": (1, 255)}, "mask": {"mask": "weight"}}[weights]
    problem = make_problem(
        channels, (3, 5, 7), activation, dtype, ("count",), dense=dense,
        target_dtype=torch.bool if dense else torch.int16, **options,
    )  # fmt: skip
    arguments, plan = (problem.target, problem.mask), problem.plan
    exclusive = activation == "softmax" or (activation == "none" and channels > 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6

    def output(channels):
        real = torch.float64 if dtype == torch.float64 else torch.float32
        return torch.full((2, channels, 3, 5, 7), torch.nan, dtype=real)

    wanted, _, weight = reference_ranked.voxel_errors(problem.logits.double(), *arguments, plan)
    launch, found = gpu_values.values_launch(problem.logits, *arguments, plan, output(channels), "errors")
    launch.run()
    counted = (weight != 0).expand_as(found)
    assert (found.double() - wanted)[counted].abs().max() <= tolerance * max(1, wanted.max())
    if activation == "none":
        logits = 6 * problem.logits - 3
        wanted, _, _ = reference_ranked.voxel_errors(logits.double(), *arguments, plan, hinge=True)
        launch, found = gpu_values.values_launch(logits, *arguments, plan, output(channels), "hinges")
        launch.run()
        assert (found.double() - wanted)[counted].abs().max() <= tolerance * wanted.max() and (wanted == 0).any()
    voxels = _Voxels(problem.logits.double(), *arguments, plan)
    squares = voxels.weight * (voxels.p - voxels.y) ** 2
    for what, wanted in (("p", voxels.p * voxels.counted), ("squares", squares)):
        launch, found = gpu_values.values_launch(problem.logits, *arguments, plan, output(channels), what)
        launch.run()
        assert (found.double() - wanted).abs().max() <= tolerance * wanted.max()
    wanted = reference_ranked.voxel_losses(problem.logits.double(), *arguments, plan, exclusive)
    found = output(1 if activation == "softmax" else channels)
    launch, found = gpu_ranked.losses_launch(problem.logits, *arguments, plan, found, exclusive)
    launch.run()
    found = found.double().sum(1, keepdim=True).clamp_min(-1) if wanted.shape != found.shape else found.double()
    assert (found - wanted).abs().max() <= tolerance * wanted.max()


@interpreted
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("channels", "activation"), FAMILIES)
@pytest.mark.parametrize(("dtype", "dense"), [(torch.float64, False), (torch.bfloat16, True)])
def test_losses_of_each_voxel_and_masks_of_each_channel(channels, activation, dtype, dense):
    from fastloss.kernels.gpu import sums as gpu
    from fastloss.kernels.gpu import values as gpu_values
    from fastloss.kernels.reference import sums as reference
    from fastloss.kernels.reference import values as reference_values

    problem = make_problem(
        channels, (3, 5, 7), activation, dtype, ("count", "p2", "ce_pos"), dense=dense, map_channels=1,
        target_dtype=torch.bool if dense else torch.int16, mask="weight" if activation == "softmax" else "channel",
    )  # fmt: skip
    exact, tolerance = problem.doubled(), 1e-11 if dtype == torch.float64 else 1e-6
    for per_class in (False, True):
        found = gpu_values.voxel_losses(problem.grad_sums, *problem[:5], per_class)
        wanted = reference_values.voxel_losses(problem.grad_sums, *exact[:5], per_class)
        assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()
    found, wanted = problem.forward(gpu), exact.forward(reference)
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()
    found, wanted = problem.backward(gpu).double(), exact.backward(reference)
    assert (found - wanted).abs().max() <= max(tolerance, 2**-7 if dtype == torch.bfloat16 else 0) * wanted.abs().max()


def test_compiled_code_gives_the_reference_values_and_moves_every_byte_once():
    rows = executed("ranked")
    assert len(rows) >= 16
    assert {row["name"]: row["error"] for row in rows if not row["error"] <= 2e-6} == {}
    assert {row["name"]: row["moved"] for row in rows if row["moved"] > 1.05} == {}
