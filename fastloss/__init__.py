"""fastloss: segmentation losses for PyTorch as fused kernels, on the CPU and on GPUs."""

from .accelerate.handle import accelerate
from .ahead import warmup
from .lazy.head import lazy_head
from .lazy.interpolate import interpolate
from .lazy.resample import resample_argmax
from .losses.base import CompoundLoss, SumLoss
from .losses.compound import ComboLoss, DiceCELoss, DiceFocalLoss, ExpLogLoss
from .losses.confusion import GeneralizedDiceLoss, MCCLoss, SensitivitySpecificityLoss
from .losses.deep_supervision import DeepSupervision
from .losses.distribution import BalancedCrossEntropyLoss, CrossEntropyLoss, WeightedCrossEntropyLoss
from .losses.focal import FocalLoss, PolyLoss
from .losses.options import SegmentationLoss
from .losses.ranked import DiceTopKLoss, LovaszHingeLoss, LovaszLoss, TopKLoss
from .losses.region import DiceLoss, FocalTverskyLoss, JaccardLoss, LogCoshDiceLoss, TverskyLoss
from .losses.spatial.boundary import BoundaryLoss, DistancePenaltyLoss, HausdorffDTLoss, ShapeAwareLoss
from .losses.spatial.cldice import SoftCLDiceLoss, SoftDiceCLDiceLoss
from .losses.spatial.hausdorff import HausdorffConvLoss, HausdorffErosionLoss
from .losses.spatial.structural import StructuralSimilarityLoss
from .losses.unified import UnifiedFocalLoss
from .passes.backends import backend
from .passes.distributed import gather_sums
from .passes.lazy_logits import LazyLogits
from .passes.sums import voxel_losses, voxel_sums

__version__ = "1.0.0rc1"

__all__ = [
    "BalancedCrossEntropyLoss",
    "BoundaryLoss",
    "ComboLoss",
    "CompoundLoss",
    "CrossEntropyLoss",
    "DeepSupervision",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "DiceTopKLoss",
    "DistancePenaltyLoss",
    "ExpLogLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceLoss",
    "HausdorffConvLoss",
    "HausdorffDTLoss",
    "HausdorffErosionLoss",
    "JaccardLoss",
    "LazyLogits",
    "LogCoshDiceLoss",
    "LovaszHingeLoss",
    "LovaszLoss",
    "MCCLoss",
    "PolyLoss",
    "SegmentationLoss",
    "SensitivitySpecificityLoss",
    "ShapeAwareLoss",
    "SoftCLDiceLoss",
    "SoftDiceCLDiceLoss",
    "StructuralSimilarityLoss",
    "SumLoss",
    "TopKLoss",
    "TverskyLoss",
    "UnifiedFocalLoss",
    "WeightedCrossEntropyLoss",
    "accelerate",
    "backend",
    "gather_sums",
    "interpolate",
    "lazy_head",
    "resample_argmax",
    "voxel_losses",
    "voxel_sums",
    "warmup",
]
