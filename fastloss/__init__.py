"""fastloss: segmentation losses for PyTorch as fused kernels, on the CPU and on GPUs."""

from .base import CompoundLoss, SumLoss
from .compound import DiceCELoss
from .distribution import CrossEntropyLoss
from .ops import backend
from .region import DiceLoss, JaccardLoss, TverskyLoss
from .sums import voxel_sums

__version__ = "0.1.0"

__all__ = [
    "CompoundLoss",
    "CrossEntropyLoss",
    "DiceCELoss",
    "DiceLoss",
    "JaccardLoss",
    "SumLoss",
    "TverskyLoss",
    "backend",
    "voxel_sums",
]
