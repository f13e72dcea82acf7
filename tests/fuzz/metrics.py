"""Confusion counts and surface distances against NumPy, SciPy and brute force."""

import math
from dataclasses import dataclass

import numpy as np
import oracle
import torch
from distance_common import SPACINGS
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, generate_binary_structure
from scipy.spatial.distance import cdist

from fastloss.metrics import confusion_counts, surface_distances

from .inputs import restride
from .run import Kind

__all__ = ["KINDS", "Case", "check"]

LAYOUTS = ("contiguous", "last", "sliced", "reversed", "offset", "transposed", "expanded")
LABELS = ("bool", "uint8", "int8", "int16", "int32", "int64", "uint16")


@dataclass(frozen=True)
class Case:
    form: str  # of the prediction: "labels", "softmax", "sigmoid" or "masks"
    batch: int
    classes: int
    space: tuple[int, ...]
    dtypes: tuple[str, str]  # of labels
    layouts: tuple[str, str]
    masks: bool  # whether the target is a mask for each class
    share: float  # of the voxels where prediction and truth may differ
    ignore: tuple[int, ...]
    mask: bool
    background: bool
    spacing: tuple[float, ...] | float | None
    tolerance_mm: float
    seed: int


@st.composite
def draw(draw):
    axes = draw(st.integers(1, 3))
    form = draw(st.sampled_from(["labels", "softmax", "sigmoid", "masks"]))
    classes = draw(st.sampled_from([1, 2, 3, 5] if form in ("sigmoid", "masks") else [2, 3, 4, 7]))
    masks = form != "labels" and classes > 1 and draw(st.booleans())
    sizes = st.one_of(st.sampled_from([0.7, 1.3, 2.1, 1.0, 3.0]), SPACINGS)
    several = st.sampled_from([(), (), (255,), (0,), (1, 255), (-100,)])
    return Case(
        form=form,
        batch=draw(st.sampled_from([1, 1, 2, 0])),
        classes=classes,
        space=draw(st.tuples(*[st.integers(1, 9)] * axes)),
        dtypes=draw(st.tuples(*[st.sampled_from(LABELS)] * 2)),
        layouts=draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 2)),
        masks=masks,
        share=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        ignore=() if masks else draw(several),
        mask=draw(st.booleans()),
        background=draw(st.booleans()),
        spacing=draw(st.one_of(st.none(), sizes, st.tuples(*[sizes] * axes))),
        tolerance_mm=draw(st.sampled_from([0.0, 0.7, 1.0, 2.0])),
        seed=draw(st.integers(0, 2**20)),
    )


def check(case):
    random = torch.Generator().manual_seed(case.seed)
    shape, classes = (case.batch, *case.space), max(2, case.classes)
    truth = torch.randint(0, classes, shape, generator=random)
    truth = truth // 2 if case.seed % 3 == 0 else truth  # some classes are absent
    other = torch.randint(0, classes, shape, generator=random)
    guess = torch.where(torch.rand(shape, generator=random) < case.share, other, truth)
    two = 2 if "bool" in case.dtypes[:2] and case.form == "labels" else classes
    truth, guess = truth % two, guess % two
    counted = torch.rand(shape, generator=random) < 0.8 if case.mask else torch.ones(shape, dtype=torch.bool)
    target, prediction, options = truth, guess, {"include_background": case.background}
    hot = oracle.one_hot(guess, case.classes)
    if case.form == "labels":
        options["classes"] = case.classes
        prediction = guess.unsqueeze(1).to(getattr(torch, case.dtypes[0]))
    elif case.form == "masks":
        prediction = hot
    else:
        noise = torch.rand(hot.shape, generator=random)
        prediction = torch.where(hot, 1 + noise, -1 - noise)
        options["activation"] = case.form
    y = oracle.one_hot(truth, case.classes)
    dtype = getattr(torch, case.dtypes[1]) if two == 2 or case.dtypes[1] != "bool" else torch.uint8
    if case.masks:
        target = y
    else:
        holds = torch.iinfo(dtype) if dtype != torch.bool else None
        for label in case.ignore:
            if holds and holds.min <= label <= holds.max:
                target = torch.where(torch.rand(shape, generator=random) < 0.1, label, target)
        counted = counted & ~sum((target == label for label in case.ignore), torch.zeros(shape, dtype=torch.bool))
        target = target.to(dtype).unsqueeze(1)
        options["ignore_index"] = case.ignore or None
    if case.mask:
        options["mask"] = counted if case.masks else counted | (torch.rand(shape, generator=random) < 0)
    prediction, target = (
        restride(x, layout if layout != "expanded" else "sliced")
        for x, layout in zip((prediction, target), case.layouts, strict=True)
    )
    check_counts(confusion_counts(prediction, target, **options), hot, y, counted, case)
    surfaces = surface_distances(prediction, target, case.spacing, **options)
    first = 0 if case.background or case.classes == 1 else 1
    columns = [(b, c) for b in range(case.batch) for c in range(first, case.classes)]
    metrics = {
        "hausdorff": (surfaces.hausdorff(), lambda to, back: max(to.max(), back.max()), math.inf),
        "hd95": (
            surfaces.hausdorff(95),
            lambda to, back: max(np.percentile(to, 95), np.percentile(back, 95)),
            math.inf,
        ),
        "average": (surfaces.average(), lambda to, back: np.concatenate([to, back]).mean(), math.inf),
        "surface_dice": (
            surfaces.surface_dice(case.tolerance_mm),
            lambda to, back: (np.concatenate([to, back]).astype(np.float32) <= np.float32(case.tolerance_mm)).mean(),
            0.0,
        ),
    }
    for b, c in columns:
        to, back = between(*((x[b, c] & counted[b]).numpy() for x in (hot, y)), case.spacing)
        np.testing.assert_array_equal(np.sort(surfaces.to_target[b][c - first]), np.sort(to).astype(np.float32))
        np.testing.assert_array_equal(np.sort(surfaces.to_prediction[b][c - first]), np.sort(back).astype(np.float32))
        for name, (table, formula, in_one_alone) in metrics.items():
            expected = in_one_alone if to.size or back.size else math.nan
            expected = formula(to, back) if to.size and back.size else expected
            np.testing.assert_allclose(table[b, c - first].item(), expected, rtol=1e-6, err_msg=name)


def check_counts(counts, guess, truth, counted, case):
    w = counted.unsqueeze(1)
    sides = ((guess, truth), (guess, ~truth), (~guess, truth), (~guess, ~truth))
    first = 0 if case.background or case.classes == 1 else 1
    names = ("true_positive", "false_positive", "false_negative", "true_negative")
    for name, (p, y) in zip(names, sides, strict=True):
        assert torch.equal(getattr(counts, name), (w & p & y).flatten(2).sum(2)[:, first:]), name


def between(guess, truth, spacing):
    """Distances from each surface to the other, every voxel with every voxel."""
    cross = generate_binary_structure(guess.ndim, 1)
    sizes = np.full(guess.ndim, 1.0 if spacing is None else spacing)
    here, there = (np.argwhere(mask & ~binary_erosion(mask, cross)) * sizes for mask in (guess, truth))
    if not len(here) or not len(there):
        return np.full(len(here), math.inf), np.full(len(there), math.inf)
    every = cdist(here, there)
    return every.min(1), every.min(0)


KINDS = [Kind("metrics", lambda random: draw(), check, share=2, per_round=2000)]
