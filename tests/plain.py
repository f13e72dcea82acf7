"""Every loss in plain PyTorch, voxel by voxel as its equation stands, differentiated by autograd.

Independent of the package: nothing here knows its sums. A loss is a function of the voxels ``v`` and its options, and
may be run in any dtype; ``tests/make_golden.py`` writes vectors from it, the tests compare with it.
"""

from types import SimpleNamespace

import oracle
import torch
from plain_stencil import STENCILS, mean_of_table
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

EPSILON = 1e-7


def voxels(logits, y, weight, activation, batch=False):
    """What a loss is computed from, all ``[B, C, *S]``: p, -log p, -log(1-p), the target, and the weight w."""
    w = weight.unsqueeze(1).to(logits.dtype)
    z, y = torch.where(w != 0, logits, 0.5), torch.where(w != 0, y.to(logits.dtype), 0)
    if batch:  # the batch as one volume
        z, y, w = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (z, y, w))
    p = oracle.probability(z, activation)
    l, m = oracle.logs(z, activation)
    classes = activation == "softmax" or (activation is None and p.shape[1] > 1)
    return SimpleNamespace(p=p, l=l, m=m, y=y, w=w, classes=classes, channels=p.shape[1])


def value(name, logits, y, weight, activation, /, **options):
    """The loss of a name; ``options`` are those of its class."""
    batch = options.pop("batch", False)
    if name in STENCILS:  # which see one sample at a time
        return STENCILS[name](voxels(logits, y, weight, activation), batch, **options)
    if name in DISTANCES:
        return DISTANCES[name](logits, y, weight, activation, batch, **options)
    if name in TWO_PARTS:
        return TWO_PARTS[name](logits, y, weight, activation, batch, **options)
    return KNOWN[name](voxels(logits, y, weight, activation, batch), **options)


def column(weight, v):
    """One number a channel, ready to multiply ``[B, C, *S]``."""
    if weight is None:
        return 1.0
    weight = torch.as_tensor(weight, dtype=v.p.dtype)
    return weight.reshape(1, -1, *[1] * (v.p.ndim - 2)) if weight.ndim else weight


def mean_of_voxels(v, loss, class_weight):
    """Over the voxels, and over the channels where they are problems of their own."""
    total = (v.w * column(class_weight, v) * loss).sum()
    return total / (v.w.sum() if v.classes else v.w.expand_as(v.p).sum())


def of_voxel(v, positive, negative):
    """The loss of the true class, or of both sides of each channel."""
    return v.y * positive + (0 if v.classes else (1 - v.y) * negative)


# Voxel losses


def cross_entropy(v, class_weight=None, label_smoothing=0.0, beta=None):
    if v.classes:
        weight = column(class_weight, v) * column(beta, v)
        y = v.y * (1 - label_smoothing) + label_smoothing / v.channels
        return (v.w * weight * y * v.l).sum() / (v.w * weight * v.y).sum()
    y = v.y * (1 - label_smoothing) + label_smoothing / 2
    return mean_of_voxels(v, column(beta, v) * y * v.l + (1 - y) * v.m, class_weight)


def balanced_cross_entropy(v, class_weight=None):
    space = tuple(range(2, v.p.ndim))
    beta = 1 - (v.w * v.y).sum(space, keepdim=True) / v.w.sum(space, keepdim=True)
    return mean_of_voxels(v, of_voxel(v, beta * v.l, (1 - beta) * v.m), class_weight)


def focal(v, gamma=2.0, alpha=None, class_weight=None):
    positive, negative = (1 - v.p) ** gamma * v.l, v.p**gamma * v.m
    if alpha is None:
        return mean_of_voxels(v, of_voxel(v, positive, negative), class_weight)
    if v.classes and not isinstance(alpha, list):
        alpha = [1 - alpha] + [alpha] * (v.channels - 1)
    return mean_of_voxels(v, of_voxel(v, column(alpha, v) * positive, (1 - column(alpha, v)) * negative), class_weight)


