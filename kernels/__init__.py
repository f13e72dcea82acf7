"""Back ends of the fused pass, a room each: ``reference`` (plain PyTorch), ``cpu`` (Numba), ``gpu`` (Triton).

The rooms of the same name do the same work: ``sums``, ``values``, ``ranked``, ``stencils`` and ``resample``. None
imports another back end, and none knows losses. ``sums`` offers

* ``forward(logits, target, mask, weight_map, plan) -> sums``: float64 ``[B, C, K]``;
* ``backward(grad_sums, logits, target, mask, weight_map, plan) -> grad``: like ``logits``.
"""
