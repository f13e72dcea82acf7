"""MONAI's losses as formulas on the sums of fused passes; their options are read from the objects at each call.

Every class has a pass, what is summed, and a value, the formula on its sums, so that compounds share passes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import monai.losses
import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss
from torch import Tensor, nn

from ..losses.spatial.fields import class_masks, fields_of, predicted_masks
from ..passes.inputs import check_inputs
from ..passes.ops import forced_backend
from ..passes.stencil_ops import cldice_sums
from .core import Served, Unserved, attempt, check_tensors, dtype_of, run_pass, run_voxels
from .torch import Entropy, sigmoid_terms, sigmoid_value, softmax_terms, softmax_value

served = Served(MetaTensor)


class Truth(NamedTuple):
    """A target as the passes take it."""

    target: Tensor  # labels [B, 1, *S] of integers or bool, or dense [B, C, *S]
    labels: bool
    hard: bool  # whether it is known to be 0 or 1 everywhere
    dtype: torch.dtype  # that MONAI computes with: float32 for labels, which become one-hot
    mask: Tensor | None = None  # voxels that count, [B, 1, *S]
    ignore_index: int | None = None
    counted: Tensor | None = None  # how many voxels count, [B, 1], where the pass ignores others besides


class Pass(NamedTuple):
    logits: Tensor
    truth: Truth
    terms: tuple[str, ...]
    activation: str | None
    weight_map: Tensor | None = None


def sums_of(*passes: Pass) -> list[dict[str, Tensor]]:
    """The sums of each pass, of one where they differ in nothing but the terms."""
    first = passes[0]
    if all(p.logits is first.logits and p.truth is first.truth and p.activation == first.activation for p in passes):
        return [_run(first._replace(terms=tuple(term for p in passes for term in p.terms)))] * len(passes)
    return [_run(p) for p in passes]


def _run(p: Pass) -> dict[str, Tensor]:
    mask, ignore = p.truth.mask, p.truth.ignore_index
    return run_pass(
        p.logits, p.truth.target, p.terms, p.activation, ignore_index=ignore, mask=mask, weight_map=p.weight_map
    )


# What the classes have in common


def check_single_channel(self: Any, channels: int) -> None:
    """MONAI warns that it ignores these options of a single channel."""
    if channels == 1:
        for name in ("softmax", "pre_softmax", "to_onehot_y"):
            if getattr(self, name, False):
                raise Unserved(f"{name} of one channel")
        if not getattr(self, "include_background", True):
            raise Unserved("include_background=False of one channel")


def truth_of(input: Tensor, target: Tensor, to_onehot_y: bool, ignore_index: int | None = None) -> Truth:
    """The target of a loss whose ``to_onehot_y`` and ``ignore_index`` these are."""
    check_tensors(input, target)
    if to_onehot_y and input.shape[1] > 1:
        if target.shape != (input.shape[0], 1, *input.shape[2:]):
            raise Unserved("labels of another shape")
        truth = Truth(target.int() if target.is_floating_point() else target, True, True, torch.float32)
    else:
        if target.shape != input.shape:
            raise Unserved("a target of another shape")
        known = target.is_floating_point() or target.dtype == torch.bool
        dense = target if known else target.to(torch.promote_types(input.dtype, torch.float32))
        truth = Truth(dense, False, target.dtype == torch.bool, target.dtype)
    return truth if ignore_index is None else _without(truth, target, ignore_index)


def _without(truth: Truth, target: Tensor, ignore_index: int) -> Truth:
    """The truth without the voxels that MONAI's create_ignore_mask leaves out."""
    if not isinstance(ignore_index, int):
        raise Unserved("ignore_index that is no int")
    channels = target.shape[1]
    if channels == 1:
        integers = not (target.is_floating_point() or target.dtype == torch.bool)
        if integers and not torch.iinfo(target.dtype).min <= ignore_index <= torch.iinfo(target.dtype).max:
            raise Unserved("ignore_index beyond the labels' dtype")
        if truth.labels and integers:
            return truth._replace(ignore_index=ignore_index)
        mask, dtype = target != ignore_index, torch.float32
    elif 0 <= ignore_index < channels:
        if target.dtype == torch.bool:
            raise Unserved("ignore_index in a one-hot target of bool")
        channel = target[:, ignore_index : ignore_index + 1]
        require((channel == 0) | (channel == 1), "ignore_index in a soft target")
        mask, dtype = channel == 0, torch.promote_types(target.dtype, torch.float32)
    else:
        mask, dtype = target.sum(1, keepdim=True) > 0, torch.float32
    return truth._replace(mask=mask, dtype=torch.promote_types(truth.dtype, dtype))