def poly(v, base="ce", epsilon=1.0, gamma=2.0, alpha=None, class_weight=None):
    if base == "focal":
        error = of_voxel(v, (1 - v.p) ** (gamma + 1), v.p ** (gamma + 1))
        return focal(v, gamma, alpha, class_weight) + epsilon * mean_of_voxels(v, error, class_weight)
    error = of_voxel(v, 1 - v.p, v.p)
    weight = v.w * column(class_weight, v)
    counted = (weight * v.y).sum() if v.classes else v.w.expand_as(v.p).sum()
    return cross_entropy(v, class_weight) + epsilon * (weight * error).sum() / counted


VOXEL_LOSSES = {
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": cross_entropy,
    "balanced_cross_entropy": balanced_cross_entropy,
    "focal": focal,
    "poly": poly,
}


# Tables of a value per sample and class


def total(x):
    return x.flatten(2).sum(2)


def pair(smooth):
    """Of numerator and denominator."""
    return smooth if isinstance(smooth, (tuple, list)) else (smooth, smooth)


def overlap(v, soft_label):
    """Of every voxel; at p = y of soft labels with the slope of neither side."""
    return (v.p + v.y - (v.p - v.y).abs()) / 2 if soft_label else v.p * v.y


def confusion(v, soft_label=False):
    """True positives, false positives, false negatives, true negatives."""
    w, p, y = v.w, v.p, v.y
    if soft_label:
        both = overlap(v, True)
        return total(w * both), total(w * (p - both)), total(w * (y - both)), total(w * (1 - p - y + both))
    return total(w * p * y), total(w * p * (1 - y)), total(w * (1 - p) * y), total(w * (1 - p) * (1 - y))


def dice_table(v, smooth=1e-5, squared=False, soft_label=False):
    power, (above, below) = 2 if squared else 1, pair(smooth)
    volumes = total(v.w * v.p**power) + total(v.w * v.y**power)
    return 1 - (2 * total(v.w * overlap(v, soft_label)) + above) / (volumes + below)


def tversky_table(v, alpha=0.3, beta=0.7, smooth=1e-5, soft_label=False):
    (tp, fp, fn, _), (above, below) = confusion(v, soft_label), pair(smooth)
    return 1 - (tp + above) / (tp + alpha * fp + beta * fn + below)


def focal_tversky_table(v, gamma=4 / 3, **options):
    return tversky_table(v, **options).clamp_min(EPSILON) ** (1 / gamma)


def sensitivity_specificity_table(v, sensitivity_weight=0.5, variant="ratio", smooth=1e-5):
    a, (above, below) = sensitivity_weight, pair(smooth)
    tp, _, _, tn = confusion(v)
    positives, negatives = total(v.w * v.y) + below, total(v.w * (1 - v.y)) + below
    if variant == "ratio":
        return 1 - (a * (tp + above) / positives + (1 - a) * (tn + above) / negatives)
    error = v.w * (v.p - v.y) ** 2
    return a * total(error * v.y) / positives + (1 - a) * total(error * (1 - v.y)) / negatives


def mcc_table(v, smooth=1e-5):
    (tp, fp, fn, tn), (above, below) = confusion(v), pair(smooth)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return 1 - (tp * tn - fp * fn + above) / (product.clamp_min(0) + below**2).sqrt()


def table(function):
    def loss(v, class_weight=None, include_background=True, **options):
        return mean_of_table(function(v, **options), class_weight, include_background)

    return loss


def generalized_dice(v, weighting="square", smooth=1e-5, class_weight=None, include_background=True, soft_label=False):
    first = 0 if include_background or v.channels == 1 else 1
    values = []
    for w, p, y, both in zip(v.w, v.p, v.y, overlap(v, soft_label), strict=True):
        sizes = [(w[0] * y[c]).sum() for c in range(first, v.channels)]
        power = {"square": 2, "simple": 1, "uniform": 0}[weighting]
        omegas = [1 / size**power if size > 0 or power == 0 else None for size in sizes]
        largest = max((omega for omega in omegas if omega is not None), default=1.0)
        above, below = pair(smooth)
        for c, omega in enumerate(omegas, first):
            omega = (largest if omega is None else omega) * (1.0 if class_weight is None else class_weight[c])
            above = above + 2 * omega * (w[0] * both[c]).sum()
            below = below + omega * (w[0] * (p[c] + y[c])).sum()
        values.append(1 - above / below)
    return torch.stack(values).mean()


