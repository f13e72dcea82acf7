"""The Triton kernel of labels at another resolution, as `resample_argmax` calls it."""

import torch
from fastloss.kernels.gpu import resample as gpu_resample
from fastloss.kernels.layout import Axis

from bench.kernels.stencils import StencilVariant
from fastloss.passes.resize import Resize

CASES = ((torch.float32, torch.uint8), (torch.bfloat16, torch.uint8), (torch.float64, torch.int16))


def problem(dtype, labels, classes=5, space=(3, 4, 6), size=(6, 9, 13)):
    """Logits, what each axis of the result is made of, and where the labels go."""
    logits = torch.randn(classes, *space, generator=torch.Generator().manual_seed(0)).to(dtype)
    resize, real = Resize(size, "linear"), torch.float64 if dtype == torch.float64 else torch.float32
    axes = [Axis(*resize.sources(k, n, real).places(logits.device)) for k, n in enumerate(space)]
    return logits, tuple(axes), torch.zeros(size, dtype=labels)


def resample_variants() -> list[StencilVariant]:
    """The kernel for each dtype; none is run."""
    return [
        StencilVariant(
            f"resample {dtype} {labels}".replace("torch.", ""), gpu_resample.resample_launch(*problem(dtype, labels))
        )
        for dtype, labels in CASES
    ]
