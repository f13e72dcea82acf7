import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton kernels run on the CPU; read when Triton is imported

import pytest
import torch
from hypothesis import settings

import fastloss

settings.register_profile("fastloss", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("fastloss")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["reference", "numba", "triton"])
def each_backend(request):
    """Runs the test once with every back end forced."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="Triton is Linux only")
    with fastloss.backend(request.param):
        yield request.param
