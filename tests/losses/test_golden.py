"""Float64 values and gradients of an independent oracle, met by every back end."""

import json
import os
from pathlib import Path

import numpy as np
import oracle
import plain
import pytest
import torch
from rows import loss_class

import fastloss

SHARED = Path(os.environ.get("FASTLOSS_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
OWN = Path(__file__).parents[1] / "golden"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


def cases(folder):
    if not (folder / "losses.json").exists():
        reason = f"no golden vectors in {folder}: set FASTLOSS_GOLDEN"
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=reason), id="absent")]
    known = [case for case in json.loads((folder / "losses.json").read_text()) if loss_class(case["loss"])]
    return [pytest.param(folder, case, id=f"{folder.parent.name}-{case['id']}-{case['loss']}") for case in known]


@pytest.fixture(scope="module")
def vectors():
    return {folder: np.load(folder / "losses.npz") for folder in (SHARED, OWN) if (folder / "losses.npz").exists()}


def check(backend, vectors, folder, case, dtype):
    arrays, name = vectors[folder], case["id"]
    loss = loss_class(case["loss"])(activation=case["activation"], ignore_index=case["ignore_index"], **case["options"])
    logits = torch.tensor(arrays[f"{name}.logits"]).to(dtype).requires_grad_()
    with fastloss.backend(backend):
        value = loss(logits, torch.tensor(arrays[f"{name}.labels"]))
        value.backward()
    assert value.dtype == dtype
    assert value.item() == pytest.approx(case["value"], rel=TOLERANCE[dtype])
    expected = torch.tensor(arrays[f"{name}.grad"])
    oracle.assert_close(logits.grad, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("folder", "case"), cases(SHARED) + cases(OWN))
def test_golden(backend, vectors, folder, case, dtype):
    check(backend, vectors, folder, case, dtype)


def interpreted():
    """Every case, by turns in either dtype: Triton's interpreter takes minutes for those in both."""
    for number, case in enumerate(cases(SHARED) + cases(OWN)):
        for turn, dtype in enumerate(TOLERANCE):
            marks = [*case.marks, *([] if number % 2 == turn else [pytest.mark.slow])]
            yield pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}", marks=marks)


@pytest.mark.parametrize(("folder", "case", "dtype"), interpreted())
def test_golden_of_triton(vectors, folder, case, dtype):
    pytest.importorskip("triton", reason="Triton is Linux only")
    check("triton", vectors, folder, case, dtype)


def test_own_vectors_cover_every_loss():
    """A loss without a vector of its own would go untested where the shared ones are absent."""
    held = {case["loss"] for case in json.loads((OWN / "losses.json").read_text())}
    bases = {"Compound", "Segmentation", "Sum", "LovaszHinge"}  # the last is tested beside its authors' steps
    losses = {key.removesuffix("Loss") for key in fastloss.__all__ if key.endswith("Loss")} - bases
    assert losses == {loss_class(name).__name__.removesuffix("Loss") for name in held}


@pytest.mark.parametrize(("folder", "case"), cases(SHARED))
def test_plain_versions_meet_the_vectors_of_another_oracle(vectors, folder, case):
    """What the own vectors are made of."""
    if case is None or case["loss"] not in plain.KNOWN:
        pytest.skip("no plain version")
    arrays, name = vectors[folder], case["id"]
    logits, labels = (torch.tensor(arrays[f"{name}.{what}"]) for what in ("logits", "labels"))
    ignored = () if case["ignore_index"] is None else (case["ignore_index"],)
    y, weight = oracle.one_hot(labels, logits.shape[1]), oracle.counted(labels, ignored)
    value, gradient = oracle.gradient(
        lambda z: plain.value(case["loss"], z, y, weight, case["activation"], **case["options"]), logits.double()
    )
    assert value.item() == pytest.approx(case["value"], rel=1e-12)
    oracle.assert_close(gradient, torch.tensor(arrays[f"{name}.grad"]), 1e-11)
