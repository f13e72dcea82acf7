"""The GPU's back end of what is written for each voxel: sums of terms, and what is ranked or seen by neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.terms import Plan, Term

from . import sums as gpu
from . import voxels as kernels
from .geometry import choose_tile, split
from .products import as_products


def voxel_losses(
    coefficients: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    per_class: bool,
) -> Tensor:
    """The weighted sum of the plan's terms of each voxel ``[B, *S]``, or also of each class ``[B, C, *S]``."""
    shape = (logits.shape[0], logits.shape[1] if per_class else 1, *logits.shape[2:])
    out = torch.empty(shape, dtype=gpu._real(logits), device=logits.device)
    if out.numel():
        what, terms = "values" if per_class else "totals", plan.terms
        values_launch(logits, target, mask, plan, out, what, terms, coefficients, weight_map)[0].run()
    return out if per_class else out[:, 0]


def values_launch(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    plan: Plan,
    out: Tensor,
    what: str,
    terms: tuple[Term, ...] = (),
    coefficients: Tensor | None = None,
    weight_map: Tensor | None = None,
) -> tuple[gpu.Launch, Tensor]:
    """The call of the kernel that fills ``out``: of terms ``"values"``, ``"totals"``, or ``"losses"`` to be ranked;
    without terms ``"errors"``, ``"hinges"``, ``"p"`` or ``"squares"``."""
    batch, channels = logits.shape[:2]
    voxels = logits[0, 0].numel()
    tile = choose_tile(logits, max(1, len(terms)), plan, hold=False)
    if plan.activation != "softmax" and what == "totals":
        tile = tile._replace(chunks=1)
    tiles, programs = split(voxels, batch, tile, 1)
    fields, constants = gpu._inputs(logits, target, mask, weight_map, plan, tile)
    constants |= {"WHAT": what, "TERMS": as_products(terms), "AXES": (*constants["AXES"], gpu._axes(out, 2))}
    if "ROWS" not in tile.constants:
        constants["SPAN"] = channels if tile.chunks == 1 else tile.constants["CHUNK"]
    if coefficients is not None:
        coefficients = coefficients.to(gpu._real(logits)).contiguous()
    args = (*fields, coefficients, gpu._field(out, True), voxels, programs, tiles)
    kernel = kernels.values_rows if "ROWS" in tile.constants else kernels.values_unrolled
    return gpu._launch(kernel, (batch * tile.chunks * programs,), args, constants, tile), out
