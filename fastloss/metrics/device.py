"""Surface distances of tensors on a GPU: nothing but the sizes of the surfaces comes to the CPU, in one copy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distance import edt
from .elements import areas_of_codes
from .inputs import Segmentations

Pair = tuple[Tensor, Tensor]  # of prediction and truth


def distances_on_device(
    given: Segmentations, columns: range, spacings_mm: list[list[float]], use_subvoxels: bool
) -> list[list[tuple[Tensor, ...]]]:
    """Of each sample and class the distances from the surface of each mask to that of the other, and with
    ``use_subvoxels`` the areas of both.

    Surfaces are made twice, first to be counted: so memory does not grow with samples and classes.
    """
    sizes: list[Tensor] = []
    for sample in range(len(spacings_mm)):
        for pair, _ in _surfaces(given, sample, columns, use_subvoxels):
            sizes += [surface.sum() for surface in pair]
    (counts,) = given.read(torch.stack(sizes)) if sizes else ([],)
    left, rows = iter(counts), []
    for sample, spacing_mm in enumerate(spacings_mm):
        surfaces = _surfaces(given, sample, columns, use_subvoxels)
        rows.append([_between(pair, codes, (next(left), next(left)), spacing_mm) for pair, codes in surfaces])
    given.doubts.clear()  # which have been read
    return rows


def _surfaces(
    given: Segmentations, sample: int, columns: range, use_subvoxels: bool
) -> Iterator[tuple[Pair, Pair | None]]:
    """The surfaces of each class, bool volumes; and the codes of the cells, of which volumes have one more a side."""
    volumes = _volumes(given, sample)
    for c in columns:
        predicted, true = (x[c] if given.overlapping else x == c for x in volumes)
        if use_subvoxels:
            codes = _cell_codes(predicted), _cell_codes(true)
            inside = 2 ** (2**predicted.ndim) - 1
            yield ((codes[0] > 0) & (codes[0] < inside), (codes[1] > 0) & (codes[1] < inside)), codes
        else:
            yield (_surface(predicted), _surface(true)), None


def _volumes(given: Segmentations, sample: int) -> Pair:
    """Prediction and truth of a sample as labels of few bytes, or as masks."""
    channels, every = ((given.classes,), (slice(None),)) if given.overlapping else ((), ())
    dtype = torch.bool if given.overlapping else torch.uint8 if given.classes < 256 else torch.int32
    shape, device = (*channels, *given.space), given.target.device
    predicted, true = torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
    for slab in given.slabs(sample):
        predicted[every + slab.place], true[every + slab.place] = slab.prediction, slab.target
    return predicted, true


def _surface(mask: Tensor) -> Tensor:
    """Voxels of the mask with a face neighbour outside of it or of the volume."""
    if not mask.numel():
        return mask
    inside = mask.clone()
    for axis, size in enumerate(mask.shape):
        inside.narrow(axis, 1, size - 1).logical_and_(mask.narrow(axis, 0, size - 1))
        inside.narrow(axis, 0, size - 1).logical_and_(mask.narrow(axis, 1, size - 1))
        inside.select(axis, 0).fill_(False)
        inside.select(axis, size - 1).fill_(False)
    return mask & ~inside


def _cell_codes(mask: Tensor) -> Tensor:
    """:func:`fastloss.metrics.elements.cell_codes` of a tensor."""
    padded = F.pad(mask.to(torch.uint8), [1] * (2 * mask.ndim))
    codes = torch.zeros([size + 1 for size in mask.shape], dtype=torch.uint8, device=mask.device)
    for corner in itertools.product((0, 1), repeat=mask.ndim):
        there = padded[tuple(slice(c, c + size) for c, size in zip(corner, codes.shape, strict=True))]
        codes.mul_(2).add_(there)
    return codes


def _between(pair: Pair, codes: Pair | None, sizes: tuple[int, int], spacing_mm: list[float]) -> tuple[Tensor, ...]:
    places = [torch.nonzero_static(x.flatten(), size=n).squeeze(1) for x, n in zip(pair, sizes, strict=True)]
    found = []
    for here, there in ((0, 1), (1, 0)):
        if sizes[here] and sizes[there]:
            found.append(edt(~pair[there], spacing_mm).flatten().index_select(0, places[here]))
        else:
            found.append(torch.full((sizes[here],), torch.inf, device=pair[here].device))
    if codes is not None:
        areas = torch.from_numpy(areas_of_codes(spacing_mm)).to(pair[0].device)
        found += [areas[c.flatten().index_select(0, at).long()] for c, at in zip(codes, places, strict=True)]
    return tuple(found)
