"""Back ends of the fused pass: ``reference`` (plain PyTorch), ``cpu`` (Numba), ``gpu`` (Triton).

Each offers the same two functions and knows terms, never losses; none imports another.

* ``forward(logits, target, mask, weight_map, plan) -> sums``: float64 ``[B, C, K]``;
* ``backward(grad_sums, logits, target, mask, weight_map, plan) -> grad``: like ``logits``.
"""