TABLES = {
    "dice": table(dice_table),
    "jaccard": table(lambda v, **options: tversky_table(v, 1, 1, **options)),
    "tversky": table(tversky_table),
    "focal_tversky": table(focal_tversky_table),
    "log_cosh_dice": table(lambda v, **options: torch.log(torch.cosh(dice_table(v, **options)))),
    "sensitivity_specificity": table(sensitivity_specificity_table),
    "mcc": table(mcc_table),
    "generalized_dice": generalized_dice,
}


# Sums of a table, which may take the batch as one volume, and a voxel loss, which does not


def two_parts(of_table, of_voxels, weights):
    """``of_table(v, **those of its options)`` and ``of_voxels`` likewise, with two weights from the options."""

    def loss(logits, y, weight, activation, batch, /, **options):
        split = [{}, {}, {}]
        for name, option in options.items():
            for part, names in zip(split, (of_table[1], of_voxels[1], weights[1]), strict=True):
                if name in names:
                    part[name] = option
        a, b = weights[0](**split[2])
        first = of_table[0](voxels(logits, y, weight, activation, batch), **split[0])
        return a * first + b * of_voxels[0](voxels(logits, y, weight, activation), **split[1])

    return loss


def two_sided(v, beta=0.5, class_weight=None):
    loss = column(class_weight, v) * (beta * v.y * v.l + (1 - beta) * (1 - v.y) * v.m)
    return (v.w * loss).sum() / v.w.expand_as(v.p).sum()


def log_dice_table(v, gamma=0.3, smooth=1.0, **options):
    power = gamma[0] if isinstance(gamma, list) else gamma
    return (-(1 - dice_table(v, smooth, **options)).log()).clamp_min(EPSILON) ** power


def log_cross_entropy(v, gamma=0.3, class_frequency=None, class_weight=None):
    power = gamma[1] if isinstance(gamma, list) else gamma
    loss, counted = 0, v.w.sum()
    found = [(v.w[:, 0] * v.y[:, c]).sum() / counted for c in range(v.channels)]
    found = found if class_frequency is None else class_frequency
    for c, f in enumerate(found):
        sides = [(v.y, v.l, f)] + ([] if v.classes else [(1 - v.y, v.m, 1 - f)])
        weight = 1.0 if class_weight is None else class_weight[c]
        for y, log, frequency in sides:
            if frequency > 0:
                part = (v.w[:, 0] * y[:, c] * log[:, c].clamp_min(EPSILON) ** power).sum()
                loss = loss + weight * ((sum(found) if v.classes else 1.0) / frequency) ** 0.5 * part
    return loss / counted / (1 if v.classes else v.channels)


def unified(logits, y, weight, activation, batch, /, class_weight=None, **options):
    v = voxels(logits, y, weight, activation)
    class_weight = class_weight or [1.0] * v.channels
    if v.classes:
        return _unified_of_classes(v, voxels(logits, y, weight, activation, batch), class_weight, **options)

    def two_classes(v, c):
        """Channel c as background and foreground."""
        pair = {"p": [1 - v.p, v.p], "y": [1 - v.y, v.y], "l": [v.m, v.l]}
        stacked = {name: torch.cat([x[:, c : c + 1] for x in both], 1) for name, both in pair.items()}
        return SimpleNamespace(**stacked, w=v.w)

    whole = voxels(logits, y, weight, activation, batch)
    pairs = [(two_classes(v, c), two_classes(whole, c), [class_weight[c]] * 2) for c in range(v.channels)]
    return torch.stack([_unified_of_classes(*pair, **options) for pair in pairs]).mean()


def _unified_of_classes(v, whole, class_weight, weight=0.5, delta=0.6, gamma=0.5, symmetric=False, smooth=1e-5):
    entropy, region = 0, []
    index = 1 - tversky_table(whole, 1 - delta, delta, smooth)
    for c in range(v.p.shape[1]):
        focus = (1 - v.p[:, c]) ** gamma if c == 0 or symmetric else 1.0
        share = class_weight[c] * (1 - delta if c == 0 else delta)
        entropy = entropy + share * (v.w[:, 0] * v.y[:, c] * focus * v.l[:, c]).sum() / v.w.sum()
        error = 1 - index[:, c]
        enhanced = c != 0 or symmetric
        region.append(class_weight[c] * (error.clamp_min(EPSILON) ** (1 - gamma) if enhanced else error))
    return weight * entropy + (1 - weight) * torch.stack(region).mean()


