"""Counts what a CPU would wait for, were the tensors a GPU's: numbers and volumes that are read."""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal, aten._unique2}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Copies(TorchDispatchMode):
    """Each read as the name of its operator, and how many values it reads."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet, kwargs = func.overloadpacket, kwargs or {}
        by_mask = packet in INDEXING and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        elsewhere = packet == aten._to_copy and kwargs.get("device") is not None
        if packet in READS or by_mask or elsewhere:
            self.found.append((str(packet), args[0].numel()))
        return func(*args, **kwargs)


@contextmanager
def counted():
    """The reads within, as ``(name, values)``; those of Triton's interpreter, which has the CPU's memory, left out."""
    from fastloss.kernels.gpu.sums import Launch

    copies, inside = Copies(), []

    def watched(name):
        own = getattr(torch.Tensor, name)

        def method(tensor, *args, **options):
            if not inside:
                copies.found.append((name, tensor.numel()))
            with _disable_current_modes():  # counted once
                return own(tensor, *args, **options)

        return patch.object(torch.Tensor, name, method)

    run = Launch.run

    def launch_unwatched(launch):
        inside.append(launch)
        with _disable_current_modes():
            run(launch)
        inside.pop()

    with ExitStack() as stack:
        for name in ("cpu", "numpy", "tolist", "item"):
            stack.enter_context(watched(name))
        stack.enter_context(patch.object(Launch, "run", launch_unwatched))
        stack.enter_context(copies)
        yield copies.found
