"""Random logits and labels that form connected regions, on which losses are timed."""

import numpy as np
import torch
from scipy import ndimage

LONGEST_BLOB = 128


def blobs(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits float32 `[B, C, *S]` and uint8 labels `[B, *S]` that form connected regions.

    Labels are the argmax of smoothed noise; the logits favour the true class as a half-trained network's do. Along axes
    longer than LONGEST_BLOB the labels repeat, since smoothing would take longer than what is measured.
    """
    random = np.random.default_rng(seed)
    space = tuple(min(length, LONGEST_BLOB) for length in shape[2:])
    sigma = [max(1.0, length / 12) for length in space]
    labels = np.empty((shape[0], *space), np.uint8)
    for sample in labels:
        best = np.full(space, -np.inf, np.float32)
        for c in range(shape[1]):  # one class at a time: C can be 150
            noise = random.standard_normal(space, np.float32)
            smooth = ndimage.gaussian_filter(noise, sigma)
            sample[smooth > best] = c
            np.maximum(best, smooth, out=best)
    for axis, length in enumerate(shape[2:], start=1):
        labels = labels.take(np.arange(length) % labels.shape[axis], axis)
    target = torch.from_numpy(labels)
    logits = torch.from_numpy(random.standard_normal(shape, np.float32))
    logits.scatter_add_(1, target.long()[:, None], torch.full_like(logits[:, :1], 2.0))
    return logits, target
