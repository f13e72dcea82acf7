"""The Triton kernel of labels at another resolution: in the interpreter, for each dtype and for wide voxel numbers. The
code that is compiled for GPUs is looked at with that of the other kernels (``test_gpu_compiled.py``)."""

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

import triton.language as tl
from fastloss.kernels.gpu import resample as gpu
from fastloss.kernels.reference import resample as reference

from bench.kernels.resample import CASES, problem


@pytest.mark.parametrize(("dtype", "labels"), [*CASES, (torch.float16, torch.int16)])
@pytest.mark.parametrize("wide", [False, True])
def test_labels(dtype, labels, wide):
    logits, axes, found = problem(dtype, labels)
    logits[2, 1, 2, 3] = torch.nan
    logits[1] = logits[0]  # equal classes
    room = torch.full((found.numel() + 512,), 9, dtype=found.dtype)
    found = room[256:-256].view(found.shape)
    launch = gpu.resample_launch(logits, axes, found)
    if wide:
        launch.constants["INDEX"] = tl.int64
    launch.run()
    wanted = torch.zeros_like(found)
    reference.write_labels(logits if dtype == torch.float64 else logits.float(), axes, wanted)
    assert torch.equal(found, wanted) and (found == 2).any() and not (found == 1).any()
    assert (room[:256] == 9).all() and (room[-256:] == 9).all()


def test_voxel_numbers_are_as_wide_as_they_must_be():
    logits, axes, _ = problem(torch.float32, torch.uint8)
    for numbers, index in ((2**31 - 256, tl.int64), (2**31 - 257, tl.int32)):
        volume = torch.zeros(1, dtype=torch.uint8).expand(1, 1, numbers)
        assert gpu.resample_launch(logits, axes, volume).constants["INDEX"] == index
        of_many = torch.zeros(1).expand(1, 1, 1, numbers)
        assert gpu.resample_launch(of_many, axes, volume[..., :9]).constants["INDEX"] == index


def test_nothing_to_fill():
    logits, axes, _ = problem(torch.float32, torch.uint8)
    gpu.write_labels(logits, axes, torch.zeros(6, 9, 0, dtype=torch.uint8))
