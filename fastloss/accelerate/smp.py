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

from ..passes.ranked_ops import HINGE
from ..terms import term_name
from .core import Served
from .fused import HALF, dtype_of
from .shared import (
    Sums,
    check_gamma,
    check_half_sums,
    check_plain,
    dense_numbers,
    focal_terms,
    foreground,
    ignored,
    implements,
    losses_of,
    lovasz_table,
    only_versions,
    per_channel,
    reduced,
    reduced_binary,
    require,
    serve,
    sums_of,
)

served = Served()


class _Call(NamedTuple):
    """The tensors of a pass."""

    logits: Tensor
    target: Tensor
    ignore: int | None = None
    mask: Tensor | None = None
    weight_map: Tensor | None = None
    validate: bool | None = None

    def sums(self, terms: tuple[str, ...], activation: str | None) -> Sums:
        """The sums of the terms by name, under the map if there is one."""
        asked = terms if self.weight_map is None else tuple(f"map*{name}" for name in terms)
        options: dict[str, Any] = {"ignore_index": self.ignore, "mask": self.mask, "weight_map": self.weight_map}
        found = sums_of(self.logits, self.target, asked, activation, validate=self.validate, **options)
        return dict(zip(terms, found.values(), strict=True))


def _space(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B, C, *S]`` and labels ``[B, 1, *S]``, their voxels in one axis where the shapes do not say so."""
    space = logits.shape[2:]
    if 1 <= len(space) <= 3 and target.shape in ((logits.shape[0], *space), (logits.shape[0], 1, *space)):
        return logits, target.reshape(logits.shape[0], 1, *space)
    serve(logits.numel() == target.numel() * logits.shape[1] > 0, "target that is an error")
    return logits.reshape(*logits.shape[:2], -1), target.reshape(logits.shape[0], 1, -1)


def _binary(y_pred: Tensor, y_true: Tensor, ignore: Any) -> _Call:
    """One channel, and numbers of floats, or integers that the pass itself knows for 0 and 1."""
    serve(y_true.ndim > 0, "target without axes")
    if y_pred.ndim < 3 or y_pred.shape[1] != 1:
        serve(y_pred.numel() == y_true.numel() > 0, "target that is an error")
        y_pred = y_pred.reshape(y_true.shape[0], 1, -1)
    logits, target = _space(y_pred, y_true)
    label = ignored(ignore, target)
    if not target.is_floating_point() and target.dtype != torch.bool and target.device.type == "cpu":
        return _Call(logits, target, label)
    return _Call(logits, dense_numbers(target), mask=None if label is None else target != label)


def _multilabel(y_pred: Tensor, y_true: Tensor, ignore: Any) -> _Call:
    """Numbers for each channel; the ignored voxels are those of a channel."""
    if y_pred.shape != y_true.shape or not 3 <= y_pred.ndim <= 5:
        serve(y_pred.numel() == y_true.numel() > 0, "target that is an error")
        y_pred, y_true = (each.reshape(*y_pred.shape[:2], -1) for each in (y_pred, y_true))
    label = ignored(ignore, y_true)
    return _Call(y_pred, dense_numbers(y_true), weight_map=None if label is None else y_true != label)


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
    serve(y_true.ndim > 0 < y_pred.ndim and y_true.shape[0] == y_pred.shape[0], "target that is an error")
    if not self.from_logits and y_pred.requires_grad and torch.is_grad_enabled():
        inside = (y_pred != 0) & (y_pred != 1)  # else the peer's slope of |p - y| is 0
        require(inside, "gradient of probabilities that are exactly 0 or 1")
    dtype = dtype_of(y_pred)
    check_half_sums(y_pred, dtype)
    call = _MODES[self.mode](y_pred, y_true, self.ignore_index)
    hard = self.from_logits and (self.mode == "multiclass" or not call.target.is_floating_point())
    sums = call.sums(("p", "py" if hard else "d", "y"), _activation(self.mode, self.from_logits))
    p, both, y = (table.sum(0) for table in sums.values())
    intersection = both if hard else (p + y - both) / 2
    denominator = intersection + alpha * (p - intersection) + beta * (y - intersection) + self.smooth
    denominator = denominator.clamp_min(self.eps)
    if dtype == torch.float16:
        require(denominator > 0.01, "slopes that overflow in float16")
    score = (intersection + self.smooth) / denominator
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
    if (self.ignore_index is not None or self.log_loss) and getattr(self, "gamma", 1.0) < 1:
        require(loss.any(), "loss of 0 with an infinite slope, NaN where it is not cut off")
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
    """FocalLoss: of labels, each class against the others."""
    check_plain(y_pred, y_true)
    serve(y_pred.is_floating_point(), "an input of integers")
    function = self.focal_loss_fn
    serve(getattr(function, "func", None) is focal_loss_with_logits and not function.args, "another function")
    options: dict[str, Any] = {"gamma": 2.0, "alpha": 0.25, "reduction": "mean", "normalized": False, "eps": 1e-6}
    options |= function.keywords
    alpha, gamma, reduction = options["alpha"], options["gamma"], options["reduction"]
    serve(options.get("reduced_threshold") is None, "reduced_threshold")
    serve(reduction in ("mean", "sum", "none", None), f"reduction {reduction}")
    dtype = dtype_of(y_pred, entropy=True)
    if options["normalized"]:
        check_half_sums(y_pred, dtype)
    if not self.from_logits:
        serve(self.eps > torch.finfo(y_pred.dtype).eps / 4, "probabilities that are clamped to 1")
        y_pred = torch.clamp(y_pred, self.eps, 1 - self.eps)
        y_pred = torch.log(y_pred if self.mode == "multiclass" else y_pred / (1 - y_pred))
    check_gamma(gamma, y_pred)
    call = _one_against_the_others(self, y_pred, y_true)
    weights = focal_terms(gamma, *(() if alpha is None else (alpha, 1 - alpha)))
    divisor = None
    if options["normalized"]:
        misses = call.sums((term_name("miss_pos", gamma), term_name("miss_neg", gamma)), "sigmoid")
        divisor = torch.stack([table.sum(0) for table in misses.values()]).sum(0).clamp_min(options["eps"])
    if self.mode == "binary" and reduction not in ("mean", "sum"):
        ignore = {"ignore_index": call.ignore, "mask": call.mask}
        losses = losses_of(call.logits, call.target, weights, "sigmoid", True, **ignore).reshape(-1)
        losses = losses if divisor is None else losses / divisor
        label = ignored(self.ignore_index, y_true)
        return losses.to(dtype) if label is None else losses.to(dtype)[y_true.reshape(-1) != label]
    serve(self.class_weights is None or reduction in ("mean", "sum"), f"class_weights and reduction {reduction}")
    count, *parts = (table.sum(0) for table in call.sums(("count", *weights), "sigmoid").values())
    loss = torch.stack([weight * part for weight, part in zip(weights.values(), parts, strict=True)]).sum(0)
    loss = loss if divisor is None else loss / divisor
    if reduction != "sum":
        loss = loss / count
    loss = loss.to(dtype)
    if self.mode == "binary":
        return loss.squeeze(0)
    if self.class_weights is None:
        return loss.mean()
    of_class = self.class_weights.to(loss.device)
    return (loss * of_class).sum() / of_class.sum()


def _one_against_the_others(self: Any, y_pred: Tensor, y_true: Tensor) -> _Call:
    """The tensors of the focal loss, whose modulating factor is a sum of terms of 0 and 1 alone."""
    if self.mode == "binary":
        serve(y_pred.numel() == y_true.numel(), "target that is an error")
        call = _binary(y_pred, y_true, self.ignore_index)
        return call._replace(target=foreground(call.target, call.mask))
    if self.mode == "multilabel":
        serve(self.ignore_index is None and y_true.shape == y_pred.shape, "target that is an error")
        call = _multilabel(y_pred, y_true, None)
        return call._replace(target=foreground(call.target))
    serve(y_true.shape == (y_pred.shape[0], *y_pred.shape[2:]), "target that is an error")
    serve(not y_true.is_floating_point() and y_true.dtype != torch.bool, "labels of floats or bool")
    serve(y_pred.shape[1] > 1, "one class, whose label is 0")
    label = ignored(self.ignore_index, y_true)
    return _Call(y_pred, y_true, label, validate=False)  # a label that is no class is one of the others


@served(SoftBCEWithLogitsLoss)
def binary_entropy(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """SoftBCEWithLogitsLoss."""
    check_plain(y_pred, y_true)
    serve(self.weight is None, "weight of the elements")
    serve(y_pred.shape == y_true.shape, "target that is an error")
    smooth = 0.0 if self.smooth_factor is None else self.smooth_factor
    smoothed = self.smooth_factor is not None and y_true.dtype in (torch.int32, torch.int64)  # small ones wrap around
    serve(y_true.is_floating_point() or smoothed, "integers")
    dtype = y_true.dtype if y_true.is_floating_point() else torch.get_default_dtype()
    if dtype in HALF and torch.is_autocast_enabled(y_pred.device.type):
        dtype = torch.float32
    check_half_sums(y_pred, dtype)
    label = ignored(self.ignore_index, y_true)
    pos_weight = per_channel(self.pos_weight, y_pred, "pos_weight")
    positive = 1.0 if pos_weight is None else pos_weight
    terms: dict[str, Any] = {"ce_pos": (1 - 2 * smooth) * positive, "ce_neg": 1 - 2 * smooth}
    if smooth:
        terms |= {"nll_pos": smooth * positive, "nll_neg": smooth}
    counted = None if label is None else y_true != label
    return reduced_binary(y_pred, dense_numbers(y_true), terms, self.reduction, counted).to(dtype)


@served(SoftCrossEntropyLoss)
def entropy(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """SoftCrossEntropyLoss."""
    check_plain(y_pred, y_true)
    serve(self.dim in (1, 1 - y_pred.ndim), "classes on another axis")
    serve(isinstance(self.smooth_factor, (int, float)) and y_true.dtype == torch.int64, "arguments that are an error")
    if y_true.ndim == y_pred.ndim - 1:
        y_true = y_true.unsqueeze(1)
    serve(y_true.shape == (y_pred.shape[0], 1, *y_pred.shape[2:]), "target of another shape")
    dtype, classes, epsilon = dtype_of(y_pred), y_pred.shape[1], self.smooth_factor
    terms = {"ce_pos": 1.0 - epsilon} | ({"nll_pos": epsilon / classes} if epsilon else {})
    label = ignored(self.ignore_index, y_true)
    tensors = y_pred, y_true
    found = reduced(*tensors, terms, "softmax", self.reduction, y_true.numel(), False, ignore_index=label).to(dtype)
    separate = self.reduction not in ("mean", "sum")
    return found.unsqueeze(1) if separate and label is not None else found  # whose axis the peer leaves


@served(MCCLoss)
def correlation(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """MCCLoss: of probabilities."""
    check_plain(y_pred, y_true)
    serve(y_pred.dtype in (torch.float32, torch.float64), "sums in half precision")
    serve(y_pred.numel() == y_true.numel() > 0 and y_true.ndim > 0, "target that is an error")
    serve(y_true.dtype != torch.bool and not torch.is_complex(y_true), "bool, of which the peer takes no difference")
    shape = (y_true.shape[0], 1, -1)
    target = (y_true if y_true.is_floating_point() else foreground(y_true)).reshape(shape)
    sums = sums_of(y_pred.reshape(shape), target, ("y*p", "r*q", "r*p", "y*q"), None)
    tp, tn, fp, fn = (table.sum() + self.eps for table in sums.values())
    numerator = tp * tn - fp * fn
    denominator = torch.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (1.0 - numerator / denominator).to(torch.promote_types(y_pred.dtype, target.dtype))


@served(LovaszLoss)
def lovasz(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """LovaszLoss: of classes, or the hinge of all values as one problem."""
    check_plain(y_pred, y_true)
    serve(y_pred.numel() > 0 and y_true.ndim > 0, "empty batch")
    if self.mode != "multiclass":
        return _hinge(self, y_pred, y_true)
    serve(y_pred.dtype == torch.float32, "a product of two dtypes, an error")
    serve(y_pred.shape[1] > 1 and y_pred.ndim > 3, "one class")
    serve(not y_true.is_floating_point() and y_true.dtype != torch.bool, "labels of floats or bool")
    logits, labels = _space(y_pred, y_true)
    label = ignored(self.ignore_index, labels)
    table, present = lovasz_table(logits, labels, self.per_image, ignore=label)
    if label is not None:
        require(present.any(1), "an image whose voxels are all ignored")
    return (torch.where(present, table, 0.0).sum(1) / present.sum(1)).mean().to(y_pred.dtype)


def _hinge(self: Any, y_pred: Tensor, y_true: Tensor) -> Tensor:
    serve(y_pred.dtype == torch.float32 and y_true.dtype not in HALF, "another dtype than float32")
    serve(y_true.dtype != torch.bool, "bool, of which the peer takes no difference")
    serve(
        y_pred.ndim > 0 and y_pred.numel() == y_true.numel() and len(y_pred) == len(y_true), "target that is an error"
    )
    shape = (y_true.shape[0], 1, -1) if self.per_image else (1, 1, -1)
    logits, labels = y_pred.reshape(shape), y_true.reshape(shape)
    label = ignored(self.ignore_index, labels)
    counted = None if label is None else labels != label
    target = foreground(labels, counted)
    return lovasz_table(logits, target, self.per_image, errors=HINGE, mask=counted)[0].mean().to(torch.float32)


only_versions(served, "segmentation_models_pytorch", "0.5.1", "0.6.")
