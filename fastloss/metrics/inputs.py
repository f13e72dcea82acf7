"""What the metrics are given: checked, and read as hard segmentations a slab at a time, so that memory stays small."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..distance.inputs import MAX_AXES, Spacing, as_tensor, axes_of_spacing, has_channel_axis, whole_number
from ..passes.backends import distances_in_triton
from ..passes.inputs import as_int64
from ..passes.lazy_logits import LazyLogits
from ..passes.options import as_flag, check_choice, check_ignore_index

Place = tuple[slice, ...]  # of the first one or two spatial axes


class Slab(NamedTuple):
    """A part of a sample: labels, or masks where the classes may overlap.

    A voxel that does not count is in no class: its label is C, its masks are False.
    """

    place: Place  # in the space
    prediction: Tensor  # int64 [n, ...], or bool [C, n, ...]
    target: Tensor  # the same
    counted: Tensor | int  # voxels that count


@dataclass(frozen=True)
class Segmentations:
    """A prediction and its truth, of one batch and space, in the forms in which they came."""

    prediction: Tensor  # labels [B, *S], masks or logits [B, C, *S]
    target: Tensor  # labels [B, *S] or masks [B, C, *S]
    mask: Tensor | None  # [B, *S]
    classes: int
    space: tuple[int, ...]
    activation: str | None
    ignore: tuple[int, ...]
    # of a GPU: of each slab whether something is wrong with it, which is read in the end, all at once
    doubts: list[tuple[Tensor, int, Place]] = field(default_factory=list)

    @property
    def on_device(self) -> bool:
        """Whether nothing but numbers for the user is to leave the tensors' device."""
        return distances_in_triton(self.target.device)

    def read(self, *numbers: Tensor) -> list[list[int]]:
        """Integers of the device, in one copy, after which what is wrong with a slab has been raised."""
        doubts, self.doubts[:] = list(self.doubts), []
        flags = [torch.stack([doubt for doubt, *_ in doubts]).long()] if doubts else []
        parts = [*flags, *(tensor.flatten() for tensor in numbers)]
        if not parts:
            return []
        values = to_host(torch.cat(parts))
        for bad, (_, sample, place) in zip(values, doubts, strict=False):
            if bad:
                self._slab(sample, place, at_once=True)
        found, start = [], len(doubts)
        for tensor in numbers:
            found.append(values[start : start + tensor.numel()])
            start += tensor.numel()
        return found

    @property
    def overlapping(self) -> bool:
        """Whether a voxel may be in several classes, or in none."""
        axes = len(self.space) + 2
        return self.target.ndim == axes or (self.prediction.ndim == axes and self.activation != "softmax")

    def columns(self, include_background: bool) -> range:
        """The classes of a table: all, or without class 0 where there are several."""
        keeps = as_flag(include_background, "include_background")
        return range(0 if keeps or self.classes == 1 else 1, self.classes)

    def slabs(self, sample: int) -> Iterator[Slab]:
        """The sample, part by part."""
        if 0 in self.space:
            return
        # small enough for a CPU's caches and for torch to start no threads; elsewhere few and large steps
        voxels = 2**15 if self.target.device.type == "cpu" else 2**24
        steps = [max(1, voxels // math.prod(self.space[axis + 1 :])) for axis in (0, 1)]
        starts = itertools.product(*(range(0, size, step) for size, step in zip(self.space, steps, strict=False)))
        for start in starts:
            place = tuple(slice(a, a + step) for a, step in zip(start, steps, strict=False))
            yield self._slab(sample, place, at_once=not self.on_device)

    def _slab(self, sample: int, place: Place, at_once: bool) -> Slab:
        prediction, nan = self._hard(self.prediction, sample, place)
        target, no_truth = self._hard(self.target, sample, place)
        counted = None if self.mask is None else self.mask[sample][place].bool()
        for label in as_int64(self.ignore, self.target.dtype == torch.uint64):
            kept = target != label
            counted = kept if counted is None else counted & kept
        if at_once:
            self._check_numbers("prediction", nan, "NaN", "logits that are numbers", counted, sample, place)
            whole = "labels, or masks of 0 and 1"
            self._check_numbers("target", no_truth, "no whole number", whole, counted, sample, place)
            self._check_range("prediction", prediction, counted, sample, place)
            self._check_range("target", target, counted, sample, place)
        else:
            wrong = [bad for bad in (nan, no_truth, self._beyond(prediction), self._beyond(target)) if bad is not None]
            if wrong:
                bad = functools.reduce(torch.logical_or, wrong)
                self.doubts.append(((bad if counted is None else bad & counted).any(), sample, place))
        return Slab(
            place,
            self._only_counted(prediction, counted),
            self._only_counted(target, counted),
            target.shape[-len(self.space) :].numel() if counted is None else counted.sum(),
        )

    def _hard(self, volume: Tensor, sample: int, place: Place) -> tuple[Tensor, Tensor | None]:
        """int64 labels or bool masks; and the voxels with a float that is none it may be: of logits a NaN, which would
        pass for background, of the truth what is no whole number."""
        if volume.ndim == len(self.space) + 1:
            labels = volume[sample][place]
            whole = (labels == labels.round()) & labels.isfinite() if labels.is_floating_point() else None
            return labels.long(), None if whole is None else ~whole
        if isinstance(volume, LazyLogits):
            part = volume.window((slice(sample, sample + 1), *place))[0]
        else:
            part = volume[sample][(slice(None), *place)]
        if not part.dtype.is_floating_point:
            return part.bool(), None
        if volume is self.target:
            return part.bool(), ((part != 0) & (part != 1)).any(0)
        if self.activation == "softmax":
            index, best = _largest_channel(part)
            return index, best.isnan()
        return part > 0, part.isnan().any(0)

    def _only_counted(self, volume: Tensor, counted: Tensor | None) -> Tensor:
        if volume.dtype == torch.bool:
            return volume if counted is None else volume & counted
        labels = volume if counted is None else volume.masked_fill(~counted, self.classes if self.classes > 1 else 0)
        if not self.overlapping:
            return labels
        classes = torch.arange(self.classes, device=labels.device) if self.classes > 1 else labels.new_ones(1)
        return labels == classes.view(-1, *[1] * len(self.space))

    @property
    def _last(self) -> int:
        """The greatest label; of one class: its background and itself."""
        return max(self.classes - 1, 1)

    def _beyond(self, labels: Tensor) -> Tensor | None:
        """Where labels are no class."""
        return None if labels.dtype == torch.bool else (labels < 0) | (labels > self._last)

    def _check_range(self, name: str, labels: Tensor, counted: Tensor | None, sample: int, place: Place) -> None:
        last = self._last
        if labels.dtype == torch.bool or (int(labels.min()) >= 0 and int(labels.max()) <= last):
            return
        beyond = self._beyond(labels)
        found = None if beyond is None else _first(beyond, counted)
        if found is None:
            return
        ignore = f" or an ignore_index {self.ignore or '(none is set)'}" if name == "target" else ""
        raise ValueError(
            f"{name}: label {labels[found].item()} at index {_index(found, sample, place)} (sample, then axes) "
            f"is no class, expected 0 to {last}{ignore}"
        )

    def _check_numbers(
        self,
        name: str,
        bad: Tensor | None,
        what: str,
        expected: str,
        counted: Tensor | None,
        sample: int,
        place: Place,
    ) -> None:
        found = _first(bad, counted) if bad is not None and bad.any() else None
        if found is not None:
            index = _index(found, sample, place)
            raise ValueError(f"{name}: {what} at index {index} (sample, then axes), expected {expected}")


def to_host(numbers: Tensor) -> list[int]:
    """The one place where numbers of a device are waited for."""
    values: list[int] = numbers.tolist()
    return values


def _first(bad: Tensor, counted: Tensor | None) -> tuple[int, ...] | None:
    """Where the first bad voxel that counts is."""
    places = (bad if counted is None else bad & counted).nonzero()
    return tuple(places[0].tolist()) if len(places) else None


def _index(found: tuple[int, ...], sample: int, place: Place) -> tuple[int, ...]:
    """Of a slab's voxel in its batch."""
    first = [*(part.start for part in place), 0, 0]
    return (sample, *(a + b for a, b in zip(found, first, strict=False)))


def check_segmentations(
    prediction: Tensor | LazyLogits,
    target: Tensor,
    classes: int | None,
    activation: str | None,
    ignore_index: int | Iterable[int] | None,
    mask: Tensor | None,
    spatial_axes: int | None,
    spacing: Spacing = None,
) -> Segmentations:
    """Checks the arguments of :func:`fastloss.metrics.confusion_counts`, without copying."""
    for name, volumes in (("prediction", prediction), ("target", target)):
        if isinstance(volumes, (list, tuple)):
            raise TypeError(
                f"{name}: got a {type(volumes).__name__} of {len(volumes)}, expected a tensor or array with an axis of "
                f"samples; for volumes of several sizes make a call for each, {name}[i][None], and let "
                "fastloss.metrics.Accumulator take the tables"
            )
    if isinstance(prediction, LazyLogits) and not prediction.channels_last:
        prediction = cast(Tensor, prediction.detach())
    else:
        real = prediction.tensor("a metric") if isinstance(prediction, LazyLogits) else prediction
        prediction = as_tensor(real, "prediction")
    target = as_tensor(target, "target")
    classes = None if classes is None else whole_number(classes, "classes", "None")
    if spatial_axes is not None:
        spatial_axes = whole_number(spatial_axes, "spatial_axes", "None")
    known = axes_of_spacing(spacing) if spatial_axes is None else spatial_axes
    channels = classes is None
    _check_form(prediction, classes, activation)
    if not channels and has_channel_axis(prediction.shape, known):
        prediction = prediction.squeeze(1)
    shape, axes = prediction.shape, prediction.ndim - (2 if channels else 1)
    if not 1 <= axes <= MAX_AXES or (spatial_axes is not None and axes != spatial_axes):
        form = "[B, C, *S]" if channels else "labels [B, *S] or [B, 1, *S]"
        wanted = f"1 to {MAX_AXES}" if spatial_axes is None else f"just {spatial_axes}"
        raise ValueError(f"prediction: got shape {list(shape)}, expected {form} with {wanted} spatial axes")
    batch, space, count = shape[0], tuple(shape[-axes:]), shape[1] if classes is None else classes
    if count < 1 or (count == 1 and activation == "softmax"):
        raise ValueError(f"prediction: got {count} channels, expected at least {'two for softmax' if count else 'one'}")
    dense = channels and count > 1 and target.shape == shape
    ignore = check_ignore_index(ignore_index)
    if dense and ignore:
        raise ValueError("ignore_index: set, but target has a mask for each class; leave voxels out with mask=")
    if not dense:
        target = _volume("target", target, batch, space, f", or masks {list(shape)}" if channels else "")
    if mask is not None:
        mask = as_tensor(mask, "mask")
        if mask.dtype.is_floating_point:
            raise TypeError(f"mask: got {mask.dtype}, expected bool (or integers: 0 leaves a voxel out)")
        mask = _volume("mask", mask, batch, space)
    for name, tensor in (("target", target), ("mask", mask)):
        if tensor is not None and tensor.device != prediction.device:
            raise ValueError(f"{name}: is on {tensor.device}, expected {prediction.device}, the prediction's device")
    return Segmentations(prediction, target, mask, count, space, activation, ignore)


def _largest_channel(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The first channel of the largest logit, and that (NaN where there is one); ``max`` over channels starts threads
    for every slab, argmax is slower."""
    best, index = logits[0], torch.zeros(logits.shape[1:], dtype=torch.int64, device=logits.device)
    for channel in range(1, logits.shape[0]):
        index.masked_fill_(logits[channel] > best, channel)
        best = torch.maximum(best, logits[channel])
    return index, best


def _check_form(prediction: Tensor, classes: int | None, activation: str | None) -> None:
    """Whether the options fit the prediction's dtype."""
    if prediction.dtype.is_floating_point:
        if activation is None:
            raise ValueError(
                "activation: got None for a prediction of floats, expected 'softmax' (the class of the largest logit "
                "or probability) or 'sigmoid' (logits above 0); for probabilities above 0.5 pass prediction > 0.5"
            )
        check_choice("activation", activation, ("softmax", "sigmoid"))
        if classes is not None:
            raise ValueError(f"classes: got {classes!r} for a prediction of floats, whose channels are the classes")
        return
    if activation is not None:
        raise ValueError(f"activation: got {activation!r} for a prediction of {prediction.dtype}, expected None")
    if classes is None:
        if prediction.dtype != torch.bool:
            raise ValueError(
                f"classes: got None for a prediction of labels ({prediction.dtype}), expected their number"
            )
    elif classes < 2:
        raise ValueError(f"classes: got {classes}, expected at least 2 (the background is one)")


def _volume(name: str, tensor: Tensor, batch: int, space: tuple[int, ...], other: str = "") -> Tensor:
    """``[B, *S]`` of a tensor with or without a channel axis of size 1."""
    if tensor.shape == (batch, *space):
        return tensor
    if tensor.shape == (batch, 1, *space):
        return tensor.squeeze(1)
    expected = f"{[batch, *space]} or {[batch, 1, *space]}{other}"
    raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {expected}")
