"""The Triton kernels of the losses on stencils, as the losses call them: recorded from runs that compute nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from fastloss.kernels.gpu import erosion, skeleton, structure
from fastloss.kernels.gpu import stencils as gpu_stencil
from fastloss.kernels.gpu import sums as gpu

from bench.kernels.problems import make_problem

TAPS = [0.1, 0.2, 0.4, 0.2, 0.1]
CASES = (((8, 16, 32), torch.bfloat16), ((32, 64), torch.float32), ((8, 8, 16), torch.float64))  # space, dtype


@dataclass(frozen=True)
class StencilVariant:
    """One kernel, with the interface of :class:`bench.kernels.variants.Variant` that tells of its code."""

    name: str
    call: gpu.Launch
    direction: str = "stencil"
    wide: bool = False  # neighbours lie at any address

    def problem(self) -> None:
        """None: the launch has its tensors."""

    def launch(self, problem: None) -> tuple[None, gpu.Launch, None]:
        return problem, self.call, None


def stencil_problem(space: tuple[int, ...], dtype: torch.dtype, **options):
    """Logits of three classes that are wrong over large regions, with a weighted mask."""
    problem = make_problem(3, space, "softmax", dtype, (), mask="weight", **options)
    problem.logits[:, 1] += 4
    problem.target[:, 1:] = problem.target[:, :1]
    return problem


def run_losses(problem, backend=gpu_stencil) -> dict[str, torch.Tensor]:
    """What the losses whose stencils are kernels compute of a problem, by the names of its parts."""
    tensors = (problem.logits, problem.target, problem.mask, problem.plan)
    found = {}
    found["erosion sums"], found["erosion slope"], _ = backend.hausdorff_erosion(*tensors, 2.0, 3, True)
    found["structure"], found["structure sums"], _ = backend.structural_map(*tensors, TAPS, 0.1, 0.01, 1e-4)
    found["skeleton sums"], _ = backend.cldice_sums(*tensors, 2, 1)
    by_sums = torch.linspace(-1, 1, 7, dtype=torch.float64).expand(*problem.logits.shape[:2], 7).clone()
    by_sums[:, 0] = 0
    found["skeleton slope"] = backend.cldice_sums_backward(by_sums, *tensors, 2, 1)
    return found


@contextmanager
def instead_of_running(act: Callable[[gpu.Launch], None]) -> Iterator[None]:
    """Gives every launch to ``act``."""
    with patch.object(gpu.Launch, "run", lambda launch: act(launch)):
        yield


def name_of(launch: gpu.Launch, dtype: torch.dtype) -> str:
    """The kernel, its dtype, and what it is compiled for."""
    axes = [f"{key.lower()} {launch.constants[key]}" for key in ("AXES", "AXIS") if key in launch.constants]
    flags = [key.lower() for key, value in launch.constants.items() if value is True and key.isupper()]
    return " ".join([launch.kernel.fn.__name__, str(dtype).removeprefix("torch."), *axes, *flags])


def stencil_variants() -> list[StencilVariant]:
    """Each kernel of neighbours for each number of axes and dtype; none is run."""
    modules = [module.__name__ for module in (erosion, skeleton, structure)]
    found: dict[str, StencilVariant] = {}
    for space, dtype in CASES:
        launches: list[gpu.Launch] = []
        with instead_of_running(launches.append):
            run_losses(stencil_problem(space, dtype))
        for launch in launches:
            if launch.kernel.fn.__module__ in modules:
                name = name_of(launch, torch.float64 if dtype == torch.float64 else torch.float32)
                found.setdefault(name, StencilVariant(name, launch))
    return list(found.values())
