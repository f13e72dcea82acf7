"""What a loss does on a GPU around its two fused kernels: small kernels, their bytes, and the time of the process.

Counted without a GPU, on CPU tensors that go the GPU's way and whose Triton kernels are recorded, not run:
``python -m bench.kernels.epilogue [--shape B,D,H,W]`` prints a line of JSON for each loss and direction.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from fastloss.kernels.gpu import sums as gpu
from fastloss.kernels.gpu.epilogue import quotients
from fastloss.kernels.gpu.launch import Launch
from torch.utils._python_dispatch import TorchDispatchMode

import fastloss
from bench.kernels.stencils import StencilVariant, instead_of_running
from bench.kernels.targets import pretend
from fastloss.losses import base
from fastloss.passes import backends, ops

LOSSES = {
    "dice": fastloss.DiceLoss,
    "dice_ce": fastloss.DiceCELoss,
    "focal": fastloss.FocalLoss,
    "dice_focal": fastloss.DiceFocalLoss,
    "log_cosh_dice": fastloss.LogCoshDiceLoss,  # a formula of another kind, in plain PyTorch
}
CHANNELS, ROUNDS = 4, 200
NO_KERNEL = (
    "alias", "as_strided", "detach", "empty", "empty_like", "expand", "permute", "select", "slice", "squeeze", "t",
    "transpose", "unbind", "unsqueeze", "view", "_unsafe_view",
)  # fmt: skip


class Recorder(TorchDispatchMode):
    """The operators that launch a kernel on a GPU, with the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            tensors = [x for x in (*args, *(kwargs or {}).values(), out) if isinstance(x, torch.Tensor)]
            self.seen.append((name, sum(x.numel() * x.element_size() for x in tensors)))
        return out


@contextmanager
def as_on_a_gpu(launched: list[Launch]) -> Iterator[None]:
    """Sends losses of CPU tensors the GPU's way: nothing is asked of their values, and no fused kernel runs."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(gpu, "unavailable", lambda device: ""))
        stack.enter_context(patch.object(base, "_has_zero", lambda values: True))  # of a GPU's it is not known
        stack.enter_context(patch.object(ops, "_unobserved", lambda inputs: True))
        stack.enter_context(patch.dict(backends._chosen, clear=True))
        stack.enter_context(instead_of_running(launched.append))
        stack.enter_context(fastloss.backend("triton"))
        yield


def inputs(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.zeros((shape[0], CHANNELS, *shape[1:]), dtype=torch.bfloat16)
    return logits.requires_grad_(), torch.zeros(shape, dtype=torch.uint8)


def recorded(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor):
    """The small kernels of forward and of backward, and the launches of Triton's in each."""
    launched: list[Launch] = []
    with as_on_a_gpu(launched):
        with Recorder() as forward:
            value = loss(logits, target)
        one, first = torch.ones_like(value), len(launched)
        with Recorder() as backward:
            torch.autograd.grad(value, logits, one)
    return (forward.seen, launched[:first]), (backward.seen, launched[first:])


def rows(shape: tuple[int, ...]) -> Iterator[dict]:
    """Small kernels (Triton's own among them), their bytes, and the microseconds of the process, of each direction."""
    logits, target = inputs(shape)
    for name, cls in LOSSES.items():
        loss = cls(validate=False)
        host = host_microseconds(loss, logits, target)
        for direction, (seen, launched), took in zip(
            ("forward", "backward"), recorded(loss, logits, target), host, strict=True
        ):
            small = [launch for launch in launched if launch.kernel is quotients]
            yield {
                "name": f"{direction} {name}",
                "kernels": len(seen) + len(small),
                "which": [*(operator for operator, _ in seen), *(launch.kernel.fn.__name__ for launch in small)],
                "bytes": sum(moved for _, moved in seen),
                "fused": len(launched) - len(small),
                "host_us": took,
            }


def host_microseconds(loss, logits, target) -> tuple[float, float]:
    """The median of each direction, the launches of Triton's kernels left out; small operators run on the CPU."""
    times: tuple[list[float], list[float]] = [], []
    with as_on_a_gpu([]):
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            value = loss(logits, target)
            middle = time.perf_counter()
            torch.autograd.grad(value, logits)
            times[0].append(middle - begin)
            times[1].append(time.perf_counter() - middle)
    forward, backward = (sorted(found)[ROUNDS // 2] * 1e6 for found in times)
    return forward, backward


def epilogue_variants() -> list[StencilVariant]:
    """The kernel that finishes a loss, for some losses; none is run."""
    found = []
    for name, loss in (
        ("dice and cross-entropy", fastloss.DiceCELoss(include_background=False, validate=False)),
        ("all options", fastloss.DiceCELoss(class_weight=[1, 2, 3, 4], batch=True, smooth=(0, 1), validate=False)),
    ):
        (_, launched), _ = recorded(loss, *inputs((2, 4, 4, 16)))
        found += [StencilVariant(f"quotients {name}", launch) for launch in launched if launch.kernel is quotients]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    pretend("sm_90")
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=(2, 32, 32, 32))
    for row in rows(parser.parse_args().shape):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
