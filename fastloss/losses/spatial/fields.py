"""Distance fields of tensors on any device, as an operator: what the boundary losses multiply voxels by.

On a GPU that Triton serves nothing leaves it. From other devices, or where another back end is forced, the masks travel
as one byte a voxel to the CPU (from CUDA through pinned memory), and the field comes back the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...distance.inputs import Spacing, spacing_per_sample
from ...distance.transforms import distance_field
from ...passes.backends import distances_in_triton
from ...passes.inputs import Inputs
from ...passes.lazy_logits import LazyLogits
from ...passes.registry import register
from ...passes.tensors import check_has_values
from ...terms import first_label


def _in_place(
    volumes: list[Tensor], spacing: Tensor, axes: int, mode: str, root: bool, signed: bool, double: bool
) -> list[Tensor]:
    """Where the volumes are."""
    samples = volumes[0].shape[0]
    rows = spacing_per_sample(spacing.tolist(), samples, axes, "logits") or [[1.0] * axes]

    def transformed(volume: Tensor, row: list[float]) -> Tensor:
        return distance_field(volume, row, mode, root=root, signed=signed, double=double)

    if all(row == rows[0] for row in rows):
        return [transformed(volume, rows[0]) for volume in volumes]
    fields = _fake(volumes, spacing, axes, mode, root, signed, double)
    for volume, field in zip(volumes, fields, strict=True):
        for part, sample, row in zip(field, volume, rows, strict=True):
            part.copy_(transformed(sample, row))
    return fields


def _on_device(
    volumes: list[Tensor], spacing: Tensor, axes: int, mode: str, root: bool, signed: bool, double: bool
) -> list[Tensor]:
    """All copies are under way before the first transform, which runs while the next volume travels."""
    if distances_in_triton(volumes[0].device):
        return _in_place(volumes, spacing, axes, mode, root, signed, double)
    arrivals = [_leave(volume) for volume in volumes]
    fields = []
    for volume, (here, wait) in zip(volumes, arrivals, strict=True):
        wait()
        (field,) = _in_place([here], spacing, axes, mode, root, signed, double)
        pinned = volume.is_cuda
        fields.append((field.pin_memory() if pinned else field).to(volume.device, non_blocking=pinned))
    return fields


def _leave(volume: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """A copy on the CPU that is under way, and what waits for it."""
    if not volume.is_cuda:
        return volume.cpu(), lambda: None
    here = torch.empty(volume.shape, dtype=volume.dtype, pin_memory=True)
    here.copy_(volume, non_blocking=True)
    return here, torch.cuda.current_stream(volume.device).record_event().synchronize


def _fake(
    volumes: list[Tensor], spacing: Tensor, axes: int, mode: str, root: bool, signed: bool, double: bool
) -> list[Tensor]:
    dtype = torch.float64 if double else torch.float32
    return [torch.empty(volume.shape, dtype=dtype, device=volume.device) for volume in volumes]


register(
    "distance_fields(Tensor[] volumes, Tensor spacing, int axes, str mode, bool root, bool signed, bool double)"
    " -> Tensor[]",
    _on_device,
    _fake,
    on_cpu=_in_place,
)


def fields_of(
    volumes: list[Tensor],
    spacing: Spacing,
    axes: int,
    mode: str,
    dtype: torch.dtype,
    *,
    root: bool = True,
    signed: bool = False,
) -> list[Tensor]:
    """Distances in mm (``root=False``: squares) of each ``[B, ..., *S]``, whose last ``axes`` are S.

    ``spacing``: as the losses take it, or ``[B, axes]``, a row for each sample.
    ``mode`` is ``"mask"`` for :func:`fastloss.distance.edt`, ``"sides"`` for ``boundary_distance`` (``signed``:
    ``signed_edt``), ``"labels"`` for ``label_edt``; ``dtype`` float32 or float64.
    """
    if not volumes:
        return []
    double = dtype == torch.float64
    given = (axes, mode, root, signed, double)
    fields: list[Tensor] = torch.ops.fastloss.distance_fields(volumes, _as_tensor(spacing), *given)
    return fields


def _as_tensor(spacing: Spacing) -> Tensor:
    """The spacing as the operator takes it, which checks its values."""
    if isinstance(spacing, Tensor):
        if not torch.compiler.is_compiling():
            check_has_values(spacing, "spacing")
        return spacing.detach()
    try:
        return torch.as_tensor(1.0 if spacing is None else spacing, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"spacing: expected numbers in mm, got {spacing!r}") from error


def class_masks(target: Tensor, dense: bool, channels: int, ignore: tuple[int, ...]) -> Tensor:
    """bool ``[B, C, *S]``: the voxels of each class; an ignored label is background of every class."""
    if dense:
        return target > 0.5 if target.is_floating_point() else target != 0
    masks = torch.zeros((target.shape[0], channels, *target.shape[1:]), dtype=torch.bool, device=target.device)
    for channel in range(channels):
        label = channel + first_label(channels)
        if label not in ignore and (target.dtype == torch.bool or label <= torch.iinfo(target.dtype).max):
            masks[:, channel] = target == label
    return masks


def counted(masks: Tensor, inputs: Inputs) -> Tensor:
    """The masks ``[B, C, *S]`` of a prediction, in place, without the voxels whose logits are not to matter."""
    for label in inputs.ignore:
        masks &= (inputs.target.long() != label).unsqueeze(1)  # a small dtype would wrap the label
    if inputs.mask is not None:
        mask = inputs.mask if inputs.mask.ndim == masks.ndim else inputs.mask.unsqueeze(1)
        masks &= mask != 0
    return masks


def predicted_masks(logits: Tensor, activation: str) -> Tensor:
    """bool ``[B, C, *S]``: where p > 1/2."""
    if isinstance(logits, LazyLogits):
        masks = torch.empty(logits.shape, dtype=torch.bool, device=logits.device)
        for box, chunk in logits.chunks():
            masks[(box[0], slice(None), *box[1:])] = predicted_masks(chunk, activation)
        return masks
    z = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if activation == "softmax":
        return z.softmax(1) > 0.5
    return z > (0.0 if activation == "sigmoid" else 0.5)


def predicted_labels(logits: Tensor) -> Tensor:
    """The channel of the largest logit, int64 ``[B, *S]``."""
    # of tensors argmax is slower on the CPU
    return logits.argmax(1) if isinstance(logits, LazyLogits) else logits.max(1)[1]


def contours(masks: Tensor) -> Tensor:
    """bool ``[B, C, *S]``: the voxels of each mask with a face neighbour outside it; the volume's edge is no side."""
    if masks.numel() == 0:
        return masks
    inside = masks.clone()
    for axis in range(2, masks.ndim):
        length = masks.shape[axis] - 1
        inside.narrow(axis, 1, length).logical_and_(masks.narrow(axis, 0, length))
        inside.narrow(axis, 0, length).logical_and_(masks.narrow(axis, 1, length))
    return masks & ~inside
