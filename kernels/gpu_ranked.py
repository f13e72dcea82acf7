"""The GPU's back end of losses that rank voxels: plain PyTorch, until kernels of its own exist."""

from .reference_ranked import jaccard, largest_losses

__all__ = ["jaccard", "largest_losses"]