# Losses that rank the voxels


def topk(v, k=0.1, count_ignored=False, label_smoothing=0.0, class_weight=None):
    smooth = label_smoothing / (v.channels if v.classes else 2)
    y, rest = (x * (1 - label_smoothing) + smooth for x in (v.y, 1 - v.y))
    loss = v.w * column(class_weight, v) * (y * v.l if v.classes else y * v.l + rest * v.m)
    counted = (v.w != 0).expand_as(loss)
    if v.classes:
        loss, counted = loss.sum(1), counted[:, 0]
    loss = loss.flatten() if count_ignored else loss[counted]
    m = max(1, int(k * loss.numel()))
    above, tied = loss > loss.topk(m).values[-1], loss == loss.topk(m).values[-1]
    return (loss[above].sum() + loss[tied].mean() * (m - above.sum())) / m  # equal losses share the gradient


def lovasz(v, per_sample=False, classes="present", class_weight=None, include_background=True):
    rows = []
    for samples in [[b] for b in range(len(v.p))] if per_sample else [list(range(len(v.p)))]:
        w = v.w[samples, 0]
        values = []
        for c in range(0 if include_background or v.channels == 1 else 1, v.channels):
            p, y = v.p[samples, c][w != 0], v.y[samples, c][w != 0]
            if len(p) and (classes == "all" or y.sum() > 0):
                value = lovasz_of_class((p - y).abs(), y, w[w != 0])
                values.append(value * (1.0 if class_weight is None else class_weight[c]))
        rows.append(torch.stack(values).mean() if values else 0 * v.p.sum())
    return torch.stack(rows).mean()


def lovasz_of_class(errors, y, w):
    """Step by step: the Jaccard loss of the sets of voxels with the largest errors."""
    order = errors.sort(descending=True, stable=True).indices
    y, w = y[order], w[order]
    total, taken, wrong, before, value = (w * y).sum(), 0, 0, 0, 0
    for i, error in enumerate(errors[order]):
        taken, wrong = taken + w[i] * y[i], wrong + w[i] * (1 - y[i])
        jaccard = 1 - (total - taken) / (total + wrong)
        value, before = value + error * (jaccard - before), jaccard
    return value


RANKED = {"topk": topk, "lovasz": lovasz}

_dice = (TABLES["dice"], ("smooth", "squared", "soft_label", "class_weight", "include_background"))
TWO_PARTS = {
    "dice_ce": two_parts(
        _dice,
        (cross_entropy, ("label_smoothing", "class_weight")),
        (lambda dice_weight=1.0, ce_weight=1.0: (dice_weight, ce_weight), ("dice_weight", "ce_weight")),
    ),
    "dice_focal": two_parts(
        _dice,
        (focal, ("gamma", "alpha", "class_weight")),
        (lambda dice_weight=1.0, focal_weight=1.0: (dice_weight, focal_weight), ("dice_weight", "focal_weight")),
    ),
    "combo": two_parts(
        (table(lambda v, smooth=1.0, **options: dice_table(v, smooth, **options)), _dice[1]),
        (two_sided, ("beta", "class_weight")),
        (lambda alpha=0.5: (1 - alpha, alpha), ("alpha",)),
    ),
    "exp_log": two_parts(
        (table(log_dice_table), ("gamma", *_dice[1])),
        (log_cross_entropy, ("gamma", "class_frequency", "class_weight")),
        (lambda dice_weight=0.8, ce_weight=0.2: (dice_weight, ce_weight), ("dice_weight", "ce_weight")),
    ),
    "dice_topk": two_parts(
        _dice,
        (topk, ("k", "count_ignored", "label_smoothing", "class_weight")),
        (lambda dice_weight=1.0, topk_weight=1.0: (dice_weight, topk_weight), ("dice_weight", "topk_weight")),
    ),
    "unified_focal": unified,
}

# Losses with distances, by SciPy's transform of one mask after another


def edt(inside, spacing):
    """Distance of the voxels of a mask to the nearest other one; 0 everywhere where there is none."""
    if inside.all():
        return torch.zeros(inside.shape, dtype=torch.float64)
    sampling = [1.0] * inside.ndim if spacing is None else spacing
    return torch.from_numpy(distance_transform_edt(inside.numpy(), sampling=sampling))


