"""Random products of powers in the Triton back end, right for whatever shares, exponents, activation and target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gpu_interpreter import gpu, reference

from bench.kernels.problems import make_problem
from fastloss.terms import check_terms

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on infinities

EXPONENTS = (0.0, 0.0, 0.0, 0.5, 0.7, 1.0, 1.0, 1.5, 2.0, 3.0)
exponent = st.sampled_from(EXPONENTS)
products = st.builds(
    lambda share, *powers: "*".join([share, *(f"{x}^{power}" for x, power in zip("pqlm", powers, strict=True))]),
    st.sampled_from(["1", "y", "r", "y^2"]), exponent, exponent, exponent, exponent,
)  # fmt: skip


def finite(name, activation):
    try:
        check_terms((name,), activation)
    except ValueError:
        return False
    return True


def saturate(problem):
    """Logits of a scale of 40, so that most probabilities are 0 or 1 to the last digit."""
    return problem._replace(logits=problem.logits * 13 if problem.plan.activation != "none" else problem.logits.round())


@settings(max_examples=25)
@given(
    st.lists(products, min_size=1, max_size=3),
    st.sampled_from([(1, "sigmoid"), (3, "sigmoid"), (2, "none"), (2, "softmax"), (4, "softmax"), (18, "softmax")]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float32, torch.float64]),
    st.sampled_from([{}, {"ignore": (1,), "mask": "weight"}, {"map_channels": 1}]),
)
def test_equals_the_reference(names, family, dense, saturated, dtype, options):
    channels, activation = family
    terms = tuple(name for name in names if finite(name, activation)) or ("y*p*l",)
    target_dtype = torch.float32 if dense else torch.int16
    problem = make_problem(
        channels, (60,), activation, dtype, terms, dense=dense, target_dtype=target_dtype, batch=1, **options
    )
    problem = saturate(problem) if saturated else problem
    # Of a softmax the reference takes 1 - p as a difference, here to a power of no less than 1/2.
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5
    exact = problem.doubled()
    for k, term in enumerate(problem.plan.terms):
        got, want = problem.forward(gpu)[..., k], exact.forward(reference)[..., k]
        assert want.isfinite().all() and (got - want).abs().max() <= tolerance * want.abs().max(), term
    got, want = problem.backward(gpu).double(), exact.backward(reference)
    assert want.isfinite().all() and (got - want).abs().max() <= tolerance * want.abs().max()
