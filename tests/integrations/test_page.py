"""The page's code runs as printed."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("monai")
pytest.importorskip("torchmetrics")

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def test_code_runs_as_printed():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    found = names["scores"].compute()
    assert found.keys() == {"dice", "hd95", "nsd"} and all(value.isfinite() for value in found.values())
    assert names["sample"]["maps"].shape == (4, 8, 16, 16)
    value = names["loss"](names["logits"], names["sample"]["label"][None], maps=names["sample"]["maps"][None])
    assert torch.as_tensor(value).isfinite()
