"""Every loss with random options, and compounds, against their voxel-by-voxel versions in float64."""

from dataclasses import dataclass, field

import oracle
import plain
import torch
from hypothesis import strategies as st
from rows import Row, loss_class, options_of

import fastloss

from .inputs import (
    DTYPES,
    Form,
    Plan,
    agree,
    channel_counts,
    forms,
    has_bad_labels,
    in_few_threads,
    make,
    value_and_gradient,
)
from .run import Kind

__all__ = ["KINDS", "Case", "Form", "Losses", "Part", "check", "torch"]

_SMOOTH = {"smooth": (1e-5, 0.1, 1.0, (0.1, 0.3))}
_OVERLAP = {**_SMOOTH, "soft_label": (False, True)}
_FOCAL = {"gamma": (0.0, 0.5, 1.0, 2.0, 3.5), "alpha": (None, 0.25)}
_TABLE = {"include_background": (True, False), "batch": (False, True), "class_weight": (None, "channels")}
_VOXEL = {"class_weight": (None, "channels")}
_DICE = {**_TABLE, **_SMOOTH, "squared": (False, True)}
_TOPK = {"k": (0.1, 0.5, 1.0), "count_ignored": (False, True), "label_smoothing": (0.0, 0.2)}
_SPACING = {"spacing": (None, (0.7, 1.3, 2.1), (3.0, 1.0, 0.5))}
# "channels": one number for each channel
OPTIONS = {
    "cross_entropy": {**_VOXEL, "label_smoothing": (0.0, 0.1, 1.0)},
    "weighted_cross_entropy": {**_VOXEL, "beta": ("channels",)},
    "balanced_cross_entropy": _VOXEL,
    "focal": {**_VOXEL, **_FOCAL},
    "poly": {**_VOXEL, "epsilon": (1.0, -0.5, 2.0)},
    "dice": _DICE,
    "jaccard": {**_TABLE, **_OVERLAP},
    "tversky": {**_TABLE, **_OVERLAP, "alpha": (0.3, 1.0), "beta": (0.7, 0.1)},
    "focal_tversky": {**_TABLE, **_OVERLAP, "gamma": (0.75, 4 / 3, 3.0)},
    "log_cosh_dice": _DICE,
    "generalized_dice": {**_TABLE, **_OVERLAP, "weighting": ("square", "simple", "uniform")},
    "sensitivity_specificity": {**_TABLE, "smooth": _SMOOTH["smooth"][:3], "sensitivity_weight": (0.5, 0.05)},
    "mcc": {**_TABLE, **_SMOOTH},
    "dice_ce": {**_DICE, "label_smoothing": (0.0, 0.2), "dice_weight": (1.0, 0.5), "ce_weight": (1.0, 2.0)},
    "dice_focal": {**_DICE, **_FOCAL, "focal_weight": (1.0, 3.0)},
    "combo": {**_DICE, "alpha": (0.5, 0.2), "beta": (0.5, 0.9)},
    "exp_log": {**_DICE, "gamma": (0.3, 1.0, [0.5, 1.5]), "class_frequency": (None, "shares")},
    "unified_focal": {
        **_SMOOTH,
        **_VOXEL,
        "batch": (False, True),
        "weight": (0.5, 0.2),
        "delta": (0.6, 0.8),
        "gamma": (0.5, 0.2),
        "symmetric": (False, True),
    },
    "topk": {**_TOPK, "class_weight": (None, "channels")},
    "dice_topk": {**_DICE, **_TOPK},
    "lovasz": {
        "per_sample": (False, True),
        "classes": ("present", "all"),
        "class_weight": (None, "channels"),
        "include_background": (True, False),
    },
    "boundary": {**_TABLE, **_SPACING},
    "hausdorff_dt": {**_TABLE, **_SPACING, "alpha": (2.0, 1.5, 1.0), "one_sided": (False, True)},
    "distance_penalty": {**_VOXEL, **_SPACING},
    "shape_aware": {**_VOXEL, **_SPACING},
    "hausdorff_erosion": {**_TABLE, "alpha": (2.0, 0.0, 1.5), "erosions": (1, 3, 5)},
    "hausdorff_conv": {**_TABLE, "alpha": (2.0, 0.5), "radii": ((1,), (2, 1), (1, 3)), "hard": (False, True)},
    "structural_similarity": {
        **_VOXEL,
        "window": (3, 5),
        "sigma": (1.5, 0.8),
        "threshold": (0.1, 0.3),
        "ce_weight": (0.5, 0.1),
    },
    "soft_cldice": {**_TABLE, "smooth": (1.0, 0.1), "iterations": (0, 1, 3)},
    "soft_dice_cldice": {**_TABLE, "smooth": (1.0, 0.1), "iterations": (0, 2), "cldice_weight": (0.5, 0.3)},
}
assert set(OPTIONS) == set(plain.KNOWN)
ON_SUMS = [name for name in OPTIONS if name not in {*plain.RANKED, *plain.STENCILS, *plain.DISTANCES, "dice_topk"}]


