"""Maps of labels as a TorchIO transform: ``pip install 'fastloss[torchio]'``."""

from __future__ import annotations

from typing import Any

import torch
import torchio
from torchio.transforms import Transform

from ..losses.spatial.maps import DistanceLoss
from ..precompute import LabelMaps


class AddLabelMaps(Transform):
    """Adds to a subject what a loss with distances needs of its labels, as the image ``maps``.

    It is a ``LabelMap`` of floats: flips, crops and transposes carry it along, and what changes intensities leaves it
    alone. What interpolates or pads leaves no distances: compute the maps after it::

        maps = AddLabelMaps(fastloss.BoundaryLoss(), channels=4)
        torchio.Compose([torchio.Resample(1), maps, torchio.RandomFlip((0, 1, 2))])

    Args:
        loss: a loss with distances.
        channels: C, the number of channels of the logits.
        label: the name of the label map in the subject, labels ``[1, W, H, D]``.
        maps: the name of the image to add.
        use_spacing: whether the voxel size is the label map's, in place of the loss's.
        cache: None, or a function of the dictionary ``{"label", "spacing", "path"}`` that gives the path of the label
            file, or ``"path"`` for that of the label map: see :class:`fastloss.precompute.LabelMaps`.
        kwargs: those of ``torchio.Transform``, such as ``p``.
    """

    def __init__(
        self,
        loss: DistanceLoss,
        channels: int,
        *,
        label: str = "label",
        maps: str = "maps",
        use_spacing: bool = True,
        cache: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.loss, self.channels, self.label, self.maps = loss, channels, label, maps
        self.use_spacing, self.cache = use_spacing, cache
        spacing = "spacing" if use_spacing else None
        self.compute = LabelMaps(loss, channels, spacing=spacing, spatial_axes=3, cache=cache)
        self.args_names = ["loss", "channels", "label", "maps", "use_spacing", "cache"]

    def apply_transform(self, subject: torchio.Subject) -> torchio.Subject:
        """The subject with its maps, float32 ``[C, W, H, D]``."""
        if self.label not in subject:
            raise ValueError(f"label: the subject has no {self.label!r}, expected one of {', '.join(subject)}")
        image = subject[self.label]
        labels = image.data
        if labels.is_floating_point():  # as NIfTI files often have them
            whole = labels.to(torch.int64)
            if not torch.equal(whole.to(labels.dtype), labels):
                raise ValueError(f"label: got floats that are not whole in {self.label!r}, expected labels")
            labels = whole
        sample = {"label": labels, "spacing": list(image.spacing), "path": image.path}
        maps = self.compute(sample)["maps"]
        subject.add_image(torchio.LabelMap(tensor=maps, affine=image.affine), self.maps)
        return subject
