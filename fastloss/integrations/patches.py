"""Random patches of a sample, with the maps of its labels: a transform for any Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..distance.inputs import as_tensor, whole_number


class FlippedPatches:
    """Crops and flips image, labels and maps alike, and stacks the patches.

    A map of distances may be cropped and flipped, and is then that of the patch with what lies around it: it is
    computed once, from the whole volume::

        loss = fastloss.BoundaryLoss(spacing=(3, 1, 1))
        maps = MapsDataset(dataset, LabelMaps(loss, channels=4))
        dataset = MapsDataset(maps, FlippedPatches((64, 96, 96), patches=2))
        for batch in DataLoader(dataset, batch_size=4, num_workers=4, collate_fn=join_patches):
            loss(model(batch["image"]), batch["label"], maps=batch["maps"])          # 8 patches

    Args:
        size: of a patch along each spatial axis, the last of all tensors.
        patches: how many a sample gives.
        flips: the spatial axes to flip, each with a probability of a half: 0 is the first of ``size``.
        keys: what to crop; other entries stay as they are.

    Random numbers are torch's, which a DataLoader seeds in each worker.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        patches: int = 1,
        flips: Sequence[int] | None = None,
        keys: Sequence[str] = ("image", "label", "maps"),
    ):
        self.size = tuple(whole_number(n, "size", "a NumPy integer") for n in size)
        self.patches = whole_number(patches, "patches", "a NumPy integer")
        self.flips = tuple(range(len(self.size))) if flips is None else tuple(flips)
        if wrong := [axis for axis in self.flips if axis not in range(len(self.size))]:
            raise ValueError(f"flips: got {wrong}, expected axes from 0 to {len(self.size) - 1}")
        self.keys = tuple(keys)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample with patches ``[patches, C, *size]``, or ``[patches, *size]`` of what has no channels."""
        if missing := [key for key in self.keys if key not in sample]:
            raise ValueError(f"keys: the sample has no {', '.join(map(repr, missing))}, expected {list(self.keys)}")
        tensors = {key: as_tensor(sample[key], key) for key in self.keys}
        space = self._space(tensors)
        places = [self._place(space) for _ in range(self.patches)]
        return {**sample, **{key: torch.stack([cut(x) for cut in places]) for key, x in tensors.items()}}

    def _space(self, tensors: dict[str, Tensor]) -> tuple[int, ...]:
        first, *_ = self.keys
        axes = len(self.size)
        space = tuple(tensors[first].shape[-axes:])
        for key, tensor in tensors.items():
            if tensor.ndim not in (axes, axes + 1) or tuple(tensor.shape[-axes:]) != space:
                got = list(tensor.shape)
                raise ValueError(f"{key}: got shape {got}, expected [*S] or [C, *S] with {list(space)}, as {first} has")
        if any(n < wanted for n, wanted in zip(space, self.size, strict=True)):
            raise ValueError(
                f"size: got {list(self.size)} for a volume of {list(space)}, expected at most that: pad it before its "
                "maps are computed"
            )
        return space

    def _place(self, space: tuple[int, ...]) -> Any:
        starts = [int(torch.randint(n - length + 1, ())) for n, length in zip(space, self.size, strict=True)]
        flips = [axis - len(self.size) for axis in self.flips if torch.rand(()) < 0.5]
        window = (..., *(slice(start, start + length) for start, length in zip(starts, self.size, strict=True)))
        return lambda tensor: tensor[window].flip(flips)


def join_patches(samples: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("image", "label", "maps")) -> Any:
    """A batch of patches ``[samples · patches, …]`` from samples of patches: the ``collate_fn`` of a DataLoader."""
    batch = default_collate(list(samples))
    return {key: value.flatten(0, 1) if key in keys else value for key, value in batch.items()}