@dataclass(frozen=True)
class Part:
    """A loss of a name, its options, and its weight in a compound."""

    name: str
    options: dict = field(default_factory=dict)
    weight: float = 1.0

    @property
    def row(self):
        return Row(self.name)


@dataclass(frozen=True)
class Losses(Plan):
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Case:
    plan: Losses
    form: Form


def plan_of(random, backend):
    """A loss, or in a third of the cases a compound of several."""

    def pick(choices):
        return choices[random.integers(len(choices))]

    activation = pick(("softmax", "softmax", "sigmoid", None))
    dense = pick(("", "", "", "soft", "bool", "one_hot"))
    channels = pick(channel_counts(activation, backend))
    if channels == 1 and dense in ("bool", "one_hot"):
        dense = ""  # which of one channel would be labels
    compound = random.random() < 1 / 3
    parts = [_part(random, name, channels, dense) for name in random.choice(ON_SUMS if compound else list(OPTIONS), 4)]
    parts = parts[: random.integers(2, 5)] if compound else parts[:1]
    if parts[0].name not in ON_SUMS and channels > 8:  # whose plain versions go from class to class
        channels, parts = 5, [_part(random, parts[0].name, 5, dense)]
    if parts[0].name == "lovasz" and dense == "soft":
        dense = "bool" if channels > 1 else ""
    return Losses(activation, channels, pick(DTYPES), dense, backend, tuple(parts))


def _part(random, name, channels, dense):
    options = {}
    for option, choices in OPTIONS[name].items():
        chosen = choices[random.integers(len(choices))]
        if chosen == "channels":
            chosen = [round(float(x), 2) for x in 0.1 + 2 * random.random(channels)]
        elif chosen == "shares":
            chosen = [round(float(x), 3) for x in 0.05 + 0.9 * random.random(channels)]
        if random.random() < 0.6 or option in ("beta", "radii"):  # those of the default take minutes
            options[option] = chosen
    if name == "sensitivity_specificity" and dense != "soft" and random.random() < 0.5:
        options["variant"] = "squared_error"
    if "squared" in OPTIONS[name] and not options.get("squared") and random.random() < 0.4:
        options["soft_label"] = True
    if name == "sensitivity_specificity" and "variant" in options:
        options.pop("smooth", None)  # of a pair, the numerator's has no meaning there
    if name == "poly" and random.random() < 0.5:
        options |= {"base": "focal", "gamma": float(random.choice([0.0, 1.5])), "alpha": None}
    return Part(str(name), options, round(float(0.1 + random.random()), 2))


def cases(backend, plans, most):
    def of_round(random):
        chosen = [plan_of(random, backend) for _ in range(plans)]
        return st.sampled_from(chosen).flatmap(
            lambda plan: st.builds(Case, st.just(plan), forms(_most(plan, most), plan.dense))
        )

    return of_round


