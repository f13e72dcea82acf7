"""Dice, sensitivity and specificity of hard predictions (MONAI's counts and quotients)."""

import torch
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix
from monai.networks.utils import one_hot

# 2TP/(2TP+FP+FN) is the Dice score under its other name
QUOTIENTS = {"dice": "f1 score", "sensitivity": "sensitivity", "specificity": "specificity"}


def scores(prediction: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, torch.Tensor]:
    """Dice, sensitivity and specificity `[B, C]` of label maps `[B, *S]`; 0/0 (an absent class) is NaN."""
    hot = [one_hot(x[:, None], classes) for x in (prediction, labels)]
    counts = get_confusion_matrix(*hot)
    return {name: compute_confusion_matrix_metric(quotient, counts) for name, quotient in QUOTIENTS.items()}


def foreground_mean(table: torch.Tensor) -> float:
    """Mean of a `[B, C]` table without class 0 and without NaN."""
    return float(table[:, 1:].nanmean())


def class_means(table: torch.Tensor) -> list[float]:
    """Mean over the samples for each class, without NaN."""
    return table.nanmean(0).tolist()
