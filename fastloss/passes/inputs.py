"""What comes in: the only place for shapes, ignored labels and dense targets. Every problem is named here."""

from __future__ import annotations

import os
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..terms import VALIDATE_ALL, VALIDATE_LABELS, VALIDATE_NOTHING
from .lazy_logits import LazyLogits
from .options import as_flag
from .tensors import FLOATS, INTEGERS, plain
from .values import whole_labels


def _flag_of_environment(name: str) -> bool:
    """1, or 0 as an empty variable and none are."""
    value = os.environ.get(name) or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{name}: got {value!r}, expected 1 or 0")
    return value == "1"


_validate_everywhere = _flag_of_environment("FASTLOSS_VALIDATE")


class Inputs(NamedTuple):
    """The checked tensors of a pass, in the shapes that the operators take."""

    logits: Tensor  # [B, C, *S]; LazyLogits for sums, which have what is asked of a tensor
    target: Tensor  # [B, *S] labels, or [B, C, *S]
    mask: Tensor | None  # [B, *S], or [B, C, *S] where each channel has its own
    weight_map: Tensor | None  # [B, 1 or C, *S]
    dense: bool
    ignore: tuple[int, ...]  # the ignored labels, as int64
    validate: int  # a level of terms.py


def validation_level(validate: bool | None, device: torch.device) -> int:
    """None: labels where it costs nothing, on the CPU; True: all values; False: nothing."""
    if validate is None:
        if _validate_everywhere:
            return VALIDATE_ALL
        return VALIDATE_LABELS if device.type == "cpu" else VALIDATE_NOTHING
    return VALIDATE_ALL if as_flag(validate, "validate") else VALIDATE_NOTHING


def check_inputs(
    logits: Tensor | LazyLogits,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    activation: str,
    ignore: tuple[int, ...],
    validate: bool | None,
    channel_masks: bool = False,
) -> Inputs:
    """Checks the tensors of a pass and gives them the operators' shapes. Nothing is copied, but for float labels, which
    become integers, and integers of a dense target or a mask, which become bool: whether they are not 0.

    Args:
        logits: ``[B, C, *S]`` with 1 to 3 spatial axes; lazy ones come through as they are.
        target: labels ``[B, *S]`` or ``[B, 1, *S]``, or a dense target ``[B, C, *S]``.
        mask: ``[B, *S]``, ``[B, 1, *S]``, or, if ``channel_masks`` allows it and there is no softmax, ``[B, C, *S]``.
        weight_map: ``[B, *S]``, ``[B, 1, *S]`` or ``[B, C, *S]``.
        activation: as :func:`check_activation` gives it.
        ignore: as :func:`check_ignore_index` gives it; a dense target cannot have any.
        validate: None, True or False.
    """
    unsigned = isinstance(target, Tensor) and target.dtype == torch.uint64
    target = plain(target, "target")
    if isinstance(logits, LazyLogits) and not logits.channels_last:
        logits = cast(Tensor, logits)
    else:
        logits = plain(logits.tensor("a loss") if isinstance(logits, LazyLogits) else logits, "logits")
    if logits.dtype not in FLOATS:
        raise TypeError(f"logits: got {logits.dtype}, expected float32, float64, float16 or bfloat16")
    if not 3 <= logits.ndim <= 5:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected [B, C, *S] with 1 to 3 spatial axes")
    if logits.shape[1] < 1:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected at least one channel")
    if activation == "softmax" and logits.shape[1] == 1:
        raise ValueError(
            "logits: one channel with activation='softmax' (whose probability is always 1), expected at least two "
            "channels, or activation='sigmoid'"
        )
    level = validation_level(validate, logits.device)
    if mask is not None:
        mask = _yes_or_no(_mask(logits, plain(mask, "mask"), channel_masks and activation != "softmax"))
    if weight_map is not None:
        weight_map = _volume(logits, plain(weight_map, "weight_map"), "weight_map", True)
    target, dense = _target(logits, target, mask, level)
    if dense and ignore:
        raise ValueError(
            f"ignore_index: set, but target of shape {list(target.shape)} is dense, expected labels; leave voxels of "
            "a dense target out with mask="
        )
    return Inputs(logits, target, mask, weight_map, dense, as_int64(ignore, unsigned), level)


