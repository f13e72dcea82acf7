"""Dice, sensitivity and specificity of hard predictions (MONAI's counts and quotients)."""

import torch
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix
from monai.networks.utils import one_hot

# 2TP/(2TP+FP+FN) is the Dice score under its other name
QUOTIENTS = {"dice": "f1 score", "sensitivity": "sensitivity", "specificity": "specificity"}


def scores(prediction: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, torch.Tensor]:
    """Dice, sensitivity and specificity `[C]` of label maps `[B, *S]`; 0/0 (an absent class) is NaN.

    Counts are added over the samples first, as if the slices were one volume: a score per slice would hang on
    slices that hold three voxels of a class.
    """
    hot = [one_hot(x[:, None], classes) for x in (prediction, labels)]
    counts = get_confusion_matrix(*hot).double().sum(0)
    return {name: compute_confusion_matrix_metric(metric, counts) for name, metric in QUOTIENTS.items()}


def foreground_mean(per_class: torch.Tensor) -> float:
    """Mean of `[C]` scores without class 0 and without NaN."""
    return float(per_class[1:].nanmean())
