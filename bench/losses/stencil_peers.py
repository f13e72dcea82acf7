"""Peers of the losses on stencils: kornia's and MONAI's, and plain PyTorch where nobody has the loss."""

from functools import partial

import torch
from torch.nn import functional as F

from bench.losses.peers import Loss, Peer, channel_labels, one_hot_labels


def _probability(logits: torch.Tensor, activation: str) -> torch.Tensor:
    return logits.softmax(1) if activation == "softmax" else logits.sigmoid()


# Hausdorff by erosion


def _build_kornia_erosion(activation: str, classes: int) -> Loss:
    from kornia.losses import HausdorffERLoss, HausdorffERLoss3D

    losses = {4: HausdorffERLoss(), 5: HausdorffERLoss3D()}
    return lambda logits, target: losses[logits.ndim](_probability(logits, activation), target)


kornia_erosion = Peer("HausdorffERLoss3D", "kornia", _build_kornia_erosion, channel_labels)


# clDice


def _build_monai_cldice(activation: str, classes: int) -> Loss:
    from monai.losses import SoftclDiceLoss

    loss = SoftclDiceLoss(iter_=3, smooth_nr=1.0, smooth_dr=1.0, smooth=1e-12)

    def call(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # it sums over the channels of a sample: a class goes in as a sample of its own
        p, y = (x[:, 1:].flatten(0, 1)[:, None] for x in (_probability(logits, activation), target))
        return loss(p, y)

    return call


monai_cldice = Peer("SoftclDiceLoss", "monai", _build_monai_cldice, one_hot_labels)


# Plain PyTorch


def _separable(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Every channel with the same taps along every axis, zeros outside."""
    axes, flat = x.ndim - 2, x.flatten(0, 1)[:, None]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    for axis in range(axes):
        shape = [1] * axes
        shape[axis] = taps.numel()
        flat = convolve(flat, taps.reshape(1, 1, *shape), padding=[size // 2 for size in shape])
    return flat.reshape(x.shape)


def _build_structural(activation: str, classes: int, window: int, sigma: float) -> Loss:
    line = torch.arange(window, dtype=torch.float64) - window // 2
    gaussian = torch.exp(-(line**2) / (2 * sigma**2))
    gaussian = gaussian / gaussian.sum()

    def standardised(x: torch.Tensor, taps: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        mean = _separable(x, taps) / inside
        variance = (_separable(x * x, taps) / inside - mean**2).clamp_min(0)
        return (x - mean + 0.01) / (variance.sqrt() + 0.01)

    def call(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        taps, space, target = gaussian.to(logits), tuple(range(2, logits.ndim)), target.to(logits.dtype)
        p = _probability(logits, activation)
        with torch.no_grad():
            inside = _separable(torch.ones_like(p[:1, :1]), taps)
            e = (standardised(target, taps, inside) - standardised(p, taps, inside)).abs()
            f = e > 0.1 * e.amax(space, keepdim=True)
        if activation == "softmax":
            l, m = -logits.log_softmax(1), -(1 - p).clamp_min(1e-7).log()
            entropy = F.cross_entropy(logits, target)
        else:
            l, m = -F.logsigmoid(logits), -F.logsigmoid(-logits)
            entropy = F.binary_cross_entropy_with_logits(logits, target)
        structure = (e * f * (target * l + (1 - target) * m)).sum() / f.sum().clamp_min(1)
        return 0.5 * entropy + 0.5 * structure

    return call


plain_structural = Peer(
    "plain structural similarity", "torch", partial(_build_structural, window=3, sigma=1.5), one_hot_labels
)


def _ball(radius: int, padded: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    squares = torch.zeros(1)
    for axis, size in enumerate(padded):
        place = torch.arange(size)
        square = torch.minimum(place, size - place) ** 2
        squares = squares.unsqueeze(-1) + square if axis else square
    ball = (squares <= radius**2).to(like)
    return ball / ball.sum()


def _build_conv(activation: str, classes: int, radii: tuple[int, ...]) -> Loss:
    cache: dict = {}

    def call(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p, far, space = _probability(logits, activation)[:, 1:], max(radii), logits.shape[2:]
        y, axes = target[:, 1:], tuple(range(2, logits.ndim))
        padded = tuple(size + 2 * far for size in space)
        inner = (..., *[slice(far, far + size) for size in space])
        with torch.no_grad():
            if padded not in cache:  # the peer's best case: its kernels are transformed once
                cache[padded] = [torch.fft.rfftn(_ball(radius, padded, logits)) for radius in radii]

            def transform(x: torch.Tensor, outside: float) -> torch.Tensor:
                return torch.fft.rfftn(F.pad(x, [far] * (2 * len(axes)), value=outside), dim=axes)

            fields = [transform(y, 0.0), transform(1 - y, 1.0), transform(p, 0.0), transform(1 - p, 1.0)]
            weight = torch.zeros_like(p)
            for radius, ball in zip(radii, cache[padded], strict=True):
                of_y, of_not_y, of_p, of_not_p = (
                    (torch.fft.irfftn(field * ball, padded, axes)[inner] - 0.5).relu() for field in fields
                )
                weight += radius**2 * (p * (of_not_y + of_p) + y * (of_y + of_not_p))
        return ((p - y) ** 2 * weight).mean()

    return call


plain_conv = Peer("plain Hausdorff by FFT", "torch", partial(_build_conv, radii=(3, 6, 9, 12, 15, 18)), one_hot_labels)
