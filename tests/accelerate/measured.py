"""Runs a training and prints, at its end, time and peak memory of one of its losses, forward and backward:

python -m accelerate.measured monai.losses:DiceCELoss train.py ARGUMENTS ...
"""

import argparse
import atexit
import ctypes
import gc
import importlib
import json
import runpy
import statistics
import sys
import time

import torch

from bench.peak_memory import reset_peak, resident_bytes

MARK = "measured: "
WARM_UP = 2  # calls, in which kernels compile


class _WithGradient(torch.autograd.Function):
    """A value whose gradient is known."""

    @staticmethod
    def forward(ctx, logits, value, gradient):
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, slope):
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None


def measure(cls: type) -> list[tuple[float, int]]:
    """Seconds and bytes of each call of the class's objects that asks for a gradient, from now on."""
    found = []
    original = cls.__call__

    def call(self, logits, *rest, **named):
        if not (torch.is_grad_enabled() and logits.requires_grad):
            return original(self, logits, *rest, **named)
        leaf = logits.detach().requires_grad_()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        reset_peak(torch.device("cpu"))
        before, start = resident_bytes("VmRSS"), time.perf_counter()
        value = original(self, leaf, *rest, **named)
        (gradient,) = torch.autograd.grad(value, leaf)
        seconds = time.perf_counter() - start
        found.append((seconds, max(0, resident_bytes("VmHWM") - before)))
        return _WithGradient.apply(logits, value.detach(), gradient)

    cls.__call__ = call
    return found


def show(found: list[tuple[float, int]]) -> None:
    seconds, sizes = zip(*found[WARM_UP:] or found, strict=True)
    text = {"calls": len(found), "seconds": statistics.median(seconds), "bytes": statistics.median(sizes)}
    print(MARK + json.dumps(text), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("loss", help="MODULE:CLASS")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    module, name = given.loss.split(":")
    atexit.register(show, measure(getattr(importlib.import_module(module), name)))
    sys.argv = given.command
    runpy.run_path(given.command[0], run_name="__main__")