_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def require(condition: Tensor, reason: str) -> None:
    """Raises Unserved unless it holds everywhere; not to be known while a graph is traced."""
    if torch.compiler.is_compiling():
        raise Unserved(f"{reason}, within torch.compile")
    if not bool(condition.all()):
        raise Unserved(reason)


def activated(self: Any, input: Tensor, truth: Truth, terms: tuple[str, ...], before: str = "") -> Pass:
    """A pass after the activation that the object asks for; the last step, since it calls the user's ``other_act``."""
    sigmoid, softmax, other = (getattr(self, before + name) for name in ("sigmoid", "softmax", "other_act"))
    if bool(sigmoid) + bool(softmax) + (other is not None) > 1:
        raise Unserved("several activations")
    if input.dtype == torch.float16 and dtype_of(input) == input.dtype and input[:, 0].numel() > 2**15:
        raise Unserved("float16 sums of many voxels")  # which may overflow
    if other is None:
        return Pass(input, truth, terms, "sigmoid" if sigmoid else "softmax" if softmax else None)
    shape = input.shape
    input = other(input)
    if type(input) is not Tensor or input.shape != shape or not input.is_floating_point():
        raise Unserved("other_act with an output of another form")
    return Pass(input, truth, terms, None)


def are_probabilities(p: Pass) -> bool:
    """Whether all values are, after an activation or by a look at them; not to be known while a graph is traced."""
    if p.activation is not None:
        return True
    if torch.compiler.is_compiling():
        raise Unserved("values of any size, within torch.compile")
    return bool(((p.logits >= 0) & (p.logits <= 1)).all())


def overlap_terms(self: Any, truth: Truth, before: str = "") -> tuple[str, str, str]:
    """Intersection, prediction and truth; under ``soft_label`` the intersection is half the difference of the other two
    and ``|p - y|``, which is the same for 0 and 1."""
    if not self.soft_label:
        return "py", "p", "y"
    if not truth.dtype.is_floating_point:
        raise Unserved(f"soft_label with a dense target of {truth.dtype}")
    if not (getattr(self, before + "sigmoid") or getattr(self, before + "softmax")):
        raise Unserved("soft_label without an activation")
    if truth.hard:
        return "py", "p", "y"
    require(truth.target >= 0, "soft_label with a negative target")
    return "d", "p", "y"


def region_sums(self: Any, sums: dict[str, Tensor], names: Sequence[str], dropped: bool = False) -> list[Tensor]:
    """Sums ``[B, C]``, or ``[C]`` over the batch, without those of the background if that is not dropped yet; the first
    of ``|p - y|`` as the intersection that it stands for."""
    columns = slice(None) if self.include_background or dropped else slice(1, None)
    found = [sums[name][:, columns] for name in names]
    if self.batch:
        found = [value.sum(0) for value in found]
    if names[0] == "d":
        found[0] = (found[1] + found[2] - found[0]) / 2
    return found


def reduced(self: Any, table: Tensor, p: Pass, broadcast: bool = True) -> Tensor:
    """The reduction of the object, in the dtype of MONAI's result."""
    if self.reduction == "mean":
        table = table.mean()
    elif self.reduction == "sum":
        table = table.sum()
    elif self.reduction != "none":
        raise Unserved("an unknown reduction")
    elif broadcast:
        table = table.reshape(*table.shape[:2], *[1] * (p.logits.ndim - 2))
    return table.to(_dtype(p))


def _dtype(p: Pass) -> torch.dtype:
    return dtype_of(p.logits, p.logits.new_empty(0, dtype=p.truth.dtype))


# Dice


def dice_pass(self: Any, input: Tensor, truth: Truth, before: str = "") -> Pass:
    check_single_channel(self, input.shape[1])
    if not self.squared_pred:
        return activated(self, input, truth, overlap_terms(self, truth, before), before)
    if not truth.dtype.is_floating_point:
        raise Unserved(f"squared_pred with a dense target of {truth.dtype}")
    return activated(self, input, truth, ("py", "p2", "y2"), before)