def _most(plan, most):
    """Voxels of a sample that the plain versions take quickly."""
    names = {part.name for part in plan.parts}
    if names & {"lovasz", *plain.STENCILS}:  # from voxel to voxel; float64 convolutions
        return 48
    return max(8, (400 if names & set(plain.DISTANCES) else most) // plan.channels)


def with_axes(options, axes):
    """Spacings are those of the last axes."""
    spacing = options.get("spacing")
    return options | {"spacing": spacing[:axes]} if spacing else options


def build(plan, axes, **common):
    losses = [
        loss_class(part.name)(activation=plan.activation, **common, **with_axes(part.options, axes))
        for part in plan.parts
    ]
    return losses[0] if len(losses) == 1 else fastloss.CompoundLoss(losses, [part.weight for part in plan.parts])


def has_one_table(loss):
    """Whether it is reduced from values of samples and classes, rather than a sum of several such."""
    several = isinstance(loss, (fastloss.CompoundLoss, fastloss.DiceTopKLoss))
    return not several and "reduction" in options_of(type(loss))


@in_few_threads
def check(case):
    plan, form = case.plan, case.form
    axes, dtype = len(form.space), plan.dtype
    v = make(form, plan.activation, plan.channels, dtype, plan.dense)
    common = {"ignore_index": v.ignore} if v.ignore else {}
    with fastloss.backend(plan.backend):
        if not plan.dense and has_bad_labels(v, plan.channels):
            try:
                build(plan, axes, **common)(v.logits, v.target, **v.arguments())
            except ValueError as error:
                assert "target: label" in str(error), error
            else:
                raise AssertionError("a label that is no class gives no error")
            common["validate"] = False
        loss = build(plan, axes, **common)
        found = value_and_gradient(lambda z: loss(z, v.target, **v.arguments()), v.logits)
        if form.layouts[0] not in ("contiguous", "expanded") and plan.backend != "reference":
            again = value_and_gradient(lambda z: loss(z, v.target, **v.arguments()), v.logits.contiguous())
            assert torch.equal(again[0], found[0]), "another layout, another value"
            assert torch.equal(again[1].nan_to_num(), found[1].nan_to_num()), "another layout, another gradient"
        if "validate" not in common and form.seed % 4 == 0:
            checked = build(plan, axes, validate=True, **common)(v.logits, v.target, **v.arguments())
            assert torch.equal(checked, found[0]), "another value where all is validated"
        if form.seed % 4 == 1 and has_one_table(loss):
            kinds = [build(plan, axes, reduction=kind, **common) for kind in ("sum", "none")]
            total, table = (loss(v.logits, v.target, **v.arguments()) for loss in kinds)
            torch.testing.assert_close(total, table.sum(), rtol=1e-5, atol=1e-6)
    assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found[1].dtype == dtype and found[1].shape == v.logits.shape
    assert not found[1][(v.weight == 0).unsqueeze(1).expand_as(found[1])].any(), "a gradient where nothing counts"
    if not v.weight.any():
        assert not found[0].any(), f"nothing counts, value {found[0]}"
        return
    if not v.weight.flatten(1).any(1).all():  # plain versions divide by what a sample counts
        assert found[0].isfinite().all() and found[1].isfinite().all(), "not finite"
        return

    def of_plain(z):
        total = 0
        for part in plan.parts:
            options = with_axes(part.options, axes)
            value = part.row.plain(z, v.y, plan.activation, v.weight, **options)
            total = total + (part.weight if len(plan.parts) > 1 else 1.0) * value
        return total

    agree(found, lambda z: oracle.gradient(of_plain, z), v.clean, dtype)


KINDS = [
    Kind("losses", cases("numba", 6, 20000), check, share=4, per_round=900),
    Kind("losses of the reference", cases("reference", 30, 4000), check, share=1, per_round=600),
    Kind("losses on Triton", cases("triton", 20, 300), check, share=2, per_round=60, limit_s=300),
]
