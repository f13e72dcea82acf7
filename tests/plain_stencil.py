"""The losses on stencils in plain PyTorch, differentiated by autograd: convolutions and pools of torch, as written.

Each takes the voxels ``v`` of ``plain.voxels`` (never the batch as one volume: a stencil sees one sample), whether the
sums run over the batch, and the options of its class.
"""

import itertools

import torch
import torch.nn.functional as F

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def total(x, batch=False):
    table = x.flatten(2).sum(2)
    return table.sum(0, keepdim=True) if batch else table


def convolve(x, kernel):
    """Every channel with the same kernel, padded with zeros to the size of x."""
    flat = x.flatten(0, 1).unsqueeze(1)
    padding = tuple(size // 2 for size in kernel.shape)
    return CONVOLUTIONS[kernel.ndim](flat, kernel[None, None], padding=padding).squeeze(1).unflatten(0, x.shape[:2])


def mean_of_table(table, class_weight=None, include_background=False):
    if class_weight is not None:
        table = table * torch.as_tensor(class_weight, dtype=table.dtype)
    return (table if include_background or table.shape[1] == 1 else table[:, 1:]).mean()


def hausdorff_erosion(v, batch, alpha=2.0, erosions=10, **reduction):
    axes = v.p.ndim - 2
    cross = torch.zeros([3] * axes, dtype=v.p.dtype)
    for offset in itertools.product(range(3), repeat=axes):
        cross[offset] = float(sum(abs(x - 1) for x in offset) <= 1)
    eroded = v.w * (v.p - v.y) ** 2
    summed = eroded * 0.0**alpha
    for k in range(1, erosions + 1):
        eroded = (convolve(eroded, cross / cross.sum()) - 0.5).relu()
        high, low = (f(eroded.flatten(2), 2).reshape(*eroded.shape[:2], *[1] * axes) for f in (torch.amax, torch.amin))
        spread = torch.where(high == low, 1, high - low)
        eroded = torch.where(high == low, eroded, (eroded - low) / spread)
        summed = summed + k**alpha * eroded
    return mean_of_table(total(summed, batch) / total(v.w, batch), **reduction)


def window_weights(window, sigma, axes, dtype):
    line = torch.exp(-((torch.arange(window, dtype=torch.float64) - window // 2) ** 2) / (2 * sigma**2))
    kernel = line
    for _ in range(axes - 1):
        kernel = kernel.unsqueeze(-1) * line
    return (kernel / kernel.sum()).to(dtype)


def structural_weights(v, window=3, sigma=1.5, threshold=0.1, stability=0.01):
    """e and f of the structural similarity loss, constants."""
    kernel = window_weights(window, sigma, v.p.ndim - 2, v.p.dtype)
    inside = convolve(v.w, kernel)

    def shifted(x, place):
        padded = F.pad(x, [window // 2] * 2 * (x.ndim - 2))
        return padded[(slice(None), slice(None), *(slice(k, k + n) for k, n in zip(place, x.shape[2:], strict=True)))]

    def normalised(x):
        safe = torch.where(inside > 0, inside, 1)
        mean = convolve(v.w * x, kernel) / safe
        spread = 0
        for place in itertools.product(range(window), repeat=v.p.ndim - 2):  # deviations, not a difference of squares
            spread = spread + kernel[place] * shifted(v.w, place) * (shifted(x, place) - mean) ** 2
        return (x - mean + stability) / ((spread / safe).sqrt() + stability)

    e = (normalised(v.y) - normalised(v.p)).abs() * v.w
    largest = e.flatten(2).amax(2).reshape(*e.shape[:2], *[1] * (e.ndim - 2))
    return e.detach(), (v.w * (e > threshold * largest) * (e > v.w * 1e-6 / stability)).detach()


def structural_similarity(v, batch, ce_weight=0.5, class_weight=None, **options):
    shape = (1, -1, *[1] * (v.p.ndim - 2))
    omega = torch.ones(v.channels) if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float64)
    omega = omega.to(v.p).reshape(shape)
    e, f = structural_weights(v, **options)
    loss = (omega * e * f * (v.y * v.l + (1 - v.y) * v.m)).sum() / f.sum().clamp_min(1)
    if v.classes:
        entropy = (v.w * omega * v.y * v.l).sum() / (v.w * omega * v.y).sum()
    else:
        entropy = (v.w * omega * (v.y * v.l + (1 - v.y) * v.m)).sum() / v.w.expand_as(v.p).sum()
    return ce_weight * entropy + (1 - ce_weight) * loss


def ball(radius, axes, dtype):
    line = torch.arange(-radius, radius + 1)
    squares = sum(grid**2 for grid in torch.meshgrid(*[line] * axes, indexing="ij"))
    inside = (squares <= radius**2).to(dtype)
    return inside / inside.sum()


def hausdorff_conv(v, batch, alpha=2.0, radii=(3, 6, 9, 12, 15, 18), hard=False, **reduction):
    def surplus(x):
        return (x > 1 - 1e-9) * 0.5 if hard else (x - 0.5).relu()

    def complement(x, kernel):
        size = kernel.shape[0] // 2
        padded = F.pad(1 - x, [size] * (2 * (x.ndim - 2)), value=1.0)
        inner = tuple(slice(size, -size) for _ in x.shape[2:])
        return convolve(padded, kernel)[(slice(None), slice(None), *inner)]

    p, y = (torch.where(v.w != 0, x.detach(), 0) for x in (v.p, v.y))
    of_p, of_y = ((x > 0.5).to(x) if hard else x for x in (p, y))
    weight = 0
    for radius in radii:
        b = ball(radius, v.p.ndim - 2, v.p.dtype)
        positive = surplus(complement(of_y, b)) + surplus(convolve(of_p, b))
        negative = surplus(convolve(of_y, b)) + surplus(complement(of_p, b))
        weight = weight + radius**alpha * (positive * p + negative * y)
    return mean_of_table(total(v.w * (v.p - v.y) ** 2 * weight, batch) / total(v.w, batch), **reduction)


def soft_erode(x):
    axes = x.ndim - 2
    lines = [[3 if axis == a else 1 for a in range(axes)] for axis in range(axes)]
    pooled = [-POOLS[axes](-x, line, 1, [size // 2 for size in line]) for line in lines]
    return torch.stack(pooled).amin(0) if axes > 1 else pooled[0]


def soft_open(x):
    return POOLS[x.ndim - 2](soft_erode(x), 3, 1, 1)


def soft_skeleton(x, iterations):
    """soft_skel of Shit et al.'s code."""
    skeleton = (x - soft_open(x)).relu()
    for _ in range(iterations):
        x = soft_erode(x)
        delta = (x - soft_open(x)).relu()
        skeleton = skeleton + (delta - skeleton * delta).relu()
    return skeleton


def cldice_table(v, batch, iterations=3, smooth=1.0):
    p, y = (torch.where(v.w != 0, x, 0) for x in (v.p, v.y))
    of_p, of_y = soft_skeleton(p, iterations), soft_skeleton(y, iterations)
    above, below = smooth if isinstance(smooth, tuple) else (smooth, smooth)
    precision = (total(v.w * of_p * y, batch) + above) / (total(v.w * of_p, batch) + below)
    sensitivity = (total(v.w * of_y * p, batch) + above) / (total(v.w * of_y, batch) + below)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def soft_cldice(v, batch, iterations=3, smooth=1.0, **reduction):
    return mean_of_table(cldice_table(v, batch, iterations, smooth), **reduction)


def soft_dice_cldice(v, batch, iterations=3, smooth=1.0, cldice_weight=0.5, **reduction):
    overlap, volumes = total(v.w * v.p * v.y, batch), total(v.w * (v.p + v.y), batch)
    above, below = smooth if isinstance(smooth, tuple) else (smooth, smooth)
    dice = 1 - (2 * overlap + above) / (volumes + below)
    table = (1 - cldice_weight) * dice + cldice_weight * cldice_table(v, batch, iterations, smooth)
    return mean_of_table(table, **reduction)


STENCILS = {
    "hausdorff_erosion": hausdorff_erosion,
    "hausdorff_conv": hausdorff_conv,
    "structural_similarity": structural_similarity,
    "soft_cldice": soft_cldice,
    "soft_dice_cldice": soft_dice_cldice,
}
