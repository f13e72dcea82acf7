"""The survey's U-Net by its layers."""

import pytest
import torch
from torch import nn

pytest.importorskip("monai", reason="the benchmarks need MONAI")

from bench.training.unet import UNet


def test_ten_convolutions_down_and_eight_transposed_up():
    net = UNet(in_channels=1, classes=4)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 10 + [nn.ConvTranspose2d] * 8 + [nn.Conv2d]
    assert layers[-1].kernel_size == (1, 1)
    assert [layer.stride for layer in layers[10:18]] == [(2, 2), (1, 1)] * 4


@pytest.mark.parametrize(("classes", "size"), [(4, (32, 48)), (2, (32, 32))])
def test_logits_have_the_images_size(classes, size):
    net = UNet(in_channels=2, classes=classes, widths=(2, 3, 4, 5, 6))
    assert net(torch.randn(3, 2, *size)).shape == (3, classes, *size)


def test_three_dimensions():
    net = UNet(in_channels=2, classes=3, widths=(2, 3, 4), dims=3)
    assert net.multiple == 4 and net(torch.randn(1, 2, 8, 12, 4)).shape == (1, 3, 8, 12, 4)


def test_odd_sizes_are_a_clear_error():
    with pytest.raises(ValueError, match=r"multiples of 16, got \(32, 40\)"):
        UNet()(torch.randn(1, 1, 32, 40))
