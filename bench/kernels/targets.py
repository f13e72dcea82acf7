"""GPUs that need not be there, for which kernels are compiled."""

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class PretendedDriver:
    """Says that the GPU is one of TARGETS, so that the launcher compiles for it."""

    def __init__(self, name):
        self.name = name

    def get_current_target(self):
        return TARGETS[self.name]

    def get_current_device(self):
        return list(TARGETS).index(self.name)  # Triton keeps compiled kernels by device

    def get_current_stream(self, device):
        return 0


def pretend(target: str) -> None:
    """Compile for the target from here on."""
    driver.set_active(PretendedDriver(target))


def compile_launch(launch):
    """The compiled kernel of a launch, which is not run."""
    return launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.constants)
