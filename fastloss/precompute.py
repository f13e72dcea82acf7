"""Distances of the labels computed once per sample, in the workers of a DataLoader, and kept on disk if wanted."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from . import __version__
from .distance.inputs import as_tensor, axes_of_spacing, has_channel_axis, spacing_per_axis, whole_number
from .losses.spatial.maps import DistanceLoss

# Attributes of a loss that have no part in a map of labels. Any other has, such as an option of a loss of your own.
_NOT_IN_MAPS = {"alpha", "batch", "class_weight", "needs_spacing", "one_sided", "process_group", "reduction", "terms"}
_NOT_IN_MAPS |= {"validate", "_class_vectors", "_made", *vars(torch.nn.Module())}
_NOT_IN_MAPS |= {"spacing"}  # which the sample may have in its place: the digest has that which holds


class LabelMaps:
    """Adds to a sample what a loss with distances needs of its labels: a transform for a Dataset or MONAI's Compose.

    The loss then takes it as ``maps`` and a training step computes no distance of labels (nor any at all, but for
    :class:`fastloss.HausdorffDTLoss` with both sides)::

        loss = fastloss.BoundaryLoss(spacing=(3, 1, 1))
        dataset = MapsDataset(dataset, LabelMaps(loss, channels=4))        # or Compose([..., LabelMaps(loss, 4)])
        for sample in DataLoader(dataset, num_workers=4):
            loss(model(sample["image"]), sample["label"], maps=sample["maps"])

    A map holds for the volume that it was computed from: crop, flip and stack it together with the labels (after a
    rotation or scaling compute it anew), and compute it before the crop if distances to what lies outside shall count.

    Args:
        loss: a loss with distances; its spacing, activation and ignore_index apply.
        channels: C, the number of channels of the logits.
        label: the key of the labels ``[*S]`` or ``[1, *S]`` (tensor on any device or array of any layout, integer or
            bool), or their index where samples are tuples. Dense float labels are ``[C, *S]``.
        maps: the key to add; where samples are tuples, the map is appended.
        spacing: None, or the key or index of the sample's own spacing in mm, in place of the loss's.
        spatial_axes: how many axes a volume has, where the spacing does not say it: labels ``[1, X, Y]`` are a volume
            of one slice where there are three, else the axis of size 1 is the channels'.
        cache: None; or the key or index of the path of the sample's label file, or a function of the sample that gives
            it (a named one, where workers are not forked: a lambda cannot be sent to them). The map is then kept beside
            that file as ``NAME.maps-DIGEST.npy``. The digest covers the labels' values, all that the loss makes of them
            and the version of fastloss, so that a changed label or spacing never finds an old map; old files are left
            for you to delete. Files appear whole or not at all, whatever process is killed, and may be shared by
            processes.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """

    def __init__(
        self,
        loss: DistanceLoss,
        channels: int,
        *,
        label: str | int = "label",
        maps: str = "maps",
        spacing: str | int | None = None,
        spatial_axes: int | None = None,
        cache: str | int | Callable[[Any], str | os.PathLike[str]] | None = None,
    ):
        if not isinstance(loss, DistanceLoss):
            raise TypeError(f"loss: got {type(loss).__name__}, expected a loss with distances, such as BoundaryLoss")
        if not callable(cache):
            _check_key("cache", cache, "a key or index of the sample, a function of it that gives a path, or None")
        _check_key("spacing", spacing, "a key or index of the sample, or None (the loss's own)")
        _check_key("label", label, "a key or index of the sample", optional=False)
        _check_key("maps", maps, "a key of the sample", optional=False)
        if spatial_axes is not None:
            spatial_axes = whole_number(spatial_axes, "spatial_axes", "None")
        self.loss, self.channels, self.label, self.maps = loss, channels, label, maps
        self.spacing, self.spatial_axes, self.cache = spacing, spatial_axes, cache

    def __call__(self, sample: Any) -> Any:
        """The sample with its map, float32 ``[C, *S]`` or ``[1, *S]``; the sample itself is not modified."""
        labels = as_tensor(_item(sample, "label", self.label), "label")
        spacing = self.loss.spacing if self.spacing is None else _item(sample, "spacing", self.spacing)
        labels = self._batch_of_one(labels, axes_of_spacing(spacing))
        spacing_mm = spacing_per_axis(spacing, labels.ndim - 2, "label")
        cached = self.cache is not None
        found = self._cached(labels, spacing_mm, self._path(sample)) if cached else self._compute(labels, spacing_mm)
        return {**sample, self.maps: found} if isinstance(sample, Mapping) else (*sample, found)

    def _batch_of_one(self, labels: Tensor, axes: int | None) -> Tensor:
        """``[1, 1, *S]``, or a dense target ``[1, C, *S]``."""
        batch = labels.unsqueeze(0)
        if labels.is_floating_point() and (labels.ndim < 2 or labels.shape[0] not in (1, self.channels)):
            raise ValueError(
                f"label: got floats of shape {list(labels.shape)}, expected labels [1, *S] or a dense target "
                f"[{self.channels}, *S]; labels of floats need the axis of size 1, or an integer dtype"
            )
        known = axes if self.spatial_axes is None else self.spatial_axes
        if not labels.is_floating_point() and not has_channel_axis(batch.shape, known):
            batch = batch.unsqueeze(1)
        if self.spatial_axes is not None and batch.ndim - 2 != self.spatial_axes:
            got = list(labels.shape)
            raise ValueError(f"label: got shape {got}, expected {self.spatial_axes} spatial axes, as spatial_axes says")
        return batch

    def _compute(self, labels: Tensor, spacing_mm: list[float]) -> Tensor:
        return self.loss.label_map(labels, self.channels, spacing=spacing_mm)[0]

    def _path(self, sample: Any) -> Path:
        path = self.cache(sample) if callable(self.cache) else _item(sample, "cache", self.cache)
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"cache: got {path!r}, expected the path of the sample's label file")
        return Path(path)

    def _cached(self, labels: Tensor, spacing_mm: list[float], source: Path) -> Tensor:
        path = source.with_name(f"{source.name}.maps-{self._digest(labels, spacing_mm)}.npy")
        try:
            return torch.from_numpy(np.load(path)).to(labels.device)
        except FileNotFoundError:
            found = self._compute(labels, spacing_mm)
        except (ValueError, EOFError) as error:
            raise ValueError(f"cache: {path} holds no map ({error}), expected an array: delete it") from error
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, found.cpu().numpy())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        return found

    def _digest(self, labels: Tensor, spacing_mm: list[float]) -> str:
        """Of all that the map follows from: the labels, and what the loss has that is not known to have no part."""
        loss, kind = self.loss, type(self.loss)
        name = vars(kind).get("map_name", f"{kind.__module__}.{kind.__qualname__}")
        of_call = (__version__, name, self.channels, spacing_mm)
        parts = {**vars(loss), **dict(loss.named_buffers()), **dict(loss.named_parameters())}
        options = sorted((key, value) for key, value in parts.items() if key not in _NOT_IN_MAPS)
        digest = hashlib.blake2b(repr(of_call).encode(), digest_size=12)
        for key, value in [*options, ("labels", labels)]:
            digest.update(f"\0{key}\0".encode() + _bytes_of(value))
        return digest.hexdigest()


def _check_key(name: str, key: Any, expected: str, *, optional: bool = True) -> None:
    if not (optional and key is None) and (isinstance(key, bool) or not isinstance(key, (str, int))):
        raise TypeError(f"{name}: got {key!r}, expected {expected}")


def _item(sample: Any, name: str, key: Any) -> Any:
    try:
        return sample[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{name}: the sample has no {key!r}, expected what is asked for there") from error


def _bytes_of(value: Any) -> bytes:
    """The same for equal values, in every process."""
    if isinstance(value, (Tensor, np.ndarray)):  # whose repr leaves numbers out
        tensor = as_tensor(value, "loss").cpu()
        described = repr((tensor.dtype, tuple(tensor.shape))).encode()
        return described + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return repr(value).encode()


class MapsDataset(Dataset[Any]):
    """A Dataset whose samples go through :class:`LabelMaps`."""

    def __init__(self, dataset: Dataset[Any], transform: LabelMaps):
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.dataset[index])
