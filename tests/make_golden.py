"""Writes the own golden vectors from the plain versions of the losses: ``python tests/make_golden.py``.

The cases c... come from another oracle (that of the shared vectors, which the plain versions meet too) and are kept.
"""

import json
from pathlib import Path

import numpy as np
import oracle
import plain
import torch

FOLDER = Path(__file__).parent / "golden"
# name, options for softmax, options for sigmoid (None: no case)
CASES = [
    ("cross_entropy", {"label_smoothing": 0.1, "class_weight": [0.2, 1.0, 3.0]}, {"label_smoothing": 0.2}),
    ("weighted_cross_entropy", {"beta": [0.5, 1.0, 2.0], "label_smoothing": 0.1}, {"beta": 2.5}),
    ("balanced_cross_entropy", {}, {}),
    ("focal", {"gamma": 0.5, "alpha": [0.25, 0.75, 0.5]}, {"gamma": 2.0, "alpha": 0.25}),
    ("focal", {"gamma": 3.0, "alpha": 0.75, "class_weight": [1.0, 0.5, 2.0]}, {"gamma": 0.0}),
    ("poly", {"epsilon": 2.0, "class_weight": [1.0, 0.5, 2.0]}, {"epsilon": -0.5}),
    ("poly", {"base": "focal", "gamma": 1.5, "alpha": [0.25, 0.75, 0.5]}, {"base": "focal", "gamma": 0.5}),
    ("focal_tversky", {"batch": True, "class_weight": [1.0, 0.5, 2.0]}, {"gamma": 2.0, "alpha": 0.5, "beta": 0.5}),
    ("log_cosh_dice", {"squared": True, "include_background": False}, {}),
    ("generalized_dice", {"include_background": False}, {"weighting": "uniform"}),
    ("generalized_dice", {"class_weight": [1.0, 0.5, 2.0]}, {"weighting": "simple", "batch": True}),
    ("sensitivity_specificity", {"sensitivity_weight": 0.7}, {}),
    ("sensitivity_specificity", {"variant": "squared_error", "batch": True}, {"variant": "squared_error"}),
    ("mcc", {"smooth": 1.0}, {"batch": True}),
    ("dice_ce", {"label_smoothing": 0.1, "ce_weight": 0.5}, {"label_smoothing": 0.1}),
    ("dice_focal", {"gamma": 0.5, "focal_weight": 2.0, "batch": True}, {"alpha": 0.25, "squared": True}),
    ("combo", {"alpha": 0.3, "beta": 0.7, "include_background": False}, {}),
    ("exp_log", {"gamma": [0.5, 0.3]}, {"class_frequency": [0.7, 0.2, 0.1], "gamma": 1.0}),
    ("unified_focal", {}, {"weight": 0.3, "delta": 0.7}),
    ("unified_focal", {"symmetric": True, "batch": True}, {"symmetric": True, "gamma": 0.2}),
    ("hausdorff_erosion", {"erosions": 3, "batch": True}, {"erosions": 2, "alpha": 1.0}),
    ("hausdorff_conv", {"radii": [1, 3]}, {"radii": [2, 9], "class_weight": [1.0, 0.5, 2.0]}),
    ("structural_similarity", {"class_weight": [1.0, 0.5, 2.0]}, {"window": 5, "ce_weight": 0.2}),
    ("soft_cldice", {}, {"iterations": 1, "smooth": 0.5}),
    ("soft_dice_cldice", {"batch": True}, {"include_background": True}),
    ("boundary", {"class_weight": [1.0, 0.5, 2.0]}, {"spacing": "1.5 0.5 1", "batch": True}),
    ("hausdorff_dt", {"spacing": "3 1 0.7"}, {"alpha": 1.0, "include_background": True}),
    ("hausdorff_dt", {"one_sided": True, "batch": True}, {"spacing": "0.5 2 1"}),
    ("distance_penalty", {"spacing": "3 1 0.7", "class_weight": [1.0, 0.5, 2.0]}, {}),
    ("shape_aware", {}, {"spacing": "1.5 0.5 1"}),
    ("topk", {"k": 0.2}, {"k": 0.2}),
    ("dice_topk", {"k": 0.3, "batch": True}, {"squared": True, "topk_weight": 0.5}),
    ("lovasz", {"class_weight": [1.0, 0.5, 2.0]}, {"include_background": False}),
    ("lovasz", {"per_sample": True}, {"per_sample": True, "classes": "all"}),
]


def problem(index, activation):
    """Logits and labels; classes of unequal size, the last one absent in one sample of each third case."""
    torch.manual_seed(index)
    space = (7, 9) if index % 2 else (3, 4, 6)
    logits, _ = oracle.make(activation, 3, space)
    share = torch.tensor([0.7, 0.2, 0.1])
    labels = torch.multinomial(share, 2 * logits[0, 0].numel(), replacement=True).reshape(2, *space).to(torch.uint8)
    if index % 3 == 0:
        labels[0].clamp_(max=1)
    labels[:, 0, :2] = 255
    return logits, labels


def main():
    kept = [case for case in json.loads((FOLDER / "losses.json").read_text()) if case["id"].startswith("c")]
    with np.load(FOLDER / "losses.npz") as old:
        arrays = {name: old[name] for name in old.files if name.startswith("c")}
    for index, (loss, *of_activations) in enumerate(CASES):
        for activation, options in zip(("softmax", "sigmoid"), of_activations, strict=True):
            name = f"p{index:02}{activation[:2]}"
            logits, labels = problem(index, activation)
            if "spacing" in options:  # one number for each axis
                options = options | {"spacing": [float(x) for x in options["spacing"].split()[: labels.ndim - 1]]}
            y, weight = oracle.one_hot(labels, 3), oracle.counted(labels, (255,))
            value, gradient = oracle.gradient(
                lambda z, call=(loss, y, weight, activation), o=options: plain.value(call[0], z, *call[1:], **o),
                logits.double(),
            )
            description = {"id": name, "loss": loss, "activation": activation, "options": options}
            kept.append(description | {"ignore_index": 255, "value": value.item()})
            arrays |= {f"{name}.logits": logits.numpy(), f"{name}.labels": labels.numpy()}
            arrays[f"{name}.grad"] = gradient.numpy()
    (FOLDER / "losses.json").write_text(json.dumps(kept, indent=1) + "\n")
    np.savez_compressed(FOLDER / "losses.npz", **arrays)


if __name__ == "__main__":
    main()
