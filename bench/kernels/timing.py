"""Times of the Triton kernels on a GPU that is there: ``python -m bench.kernels.timing [--all] [--shape B,D,H,W]``."""

import torch
from triton.testing import do_bench

from bench.kernels.variants import Variant, print_each_wide


def microseconds(variant: Variant, shape: tuple[int, ...]) -> dict:
    """The median time of the kernel alone, by CUDA events, with the L2 cache cleared before each run."""
    blank = variant.blank(shape[0], shape[1:])
    problem = blank._replace(
        **{name: x.cuda() for name, x in blank._asdict().items() if isinstance(x, torch.Tensor)},
    )
    problem.logits.normal_()  # zeros would be kinder to the memory than a network's logits
    _, launch, _ = variant.launch(problem)
    return {"name": variant.name, "measured_us": 1e3 * do_bench(launch.run, return_mode="median")}


if __name__ == "__main__":
    print_each_wide(microseconds)
