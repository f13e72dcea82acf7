"""The README's code runs as printed."""

import re
from pathlib import Path

import torch

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_code_runs_as_printed():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["value"].isfinite()
    assert names["logits"].grad.isfinite().all() and names["logits"].grad.any()
    assert names["sums"].shape == (2, 4, 3)
    assert names["losses"].shape == (2, 32, 32, 32) and names["hard"] > 0


def test_own_loss_is_what_it_says():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    logits, labels = names["logits"].detach(), names["labels"]
    p = logits.double().softmax(1).transpose(0, 1).flatten(1)
    y = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0).flatten(1)
    overlap = (p * y).sum(1)
    expected = 1 - ((overlap / p.sum(1)) * (overlap / y.sum(1))).sqrt()
    ours = names["FowlkesMallowsLoss"](batch=True)(logits, labels)
    torch.testing.assert_close(ours.double(), expected.mean(), rtol=1e-5, atol=1e-6)


def test_loss_of_products_is_what_it_says():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    ours, theirs = (names["logits"].detach().double().requires_grad_() for _ in range(2))
    p = theirs.softmax(1)
    p_y = p.gather(1, names["labels"].long().unsqueeze(1))
    expected = ((1 - p_y**0.7) / 0.7).mean() - 0.1 * (p * p.log()).sum(1).mean()
    value = names["RobustLoss"]()(ours, names["labels"])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, z)[0] for loss, z in ((value, ours), (expected, theirs))), rtol=1e-8, atol=1e-14
    )


def test_every_loss_is_in_the_table():
    import fastloss

    for name in fastloss.__all__:
        if name.endswith("Loss") and name not in ("SegmentationLoss", "SumLoss"):
            assert f"| `{name}` |" in README, name
