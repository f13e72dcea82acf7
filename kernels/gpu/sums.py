"""Triton back end: CUDA and ROCm devices, and the CPU when Triton interprets (``TRITON_INTERPRET=1``).

This file is the host side: which kernel runs, with which tile, grid and compile-time constants. All of it
follows from shapes, dtypes and strides (never from timings), so the same call gives the same bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from fastloss.quotients import Quotient
from fastloss.terms import Plan

from ..layout import labels_within, spatial_layout
from . import epilogue, rows, unrolled
from .geometry import Tile, choose_tile, interpreted, split
from .launch import Field, Launch
from .products import Product, as_products


def unavailable(device: torch.device) -> str:
    """Why the kernels cannot run on ``device``; empty if they can."""
    if device.type == "cuda" or interpreted():
        return ""
    return f"Triton needs a GPU, or TRITON_INTERPRET=1 before it is imported; the tensor is on {device}"


def forward(logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[B, C, K]`` (float64) of the plan's terms for ``logits`` ``[B, C, *S]``."""
    shape = *logits.shape[:2], len(plan.terms)
    if logits.numel() == 0 or not plan.terms:
        return torch.zeros(shape, dtype=torch.float64, device=logits.device)
    launch, partial = forward_launch(logits, target, mask, weight_map, plan)
    launch.run()
    return partial.sum(1, dtype=torch.float64)


takes_quotients = epilogue.fits


def quotient_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
    names: tuple[str, ...],
    parts: tuple[Quotient, ...],
) -> tuple[Tensor, Tensor]:
    """The sum of the quotients, and its slopes ``[B, C, K]`` (float64), which :func:`quotient_backward` takes."""
    sums = forward(logits, target, mask, weight_map, plan)
    others = dict(_merged(plan))
    added_to = tuple(others.get(k, -1) for k in range(len(names)))
    launch, value, slopes = epilogue.launch_of(sums, names, parts, added_to, _real(logits))
    launch.run()
    return value, slopes


