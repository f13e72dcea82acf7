"""Every loss with the options that change its formula: what the tests of all losses run over."""

import functools
import inspect
from dataclasses import dataclass, field

import oracle
import plain
import pytest

import fastloss
from fastloss.losses.distribution import VoxelLoss


@dataclass(frozen=True)
class Row:
    """A loss by the name of its plain version, which is its class in snake case."""

    name: str
    options: dict = field(default_factory=dict)
    softmax: dict = field(default_factory=dict)  # options that softmax has besides
    sigmoid: dict = field(default_factory=dict)
    zero_is_special: bool = False  # class 0 is a background unlike the others
    whole_batch: bool = False  # a value of a sample depends on the other samples
    # options under which a softmax of two classes is the sigmoid of their difference
    as_sigmoid: dict | None = field(default_factory=dict)

    @property
    def cls(self):
        return loss_class(self.name)

    @property
    def of_voxels(self):
        """Whether it is a mean over voxels, without the options of a table."""
        return issubclass(self.cls, (VoxelLoss, fastloss.PolyLoss))

    @property
    def has_distances(self):
        return self.cls.makes_map

    def __str__(self):
        return "-".join([self.name, *(f"{key}={option}" for key, option in self.options.items())])

    def __call__(self, activation="softmax", channels=3, **options):
        return self.cls(activation=activation, **(self.all_options(activation, channels) | options))

    def all_options(self, activation, channels):
        classes = activation == "softmax" or (activation is None and channels > 1)
        special = self.softmax if classes else self.sigmoid
        return self.options | {k: v[:channels] if isinstance(v, list) else v for k, v in special.items()}

    def plain(self, logits, target, activation="softmax", voxel_weight=None, **options):
        """The plain version, for labels or a dense target."""
        dense = target.shape == logits.shape
        y = target if dense else oracle.one_hot(target, logits.shape[1])
        weight = oracle.counted(logits[:, 0]) if voxel_weight is None else voxel_weight
        options = self.all_options(activation, logits.shape[1]) | options
        return plain.value(self.name, logits, y, weight, activation, **options)


def loss_class(name):
    """``dice_ce`` names ``DiceCELoss``: the class of that name in snake case."""
    classes = {key.lower(): getattr(fastloss, key) for key in fastloss.__all__ if key.endswith("Loss")}
    return classes.get(name.replace("_", "") + "loss")


@functools.cache
def options_of(cls):
    """The names of all options that a loss takes, those of its parts included."""
    names = {
        parameter.name: None
        for other in (fastloss.SumLoss, *(getattr(fastloss, key) for key in fastloss.__all__ if key.endswith("Loss")))
        for base in other.__mro__
        if issubclass(base, fastloss.SegmentationLoss)
        for parameter in inspect.signature(base.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return [name for name in names if _takes(cls, name)]


def needed(cls):
    """The options that have no default."""
    return {"beta": [1.0, 1.0, 1.0]} if cls is fastloss.WeightedCrossEntropyLoss else {}


def _takes(cls, name):
    try:
        cls(**needed(cls) | {name: object()})
    except (TypeError, ValueError) as error:
        return "unexpected keyword" not in str(error)
    return True


_foreground = {"include_background": False}
LOSSES = [
    Row("cross_entropy"),
    Row("cross_entropy", {"label_smoothing": 0.1}),
    Row("weighted_cross_entropy", {}, {"beta": [2.0] * 20}, {"beta": 2.5}, as_sigmoid=None),
    Row("balanced_cross_entropy"),
    Row("focal"),
    Row("focal", {"gamma": 0.0}),
    Row("focal", {"gamma": 0.5, "alpha": 0.25}, zero_is_special=True),
    Row("focal", {"gamma": 5.0}),
    Row("poly"),
    Row("poly", {"base": "focal", "epsilon": -0.5, "gamma": 1.5}),
    Row("dice", as_sigmoid=_foreground),
    Row("dice", {"squared": True}, as_sigmoid=_foreground),
    Row("dice", {"soft_label": True, "smooth": (0.1, 0.3)}, as_sigmoid=_foreground),
    Row("jaccard", as_sigmoid=_foreground),
    Row("tversky", as_sigmoid=_foreground),
    Row("tversky", {"soft_label": True}, as_sigmoid=_foreground),
    Row("focal_tversky", as_sigmoid=_foreground),
    Row("log_cosh_dice", as_sigmoid=_foreground),
    Row("generalized_dice", as_sigmoid=_foreground),
    Row("generalized_dice", {"weighting": "simple"}, as_sigmoid=_foreground),
    Row("sensitivity_specificity", as_sigmoid=_foreground),
    Row("sensitivity_specificity", {"variant": "squared_error"}, as_sigmoid=_foreground),
    Row("mcc", as_sigmoid=_foreground),
    Row("dice_ce", {"label_smoothing": 0.2}, as_sigmoid=_foreground),
    Row("dice_focal", as_sigmoid=_foreground),
    Row("combo", as_sigmoid=_foreground),
    Row("exp_log", whole_batch=True, as_sigmoid=_foreground),
    Row("unified_focal", zero_is_special=True),
    Row("unified_focal", {"symmetric": True, "gamma": 0.3}, zero_is_special=True),
    Row("boundary", zero_is_special=True),
    Row("hausdorff_dt", zero_is_special=True),
    Row("hausdorff_dt", {"alpha": 1.5, "one_sided": True, "include_background": True}),
    Row("distance_penalty"),
    Row("shape_aware", as_sigmoid=None),
]
_weights = {"class_weight": [1.0, 0.5, 2.0, 0.1] * 5}
# those that rank the voxels have tests of their own
RANKED = [
    Row("topk"),
    Row("topk", {"k": 0.5}),
    Row("topk", {"k": 1.0}),
    Row("dice_topk", {"k": 0.3}),
    Row("dice_topk", {"squared": True, "topk_weight": 0.5}),
    Row("lovasz"),
    Row("lovasz", {"classes": "all"}),
    Row("lovasz", {"per_sample": True}),
    Row("lovasz", {"per_sample": True, "classes": "all"}),
    Row("topk", {"k": 0.3, "count_ignored": True, "label_smoothing": 0.1}, _weights, _weights),
    Row("dice_topk", {"k": 0.3, "soft_label": True}, _weights, _weights),
]
REGION = [row for row in LOSSES if row.name in plain.TABLES and row.name != "generalized_dice"]
ON_SUMS_ALONE = [row for row in LOSSES if not row.has_distances]
ONE_OF_EACH = list({row.name: row for row in reversed(LOSSES)}.values())[::-1]
_small = {"hausdorff_conv": {"radii": (1, 2)}, "hausdorff_erosion": {"erosions": 3}}
EVERY_CLASS = [
    *ONE_OF_EACH,
    *(Row(name, _small.get(name, {})) for name in ("topk", "dice_topk", "lovasz", *plain.STENCILS)),
]

every_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
ranked_loss = pytest.mark.parametrize("loss", RANKED, ids=str)
region_loss = pytest.mark.parametrize("loss", REGION, ids=str)
one_of_each = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=str)
