"""fastloss: segmentation losses for PyTorch as fused kernels, on the CPU and on GPUs."""

from .ahead import warmup
from .base import CompoundLoss, SegmentationLoss, SumLoss
from .boundary import BoundaryLoss, DistancePenaltyLoss, HausdorffDTLoss, ShapeAwareLoss
from .cldice import SoftCLDiceLoss, SoftDiceCLDiceLoss
from .compound import ComboLoss, DiceCELoss, DiceFocalLoss, ExpLogLoss
from .confusion import GeneralizedDiceLoss, MCCLoss, SensitivitySpecificityLoss
from .deep_supervision import DeepSupervision
from .distribution import BalancedCrossEntropyLoss, CrossEntropyLoss, WeightedCrossEntropyLoss
from .focal import FocalLoss, PolyLoss
from .hausdorff import HausdorffConvLoss, HausdorffErosionLoss
from .ops import backend
from .ranked import DiceTopKLoss, LovaszLoss, TopKLoss
from .region import DiceLoss, FocalTverskyLoss, JaccardLoss, LogCoshDiceLoss, TverskyLoss
from .structural import StructuralSimilarityLoss
from .sums import voxel_sums
from .unified import UnifiedFocalLoss

__version__ = "0.1.0"

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
    "LogCoshDiceLoss",
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
    "backend",
    "voxel_sums",
    "warmup",
]