def quotient_backward(
    slopes: Tensor,
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> Tensor:
    """Gradient with respect to ``logits`` of such a loss, times the scalar ``grad``."""
    coefficients = torch.empty(slopes.shape, dtype=_real(logits), device=slopes.device)
    torch.mul(slopes, grad.detach(), out=coefficients)
    launch, gradient = _sloped_launch(coefficients, logits, target, mask, weight_map, plan)
    launch.run()
    return gradient


def backward(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> Tensor:
    """Gradient with respect to ``logits`` of ``(sums * grad_sums).sum()``."""
    if logits.numel() == 0 or not plan.terms:
        return torch.zeros_like(logits)
    launch, grad = backward_launch(grad_sums, logits, target, mask, weight_map, plan)
    launch.run()
    return grad


def forward_launch(
    logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan
) -> tuple[Launch, Tensor]:
    """The forward kernel's call and the partial sums ``[B, T, C, K]`` that it fills."""
    batch, channels, terms = *logits.shape[:2], len(plan.terms)
    voxels = logits[0, 0].numel()
    tile = choose_tile(logits, terms, plan)
    # The partial sums, written and read once, stay below 1 % of the bytes of the logits.
    least = -(-800 * terms // (tile.voxels * logits.element_size()))
    tiles, programs = split(voxels, batch, tile, least)
    partial = torch.empty((batch, programs, channels, terms), dtype=_real(logits), device=logits.device)
    fields, constants = _inputs(logits, target, mask, weight_map, plan, tile)
    args = (*fields, partial, voxels, programs, tiles)
    kernel = rows.forward_rows if "ROWS" in tile.constants else unrolled.forward_unrolled
    return _launch(kernel, (batch * tile.chunks * programs,), args, constants, tile), partial


def backward_launch(
    grad_sums: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> tuple[Launch, Tensor]:
    """The backward kernel's call and the gradient that it fills."""
    coefficients = grad_sums.clone()
    for k, other in _merged(plan):  # in float64, as they may cancel but for a small part
        coefficients[..., other].add_(grad_sums[..., k])
    coefficients = coefficients.to(_real(logits)).contiguous()
    return _sloped_launch(coefficients, logits, target, mask, weight_map, plan)


def _sloped_launch(
    coefficients: Tensor,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight_map: Tensor | None,
    plan: Plan,
) -> tuple[Launch, Tensor]:
    """The same from coefficients that are merged and of the kernel's dtype."""
    batch, voxels = logits.shape[0], logits[0, 0].numel()
    tile = choose_tile(logits, len(plan.terms), plan)
    tiles, programs = split(voxels, batch, tile, 1)
    grad = torch.empty_like(logits)
    fields, constants = _inputs(logits, target, mask, weight_map, plan, tile)
    args = (*fields, coefficients, _field(grad, True), voxels, programs, tiles)
    constants |= {"TERMS": _sloped(plan), "AXES": (*constants["AXES"], _axes(grad, 2))}
    kernel = rows.backward_rows if "ROWS" in tile.constants else unrolled.backward_unrolled
    return _launch(kernel, (batch * tile.chunks * programs,), args, constants, tile), grad


def _sloped(plan: Plan) -> tuple[Product, ...]:
    """The terms, where a product and its share of y are one term of two coefficients."""
    terms = list(as_products(plan.terms))
    for k, other in _merged(plan):
        terms[k] = replace(terms[k], of_target=other)
        terms[other] = Product(of_target=other)  # whose slope is zero
    return tuple(terms)


def _merged(plan: Plan) -> list[tuple[int, int]]:
    """Which terms are products whose share of y is a term as well, to whose coefficient theirs is to be added."""
    shares = [(k, term._replace(share="y")) for k, term in enumerate(plan.terms) if term.share == "1"]
    first = plan.terms.index
    return [(k, first(share)) for k, share in shares if share in plan.terms and first(plan.terms[k]) == k]


def _inputs(
    logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan, tile: Tile
) -> tuple[list[Field | None], dict[str, Any]]:
    """The four input fields and the constants that describe them."""
    by_channel = mask is not None and mask.ndim == logits.ndim
    if not plan.mapped:
        weight_map = None
    fields = [
        _field(logits, True),
        _field(target, plan.dense),
        None if mask is None else _field(mask, by_channel),
        None if weight_map is None else _field(weight_map, True),
    ]
    first = (2, 2 if plan.dense else 1, 2 if by_channel else 1, 2)
    tensors = (logits, target, mask, weight_map)
    voxels = logits[0, 0].numel()
    axes = tuple(0 if t is None else _axes(t, f) for t, f in zip(tensors, first, strict=True))  # 0: there is none
    constants = {
        "TERMS": as_products(plan.terms),
        "ACTIVATION": plan.activation,
        "IGNORE": labels_within(plan, target.dtype),
        "DENSE": plan.dense,
        "MASK": "none" if mask is None else "channel" if by_channel else "voxel",
        "AXES": axes,
        # Voxel numbers past 2^31 need the wider type; divisions are much cheaper in the narrow one.
        "INDEX": tl.int32 if voxels < 2**31 - 2**16 else tl.int64,
        "EVEN": voxels % tile.voxels == 0,
    }
    return fields, constants


def _field(tensor: Tensor, channels: bool) -> Field:
    if tensor.dtype == torch.bool:
        tensor = tensor.view(torch.uint8)
    first = 2 if channels else 1
    (_, n1, n2), strides = spatial_layout(tensor, first)
    channel = tensor.stride(1) if channels and tensor.shape[1] > 1 else 0
    far = 1 if channel * tensor.shape[1] >= 2**31 else None
    return Field(tensor, tensor.stride(0), channel, n1, n2, *strides, far)


def _axes(tensor: Tensor, first: int) -> int:
    (n0, n1, _), _ = spatial_layout(tensor, first)
    return 3 if n0 > 1 else 2 if n1 > 1 else 1


def _launch(kernel: Any, grid: tuple[int], args: tuple, constants: dict[str, Any], tile: Tile) -> Launch:
    # The fusion of multiply and add is asked for by name: its default differs between versions of Triton.
    options = {**constants, **tile.constants, "enable_fp_fusion": True}
    return Launch(kernel, grid, args, options)


def _real(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
