"""Bytes that the Triton kernels load and store, counted while Triton's interpreter runs them over a small volume.

``TRITON_INTERPRET=1 python -m bench.kernels.traffic [--all]`` prints a line of JSON for each variant. A byte counts
once for each program that touches its 32-byte sector: what a program asks for again lies in the L1 cache, and is told
as ``asked``.
"""

from collections import defaultdict

import numpy as np
from fastloss.kernels.gpu import geometry
from triton.runtime import interpreter

from bench.kernels.variants import Variant, print_each_wide

SECTOR = 32
FEW_CHANNELS = 16
MOST_MOVED = 1.05  # of the compulsory bytes, for few channels
MOST_PARTIAL = 0.01  # of the bytes of the logits


class Counter:
    """Takes the place of the interpreter's loads and stores, and does them."""

    def __init__(self):
        self.asked = {"load": 0, "store": 0}
        self.sectors: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = defaultdict(list)

    def count(self, kind: str, pointers, mask) -> None:
        places = np.broadcast_to(pointers.data, np.broadcast_shapes(pointers.data.shape, mask.data.shape))
        places = places[np.broadcast_to(mask.data, places.shape)]
        self.asked[kind] += places.size * pointers.get_element_ty().primitive_bitwidth // 8
        program = tuple(interpreter.interpreter_builder.grid_idx)
        self.sectors[kind, program].append(np.unique(places // SECTOR))

    def moved(self, kind: str) -> int:
        """Bytes of the distinct sectors of each program."""
        found = [touched for (which, _), touched in self.sectors.items() if which == kind]
        return SECTOR * sum(np.unique(np.concatenate(touched)).size for touched in found)

    def __enter__(self):
        builder = interpreter.InterpreterBuilder
        self.own = load, store = builder.create_masked_load, builder.create_masked_store

        def counted_load(builder, pointers, mask, *rest, **options):
            self.count("load", pointers, mask)
            return load(builder, pointers, mask, *rest, **options)

        def counted_store(builder, pointers, value, mask, *rest, **options):
            self.count("store", pointers, mask)
            return store(builder, pointers, value, mask, *rest, **options)

        builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
        return self

    def __exit__(self, *_):
        builder = interpreter.InterpreterBuilder
        builder.create_masked_load, builder.create_masked_store = self.own


def traffic(variant: Variant, shape: tuple[int, ...]) -> dict:
    """Bytes a voxel: moved, asked for, compulsory; and the share of the partial sums in a volume of that shape."""
    geometry.INTERPRETED_WARPS = geometry.WARPS  # tiles as on a GPU
    few = variant.options["channels"] <= FEW_CHANNELS
    problem, launch, out = variant.launch(variant.problem(batch=1, shape=(16, 16, 32) if few else (8, 8, 32)))
    with Counter() as counter:
        launch.run()
    voxels = problem.logits[:, 0].numel()
    forward = variant.direction == "forward"
    compulsory = sum(nbytes(x) for x in problem[:4] if x is not None) + (0 if forward else nbytes(out))
    second_stage = nbytes(out) if forward else 0  # which reads what the kernel wrote
    found = {
        "moved": (counter.moved("load") + counter.moved("store") + second_stage) / voxels,
        "asked": (sum(counter.asked.values()) + second_stage) / voxels,
        "compulsory": compulsory / voxels,
        "partial": partial_share(variant, shape) if forward else 0.0,
    }
    return {"name": variant.name, **found, "faults": faults(variant, found)}


def partial_share(variant: Variant, shape: tuple[int, ...]) -> float:
    """Bytes of the partial sums, written and read once, over those of the logits."""
    problem, _, partial = variant.launch(variant.blank(shape[0], shape[1:]))
    return 2 * nbytes(partial) / nbytes(problem.logits)


def faults(variant: Variant, found: dict) -> list[str]:
    """What is wrong with the traffic; empty if nothing."""
    wrong, ratio = [], found["moved"] / found["compulsory"]
    if variant.options["channels"] <= FEW_CHANNELS and ratio > MOST_MOVED:
        wrong.append(f"{ratio:.2f} of the compulsory bytes")
    if found["partial"] > MOST_PARTIAL:
        wrong.append(f"{found['partial']:.1%} for partial sums")
    return wrong


def nbytes(tensor) -> int:
    return tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    print_each_wide(traffic)
