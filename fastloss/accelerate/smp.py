"""segmentation_models_pytorch's losses as formulas on sums. Written against version 0.6.0."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from segmentation_models_pytorch.losses import (
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    MCCLoss,
    SoftBCEWithLogitsLoss,
    SoftCrossEntropyLoss,
    TverskyLoss,
)
from segmentation_models_pytorch.losses._functional import focal_loss_with_logits
from torch import Tensor

from ..terms import term_name
from .core import Served
from .shared import (
    Sums,
    check_half_sums,
    check_hard,
    check_plain,
    dense_numbers,
    ignored,
    implements,
    loss_dtype,
    lovasz_table,
    per_channel,
    serve,
    sums_of,
    zero_or_one,
)

served = Served()


class _Call(NamedTuple):
    """The tensors of a pass."""

    logits: Tensor
    target: Tensor
    ignore: int | None = None
    mask: Tensor | None = None
    weight_map: Tensor | None = None

    def sums(self, terms: tuple[str, ...], activation: str | None, **options: Any) -> Sums:
        """The sums of the terms, under the map if there is one, and for floats whether they are shares of a voxel."""
        names = (*terms, "y2") if self.target.is_floating_point() else terms
        asked = names if self.weight_map is None else tuple(f"map*{name}" for name in names)
        found = sums_of(
            self.logits,
            self.target,
            asked,
            activation,
            ignore_index=self.ignore,
            mask=self.mask,
            weight_map=self.weight_map,
            **options,
        )
        sums = dict(zip(names, found.values(), strict=True))
        if "y2" in sums:
            check_hard(sums, self.target)
        return sums


def _space(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B, C, *S]`` and labels ``[B, 1, *S]``, their voxels in one axis where the shapes do not say so."""
    space = logits.shape[2:]
    if 1 <= len(space) <= 3 and target.shape in ((logits.shape[0], *space), (logits.shape[0], 1, *space)):
        return logits, target.reshape(logits.shape[0], 1, *space)
    serve(logits.shape[0] > 0 and logits.numel() > 0, "empty batch")
    return logits.reshape(*logits.shape[:2], -1), target.reshape(logits.shape[0], 1, -1)


def _binary(y_pred: Tensor, y_true: Tensor, ignore: Any) -> _Call:
    """One channel, and a target of 0 and 1."""
    serve(y_true.ndim > 0, "target without axes")
    if y_pred.ndim < 3 or y_pred.shape[1] != 1:
        serve(y_true.numel() > 0, "empty batch")
        y_pred = y_pred.reshape(y_true.shape[0], 1, -1)
    logits, target = _space(y_pred, y_true)
    ignore = ignored(ignore, target)
    integers = not target.is_floating_point() and target.dtype != torch.bool
    if integers and target.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Call(logits, target, ignore)  # the pass itself names what is not 0 or 1
    counted = None if ignore is None else target != ignore
    return _Call(logits, zero_or_one(target, counted), mask=counted)


def _multilabel(y_pred: Tensor, y_true: Tensor, ignore: Any) -> _Call:
    """A target of 0 and 1 for each channel; the ignored voxels are those of a channel."""
    if y_pred.shape != y_true.shape or not 3 <= y_pred.ndim <= 5:
        serve(y_pred.numel() > 0, "empty batch")
        y_pred, y_true = (each.reshape(*y_pred.shape[:2], -1) for each in (y_pred, y_true))
    ignore = ignored(ignore, y_true)
    counted = None if ignore is None or y_true.dtype == torch.bool else y_true != ignore
    serve(counted is not None or ignore not in (0, 1), "an ignored label of bool")
    return _Call(y_pred, zero_or_one(y_true, counted), weight_map=counted)


def _multiclass(y_pred: Tensor, y_true: Tensor, ignore: Any) -> _Call:
    """Labels, int64 unless some are ignored."""
    serve(ignore is not None or y_true.dtype == torch.int64, "labels that are no int64")
    serve(not y_true.is_floating_point() or y_true.device.type == "cpu", "float labels on a GPU")
    logits, target = _space(y_pred, y_true)
    return _Call(logits, target, ignored(ignore, target))


_MODES = {"binary": _binary, "multiclass": _multiclass, "multilabel": _multilabel}


def _activation(mode: str, from_logits: bool) -> str | None:
    if not from_logits:
        return None
    return "softmax" if mode == "multiclass" else "sigmoid"