def dice_value(self: Any, sums: dict[str, Tensor], p: Pass, dropped: bool = False) -> Tensor:
    """``dropped``: whether the sums are without the background's already."""
    both, predicted, true = region_sums(self, sums, p.terms[:3], dropped)
    share = 1 if self.jaccard else 0.5
    denominator = 2 * (both + share * (predicted - both) + share * (true - both)) + self.smooth_dr
    table = 1 - (2 * both + self.smooth_nr) / denominator
    weight = self.class_weight
    if weight is not None and table.shape[-1] != 1:
        if weight.ndim != 1 or weight.shape[0] != table.shape[-1]:  # MONAI makes a vector of a number at the first call
            raise Unserved("a weight of another shape")
        if not torch.compiler.is_compiling():
            require(weight >= 0, "negative weights")
        table = table * weight.to(table)
    return reduced(self, table, p)


@served(monai.losses.DiceLoss)
def dice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = dice_pass(self, input, truth_of(input, target, self.to_onehot_y, self.ignore_index))
    (sums,) = sums_of(p)
    return dice_value(self, sums, p)


@served(monai.losses.MaskedDiceLoss)
def masked_dice_loss(self: Any, input: Tensor, target: Tensor, mask: Any = None) -> Tensor:
    """A voxel outside the mask has no prediction, and the label 0, which of labels is the background's."""
    if not isinstance(mask, Tensor):
        raise Unserved("no mask")
    check_tensors(input, target)
    check_tensors(input, mask)
    part = self.spatial_weighted
    check_parts((part, monai.losses.MaskedLoss))
    if getattr(part.loss, "__self__", part) is not self or self.sigmoid or self.softmax or self.other_act is not None:
        raise Unserved("parts with options of their own")
    if self.ignore_index is not None:
        raise Unserved("ignore_index")
    if mask.shape[1:] != (1, *input.shape[2:]) or mask.shape[0] not in (1, input.shape[0]):
        raise Unserved("a mask of another shape")
    require((mask == 0) | (mask == 1), "a mask with shares")
    truth = truth_of(input, target, self.to_onehot_y)
    dtype = torch.promote_types(truth.dtype, mask.dtype)
    truth = truth._replace(mask=(mask != 0).expand(input.shape[0], *mask.shape[1:]), dtype=dtype)
    p = dice_pass(self, input, truth, before="pre_")
    if truth.labels:
        p = p._replace(terms=(*p.terms, "count"))
    (sums,) = sums_of(p)
    if truth.labels:
        masked = input[0, 0].numel() - sums["count"][:, :1]
        true = sums[p.terms[2]]
        sums = {**sums, p.terms[2]: torch.cat([true[:, :1] + masked, true[:, 1:]], 1)}
    return dice_value(self, sums, p)


# Generalised Dice


def generalized_dice_pass(self: Any, input: Tensor, truth: Truth) -> Pass:
    check_single_channel(self, input.shape[1])
    return activated(self, input, truth, overlap_terms(self, truth))


def generalized_dice_value(self: Any, sums: dict[str, Tensor], p: Pass) -> Tensor:
    both, predicted, true = region_sums(self, sums, p.terms)
    classes = 0 if self.batch else 1
    weight = self.w_func(true.float())
    absent = torch.isinf(weight)
    weight = torch.where(absent, 0.0, weight)
    weight = weight + absent * (weight.max() if self.batch else weight.amax(1, keepdim=True))
    numerator = 2 * (both * weight).sum(classes, keepdim=True) + self.smooth_nr
    denominator = ((predicted + true) * weight).sum(classes, keepdim=True) + self.smooth_dr
    truth = p.truth._replace(dtype=torch.promote_types(p.truth.dtype, torch.float32))  # that of the weights
    return reduced(self, 1 - numerator / denominator, p._replace(truth=truth))


@served(monai.losses.GeneralizedDiceLoss)
def generalized_dice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = generalized_dice_pass(self, input, truth_of(input, target, self.to_onehot_y))
    (sums,) = sums_of(p)
    return generalized_dice_value(self, sums, p)


# Tversky and the correlation coefficient


@served(monai.losses.TverskyLoss)
def tversky_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_single_channel(self, input.shape[1])
    truth = truth_of(input, target, self.to_onehot_y, self.ignore_index)
    if truth.dtype == torch.bool:
        raise Unserved("a dense target of bool")  # 1 - target is an error
    if truth.dtype in _UNSIGNED:
        require(target <= 1, f"a dense target of {target.dtype} above 1")  # whose 1 - target wraps around
    p = activated(self, input, truth, overlap_terms(self, truth))
    (sums,) = sums_of(p)
    both, predicted, true = region_sums(self, sums, p.terms)
    false = self.alpha * (predicted - both) + self.beta * (true - both)
    return reduced(self, 1 - (both + self.smooth_nr) / (both + false + self.smooth_dr), p, broadcast=False)


