"""The survey's small U-Net, 2D or 3D: 10 convolution layers down, 8 transposed-convolution layers up."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers import Conv
from monai.networks.nets.basic_unet import Down, TwoConv
from torch import nn

WIDTHS = (8, 16, 32, 64, 96)  # channels per level: the survey does not give its own; this trains on two cores
# a few dozen steps are too few for the running averages of a batch norm
STYLE = {"act": "RELU", "norm": ("INSTANCE", {"affine": True}), "bias": False}


class Up(nn.Module):
    """Two transposed convolutions: one enlarges the image twofold, one merges in the encoder's features."""

    def __init__(self, dims: int, wide: int, narrow: int):
        super().__init__()
        twofold = {"strides": 2, "kernel_size": 2, "padding": 0, "output_padding": 0}
        self.enlarge = Convolution(dims, wide, narrow, is_transposed=True, **twofold, **STYLE)
        self.merge = Convolution(dims, 2 * narrow, narrow, is_transposed=True, strides=1, **STYLE)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.merge(torch.cat([skip, self.enlarge(x)], dim=1))


class UNet(nn.Module):
    """Images `[B, in_channels, *S]` to logits `[B, classes, *S]`; the sizes S are multiples of `multiple`.

    Five levels of two convolutions of 3 voxels a side (MONAI's blocks, with instance norm and ReLU), four of two
    transposed convolutions, and a pointwise convolution to the classes.
    """

    def __init__(self, in_channels: int = 1, classes: int = 4, widths: Sequence[int] = WIDTHS, dims: int = 2):
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.top = TwoConv(dims, in_channels, widths[0], **STYLE)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(Down(dims, narrow, wide, **STYLE) for narrow, wide in steps)
        self.up = nn.ModuleList(Up(dims, wide, narrow) for narrow, wide in reversed(steps))
        self.head = Conv["conv", dims](widths[0], classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(length % self.multiple for length in x.shape[2:]):
            raise ValueError(f"sizes must be multiples of {self.multiple}, got {tuple(x.shape[2:])}")
        features = [self.top(x)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features.pop()
        for up in self.up:
            x = up(x, features.pop())
        return self.head(x)
