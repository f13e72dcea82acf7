"""Sums of random products of powers, and losses of a user's own on them, against plain formulas in float64."""

from dataclasses import dataclass
from types import SimpleNamespace

import hypothesis
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import agree, several

import fastloss
from fastloss.terms import Term

from .inputs import DTYPES, TOLERANCES, Form, Plan, channel_counts, forms, in_few_threads, make, restride
from .run import SETTINGS, Kind

__all__ = ["KINDS", "Case", "Form", "Products", "Term", "check", "torch"]

# of the sums, and of the gradient (as the tests of products have it; half precision: rounding where it is stored)
OF_SUMS = {torch.float64: (2e-12, 1e-10), torch.float32: (2e-6, 1e-5)}


@dataclass(frozen=True)
class Products(Plan):
    terms: tuple[Term, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    plan: Products
    form: Form
    map_channels: bool
    map_layout: str


@st.composite
def plans(draw, backend):
    activation = draw(st.sampled_from(["softmax", "softmax", "sigmoid", None]))
    terms, names = draw(several(activation, 4))
    channels = draw(st.sampled_from(channel_counts(activation, backend)))
    dense = draw(st.sampled_from(["", "", "soft", "bool", "one_hot"] if channels > 1 else ["", "soft"]))
    return Products(activation, channels, draw(st.sampled_from(DTYPES)), dense, backend, terms, names)


def cases(backend, count, most, scales=(0.1, 2.0, 10.0, 40.0)):
    """Every round has a few plans, of which each serves many inputs."""

    def of_round(random):
        several = st.lists(plans(backend), min_size=count, max_size=count)
        chosen = _example(several, int(random.integers(2**31)))
        return st.sampled_from(chosen).flatmap(
            lambda plan: st.builds(
                Case,
                st.just(plan),
                forms(max(8, most // plan.channels), plan.dense, scales if plan.activation else (0.1, 1.0, 3.0)),
                st.booleans(),
                st.sampled_from(["contiguous", "last", "sliced", "reversed", "offset"]),
            )
        )

    return of_round


def _example(strategy, seed):
    """One value of a strategy, the same for the same seed."""
    found = []

    @hypothesis.seed(seed)
    @settings(SETTINGS, max_examples=2)
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    return found[-1]


@in_few_threads
def check(case):
    plan, form = case.plan, case.form
    v = make(form, plan.activation, plan.channels, plan.dtype, plan.dense)
    random = torch.Generator().manual_seed(form.seed + 1)
    shape = tuple(v.logits.shape)
    map_shape = shape if case.map_channels else (shape[0], 1, *shape[2:])
    weight_map = restride(torch.rand(map_shape, generator=random), case.map_layout)
    coefficients = torch.randn(*shape[:2], len(plan.terms), generator=random, dtype=torch.float64)
    of_call = v.arguments() | ({"weight_map": weight_map} if any(term.mapped for term in plan.terms) else {})
    common = {"activation": plan.activation, "validate": False} | ({"ignore_index": v.ignore} if v.ignore else {})

    def ours(z):
        return fastloss.voxel_sums(z, v.target, plan.names, **common, **of_call)

    given = SimpleNamespace(logits=v.logits, y=v.y, weight=v.weight, weight_map=weight_map, coefficients=coefficients)
    tolerances = OF_SUMS.get(plan.dtype, (2e-6, TOLERANCES[plan.dtype][1]))
    with fastloss.backend(plan.backend):
        if not v.logits.numel():
            assert not ours(v.logits).any()
            return
        found = agree(ours, plan.terms, plan.activation, given, tolerances)
        assert not found[1][(v.weight == 0).unsqueeze(1).expand_as(found[1])].any(), "a gradient where nothing counts"

        class Own(fastloss.SumLoss):
            terms = plan.names

            def from_sums(self, sums):
                return sum((sums[name] * c).sum() for name, c in zip(plan.names, coefficients.unbind(-1), strict=True))

        loss = Own(**common)(v.logits, v.target, **of_call)
        expected = (found[0] * coefficients).sum()
        scale = (found[0] * coefficients).abs().sum()
        assert (loss - expected).abs() <= 1e-6 * scale, "a loss of these sums is another number"
        terms, per_class = dict(zip(plan.names, coefficients.unbind(-1), strict=True)), bool(form.seed % 2)
        losses = fastloss.voxel_losses(v.logits, v.target, terms, per_class=per_class, **common, **of_call)
        error = (losses.sum(dtype=torch.float64) - expected).abs()
        assert error <= 1e-5 * scale, f"the losses of the voxels add up to another number, off by {error:.1e}"
        assert not losses.movedim(1, -1)[v.weight == 0].any() if per_class else not losses[v.weight == 0].any()


KINDS = [
    Kind("products", cases("numba", 6, 20000), check, share=4, per_round=900),
    Kind("products of the reference", cases("reference", 30, 4000), check, share=1, per_round=600),
    Kind("products on Triton", cases("triton", 20, 300), check, share=2, per_round=60, limit_s=300),
]