@served(getattr(monai.losses, "MCCLoss", None))
def mcc_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_single_channel(self, input.shape[1])
    truth = truth_of(input, target, self.to_onehot_y)
    if truth.dtype == torch.bool:
        raise Unserved("a dense target of bool")
    if not truth.dtype.is_floating_point:
        truth = truth._replace(dtype=torch.get_default_dtype())  # that of 1.0 - target
    p = activated(self, input, truth, ("y*p", "r*q", "r*p", "y*q"))
    if are_probabilities(p):
        (sums,) = sums_of(p)
        tp, tn, fp, fn = region_sums(self, sums, p.terms)
    else:  # a pass takes a negative 1 - p for 0
        p = p._replace(terms=("y*p", "p", "y", "count"))
        (sums,) = sums_of(p)
        tp, predicted, true, voxels = region_sums(self, sums, p.terms)
        fp, fn = predicted - tp, true - tp
        tn = voxels - tp - fp - fn
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    score = 1 - (tp * tn - fp * fn + self.smooth_nr) / (product + self.smooth_dr).sqrt()
    return reduced(self, torch.where((fp == 0) & (fn == 0), 0.0, score), p, broadcast=False)


# Focal


def focal_pass(self: Any, input: Tensor, truth: Truth) -> Pass:
    channels = input.shape[1]
    check_single_channel(self, channels)
    if self.reduction not in ("mean", "sum", "none"):
        raise Unserved("an unknown reduction")
    if not (isinstance(self.gamma, (int, float)) and 0 <= self.gamma < float("inf")):
        raise Unserved("gamma that is no number of at least 0")
    g = float(self.gamma)
    ignoring = truth.mask is not None or truth.ignore_index is not None
    if self.use_softmax:
        if not self.include_background:
            if self.alpha is not None and not isinstance(self.alpha, Tensor):
                raise Unserved("a scalar alpha without the background")
            input, truth = input[:, 1:], _without_background(truth)
        if input.shape[1] == 1:
            raise Unserved("softmax of one channel")
        terms: tuple[str, ...] = (f"focal_pos({g})",)
    else:
        terms = (f"focal_pos({g})", f"focal_neg({g})")
        if not truth.hard:
            if self.reduction == "none" or torch.compiler.is_compiling():
                require((truth.target == 0) | (truth.target == 1), _SOFT)
                truth = truth._replace(hard=True)
            else:
                terms = (*terms, "y", "y2")
    if ignoring and truth.counted is None:
        terms = (*terms, "count")
    return Pass(input, truth, terms, "softmax" if self.use_softmax else "sigmoid")


def _without_background(truth: Truth) -> Truth:
    """For logits without channel 0: labels one less, those of the background ignored, as no term reads their voxels."""
    if not truth.labels:
        return truth._replace(target=truth.target[:, 1:])
    labels, mask = truth.target, truth.mask
    labels = labels.long() if labels.dtype.itemsize > 2 else labels.int()
    if truth.ignore_index is not None:
        mask = labels != truth.ignore_index
    counted = None if mask is None else mask.flatten(1).sum(1, keepdim=True)
    return truth._replace(target=labels - 1, ignore_index=-1, mask=mask, counted=counted)


_SOFT = "a soft target with sigmoid"


