"""nnU-Net's losses as formulas on sums. Written against nnunetv2 2.8.1."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.loss import dice as dice_functions
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss, DC_and_topk_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss, TopKLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn

from .core import Served
from .fused import check_tensors, dtype_of
from .shared import (
    Sums,
    dense_numbers,
    ignored,
    largest_losses,
    losses_of,
    only_versions,
    part,
    per_channel,
    require,
    serve,
    sums_of,
)
from .torch import divided, smoothed

served = Served()
_DICE = ("p", "py", "y")


def _activated(x: Tensor, function: Any) -> tuple[Tensor, str | None]:
    """What the pass reads and its activation: a function that it does not know is applied before."""
    if function is softmax_helper_dim1:
        return x, "softmax"
    if function is torch.sigmoid:
        return x, "sigmoid"
    if function is None:
        return x, None
    shape, x = x.shape, function(x)
    serve(x.shape == shape, "a non-linearity that changes the shape")
    return x, None


def _target(x: Tensor, y: Tensor) -> Tensor:
    """Labels ``[B, 1, *S]``, or a dense target of the input's shape."""
    if x.ndim != y.ndim:
        y = y.view(y.shape[0], 1, *y.shape[1:])
    if y.shape == x.shape:
        return dense_numbers(y)
    serve(not y.is_floating_point() or y.device.type == "cpu", "float labels on a GPU")
    return y


