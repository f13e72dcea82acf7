"""The fused passes for what serves a peer's call: what they do not take is ``Unserved``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..passes.inputs import Inputs, check_inputs
from ..passes.options import check_activation
from ..passes.sums import checked_sums_of_terms, checked_voxel_losses
from ..passes.tensors import FLOATS
from .core import Unserved

HALF = (torch.float16, torch.bfloat16)
_PLAIN = (Tensor, torch.nn.Parameter)
_log = logging.getLogger("fastloss")


def check_tensors(logits: Any, target: Any) -> None:
    """Raises Unserved unless the passes take the tensors, and kernels are there for them: ``logits`` ``[B, C, *S]`` of
    floats with 1 to 3 spatial axes, ``target`` without a gradient, both on one device, CPU or CUDA."""
    for tensor in (logits, target):
        if not isinstance(tensor, Tensor):
            raise Unserved("not a tensor")
        if torch.compiler.is_compiling():
            continue
        if type(tensor) not in _PLAIN:
            raise Unserved(f"a {type(tensor).__name__}")
        if tensor.layout is not torch.strided or tensor.is_nested:
            raise Unserved("not a dense tensor")
    if not 3 <= logits.ndim <= 5:
        raise Unserved(f"{max(logits.ndim - 2, 0)} spatial axes")
    if logits.dtype not in FLOATS:
        raise Unserved(f"input of {logits.dtype}")
    if target.is_complex():
        raise Unserved(f"target of {target.dtype}")
    if logits.device.type not in ("cpu", "cuda") or logits.device != target.device:
        raise Unserved(f"devices {logits.device.type} and {target.device.type}")
    if target.requires_grad:
        raise Unserved("target requires a gradient")
    if logits.numel() == 0:
        raise Unserved("an empty input")


def checked_inputs(
    logits: Tensor,
    target: Tensor,
    activation: str | None,
    *,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    weight_map: Tensor | None = None,
    validate: bool | None = None,
) -> Inputs:
    """The tensors of a pass; what it refuses, such as a label that is no class, is Unserved."""
    ignore = () if ignore_index is None else (int(ignore_index),)
    found: Inputs = attempt(
        check_inputs, logits, target, mask, weight_map, check_activation(activation), ignore, validate
    )
    return found


def run_pass(
    logits: Tensor, target: Tensor, terms: Sequence[str], activation: str | None, **options: Any
) -> dict[str, Tensor]:
    """The sums of :func:`fastloss.voxel_sums` by the names of their terms, float64 ``[B, C]``; those of the target
    alone have no gradient. ``options`` are those of :func:`checked_inputs`. On a GPU, where the pass does not look for
    labels that are no class, they are an assertion on the device, as in the peers; with ``validate=False`` nowhere."""
    inputs = checked_inputs(logits, target, activation, **options)
    names, name = tuple(dict.fromkeys(terms)), check_activation(activation)
    unseen = options.get("validate") is None and _unseen(inputs)
    if unseen:
        names = tuple(dict.fromkeys((*names, "y", "count")))
    sums = dict(zip(names, attempt(checked_sums_of_terms, inputs, names, name), strict=True))
    if unseen:
        torch._assert_async((sums["y"].sum(1) == sums["count"][:, 0]).all())
    return sums


def run_voxels(
    logits: Tensor,
    target: Tensor,
    terms: Mapping[str, Any],
    activation: str | None,
    per_class: bool = False,
    **options: Any,
) -> Tensor:
    """:func:`fastloss.voxel_losses`, with the options, refusals and labels of :func:`run_pass`."""
    inputs = checked_inputs(logits, target, activation, **options)
    if _unseen(inputs):
        labels = inputs.target.long()
        good = (labels >= 0) & (labels < logits.shape[1])
        for ignored in inputs.ignore:
            good = good | (labels == ignored)
        torch._assert_async(good.all())
    wanted = {term: torch.as_tensor(value, dtype=torch.float64, device=logits.device) for term, value in terms.items()}
    found: Tensor = attempt(checked_voxel_losses, inputs, wanted, check_activation(activation), per_class)
    return found


def _unseen(inputs: Inputs) -> bool:
    """Whether no one looks for labels that are no class; weights that are no whole numbers are not to be compared."""
    weighted = inputs.mask is not None and inputs.mask.is_floating_point()
    return not (inputs.validate or inputs.dense or weighted) and inputs.logits.shape[1] > 1


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function of fastloss, whose refusals are Unserved."""
    try:
        return function(*args)
    except (ValueError, TypeError) as error:
        _log.debug("fastloss.accelerate: %s", error)
        raise Unserved(f"a {str(error).partition(':')[0]} that fastloss refuses") from None


def dtype_of(*tensors: Tensor, entropy: bool = False) -> torch.dtype:
    """The dtype of plain PyTorch's sums of products of these tensors, the first the logits. Half precision is float32
    under CUDA's autocast and, of ``entropy``, which is torch's cross-entropies, under the CPU's, too."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    device = tensors[0].device.type
    if dtype in HALF and (entropy or device == "cuda") and torch.is_autocast_enabled(device):
        return torch.float32
    return dtype