def focal_factors(self: Any, like: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """What the losses of a voxel's class and of its other classes are multiplied by, ``[classes]`` or a number."""
    positive = negative = like.new_ones((), dtype=torch.float64)
    alpha = self.alpha
    if isinstance(alpha, Tensor) and alpha.ndim:
        if alpha.shape != (classes,):
            raise Unserved("alpha of another length")
        positive = alpha.to(positive)
    elif alpha is not None:
        alpha = float(alpha)
        positive, negative = positive * alpha, negative * (1 - alpha)
        if self.use_softmax:
            positive = torch.cat([negative.reshape(1), positive.expand(classes - 1)])
    weight = self.class_weight
    if weight is not None:
        weight = torch.as_tensor(weight)
        if weight.ndim and (classes == 1 or weight.shape != (classes,)):
            raise Unserved("a weight of another shape")
        if not torch.compiler.is_compiling():
            require(weight >= 0, "negative weights")
        positive, negative = positive * weight.to(positive), negative * weight.to(positive)
    return positive, negative


def focal_value(self: Any, sums: dict[str, Tensor], p: Pass) -> Tensor:
    """A voxel's loss is linear in a soft target under softmax, but no sum of terms under sigmoid."""
    columns = slice(None) if self.include_background or self.use_softmax else slice(1, None)
    if "y2" in p.terms:
        require(sums["y"] == sums["y2"], _SOFT)
    table = sums[p.terms[0]][:, columns]
    positive, negative = focal_factors(self, table, table.shape[1])
    table = table * positive
    if not self.use_softmax:
        table = table + sums[p.terms[1]][:, columns] * negative
    counted = sums["count"][:, :1] if "count" in p.terms else p.truth.counted
    if counted is not None:  # a mean over the voxels that count, of a sum over the channels
        counted = (counted.sum() if self.reduction == "mean" else counted).clamp(min=torch.finfo(torch.float32).eps)
        return (table / counted).sum().float()
    value = table.mean() if self.reduction == "mean" else table.sum()
    return (value / p.logits[0, 0].numel()).float()


def focal_voxels(self: Any, p: Pass) -> Tensor:
    """The loss of each voxel and class."""
    first = 0 if self.include_background or self.use_softmax else 1
    factors = focal_factors(self, p.logits, p.logits.shape[1] - first)
    terms = dict(zip(p.terms[: 1 if self.use_softmax else 2], factors, strict=False))
    if first:
        terms = {name: F.pad(factor.expand(p.logits.shape[1] - 1), (1, 0)) for name, factor in terms.items()}
    truth = p.truth
    found = run_voxels(
        p.logits, truth.target, terms, p.activation, per_class=True, ignore_index=truth.ignore_index, mask=truth.mask
    )
    return found[:, first:].float()


@served(monai.losses.FocalLoss)
def focal_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p = focal_pass(self, input, truth_of(input, target, self.to_onehot_y, self.ignore_index))
    if self.reduction == "none":
        return focal_voxels(self, p)
    (sums,) = sums_of(p)
    return focal_value(self, sums, p)


# Compounds


def check_channels(input: Tensor, target: Tensor) -> None:
    if input.ndim != target.ndim or target.shape[1] not in (1, input.shape[1]):
        raise Unserved("a target of another shape")


def check_parts(*parts: tuple[Any, Any]) -> None:
    """Raises Unserved unless the parts are those that MONAI made: no subclass, hook or function of the user's."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for part, kind in parts:
        if type(part) is not kind or "forward" in vars(part) or any(getattr(part, name) for name in hooks):
            raise Unserved("parts of another class, or with hooks")


def with_focal(focal: Any, overlap: Pass, p: Pass) -> tuple[dict[str, Tensor], Tensor]:
    """The sums of an overlap loss, and the value of the focal loss beside it."""
    if focal.reduction == "none":
        return sums_of(overlap)[0], focal_voxels(focal, p)
    first, second = sums_of(overlap, p)
    return first, focal_value(focal, second, p)


@served(monai.losses.DiceFocalLoss)
def dice_focal_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    check_channels(input, target)
    check_parts((self.dice, monai.losses.DiceLoss), (self.focal, monai.losses.FocalLoss))
    ignored = self.dice.ignore_index, self.focal.ignore_index
    if self.dice.to_onehot_y or self.focal.to_onehot_y or ignored != (None, None):
        raise Unserved("parts with options of their own")
    if self.to_onehot_y and input.shape[1] == 1:
        raise Unserved("to_onehot_y of one channel")
    truth = truth_of(input, target, self.to_onehot_y)
    focal = focal_pass(self.focal, input, truth)
    dice = dice_pass(self.dice, input, truth)
    sums, value = with_focal(self.focal, dice, focal)
    return self.lambda_dice * dice_value(self.dice, sums, dice) + self.lambda_focal * value


@served(monai.losses.GeneralizedDiceFocalLoss)
def generalized_dice_focal_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    check_channels(input, target)
    overlap, focal = self.generalized_dice, self.focal
    check_parts((overlap, monai.losses.GeneralizedDiceLoss), (focal, monai.losses.FocalLoss))
    if bool(overlap.to_onehot_y) is not bool(focal.to_onehot_y) or focal.ignore_index is not None:
        raise Unserved("parts with options of their own")
    truth = truth_of(input, target, focal.to_onehot_y)
    second = focal_pass(focal, input, truth)
    first = generalized_dice_pass(overlap, input, truth)
    sums, value = with_focal(focal, first, second)
    return self.lambda_gdl * generalized_dice_value(overlap, sums, first) + self.lambda_focal * value


@served(monai.losses.DiceCELoss)
def dice_ce_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy is of all channels, softmax's even under ``sigmoid``; of one channel it is the binary one."""
    check_tensors(input, target)
    check_channels(input, target)
    kind = monai.losses.DiceCELoss
    if type(self).ce is not kind.ce or type(self).bce is not kind.bce:
        raise Unserved("methods of a subclass")
    binary = input.shape[1] == 1
    part = self.binary_cross_entropy if binary else self.cross_entropy
    check_parts((self.dice, monai.losses.DiceLoss), (part, nn.BCEWithLogitsLoss if binary else nn.CrossEntropyLoss))
    if self.dice.ignore_index is not None or (not binary and part.ignore_index != -100) or part.reduction == "none":
        raise Unserved("parts with options of their own")
    truth = truth_of(input, target, self.dice.to_onehot_y)
    if not truth.labels and target.is_floating_point() and target.dtype != input.dtype:
        raise Unserved("a dense target of another dtype")
    if binary:
        options = Entropy(part.weight, part.reduction, pos_weight=part.pos_weight)
        second = Pass(input, truth, sigmoid_terms(options, input), "sigmoid")
    else:
        options = Entropy(part.weight, part.reduction, part.label_smoothing)
        second = Pass(input, truth, softmax_terms(options, input, truth.labels), "softmax")
    first = dice_pass(self.dice, input, truth)
    sums = sums_of(first, second)
    if binary:
        entropy = sigmoid_value(options, sums[1], input)
    else:
        entropy = softmax_value(options, sums[1], input, truth.labels)
    return self.lambda_dice * dice_value(self.dice, sums[0], first) + self.lambda_ce * entropy


# Distances


def _check_axes(input: Tensor) -> None:
    if input.ndim not in (4, 5):
        raise Unserved(f"{input.ndim - 2} spatial axes")


def _class_masks(self: Any, truth: Truth, channels: int) -> Tensor:
    target = truth.target.squeeze(1) if truth.labels else truth.target
    return _dropped(self, class_masks(target, not truth.labels, channels, ()))


def _dropped(self: Any, masks: Tensor) -> Tensor:
    """Without the background's mask, whose distances nothing asks for."""
    if not self.include_background:
        masks[:, 0] = False
    return masks


def _distance_table(self: Any, table: Tensor) -> Tensor:
    table = table if self.include_background else table[:, 1:]
    return table.mean(0, keepdim=True) if self.batch else table


@served(monai.losses.HausdorffDTLoss)
def hausdorff_dt_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """Also LogHausdorffDTLoss, which calls it."""
    check_tensors(input, target)
    _check_axes(input)
    channels = input.shape[1]
    check_single_channel(self, channels)
    if type(self).distance_field is not monai.losses.HausdorffDTLoss.distance_field:
        raise Unserved("methods of a subclass")
    if not (isinstance(self.alpha, (int, float)) and 0 < self.alpha < float("inf")):
        raise Unserved("alpha that is no number above 0")
    truth = truth_of(input, target, self.to_onehot_y)
    if not truth.dtype.is_floating_point:
        raise Unserved(f"a dense target of {truth.dtype}")
    p = activated(self, input, truth, ())
    predicted, true = _powers_of_distances(self, p)
    squares = {"map*p2": 1, "map*y*p": -2, "map*y2": 1}  # of p - y
    if are_probabilities(p):  # squares of y and of 1 - y apart, whose difference would cancel
        squares = {"map*miss_pos(2.0)": 1, "map*miss_neg(2.0)": 1} | ({} if truth.hard else {"map*y2": 1, "map*y": -1})
    (sums,) = sums_of(p._replace(terms=tuple(squares), weight_map=predicted.add_(true)))
    error = functools.reduce(torch.add, (sign * sums[name] for name, sign in squares.items()))
    table = _distance_table(self, error / input[0, 0].numel())
    truth = truth._replace(dtype=torch.promote_types(truth.dtype, torch.float32))
    return reduced(self, table, p._replace(truth=truth))


def _powers_of_distances(self: Any, p: Pass) -> list[Tensor]:
    """Those of the predicted and of the true classes, of distances in the dtypes of both, as MONAI stores them."""
    logits = p.logits.detach()
    if logits.dtype in (torch.float16, torch.bfloat16):  # whose rounding decides on which side of 1/2 a voxel is
        activated = logits.softmax(1) if p.activation == "softmax" else logits
        activated = logits.sigmoid() if p.activation == "sigmoid" else activated
        predicted, dtype = activated > 0.5, activated.dtype
    else:
        predicted, dtype = predicted_masks(logits, p.activation or "none"), logits.dtype
    masks = [_dropped(self, predicted), _class_masks(self, p.truth, logits.shape[1])]
    fields = fields_of(masks, None, logits.ndim - 2, "sides", torch.float32)
    return [field.to(x).float().pow(self.alpha) for field, x in zip(fields, (dtype, p.truth.dtype), strict=True)]


@served(getattr(monai.losses, "BoundaryLoss", None))
def boundary_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    _check_axes(input)
    channels = input.shape[1]
    check_single_channel(self, channels)
    if type(self).compute_distance_map is not monai.losses.BoundaryLoss.compute_distance_map:
        raise Unserved("methods of a subclass")
    if self.to_onehot_y and target.ndim == input.ndim - 1:
        target = target.unsqueeze(1)
    truth = truth_of(input, target, self.to_onehot_y)._replace(dtype=torch.float32)
    masks = _class_masks(self, truth, channels)
    (field,) = fields_of([masks], None, input.ndim - 2, "sides", torch.float32, signed=True)
    field.add_(field < 0)  # MONAI counts from 0 inside
    p = activated(self, input, truth, ("map*p",))
    (sums,) = sums_of(p._replace(weight_map=field))
    table = _distance_table(self, sums["map*p"] / input[0, 0].numel())
    return reduced(self, table[0] if self.batch else table, p, broadcast=False)


# Skeletons


_COLUMNS = ("py", "p", "precision", "skeleton_p", "sensitivity", "skeleton_y", "y")


def cldice_pass(self: Any, input: Tensor, truth: Truth) -> tuple[Pass, dict[str, Tensor]]:
    """The pass, and its sums ``[B, C]``, without the background if that is dropped."""
    _check_axes(input)
    check_single_channel(self, input.shape[1])
    if not truth.dtype.is_floating_point:
        raise Unserved(f"a dense target of {truth.dtype}")
    if input.dtype not in (torch.float32, torch.float64):
        raise Unserved("skeletons of half precision")  # whose ties decide where a gradient goes
    p = activated(self, input, truth, ())
    if not are_probabilities(p):
        raise Unserved("values that are no probabilities")
    first, activation = 0 if self.include_background else 1, p.activation or "none"
    inputs = attempt(check_inputs, p.logits, truth.target, None, None, activation, (), None)
    options = (activation, (), inputs.dense, inputs.validate, self.iter, first, forced_backend())
    sums = attempt(cldice_sums, inputs.logits, inputs.target, None, options)[:, first:]
    named = dict(zip(_COLUMNS, sums.unbind(-1), strict=True))
    return p, named | {name: named[name].detach() for name in ("skeleton_y", "y")}


def cldice_value(self: Any, sums: dict[str, Tensor], p: Pass) -> Tensor:
    """A value per sample: of the sums over its voxels and channels."""
    total = {name: value.sum(1) for name, value in sums.items()}
    precision = (total["precision"] + self.smooth_nr) / (total["skeleton_p"] + self.smooth_dr)
    sensitivity = (total["sensitivity"] + self.smooth_nr) / (total["skeleton_y"] + self.smooth_dr)
    table = 1 - 2 * precision * sensitivity / (precision + sensitivity + self.smooth)
    return reduced(self, table, p, broadcast=False)


@served(monai.losses.SoftclDiceLoss)
def soft_cldice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    p, sums = cldice_pass(self, input, truth_of(input, target, self.to_onehot_y))
    return cldice_value(self, sums, p)


@served(monai.losses.SoftDiceclDiceLoss)
def soft_dice_cldice_loss(self: Any, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(input, target)
    check_channels(input, target)
    dice, cldice = self.dice, self.cldice
    check_parts((dice, monai.losses.DiceLoss), (cldice, monai.losses.SoftclDiceLoss))
    names = ("to_onehot_y", "include_background", "sigmoid", "softmax", "other_act", "reduction")
    plain = not (dice.squared_pred or dice.soft_label or dice.to_onehot_y or dice.ignore_index is not None)
    if not plain or any(getattr(dice, name) != getattr(cldice, name) for name in names):
        raise Unserved("parts with options of their own")
    if self.to_onehot_y and input.shape[1] == 1:
        raise Unserved("to_onehot_y of one channel")
    p, sums = cldice_pass(cldice, input, truth_of(input, target, self.to_onehot_y))
    value = dice_value(dice, sums, p._replace(terms=("py", "p", "y")), dropped=True)
    return (1 - self.alpha) * value + self.alpha * cldice_value(cldice, sums, p)


# Unified focal


@served(monai.losses.AsymmetricUnifiedFocalLoss)
def unified_focal_loss(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Of probabilities of two classes; of one channel ``p`` these are ``1 - p`` and ``p``. An ignored voxel has, in the
    overlap, the smallest probability of both classes and no truth."""
    check_tensors(y_pred, y_true)
    _check_axes(y_pred)
    channels, ignore_index = y_pred.shape[1], self.ignore_index
    focal, overlap = self.asy_focal_loss, self.asy_focal_tversky_loss
    check_parts((focal, AsymmetricFocalLoss), (overlap, AsymmetricFocalTverskyLoss))
    for part in (focal, overlap):
        if part.to_onehot_y or part.ignore_index is not None or part.reduction != "mean":
            raise Unserved("parts with options of their own")
    epsilon = focal.epsilon
    if channels > 2 or self.num_classes != 2 or overlap.epsilon != epsilon:
        raise Unserved("another number of classes, or parts with options of their own")
    if channels == 1 and (self.to_onehot_y or ignore_index is not None):
        raise Unserved("to_onehot_y or ignore_index of one channel")
    if self.reduction not in ("mean", "sum", "none") or focal.gamma < 0:
        raise Unserved("an unknown reduction, or a negative gamma")
    if y_true.dtype == torch.bool or (y_true.dtype in _UNSIGNED and not self.to_onehot_y):
        raise Unserved(f"a dense target of {y_true.dtype}")  # 1 - y_true is an error, -y_true wraps around
    if channels == 1:
        if y_true.shape != y_pred.shape:
            raise Unserved("a target of another shape")
        y_pred, y_true = torch.cat([1 - y_pred, y_pred], 1), torch.cat([1 - y_true, y_true], 1)
    truth = truth_of(y_pred, y_true, self.to_onehot_y, ignore_index)
    if not truth.labels and ignore_index is None:
        require(y_true <= 1, "a target above 1")  # which is an error
    terms = (f"focal_pos({float(focal.gamma)})", "ce_pos", "y*p", "y*q", "r*p", "count")
    p = Pass(y_pred.clamp(epsilon, 1.0 - epsilon), truth, terms, None)
    (sums,) = sums_of(p)
    background, foreground, tp, fn, fp, counted = (sums[name] for name in terms)
    voxels = y_pred[0, 0].numel()
    fp = fp + epsilon * (voxels - counted)
    entropy = (1 - focal.delta) * background[:, 0].mean() + focal.delta * foreground[:, 1].mean()
    score = 1 - (tp + epsilon) / (tp + overlap.delta * fn + (1 - overlap.delta) * fp + epsilon)
    overlaps = (score[:, 0].mean() + score[:, 1].pow(1 - overlap.gamma).mean()) / 2
    return (self.weight * entropy / (2 * voxels) + (1 - self.weight) * overlaps).to(_dtype(p))


# Deep supervision


@served(monai.losses.DeepSupervisionLoss, "get_loss")
def deep_supervision_level(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """The loss of a level, whose target is a view of the labels where an interpolation would copy each n-th of them."""
    if input.shape[2:] != target.shape[2:]:
        view = _every_nth(target, input.shape[2:]) if self.interp_mode == "nearest-exact" else None
        target = F.interpolate(target, size=input.shape[2:], mode=self.interp_mode) if view is None else view
    return self.loss(input, target)


def _every_nth(target: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The voxels that nearest-exact takes, if the sizes divide; other dtypes may be errors there."""
    sizes = list(zip(target.shape[2:], shape, strict=False))
    if target.dtype not in (torch.float32, torch.float64, torch.uint8) or len(sizes) != len(shape):
        return None
    if any(not small or large % small for large, small in sizes):
        return None
    for axis, (large, small) in enumerate(sizes, 2):
        step = large // small
        target = target[(*[slice(None)] * axis, slice(step // 2, None, step))]
    return target