def _mask(x: Tensor, mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    serve(isinstance(mask, Tensor) and mask.ndim == x.ndim and mask.shape[1] == 1, "mask of other axes than [B, 1, *S]")
    return dense_numbers(mask)


def _dice_of(dc: Any, sums: Sums) -> Tensor:
    """Minus the mean Dice, float32, from the sums ``p``, ``py`` and ``y``."""
    p, py, y = sums["p"], sums["py"], sums["y"]
    gathered = dc.ddp and dc.batch_dice
    if gathered:
        serve(torch.distributed.is_initialized(), "ddp=True without processes")
    if isinstance(dc, SoftDiceLoss):
        parts: tuple[Tensor, ...] = (py, p - py, y - py)  # tp, fp, fn, which it gathers after the sum over the batch
        if dc.batch_dice:
            parts = tuple(table.sum(0) for table in parts)
        if gathered:
            parts = tuple(AllGatherGrad.apply(table.float()).sum(0) for table in parts)
        tp, fp, fn = parts
        if dc.clip_tp is not None:
            tp = torch.clip(tp, min=dc.clip_tp)
        dice = (2 * tp + dc.smooth) / torch.clip(2 * tp + fp + fn + dc.smooth, 1e-8)
        if not dc.do_bg:
            dice = dice[..., 1:]
    else:
        parts = (py, p, y) if dc.do_bg else (py[:, 1:], p[:, 1:], y[:, 1:])
        if gathered:
            parts = tuple(AllGatherGrad.apply(table.float()).sum(0) for table in parts)
        if dc.batch_dice:
            parts = tuple(table.sum(0) for table in parts)
        intersection, predicted, true = parts
        dice = (2 * intersection + dc.smooth) / (true + predicted + float(dc.smooth)).clamp_min(1e-8)
    return -dice.mean().float()


def _check_masked(target: Tensor, x: Tensor) -> None:
    """Passes on labels that are no class, where a mask would hide them: the peer raises all the same."""
    if target.shape != x.shape and target.device.type == "cpu" and target.numel():
        low, high = torch.aminmax(target)
        require((low >= 0) & (high < x.shape[1]), "labels that are an error")


@served(SoftDiceLoss)
@served(MemoryEfficientSoftDiceLoss)
def soft_dice(self: Any, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
    """SoftDiceLoss and MemoryEfficientSoftDiceLoss."""
    check_tensors(x, y)
    target, mask = _target(x, y), _mask(x, loss_mask)
    if mask is not None:
        _check_masked(target, x)
    x, activation = _activated(x, self.apply_nonlin)
    return _dice_of(self, sums_of(x, target, _DICE, activation, mask=mask))


def _entropy_terms(ce: Any) -> tuple[str, ...]:
    return ("y", "ce_pos", "nll_pos") if ce.label_smoothing > 0 else ("y", "ce_pos")


def _check_entropy(ce: Any, logits: Tensor) -> None:
    serve(0 <= ce.label_smoothing <= 1, "label_smoothing that is an error")
    weight = ce.weight
    if weight is not None:
        same = weight.dtype == logits.dtype or torch.is_autocast_enabled(logits.device.type)
        serve(same and weight.device == logits.device, "weight of another dtype or device")
        serve(weight.shape == logits.shape[1:2] and not weight.requires_grad, "weight that is an error")


def _entropy_of(ce: Any, sums: Sums, empty: float = torch.nan) -> Tensor:
    """The cross-entropy; ``empty`` where no voxel counts."""
    counted, *parts = (
        (sums[name] if ce.weight is None else sums[name] * ce.weight).sum() for name in _entropy_terms(ce)
    )
    if ce.reduction == "mean":
        parts = divided(parts, counted, sums["y"].sum() == 0, empty)
    return smoothed(parts, ce.label_smoothing, sums["y"].shape[1])


@served(RobustCrossEntropyLoss)
def cross_entropy(self: Any, input: Tensor, target: Tensor) -> Tensor:
    """RobustCrossEntropyLoss."""
    check_tensors(input, target)
    _check_entropy(self, input)
    dtype = dtype_of(input, entropy=True)
    if target.ndim == input.ndim:
        serve(target.shape[1] == 1, "target that is an error")
    else:
        target = target.unsqueeze(1)
    label = ignored(self.ignore_index, target.new_empty(0, dtype=torch.int64))  # it compares after a cast
    target = _target(input, target)
    if self.reduction == "none":
        smooth, weight = self.label_smoothing, 1.0 if self.weight is None else self.weight.double()
        terms = {"ce_pos": (1 - smooth) * weight, "nll_pos": smooth / input.shape[1] * weight}
        terms = terms if smooth else {"ce_pos": weight}
        return losses_of(input, target, terms, "softmax", False, ignore_index=label).to(dtype)
    return _entropy_of(self, sums_of(input, target, _entropy_terms(self), "softmax", ignore_index=label)).to(dtype)


def _labels_of_compound(self: Any, ce: Any, net_output: Tensor, target: Tensor) -> int | None:
    """The ignored label of a compound loss, whose parts must agree on it."""
    serve(target.ndim == net_output.ndim and target.shape[1] == 1 < net_output.shape[1], "target that is no labels")
    serve(not target.is_floating_point() or target.device.type == "cpu", "float labels on a GPU")
    if self.ignore_label is None:
        serve(not 0 <= ce.ignore_index < net_output.shape[1] or not self.weight_dice, "a class without cross-entropy")
        return None if self.weight_dice else ignored(ce.ignore_index, target.new_empty(0, dtype=torch.int64))
    label = ignored(self.ignore_label, target)
    serve(label == self.ignore_label == ce.ignore_index, "two ignored labels")
    return label


@served(DC_and_CE_loss)
def dice_and_cross_entropy(self: Any, net_output: Tensor, target: Tensor) -> Tensor:
    """DC_and_CE_loss."""
    check_tensors(net_output, target)
    dc, ce = part(self.dc, SoftDiceLoss, MemoryEfficientSoftDiceLoss), part(self.ce, RobustCrossEntropyLoss)
    serve(dc.apply_nonlin is softmax_helper_dim1, "Dice of another activation")
    _check_entropy(ce, net_output)
    serve(ce.reduction in ("mean", "sum"), "reduction none")
    dtype = dtype_of(net_output, entropy=True)
    label = _labels_of_compound(self, ce, net_output, target)
    serve(self.weight_ce or self.weight_dice, "both weights are 0")
    terms = (_DICE if self.weight_dice else ()) + (_entropy_terms(ce) if self.weight_ce else ())
    sums = sums_of(net_output, target, tuple(dict.fromkeys(terms)), "softmax", ignore_index=label)
    entropy: Tensor | int = 0
    if self.weight_ce:
        if self.ignore_label is not None and (not self.weight_dice or dtype == torch.float64):
            require(sums["y"].sum() > 0, "all voxels are ignored")  # a number without a dtype then takes its place
        entropy = _entropy_of(ce, sums, torch.nan if self.ignore_label is None else 0.0).to(dtype)
    dice = _dice_of(dc, sums) if self.weight_dice else 0
    return self.weight_ce * entropy + self.weight_dice * dice


@served(DC_and_BCE_loss)
def dice_and_binary_cross_entropy(self: Any, net_output: Tensor, target: Tensor) -> Tensor:
    """DC_and_BCE_loss: regions, with the ignored voxels as the last channel of the target."""
    check_tensors(net_output, target)
    serve(target.ndim == net_output.ndim, "target that is an error")
    dc, ce = part(self.dc, SoftDiceLoss, MemoryEfficientSoftDiceLoss), part(self.ce, nn.BCEWithLogitsLoss)
    serve(dc.apply_nonlin is torch.sigmoid, "Dice of another activation")
    serve(ce.weight is None, "weight of the elements")
    mask = None
    if self.use_ignore_label:
        serve(ce.reduction == "none", "reduction of the cross-entropy beside an ignored label")
        last = target[:, -1:]
        mask = ~last if last.dtype == torch.bool else (1 - last).bool()
        target = target[:, :-1]
    else:
        serve(ce.reduction in ("mean", "sum"), "reduction none")
    serve(target.shape == net_output.shape, "target that is an error")
    pos_weight = per_channel(ce.pos_weight, net_output, "pos_weight")
    terms = (*_DICE, "count", "ce_pos", "ce_neg")
    sums = sums_of(net_output, dense_numbers(target), terms, "sigmoid", mask=mask)
    positive = sums["ce_pos"] if pos_weight is None else sums["ce_pos"] * pos_weight
    total = (positive + sums["ce_neg"]).sum()
    if mask is not None:
        total = total / sums["count"][:, :1].sum().clip(min=1e-8)
    elif ce.reduction == "mean":
        total = total / sums["count"].sum()
    return self.weight_ce * total.float() + self.weight_dice * _dice_of(dc, sums)


def _topk(ce: Any, logits: Tensor, labels: Tensor, ignore: int | None, terms: tuple[str, ...]) -> tuple[Sums, Tensor]:
    """Some sums, and the mean of the largest losses of all voxels, of which the ignored have the loss 0."""
    serve(ce.reduction == "none", "another reduction")
    _check_entropy(ce, logits)
    voxels = logits.numel() // logits.shape[1]
    taken = int(voxels * ce.k / 100)
    serve(0 < taken <= voxels, "k that takes no voxel")
    return largest_losses(logits, labels, ignore, taken, ce, terms)


@served(TopKLoss)
def topk(self: Any, inp: Tensor, target: Tensor) -> Tensor:
    """TopKLoss."""
    check_tensors(inp, target)
    dtype = dtype_of(inp, entropy=True)
    serve(target.ndim == inp.ndim, "target that is an error")
    labels = target[:, :1].long() if target.is_floating_point() or target.dtype == torch.bool else target[:, :1]
    return _topk(self, inp, labels, int(self.ignore_index), ())[1].to(dtype)


@served(DC_and_topk_loss)
def dice_and_topk(self: Any, net_output: Tensor, target: Tensor) -> Tensor:
    """DC_and_topk_loss."""
    check_tensors(net_output, target)
    dc, ce = part(self.dc, SoftDiceLoss), part(self.ce, TopKLoss)
    serve(dc.apply_nonlin is softmax_helper_dim1, "Dice of another activation")
    dtype = dtype_of(net_output, entropy=True)
    label = _labels_of_compound(self, ce, net_output, target)
    target = target.long() if target.is_floating_point() or target.dtype == torch.bool else target
    if not self.weight_ce:
        serve(self.weight_dice, "both weights are 0")
        return self.weight_dice * _dice_of(dc, sums_of(net_output, target, _DICE, "softmax", ignore_index=label))
    counted = self.ignore_label is not None and (not self.weight_dice or dtype == torch.float64)
    sums, mean = _topk(ce, net_output, target, label, (*_DICE,) if self.weight_dice else ("y",))
    if counted:  # where all are ignored, a number without a dtype takes the place of the cross-entropy
        require(sums["y"].sum() > 0, "all voxels are ignored")
    return self.weight_ce * mean.to(dtype) + (self.weight_dice * _dice_of(dc, sums) if self.weight_dice else 0)


@served(dice_functions, "get_tp_fp_fn_tn")
def tp_fp_fn_tn(
    net_output: Tensor, gt: Tensor, axes: Any = None, mask: Tensor | None = None, square: bool = False
) -> tuple[Tensor, ...]:
    """get_tp_fp_fn_tn."""
    check_tensors(net_output, gt)
    spatial = tuple(range(2, net_output.ndim))
    axes = spatial if axes is None else tuple(axes)
    serve(sorted(axes) in (list(spatial), [0, *spatial]), "sums over other axes")
    target = _target(net_output, gt)
    if square:
        hard = target.shape != net_output.shape or target.dtype == torch.bool
        serve(hard and (mask is None or mask.dtype == torch.bool), "squares of a dense target or of weights")
    power = 2 if square else 1
    if mask is not None:
        _check_masked(target, net_output)
    terms = tuple(f"{share}*{factor}^{power}" for share, factor in (("y", "p"), ("r", "p"), ("y", "q"), ("r", "q")))
    sums = sums_of(net_output, target, terms, None, mask=_mask(net_output, mask))
    return tuple((table.sum(0) if 0 in axes else table).float() for table in sums.values())


only_versions(served, "nnunetv2", "2.8.")
