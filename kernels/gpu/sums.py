"""Triton back end: CUDA and ROCm devices, and the CPU when Triton interprets (``TRITON_INTERPRET=1``).

This file is the host side: which kernel runs, with which tile, grid and compile-time constants. All of it
follows from shapes, dtypes and strides (never from timings), so the same call gives the same bits.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple, get_type_hints

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastloss.terms import FACTORS, Plan, Term

from ..layout import labels_within, spatial_layout
from . import rows, unrolled

WARPS = 4
INTERPRETED_WARPS = 16  # the interpreter's time is a matter of programs and operations, not of elements
VECTOR_BYTES = 16  # the widest load of a thread
UNROLLED_REGISTERS = {8: 144, 4: 176, 2: 176}  # for a thread's share of the channels and the sums, by voxels
CHUNK_REGISTERS = 84  # the same where channels are independent
POWER_REGISTERS = 8  # of these, what a term with a fractional power takes besides
HELD_REGISTERS = 96  # the same where threads share the channels of a voxel
HELD_WARPS, HELD_VECTOR = 8, 4  # most warps of a program, and voxels of a thread, there
COSTLY_REGISTERS = 3  # of these, what a term with a fractional power, or with -log(1-p), takes besides
SECTOR = 32  # bytes that memory gives at once
PROGRAMS = 512  # of WARPS, at least: one wave on the largest devices, at four programs a multiprocessor
MAX_VOXELS = 2**16  # of a program, far below 2^24: counts stay exact in float32


class Field(NamedTuple):
    """A tensor as a kernel sees it: strides in elements, the space merged into at most three axes."""

    pointer: Tensor
    sample: int
    channel: int
    size1: int
    size2: int
    stride0: int
    stride1: int
    stride2: int
    far: int | None  # 1, else None: both are compile-time constants; whether channels are 2^31 elements apart


class Launch(NamedTuple):
    """One kernel call, complete: ``kernel[grid](*args, **constants)``."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple
    constants: dict[str, Any]

    def run(self) -> None:
        first = self.args[0]
        device = (first.pointer if isinstance(first, Field) else first).device
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            self.kernel[self.grid](*self.args, **self.constants)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


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
    tile = _tile(logits, channels, terms, plan)
    # The partial sums, written and read once, stay below 1 % of the bytes of the logits.
    least = -(-800 * terms // (tile.voxels * logits.element_size()))
    tiles, programs = _split(voxels, batch, tile, least)
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
    batch, channels = logits.shape[:2]
    voxels = logits[0, 0].numel()
    tile = _tile(logits, channels, len(plan.terms), plan)
    tiles, programs = _split(voxels, batch, tile, 1)
    grad = torch.empty_like(logits)
    terms, coefficients = _sloped(plan, grad_sums)
    coefficients = coefficients.to(_real(logits)).contiguous()
    fields, constants = _inputs(logits, target, mask, weight_map, plan, tile)
    args = (*fields, coefficients, _field(grad, True), voxels, programs, tiles)
    constants |= {"TERMS": terms, "AXES": (*constants["AXES"], _axes(grad, 2))}
    kernel = rows.backward_rows if "ROWS" in tile.constants else unrolled.backward_unrolled
    return _launch(kernel, (batch * tile.chunks * programs,), args, constants, tile), grad


# A term as backward takes it: a Term, and the index of its coefficient where y is 1, else its own.
Sloped = NamedTuple("Sloped", [*get_type_hints(Term).items(), ("of_target", int)])


def _sloped(plan: Plan, grad_sums: Tensor) -> tuple[tuple[Sloped, ...], Tensor]:
    """The terms and their coefficients, where a product and its share of y are one term of two coefficients.

    What both add where y is 1 is added here in float64, since they may cancel but for a small part.
    """
    terms, coefficients = [Sloped(*term, k) for k, term in enumerate(plan.terms)], grad_sums.clone()
    for k, term in enumerate(plan.terms):
        of_target = term._replace(share="y")
        if term.share == "1" and of_target in plan.terms and plan.terms.index(term) == k:
            other = plan.terms.index(of_target)
            terms[k] = terms[k]._replace(of_target=other)
            terms[other] = Sloped(*Term(), other)  # whose slope is zero
            coefficients[..., other] += grad_sums[..., k]
    return tuple(terms), coefficients


class _Tile(NamedTuple):
    """A program's tile: ``voxels`` of them, and the compile-time constants that say how it is laid out."""

    voxels: int
    chunks: int
    constants: dict[str, int]


def _tile(logits: Tensor, channels: int, terms: int, plan: Plan, hold: bool = True) -> _Tile:
    """The tile, and with it the kernel, by the registers that a thread would need."""
    vector = max(1, VECTOR_BYTES // logits.element_size())
    double = logits.dtype == torch.float64
    if plan.activation != "softmax":  # whose channels come one after another
        needed = vector + terms + POWER_REGISTERS * sum(map(_fractional, plan.terms))
        return _unrolled(vector, channels, _chunk(channels, max(1, CHUNK_REGISTERS // ((1 + double) * needed))))
    for narrower, most in UNROLLED_REGISTERS.items():
        needed = channels * (narrower + _registers(narrower, terms, plan))
        if not double and narrower <= vector and needed <= most:
            return _unrolled(narrower, channels, channels)
    held = _held(min(vector, HELD_VECTOR), channels, terms, plan, logits.element_size()) if hold else None
    return held or _reread(vector, channels)


def _registers(vector: int, terms: int, plan: Plan) -> int:
    """What a channel of a softmax takes of a thread."""
    costly = sum(bool(term.m) or _fractional(term) for term in plan.terms)
    return vector * (1 + plan.dense + _apart(plan)) + terms + COSTLY_REGISTERS * costly


def _fractional(term: Term) -> bool:
    return any(getattr(term, factor) % 1 for factor in FACTORS)


def _apart(plan: Plan) -> bool:
    """Whether a term is a function of 1 - p, which is a sum of its own."""
    return any(term.q or term.m or term.d or term.l % 1 for term in plan.terms)


def _unrolled(vector: int, channels: int, chunk: int) -> _Tile:
    lanes = _warp_size() * _warps()
    constants = {"CHANNELS": channels, "CHUNK": chunk, "LANES": lanes, "VECTOR": vector, "num_warps": _warps()}
    return _Tile(vector * lanes, -(-channels // chunk), constants)


def _reread(vector: int, channels: int) -> _Tile:
    block = vector * _warp_size()
    return _Tile(block, 1, {"CHANNELS": channels, "ROWS": _warps(), "BLOCK": block, "num_warps": _warps()})


def _held(vector: int, channels: int, terms: int, plan: Plan, size: int) -> _Tile | None:
    """Held channels in as few rows as can be, since each computes anew what the channels of a voxel share."""
    rows = {}
    for narrower in (vector, vector // 2):
        most = HELD_REGISTERS // (max(1, size // 4) * _registers(narrower, terms, plan))
        rows[narrower] = triton.next_power_of_2(-(-channels // max(1, most)))
    vector = min(rows, key=rows.get)
    lanes = max(SECTOR // (size * vector), _warp_size() // rows[vector])
    warps = rows[vector] * lanes // _warp_size()
    if warps > HELD_WARPS:
        return None
    block = lanes * vector * (_warps() // WARPS) ** 2  # interpreted, 16 times as wide
    constants = {"CHANNELS": channels, "ROWS": rows[vector], "BLOCK": block, "VECTOR": vector}
    constants |= {"PIECES": -(-channels // rows[vector]), "APART": _apart(plan), "num_warps": warps}
    return _Tile(block, 1, constants)


def _chunk(channels: int, limit: int) -> int:
    """How many channels a program takes: a divisor of all of them where one is near the limit."""
    if channels <= limit:
        return channels
    return next((n for n in range(limit, limit // 2, -1) if channels % n == 0), limit)


def _split(voxels: int, batch: int, tile: _Tile, least: int) -> tuple[int, int]:
    """Tiles a program walks, and programs a sample and chunk."""
    tiles = -(-voxels // tile.voxels)
    wanted = max(least, tiles * batch * tile.chunks * tile.constants["num_warps"] // (PROGRAMS * _warps()))
    wanted = max(1, min(wanted, MAX_VOXELS // tile.voxels))
    return wanted, -(-tiles // wanted)


def _inputs(
    logits: Tensor, target: Tensor, mask: Tensor | None, weight_map: Tensor | None, plan: Plan, tile: _Tile
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
    axes = tuple(1 if t is None else _axes(t, f) for t, f in zip(tensors, first, strict=True))
    constants = {
        "TERMS": plan.terms,
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


def _launch(kernel: Any, grid: tuple[int], args: tuple, constants: dict[str, Any], tile: _Tile) -> Launch:
    # The fusion of multiply and add is asked for by name: its default differs between versions of Triton.
    options = {**constants, **tile.constants, "enable_fp_fusion": True}
    return Launch(kernel, grid, args, options)


def _real(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _warps() -> int:
    return INTERPRETED_WARPS if interpreted() else WARPS


def _warp_size() -> int:
    return 32 if interpreted() else triton.runtime.driver.active.get_current_target().warp_size
