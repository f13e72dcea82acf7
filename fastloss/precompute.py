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

from .losses.spatial.boundary import DistanceLoss


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
        label: the key of the labels ``[*S]`` or ``[1, *S]`` (tensor or array, integer or bool), or their index where
            samples are tuples. Dense float labels are ``[C, *S]``.
        maps: the key to add; where samples are tuples, the map is appended.
        cache: None, or a function of the sample that gives the path of its label file: the map is then kept beside it
            as ``NAME.maps-DIGEST.npy``. The digest covers the labels' values and all that the loss makes of them, so
            that a changed label or spacing never finds an old map; old files are left for you to delete. Files appear
            whole or not at all, whatever process is killed, and may be shared by processes.

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
        cache: Callable[[Any], str | os.PathLike[str]] | None = None,
    ):
        if not isinstance(loss, DistanceLoss):
            raise TypeError(f"loss: got {type(loss).__name__}, expected a loss with distances, such as BoundaryLoss")
        if cache is not None and not callable(cache):
            raise TypeError(f"cache: got {cache!r}, expected a function of the sample that gives a path, or None")
        self.loss, self.channels, self.label, self.maps, self.cache = loss, channels, label, maps, cache

    def __call__(self, sample: Any) -> Any:
        """The sample with its map, float32 ``[C, *S]`` or ``[1, *S]``; the sample itself is not modified."""
        try:
            labels = sample[self.label]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"label: the sample has no {self.label!r}, expected its labels there") from error
        labels = torch.as_tensor(labels)
        found = self._compute(labels) if self.cache is None else self._cached(labels, Path(self.cache(sample)))
        return {**sample, self.maps: found} if isinstance(sample, Mapping) else (*sample, found)

    def _compute(self, labels: Tensor) -> Tensor:
        return self.loss.label_map(labels.unsqueeze(0), self.channels)[0]

    def _cached(self, labels: Tensor, source: Path) -> Tensor:
        path = source.with_name(f"{source.name}.maps-{self._digest(labels)}.npy")
        try:
            return torch.from_numpy(np.load(path))
        except FileNotFoundError:
            found = self._compute(labels)
        except (ValueError, EOFError) as error:
            raise ValueError(f"cache: {path} holds no map ({error}), expected an array: delete it") from error
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, found.numpy())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        return found

    def _digest(self, labels: Tensor) -> str:
        """Of the labels and of what the loss makes of them."""
        loss = self.loss
        options = (loss.map_name, self.channels, loss.activation, loss.ignore_index, loss.include_background)
        described = repr((*options, loss.spacing, labels.dtype, tuple(labels.shape)))
        digest = hashlib.blake2b(described.encode(), digest_size=12)
        digest.update(labels.contiguous().numpy().data)
        return digest.hexdigest()


class MapsDataset(Dataset[Any]):
    """A Dataset whose samples go through :class:`LabelMaps`."""

    def __init__(self, dataset: Dataset[Any], transform: LabelMaps):
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.dataset[index])
