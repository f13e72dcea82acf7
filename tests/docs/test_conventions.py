"""Each line of the conventions' tables, both sides of it run: the same value and the same gradient."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs/conventions.md").read_text()
LINES = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE)
PACKAGES = {"edtlib": "edt", "nnunet": "nnunetv2.training.loss", "smp": "segmentation_models_pytorch.losses"}
PACKAGES |= {name: name for name in ("kornia", "medpy", "monai", "scipy", "torchvision")}


def packages(line: str) -> dict:
    """The libraries that a line names; where one is missing the test is skipped."""
    found = {}
    for name, path in re.findall(rf"\b({'|'.join(PACKAGES)})((?:\.\w+)+)", line):
        pytest.importorskip(".".join([PACKAGES[name], *path.split(".")[1:-1]]))
        found[name] = importlib.import_module(PACKAGES[name])
    return found


@pytest.fixture
def names():
    found = {}
    exec(compile(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], "conventions.md", "exec"), found)
    return found


def test_there_are_lines():
    assert len(LINES) >= 45


@pytest.mark.filterwarnings("ignore")  # what the other libraries say of themselves
@pytest.mark.parametrize(("theirs", "ours"), LINES, ids=[theirs for theirs, _ in LINES])
def test_both_sides_of_a_line_are_equal(theirs, ours, names):
    z, values, gradients = names["z"], [], []
    places = packages(theirs)
    for text in (theirs, ours):
        value = eval(text, names | places)
        value = torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value
        values.append(value.detach().double())
        if value.requires_grad:
            weights = torch.linspace(1, 2, value.numel()).view(value.shape).to(value.dtype)
            gradients.append(torch.autograd.grad((value * weights).sum(), z, retain_graph=True)[0])
    torch.testing.assert_close(*values, rtol=2e-5, atol=1e-6, check_device=False)
    assert len(gradients) in (0, 2)
    if gradients:
        scale = gradients[1].abs().max()
        torch.testing.assert_close(*(gradient / scale for gradient in gradients), rtol=1e-3, atol=2e-4)
