"""Which kernel, with which tile and grid: by the registers that a thread would need, from shapes and dtypes alone."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastloss.terms import FACTORS, Plan, Term

WARPS = 4
INTERPRETED_WARPS = 16  # the interpreter's time is a matter of programs and operations, not of elements
VECTOR_BYTES = 16  # the widest load of a thread
UNROLLED_REGISTERS = {8: 144, 4: 176, 2: 176}  # for a thread's share of the channels and the sums, by voxels
CHUNK_REGISTERS = 84  # the same where channels are independent
POWER_REGISTERS = 8  # of these, what a term with a fractional power takes besides
HELD_REGISTERS = 96  # the same where threads share the channels of a voxel
HELD_WARPS, HELD_VECTOR = 8, 4  # most warps of a program, and voxels of a thread, there
COSTLY_REGISTERS = 5  # of these, what a term with a fractional power, or with -log(1-p), takes besides
SECTOR = 32  # bytes that memory gives at once
PROGRAMS = 512  # of WARPS, at least: one wave on the largest devices, at four programs a multiprocessor
MAX_VOXELS = 2**16  # of a program, far below 2^24: counts stay exact in float32


class Tile(NamedTuple):
    """A program's tile: ``voxels`` of them, and the compile-time constants that say how it is laid out."""

    voxels: int
    chunks: int
    constants: dict[str, Any]


def choose_tile(logits: Tensor, terms: int, plan: Plan, hold: bool = True) -> Tile:
    """The tile, and with it the kernel; ``hold``: whether the kernel knows rows of held channels."""
    channels = logits.shape[1]
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


def _unrolled(vector: int, channels: int, chunk: int) -> Tile:
    lanes = _warp_size() * _warps()
    constants = {"CHANNELS": channels, "CHUNK": chunk, "LANES": lanes, "VECTOR": vector, "num_warps": _warps()}
    return Tile(vector * lanes, -(-channels // chunk), constants)


def _reread(vector: int, channels: int) -> Tile:
    block = vector * _warp_size()
    return Tile(block, 1, {"CHANNELS": channels, "ROWS": _warps(), "BLOCK": block, "num_warps": _warps()})


def _held(vector: int, channels: int, terms: int, plan: Plan, size: int) -> Tile | None:
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
    return Tile(block, 1, constants)


def _chunk(channels: int, limit: int) -> int:
    """How many channels a program takes: a divisor of all of them where one is near the limit."""
    if channels <= limit:
        return channels
    return next((n for n in range(limit, limit // 2, -1) if channels % n == 0), limit)


def split(voxels: int, batch: int, tile: Tile, least: int) -> tuple[int, int]:
    """Tiles a program walks, and programs a sample and chunk."""
    tiles = -(-voxels // tile.voxels)
    wanted = max(least, tiles * batch * tile.chunks * tile.constants["num_warps"] // (PROGRAMS * _warps()))
    wanted = max(1, min(wanted, MAX_VOXELS // tile.voxels))
    return wanted, -(-tiles // wanted)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _warps() -> int:
    return INTERPRETED_WARPS if interpreted() else WARPS


def _warp_size() -> int:
    return 32 if interpreted() else triton.runtime.driver.active.get_current_target().warp_size
