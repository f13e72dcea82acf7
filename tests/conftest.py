import os
from collections import Counter

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton kernels run on the CPU; read when Triton is imported

import pytest
import torch
from hypothesis import Phase, settings
from interpreter import quicken

import fastloss

quicken()
settings.register_profile("fastloss", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("unshrunk", settings.get_profile("fastloss"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("fastloss")


TRITON_TURNS = 11  # of the tests that run on every back end: the interpreter takes a second where others take a blink


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items):
    """Of a test's parameter sets, those that do not come by turns are slow.

    ``@pytest.mark.by_turns(n)`` lets every n-th run; so do, by themselves, the Triton sets of what runs on each back
    end. n has no divisor in common with the number of values of a parameter: so each value has its turn.
    """
    seen = Counter()
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        interpreted, marker = parameters.get("each_backend") == "triton", item.get_closest_marker("by_turns")
        n = TRITON_TURNS if interpreted else marker.args[0] if marker else 1
        if seen[item.function, interpreted] % n:
            item.add_marker(pytest.mark.slow)
        seen[item.function, interpreted] += 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch._dynamo.reset()  # after eight compilations of the code that all losses share it would refuse more


@pytest.fixture(params=["reference", "numba", "triton"])
def each_backend(request):
    """Runs the test once with every back end forced."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="Triton is Linux only")
    with fastloss.backend(request.param):
        yield request.param


@pytest.fixture
def reference():
    """For what lies around the pass over the voxels."""
    with fastloss.backend("reference"):
        yield


@pytest.fixture
def poisoned_memory():
    """torch.empty holds no zeros, but NaN in floats, so that what a kernel forgets to write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