def of_every_mask(function, masks, *arguments):
    return torch.stack([torch.stack([function(mask, *arguments) for mask in sample]) for sample in masks])


def signed(mask, spacing):
    if mask.all() or not mask.any():
        return torch.zeros(mask.shape, dtype=torch.float64)
    return edt(~mask, spacing) - edt(mask, spacing)


def prediction(v, classes=False):
    """Hard masks; a voxel that does not count belongs to none."""
    hard = oracle.one_hot(v.p.argmax(1), v.channels) if classes else v.p > 0.5
    return hard & (v.w != 0)


def mean_of_map(v, loss, batch, class_weight=None, include_background=False):
    space = (0, *range(2, v.p.ndim)) if batch else tuple(range(2, v.p.ndim))
    table = (v.w * loss).sum(space) / v.w.expand_as(v.p).sum(space)
    return mean_of_table(table.reshape(-1, v.channels), class_weight, include_background)


def boundary(logits, y, weight, activation, batch, /, spacing=None, **options):
    v = voxels(logits, y, weight, activation)
    return mean_of_map(v, v.p * of_every_mask(signed, y > 0.5, spacing), batch, **options)


def hausdorff_dt(logits, y, weight, activation, batch, /, spacing=None, alpha=2.0, one_sided=False, **options):
    v = voxels(logits, y, weight, activation)
    far = of_every_mask(signed, y > 0.5, spacing).abs() ** alpha
    if not one_sided:
        far = far + of_every_mask(signed, prediction(v), spacing).abs() ** alpha
    return mean_of_map(v, (v.p - v.y) ** 2 * far, batch, **options)


def penalty(mask, spacing):
    """1 + Φ within the voxels of a mask, 1 elsewhere."""
    result = torch.ones(mask.shape, dtype=torch.float64)
    if mask.any() and not mask.all():
        d = edt(mask, spacing)[mask]
        span = d.max() - d.min()
        result[mask] = 1 + ((d.max() - d) / span if span > 0 else torch.ones_like(d))
    return result


def distance_penalty(logits, y, weight, activation, batch, /, spacing=None, class_weight=None):
    v = voxels(logits, y, weight, activation)
    regions = y > 0.5
    if v.classes and (y.is_floating_point() or (y.sum(1) > 1).any()):  # no labels: those of the largest channel
        regions = oracle.one_hot(y.byte().argmax(1) if y.dtype == torch.bool else y.argmax(1), v.channels)
    inside = of_every_mask(penalty, regions, spacing)
    if v.classes:
        factor = torch.where(regions, inside, 0.0).sum(1, keepdim=True)
        return mean_of_voxels(v, factor * v.y * v.l, class_weight)
    factor = torch.where(regions, inside, of_every_mask(penalty, ~regions, spacing))
    return mean_of_voxels(v, factor * of_voxel(v, v.l, v.m), class_weight)


def contour(mask):
    """Foreground voxels with a face neighbour outside."""
    cross = generate_binary_structure(mask.ndim, 1)
    return mask & ~torch.from_numpy(binary_erosion(mask.numpy(), cross, border_value=1))


def shape_aware(logits, y, weight, activation, batch, /, spacing=None, class_weight=None):
    v = voxels(logits, y, weight, activation)
    truth, hard = y > 0.5, prediction(v, v.classes)
    extra = torch.zeros_like(v.p)
    for b in range(len(v.p)):
        for c in range(v.channels):
            true_contour, found = contour(truth[b, c]), contour(hard[b, c])
            if true_contour.any() and found.any():
                far = edt(~true_contour, spacing)[found].mean()
                wrong = truth[b, c] & ~hard[b, c] if v.classes else truth[b, c] != hard[b, c]
                extra[b, c][wrong] = far
    if v.classes:
        extra = extra.sum(1, keepdim=True)
    return mean_of_voxels(v, (1 + extra) * of_voxel(v, v.l, v.m), class_weight)


DISTANCES = {
    "boundary": boundary,
    "hausdorff_dt": hausdorff_dt,
    "distance_penalty": distance_penalty,
    "shape_aware": shape_aware,
}

KNOWN = {**VOXEL_LOSSES, **TABLES, **RANKED, **TWO_PARTS, **DISTANCES, **STENCILS}