def _overlap(self: Any, y_pred: Tensor, y_true: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """A loss of each class of the batch as one volume, and whether the class is in the target."""
    serve(y_true.shape[0] == y_pred.shape[0], "target that is an error")
    # the peer's sums of |p - y| have the slope 0 where p is exactly 0 or 1
    serve(self.from_logits or not (y_pred.requires_grad and torch.is_grad_enabled()), "gradient of probabilities")
    dtype = loss_dtype(y_pred)
    check_half_sums(y_pred, dtype)
    call = _MODES[self.mode](y_pred, y_true, self.ignore_index)
    checked = None if self.from_logits else True
    sums = call.sums(("p", "py", "y"), _activation(self.mode, self.from_logits), validate=checked)
    p, py, y = (sums[name].sum(0) for name in ("p", "py", "y"))
    denominator = (py + alpha * (p - py) + beta * (y - py) + self.smooth).clamp_min(self.eps)
    if dtype == torch.float16:
        serve(
            not torch.compiler.is_compiling() and bool((denominator > 0.01).all()), "a slope that overflows in float16"
        )
    score = (py + self.smooth) / denominator
    loss = -torch.log(score.clamp_min(self.eps)) if self.log_loss else 1.0 - score
    return loss.to(dtype), y > 0


@served(DiceLoss)
def dice(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """DiceLoss, and TverskyLoss, which has its forward."""
    check_plain(y_pred, y_true)
    if implements(self, TverskyLoss, "compute_score"):
        alpha, beta = self.alpha, self.beta
    else:
        serve(implements(self, DiceLoss, "compute_score"), "another score")
        alpha = beta = 0.5
    loss, present = _overlap(self, y_pred, y_true, alpha, beta)
    loss = loss * present
    if self.classes is not None:
        loss = loss[self.classes]
    if self.ignore_index is not None and getattr(self, "gamma", 1.0) < 1:
        serve(not torch.compiler.is_compiling(), "loss that is not known when it is compiled")
        serve(bool(loss.any()), "loss of 0 with an infinite slope, NaN at ignored voxels")
    aggregated: Tensor = self.aggregate_loss(loss)
    return aggregated


@served(JaccardLoss)
def jaccard(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """JaccardLoss."""
    check_plain(y_pred, y_true)
    loss, present = _overlap(self, y_pred, y_true, 1.0, 1.0)
    loss = loss * present
    weights = None if self.class_weights is None else self.class_weights.to(loss.device)
    if self.classes is not None:
        loss = loss[self.classes]
        weights = None if weights is None else weights[self.classes]
    return loss.mean() if weights is None else (loss * weights).sum() / weights.sum()


@served(FocalLoss)
def focal(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """FocalLoss."""
    check_plain(y_pred, y_true)
    serve(self.from_logits, "probabilities")
    function = self.focal_loss_fn
    serve(getattr(function, "func", None) is focal_loss_with_logits and not function.args, "another function")
    options: dict[str, Any] = {"gamma": 2.0, "alpha": 0.25, "reduction": "mean", "normalized": False, "eps": 1e-6}
    options |= function.keywords
    alpha, gamma, reduction = options["alpha"], options["gamma"], options["reduction"]
    serve(options.get("reduced_threshold") is None, "reduced_threshold")
    serve(gamma == 0 or gamma >= 1, "gamma whose slope is infinite where p is 1")
    one_by_one = self.mode != "binary" and reduction in ("none", None) and self.class_weights is None
    serve(reduction in ("mean", "sum") or one_by_one, f"reduction {reduction}")
    dtype = loss_dtype(y_pred)
    if self.mode == "binary":
        serve(y_pred.numel() == y_true.numel(), "target that is an error")
        call = _binary(y_pred, y_true, self.ignore_index)
    elif self.mode == "multilabel":
        serve(self.ignore_index is None and y_true.shape == y_pred.shape, "target that is an error")
        call = _multilabel(y_pred, y_true, None)
    else:
        serve(y_true.shape == (y_pred.shape[0], *y_pred.shape[2:]), "target that is an error")
        serve(not y_true.is_floating_point() and y_true.dtype != torch.bool, "labels of floats or bool")
        serve(y_pred.shape[1] > 1, "one class, whose label is 0")
        call = _Call(y_pred, y_true, ignored(self.ignore_index, y_true))
    terms = ["y", "count", term_name("focal_pos", gamma), term_name("focal_neg", gamma)]
    if options["normalized"]:
        terms += [term_name("miss_pos", gamma), term_name("miss_neg", gamma)]
    sums = call.sums(tuple(terms), "sigmoid")
    _, count, positive, negative, *misses = (table.sum(0) for table in sums.values())
    if options["normalized"]:
        check_half_sums(y_pred, dtype)
    loss = positive + negative if alpha is None else alpha * positive + (1 - alpha) * negative
    if options["normalized"]:
        loss = loss / (misses[0] + misses[1]).clamp_min(options["eps"])
    if reduction != "sum":
        loss = loss / count
    loss = loss.to(dtype)
    if self.mode == "binary":
        return loss.squeeze(0)
    if self.class_weights is None:
        return loss.mean()
    weights = self.class_weights.to(loss.device)
    return (loss * weights).sum() / weights.sum()


@served(SoftBCEWithLogitsLoss)
def binary_entropy(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """SoftBCEWithLogitsLoss."""
    check_plain(y_pred, y_true)
    serve(self.weight is None, "weight of the elements")
    serve(self.reduction in ("mean", "sum"), "reduction none")
    serve(y_pred.shape == y_true.shape, "target that is an error")
    smooth = 0.0 if self.smooth_factor is None else self.smooth_factor
    smoothed = self.smooth_factor is not None and y_true.dtype in (torch.int32, torch.int64)  # small ones wrap around
    serve(y_true.is_floating_point() or smoothed, "integers")
    dtype = y_true.dtype if y_true.is_floating_point() else torch.get_default_dtype()
    if torch.is_autocast_enabled(y_pred.device.type):
        dtype = loss_dtype(y_pred)
        serve(dtype not in (torch.float16, torch.bfloat16), "half precision under autocast")
    check_half_sums(y_pred, dtype)
    ignore = ignored(self.ignore_index, y_true)
    target = dense_numbers(y_true)
    counted = None if ignore is None else y_true != ignore
    pos_weight = per_channel(self.pos_weight, y_pred, "pos_weight")
    shaped = y_pred.shape
    if not 3 <= y_pred.ndim <= 5:
        shaped = torch.Size((1, 1, y_pred.numel()))
    terms = ("ce_pos", "ce_neg") if smooth == 0 else ("ce_pos", "ce_neg", "nll_pos", "nll_neg")
    asked = terms if counted is None else tuple(f"map*{name}" for name in terms)
    weight_map = None if counted is None else counted.reshape(shaped)
    sums = sums_of(y_pred.reshape(shaped), target.reshape(shaped), asked, "sigmoid", weight_map=weight_map)
    positive, negative, *all_of = sums.values()
    if smooth:
        positive, negative = (
            (1 - 2 * smooth) * part + smooth * whole for part, whole in zip((positive, negative), all_of, strict=True)
        )
    total = (positive if pos_weight is None else positive * pos_weight).sum() + negative.sum()
    return (total / y_pred.numel() if self.reduction == "mean" else total).to(dtype)


@served(SoftCrossEntropyLoss)
def entropy(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """SoftCrossEntropyLoss."""
    check_plain(y_pred, y_true)
    serve(self.dim in (1, 1 - y_pred.ndim), "classes on another axis")
    serve(self.reduction in ("mean", "sum"), "reduction none")
    serve(isinstance(self.smooth_factor, (int, float)) and y_true.dtype == torch.int64, "arguments that are an error")
    if y_true.ndim == y_pred.ndim - 1:
        y_true = y_true.unsqueeze(1)
    serve(y_true.shape == (y_pred.shape[0], 1, *y_pred.shape[2:]), "target of another shape")
    dtype, classes, epsilon = loss_dtype(y_pred), y_pred.shape[1], self.smooth_factor
    terms = ("ce_pos", "nll_pos") if epsilon else ("ce_pos",)
    sums = sums_of(y_pred, y_true, terms, "softmax", ignore_index=ignored(self.ignore_index, y_true))
    total = (1.0 - epsilon) * sums["ce_pos"].sum()
    if epsilon:
        total = total + epsilon / classes * sums["nll_pos"].sum()
    return (total / y_true.numel() if self.reduction == "mean" else total).to(dtype)


@served(MCCLoss)
def correlation(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """MCCLoss: of probabilities."""
    check_plain(y_pred, y_true)
    serve(y_pred.dtype in (torch.float32, torch.float64), "sums in half precision")
    serve(y_pred.numel() == y_true.numel() and y_pred.numel() > 0, "target that is an error")
    serve(y_true.dtype != torch.bool and not torch.is_complex(y_true), "bool, of which the peer takes no difference")
    shape = (y_true.shape[0], 1, -1)
    target = (y_true if y_true.is_floating_point() else zero_or_one(y_true, None)).reshape(shape)
    sums = sums_of(y_pred.reshape(shape), target, ("y*p", "r*q", "r*p", "y*q"), None)
    tp, tn, fp, fn = (table.sum() + self.eps for table in sums.values())
    numerator = tp * tn - fp * fn
    denominator = torch.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (1.0 - numerator / denominator).to(torch.promote_types(y_pred.dtype, target.dtype))


@served(LovaszLoss)
def lovasz(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """LovaszLoss of classes; the hinge of one class has errors without a softmax."""
    check_plain(y_pred, y_true)
    serve(self.mode == "multiclass", "Lovász hinge")
    serve(loss_dtype(y_pred) == torch.float32 == y_pred.dtype, "a product of two dtypes, an error")
    serve(y_pred.shape[1] > 1 and y_pred.ndim > 3, "one class")
    serve(not y_true.is_floating_point() and y_true.dtype != torch.bool, "labels of floats or bool")
    serve(y_pred.numel() > 0, "empty batch")
    logits, labels = _space(y_pred, y_true)
    ignore = ignored(self.ignore_index, labels)
    table, present = lovasz_table(logits, labels, ignore, self.per_image)
    if ignore is not None:
        serve(not torch.compiler.is_compiling(), "ignored voxels that are not known when it is compiled")
        serve(bool(present.any(1).all()), "an image whose voxels are all ignored")
    return (torch.where(present, table, 0.0).sum(1) / present.sum(1)).mean().to(y_pred.dtype)
