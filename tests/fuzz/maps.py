"""Label maps, computed beforehand, cached or not, against the loss that computes its own; and those against SciPy."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

import fastloss
from fastloss.precompute import LabelMaps

from .inputs import Form, forms, has_bad_labels, in_few_threads, make
from .run import Kind

__all__ = ["KINDS", "Case", "Form", "check"]

LOSSES = ("BoundaryLoss", "HausdorffDTLoss", "DistancePenaltyLoss", "ShapeAwareLoss")


@dataclass(frozen=True)
class Case:
    loss: str
    activation: str
    channels: int
    dense: str
    spacing: tuple[float, float, float] | float | None
    cache: bool
    arrays: bool  # NumPy labels
    form: Form


@st.composite
def draw(draw):
    size = st.sampled_from([0.7, 1.3, 2.1, 1.0])
    dense = draw(st.sampled_from(["", "", "soft"]))
    activation = draw(st.sampled_from(["softmax", "sigmoid"]))
    return Case(
        loss=draw(st.sampled_from(LOSSES)),
        activation=activation,
        channels=draw(st.sampled_from([2, 3, 5] if activation == "softmax" else [1, 2, 3])),
        dense=dense,
        spacing=draw(st.one_of(st.none(), size, st.tuples(size, size, size))),
        cache=draw(st.sampled_from([False, False, True])),
        arrays=draw(st.booleans()),
        form=replace(draw(forms(400, dense)), axis=not dense),  # [1, 1, X] without it could be of one axis or of two
    )


@in_few_threads
def check(case):
    v = make(case.form, case.activation, case.channels, torch.float32, case.dense)
    axes = len(case.form.space)
    spacing = case.spacing[:axes] if isinstance(case.spacing, tuple) else case.spacing
    bad = not case.dense and has_bad_labels(v, case.channels)
    options = {"ignore_index": v.ignore} if v.ignore else {}
    loss = getattr(fastloss, case.loss)(
        activation=case.activation, spacing=spacing, validate=False if bad else None, **options
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.nii"
        transform = LabelMaps(loss, case.channels, cache=(lambda sample: path) if case.cache else None)
        maps = []
        for labels in v.target if v.target.dtype != torch.bfloat16 else v.target.float():
            sample = {"label": labels.numpy() if case.arrays else labels}
            found = transform(sample)["maps"]
            if case.cache:
                assert torch.equal(transform(sample)["maps"], found), "the cache gives another map"
            maps.append(found)
        files = len(list(Path(folder).iterdir()))
        assert files == (len({labels.numpy().tobytes() for labels in v.target}) if case.cache else 0) or case.dense
    known = torch.stack(maps) if maps else None
    expected = loss(v.logits, v.target, **v.arguments())
    if known is not None:
        found = loss(v.logits, v.target, maps=known, **v.arguments())
        if case.loss == "HausdorffDTLoss":  # squares of distances that were rounded before
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(found, expected), f"with maps {found.item()}, without {expected.item()}"
        np.testing.assert_array_equal(known, loss.label_map(v.target, case.channels))


KINDS = [Kind("maps", lambda random: draw(), check, share=1, per_round=1000)]