def as_int64(ignore: tuple[int, ...], unsigned: bool) -> tuple[int, ...]:
    """The labels that 64 bits hold, as the int64 of the same bits."""
    if unsigned:
        return tuple((label + 2**63) % 2**64 - 2**63 for label in ignore if 0 <= label < 2**64)
    return tuple(label for label in ignore if -(2**63) <= label < 2**63)


def _yes_or_no(volume: Tensor) -> Tensor:
    return volume if volume.dtype in FLOATS or volume.dtype == torch.bool else volume != 0


def check_maps(maps: Tensor, logits: Tensor) -> Tensor:
    """Distances that are known beforehand, ``[B, 1 or C, *S]``."""
    maps = plain(maps, "maps")
    if maps.dtype not in FLOATS:
        raise TypeError(f"maps: got {maps.dtype}, expected a float tensor, as label_map gives it")
    return _volume(logits, maps, "maps", True)


def _target(logits: Tensor, target: Tensor, mask: Tensor | None, level: int) -> tuple[Tensor, bool]:
    """The target in the operators' shape, and whether it is dense."""
    if target.dtype not in FLOATS + INTEGERS:
        raise TypeError(f"target: got {target.dtype}, expected integer or bool labels, or a float or bool dense target")
    _same_device(logits, target, "target")
    if target.requires_grad:
        raise ValueError("target: requires a gradient, which the losses do not compute; expected target.detach()")
    batch, channels, space = logits.shape[0], logits.shape[1], logits.shape[2:]
    floating = target.dtype in FLOATS
    if target.shape == logits.shape and (floating or channels > 1):
        return _yes_or_no(target), True
    if not floating and target.shape == (batch, *space):
        return target, False
    if target.shape == (batch, 1, *space):
        labels = target.squeeze(1)
        return (whole_labels(labels, mask, level > VALIDATE_NOTHING) if floating else labels), False
    dense = [batch, channels, *space]
    form = "a float" if floating else f"an integer or bool ({target.dtype})"
    expected = f"labels {[batch, *space]} or {[batch, 1, *space]}, or a dense target {dense}"
    if floating and target.shape == (batch, *space):
        expected += ": labels of floats need the axis 1 of size 1, or an integer dtype, target.long()"
    raise ValueError(
        f"target: got {form} tensor of shape {list(target.shape)} for logits {list(logits.shape)}, expected {expected}"
    )


def _mask(logits: Tensor, mask: Tensor, channels: bool) -> Tensor:
    """The mask ``[B, *S]``, or ``[B, C, *S]`` if there may be one for each of several channels."""
    by_channel = mask.shape == logits.shape and logits.shape[1] > 1
    if by_channel and not channels:
        raise ValueError(
            f"mask: got shape {list(mask.shape)}, one for each channel, expected {[mask.shape[0], *mask.shape[2:]]}: "
            "of the classes of a softmax, and in losses that rank voxels or see neighbours, a voxel counts for all "
            "channels or for none"
        )
    return _volume(logits, mask, "mask", by_channel)


def _volume(logits: Tensor, volume: Tensor, name: str, channels: bool) -> Tensor:
    if volume.dtype not in FLOATS + INTEGERS:
        raise TypeError(f"{name}: got {volume.dtype}, expected a bool, integer or float tensor")
    _same_device(logits, volume, name)
    if volume.requires_grad:
        raise ValueError(f"{name}: requires a gradient, which the losses do not compute; expected {name}.detach()")
    batch, space = logits.shape[0], logits.shape[2:]
    single = (batch, 1, *space)
    if volume.shape == (batch, *space):
        return volume.unsqueeze(1) if channels else volume
    if volume.shape == single:
        return volume if channels else volume.squeeze(1)
    if channels and volume.shape == logits.shape:
        return volume
    expected = f"[{batch}, *{list(space)}] or {list(single)}" + (f" or {list(logits.shape)}" if channels else "")
    raise ValueError(f"{name}: got shape {list(volume.shape)} for logits {list(logits.shape)}, expected {expected}")


def _same_device(logits: Tensor, tensor: Tensor, name: str) -> None:
    if tensor.device != logits.device:
        raise ValueError(f"{name}: is on {tensor.device}, expected {logits.device}, the logits' device")
