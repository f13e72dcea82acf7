"""What is asked of any tensor."""

from types import SimpleNamespace

import pytest
import torch

from fastloss.passes.tensors import check_has_values, loss_dtype


def test_dtype_of_what_is_computed_of_a_voxel():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert loss_dtype(torch.ones(1, dtype=dtype)) is torch.float32
    assert loss_dtype(torch.ones(1, dtype=torch.float64)) is torch.float64


@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning", "ignore:.*quantiz.*:DeprecationWarning")
def test_tensors_without_values():
    wrong = {
        "weight: is on meta": torch.ones(2, device="meta"),
        "weight: has dtype torch.quint8": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
        "weight: ": torch.ones(2).to_sparse(),
    }
    for message, tensor in wrong.items():
        with pytest.raises((ValueError, TypeError), match=message):
            check_has_values(tensor, "weight")
    for kind in ("cpu", "cuda", "mps", "xpu"):
        device = torch.device(kind)
        check_has_values(
            SimpleNamespace(device=device, layout=torch.strided, is_nested=False, is_quantized=False), "weight"
        )
