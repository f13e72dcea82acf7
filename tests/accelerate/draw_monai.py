"""Calls of MONAI's losses, drawn at random: class, options, shapes, dtypes, targets."""

import functools
import random

import monai.losses as L
import torch
from monai.data import MetaTensor

from .parity import Call

WHOLE = ("DiceLoss", "MaskedDiceLoss", "GeneralizedDiceLoss", "DiceCELoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss")
OTHERS = ("FocalLoss", "TverskyLoss", "MCCLoss", "HausdorffDTLoss", "LogHausdorffDTLoss", "BoundaryLoss")
OTHERS += ("SoftclDiceLoss", "SoftDiceclDiceLoss", "AsymmetricUnifiedFocalLoss", "DeepSupervisionLoss")
CLASSES = tuple(name for name in (*WHOLE, *OTHERS) if hasattr(L, name))


def softmax_act(x):
    return x.softmax(1)


def _pick(r, *choices):
    """A value of pairs (value, share)."""
    return r.choices([value for value, _ in choices], [share for _, share in choices])[0]


def draw(seed: int) -> tuple[str, Call]:
    """The class, and a call of one of its objects."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    name = r.choice(CLASSES)
    if name == "DeepSupervisionLoss":
        return name, _deep_supervision(r)
    module, channels, axes, options = _module(r, name)
    return name, _call(r, name, module, channels, axes, options)


def _module(r, name, channels=None, axes=None):
    channels = channels or _pick(r, (1, 12), (2, 30), (3, 40), (5, 18))
    spatial_only = name in (
        "HausdorffDTLoss",
        "LogHausdorffDTLoss",
        "BoundaryLoss",
        "SoftclDiceLoss",
        "SoftDiceclDiceLoss",
    )
    if name == "AsymmetricUnifiedFocalLoss":
        channels, spatial_only = r.choice((1, 2, 2, 2)), True
    axes = axes or (r.choice((2, 3)) if spatial_only else r.choice((1, 2, 2, 3, 3)))
    kept = channels > 1 or r.random() < 0.05  # options that MONAI warns of, for one channel
    onehot = kept and r.random() < 0.6
    options = {"to_onehot_y": onehot}
    if name == "AsymmetricUnifiedFocalLoss":
        options |= {"weight": r.choice((0.5, 0.3)), "gamma": r.choice((0.5, 2)), "delta": r.choice((0.7, 0.6))}
        options |= {"reduction": r.choice(("mean", "sum", "none"))}
        if channels == 2 and r.random() < 0.3:
            options["ignore_index"] = r.choice((0, 1, 255, -1))
        return getattr(L, name)(**options), channels, axes, options
    background = not kept or r.random() < 0.5
    options["include_background"] = background
    options["reduction"] = _pick(r, ("mean", 70), ("sum", 20), ("none", 10))
    if name == "DiceCELoss" and options["reduction"] == "none":
        options["reduction"] = "mean"
    counted = channels if background or channels == 1 else channels - 1
    if name == "FocalLoss":
        alone = counted == 1 and r.random() < 0.9  # softmax of one channel is 1, and the loss 0
        options |= {"gamma": r.choice((0.0, 1.5, 2.0)), "use_softmax": not alone and channels > 1 and r.random() < 0.5}
        options["alpha"] = _pick(r, (None, 5), (0.25, 3), ([0.2 + 0.1 * c for c in range(counted)], 2))
    else:
        act = _pick(r, ("softmax" if kept else "sigmoid", 50), ("sigmoid", 30), ("other_act", 12), (None, 8))
        if act == "other_act":
            options[act] = r.choice((softmax_act, softmax_act, torch.sigmoid, torch.sigmoid, torch.tanh))
        elif act:
            options[act] = True
    smooth = name in ("DiceLoss", "MaskedDiceLoss", "GeneralizedDiceLoss", "DiceCELoss", "DiceFocalLoss", "TverskyLoss")
    smooth |= name in ("GeneralizedDiceFocalLoss", "MCCLoss", "SoftclDiceLoss", "SoftDiceclDiceLoss")
    if smooth and r.random() < 0.5:
        options |= {"smooth_nr": r.choice((0.0, 1e-5, 1.0)), "smooth_dr": r.choice((1e-5, 1e-3, 1.0, 0.0))}
    if name not in ("FocalLoss", "SoftclDiceLoss", "SoftDiceclDiceLoss") and r.random() < 0.4:
        options["batch"] = True
    if name in ("DiceLoss", "MaskedDiceLoss", "DiceCELoss", "DiceFocalLoss"):
        options |= {"squared_pred": r.random() < 0.3, "jaccard": r.random() < 0.3}
    if name in ("DiceLoss", "MaskedDiceLoss", "GeneralizedDiceLoss", "TverskyLoss") and r.random() < 0.1:
        options["soft_label"] = True
    if name in ("GeneralizedDiceLoss", "GeneralizedDiceFocalLoss"):
        options["w_type"] = r.choice(("square", "simple", "uniform"))
    if name in ("DiceLoss", "MaskedDiceLoss", "FocalLoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss"):
        weights = [r.random() + 0.1 for _ in range(counted)]
        options["weight"] = _pick(r, (None, 6), (weights, 3), (0.7, 1)) if counted > 1 else None
    if name == "DiceCELoss":
        weights = torch.rand(channels) + 0.1
        options["weight"] = _pick(r, (None, 6), (weights, 4)) if channels > 1 or background else None
        options["label_smoothing"] = _pick(r, (0.0, 6), (0.1, 4))
    if name in ("DiceCELoss", "DiceFocalLoss"):
        second = "ce" if name == "DiceCELoss" else "focal"
        options |= {"lambda_dice": r.choice((1.0, 0.4)), f"lambda_{second}": r.choice((1.0, 2.0))}
    if name in ("DiceFocalLoss", "GeneralizedDiceFocalLoss"):
        options["gamma"] = r.choice((1.5, 2.0))
    if name == "TverskyLoss":
        options |= {"alpha": r.choice((0.5, 0.3)), "beta": r.choice((0.5, 0.8))}
    if name in ("HausdorffDTLoss", "LogHausdorffDTLoss"):
        options["alpha"] = r.choice((2.0, 1.0, 1.5))
    if name in ("SoftclDiceLoss", "SoftDiceclDiceLoss"):
        options["iter_"] = r.choice((0, 1, 3))
    if name in ("DiceLoss", "FocalLoss", "TverskyLoss") and r.random() < 0.25:
        options["ignore_index"] = r.choice((0, 1, 255, -1))
    return getattr(L, name)(**options), channels, axes, options


def _call(r, name, module, channels, axes, options):
    shape = [r.randint(2, 7) for _ in range(axes)]
    batch = r.randint(1, 3)
    dtype = _pick(r, (torch.float32, 88), (torch.float64, 6), (torch.bfloat16, 4), (torch.float16, 2))
    logits = torch.randn(batch, channels, *shape).mul(_pick(r, (1.0, 5), (4.0, 4), (30.0, 1))).to(dtype)
    activated = any(options.get(act) for act in ("sigmoid", "softmax", "other_act")) or "Focal" in name
    if name == "AsymmetricUnifiedFocalLoss" or (not activated and r.random() < 0.9):
        logits = logits.float().softmax(1).to(dtype) if channels > 1 else logits.float().sigmoid().to(dtype)
    target = _target(r, batch, channels, shape, options)
    layout = r.random()
    if layout < 0.06 and axes in (2, 3):
        logits = logits.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    elif layout < 0.1:
        logits = logits.flip(-1).transpose(0, 1).contiguous().transpose(0, 1)
    if r.random() < 0.04:
        logits, target = MetaTensor(logits), MetaTensor(target, affine=2 * torch.eye(4))
    args = [logits, target]
    if name == "MaskedDiceLoss":
        mask = torch.rand(r.choice((1, batch)), 1, *shape) > 0.3
        args.append(_pick(r, (mask, 8), (mask.float(), 10), (mask.float() * 0.7, 1), (None, 1)))
    odd = r.random()
    if odd < 0.01:
        args[1] = args[1][..., :-1]
    elif odd < 0.013:
        args[1] = args[1].float().requires_grad_()
    return Call(module, tuple(args), autocast=r.random() < 0.04)


def _target(r, batch, channels, shape, options):
    present = r.choice((channels, max(1, channels - 1)))  # a class that is absent
    labels = torch.randint(0, max(2, present) if channels == 1 else present, (batch, 1, *shape))
    if options["to_onehot_y"] and channels > 1:
        ignored = options.get("ignore_index")
        if ignored is not None and not 0 <= ignored < channels:
            labels[torch.rand(labels.shape) < 0.2] = ignored
        elif r.random() < 0.01:
            labels[0, 0].view(-1)[0] = channels  # no class
        dtypes = (torch.int64, 4), (torch.float32, 4), (torch.int32, 1), (torch.uint8, 2), (torch.bool, 0.2)
        dtype = _pick(r, *dtypes)
        if dtype == torch.uint8 and ignored == -1:
            dtype = torch.int16
        return labels.to(dtype)
    kind = _pick(r, ("hard", 80), ("integer", 8), ("bool", 4), ("soft", 8))
    if kind == "soft":
        soft = torch.rand(batch, channels, *shape)
        return soft / soft.sum(1, keepdim=True) if channels > 1 else soft
    if channels == 1:
        hard = labels.float()
        if options.get("ignore_index") == 255:
            hard[torch.rand(hard.shape) < 0.2] = 255
    elif r.random() < 0.6:
        hard = torch.zeros(batch, channels, *shape).scatter_(1, labels, 1)
        if options.get("ignore_index") in (255, -1):
            hard *= torch.rand(batch, 1, *shape) > 0.2
    else:
        hard = (torch.rand(batch, channels, *shape) > 0.6).float()  # several labels of a voxel
    if kind == "integer":
        return hard.to(r.choice((torch.uint8, torch.int64)))
    return hard.bool() if kind == "bool" else hard


def _deep_supervision(r):
    name = r.choice(("DiceLoss", "DiceCELoss", "GeneralizedDiceLoss"))
    module, channels, axes, options = _module(r, name, channels=r.choice((2, 3)), axes=r.choice((2, 3)))
    if options["reduction"] == "none":
        module, channels, axes, options = _module(random.Random(0), "DiceLoss", channels=2, axes=2)
    outer = L.DeepSupervisionLoss(module, weight_mode=r.choice(("same", "exp", "two")))
    call = _call(r, name, module, channels, axes, options)
    shape = [2 * size for size in call.args[0].shape[2:]]
    target = _target(r, call.args[0].shape[0], channels, shape, options)
    sizes = [shape, [size // 2 for size in shape], [max(1, size // r.choice((3, 4))) for size in shape]]
    levels = [torch.randn(call.args[0].shape[0], channels, *size) for size in sizes]
    return Call(outer, (levels, target), exact=functools.partial(_without_cast, outer))


def _without_cast(outer, levels, target):
    """What a DeepSupervisionLoss computes, which makes all levels float32."""
    weights = outer.get_weights(len(levels))
    return sum(weight * outer.get_loss(level, target) for weight, level in zip(weights, levels, strict=True))
