"""Which tensors are taken, plain ones with values, and their dtypes; the dtypes of what is computed."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Of sums, and of the coefficients of terms."""
    return torch.float32 if device.type == "mps" else torch.float64


def loss_dtype(logits: Tensor) -> torch.dtype:
    """Of what is computed of each voxel."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def check_layout(tensor: Tensor, name: str) -> None:
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "a nested tensor" if tensor.is_nested else tensor.layout
        raise ValueError(f"{name}: got {layout}, expected a dense tensor (torch.strided)")


def check_has_values(tensor: Tensor, name: str) -> None:
    check_layout(tensor, name)
    if tensor.device.type == "meta" or tensor.is_quantized:
        what = f"has dtype {tensor.dtype}" if tensor.is_quantized else "is on meta"
        raise ValueError(f"{name}: {what}, expected a tensor with values")


def check_tensor(tensor: object, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, expected a torch.Tensor")
    if not torch.compiler.is_compiling():
        check_layout(tensor, name)


def plain(tensor: Tensor, name: str) -> Tensor:
    check_tensor(tensor, name)
    if tensor.dtype == torch.uint64:  # of which torch can do next to nothing: the same bits, as int64
        tensor = tensor.view(torch.int64)
    if type(tensor) is Tensor or torch.compiler.is_compiling():
        return tensor
    if type(tensor).__torch_function__ is torch._C._disabled_torch_function_impl:
        return tensor  # parameters, fake tensors
    return tensor.as_subclass(Tensor)  # MONAI's MetaTensor and the like: same storage, same graph
