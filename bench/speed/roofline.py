"""What this machine can do: bytes a second that are read and copied, exponentials a second; and what a loss needs."""

import time
from collections.abc import Callable

import numpy as np
import torch

from bench.speed.case import Case
from bench.timing import timed

BYTES = 256 << 20  # larger than the caches
ELEMENTS = 1 << 14  # of exponentials: within a core's own caches
ROUNDS, SHORT_ROUNDS = 7, 300  # the fastest counts, of the short ones one without a disturbance


def fastest(call: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Seconds of the fastest of some rounds, the first left out."""
    call()
    return min(timed(call, device)[1] for _ in range(rounds)) / 1e3


def roofline(device: torch.device) -> dict:
    """GB/s of reading and of copying (bytes read and written together), and 10^9 exponentials a second."""
    source = torch.ones(BYTES // 4, device=device)
    out = torch.empty_like(source)
    read = fastest(lambda: torch.sum(source), device)
    copy = fastest(lambda: out.copy_(source), device)
    rate = exponentials_of_gpu(out) if device.type == "cuda" else exponentials_of_core() * torch.get_num_threads()
    return {"read_gb_s": BYTES / read / 1e9, "copy_gb_s": 2 * BYTES / copy / 1e9, "exp_g_s": rate / 1e9}


def exponentials_of_core() -> float:
    """float32 exponentials a second of one core, by the kernels' own polynomial over a row in its caches."""
    from fastloss.kernels.cpu.functions import Functions
    from fastloss.kernels.cpu.lanes import BYTES as NUMBER
    from fastloss.kernels.cpu.lanes import FLOAT32, Lanes, counted
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic

    @intrinsic
    def emitted(typingctx, x, out):
        def codegen(context, builder, signature, args):
            lanes = Lanes(builder, FLOAT32, registers=4)
            with counted(builder, ELEMENTS // lanes.width) as block:
                offset = builder.mul(block, ir.Constant(NUMBER, lanes.width * lanes.size))
                lanes.store(Functions(lanes).exp(lanes.load(args[0], offset)), args[1], offset)
            return context.get_dummy_value()

        return types.void(x, out), codegen

    @njit
    def exponentials(x, out):
        emitted(x, out)

    x = np.linspace(-10, 0, ELEMENTS, dtype=np.float32)
    out = np.empty_like(x)
    addresses = x.ctypes.data, out.ctypes.data
    return ELEMENTS / fastest(lambda: exponentials(*addresses), torch.device("cpu"), SHORT_ROUNDS)


def exponentials_of_gpu(x: torch.Tensor) -> float:
    """The same of a GPU, where reading and writing them is what takes time."""
    return x.numel() / fastest(x.exp_, x.device)


def attainable(case: Case, roof: dict) -> float:
    """The least ms of forward and backward: of compulsory bytes, or of an exponential a logit and pass if that is more.

    Forward reads logits and labels, which is reading alone; backward reads both and writes the gradient.
    """
    labels = case.voxels  # uint8
    read = case.logits_bytes + labels
    elements = case.voxels * case.shape[1]
    exponentials = elements / roof["exp_g_s"] / 1e9
    forward = max(read / roof["read_gb_s"] / 1e9, exponentials)
    backward = max((read + case.logits_bytes) / roof["copy_gb_s"] / 1e9, exponentials)
    return 1e3 * (forward + backward)


def overhead_of_formula(case: Case, rounds: int = 50) -> dict:
    """µs of forward and backward of a tiny volume, and of the loss's plain formula on given sums alone."""
    from bench.losses.registry import LOSSES

    loss = LOSSES[case.loss].build(case.activation, case.shape[1])
    logits, labels = case.inputs()

    def whole() -> None:
        loss(logits, labels).backward()

    shape = (*case.shape[:2],)
    terms = loss.terms

    def formula() -> None:
        stacked = torch.rand((*shape, len(terms)), dtype=torch.float64, requires_grad=True)
        sums = dict(zip(terms, stacked.unbind(-1), strict=True))
        loss.from_sums(sums).backward()

    found = {}
    for name, call in (("call_us", whole), ("formula_us", formula)):
        for _ in range(5):
            call()
        times = []
        for _ in range(rounds):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        found[name] = 1e6 * sorted(times)[rounds // 2]
    return found
