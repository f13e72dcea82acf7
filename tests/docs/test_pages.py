"""The code of README and of the documentation's pages runs as printed, and what they list is whole."""

import re
from pathlib import Path

import pytest
import torch

import fastloss

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "generated" not in page.parts and "```python" in page.read_text()]
INCLUDE = re.compile(r"```\{include\} (\S+)\n((?::.*\n)*)```\n")


def whole(page: Path) -> str:
    """A page's text with what it includes of other files."""

    def included(found: re.Match) -> str:
        file = page.parent / found[1]
        if "generated" in file.parts:  # made by the build, and without code
            return ""
        text, options = whole(file), dict(re.findall(r':([\w-]+): "(.*)"', found[2]))
        if "start-after" in options:
            text = text.split(options["start-after"], 1)[1]
        return text.split(options["end-before"], 1)[0] if "end-before" in options else text

    return INCLUDE.sub(included, page.read_text())


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a page's code, in an empty folder; what it accelerates ends with the test."""
    made = []

    class Recorded(fastloss.accelerate):
        def __init__(self, *peers):
            super().__init__(*peers)
            made.append(self)

    def run(page: Path) -> dict:
        names = {}
        for block in re.findall(r"```python\n(.*?)```", whole(page), re.DOTALL):
            exec(compile(block, str(page.relative_to(ROOT)), "exec"), names)
        return names

    monkeypatch.setattr(fastloss, "accelerate", Recorded)
    monkeypatch.chdir(tmp_path)
    yield run
    for accelerated in made:
        accelerated.undo()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs_as_printed(run, page):
    if "accelerate(" in page.read_text():
        pytest.importorskip("monai")
    for module in re.findall(r"^(?:from|import) (\w+)", whole(page), re.MULTILINE):
        pytest.importorskip(module)
    run(page)


def test_readme_s_loss_has_a_gradient(run):
    names = run(README)
    assert names["value"].isfinite()
    assert names["logits"].grad.isfinite().all() and names["logits"].grad.any()


def test_own_loss_is_what_it_says(run):
    names = run(README)
    logits, labels = names["logits"].detach(), names["labels"]
    p = logits.double().softmax(1).transpose(0, 1).flatten(1)
    y = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0).flatten(1)
    overlap = (p * y).sum(1)
    expected = 1 - ((overlap / p.sum(1)) * (overlap / y.sum(1))).sqrt()
    ours = names["FowlkesMallowsLoss"](batch=True)(logits, labels)
    torch.testing.assert_close(ours.double(), expected.mean(), rtol=1e-5, atol=1e-6)


def test_loss_of_products_is_what_it_says(run):
    names = run(ROOT / "docs/own-losses.md")
    ours, theirs = (names["logits"].detach().double().requires_grad_() for _ in range(2))
    p = theirs.softmax(1)
    p_y = p.gather(1, names["labels"].long().unsqueeze(1))
    expected = ((1 - p_y**0.7) / 0.7).mean() - 0.1 * (p * p.log()).sum(1).mean()
    value = names["RobustLoss"]()(ours, names["labels"])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, z)[0] for loss, z in ((value, ours), (expected, theirs))), rtol=1e-8, atol=1e-14
    )
    assert names["sums"].shape == (2, 4, 3)
    assert names["losses"].shape == (2, 32, 32, 32) and names["hard"] > 0


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem)
def test_figures_of_speed_are_made_by_the_bench_alone(page):
    typed = re.sub(r"<!-- ([a-z-]+) -->\n.*?<!-- /\1 -->", "", page.read_text(), flags=re.DOTALL)
    assert not re.findall(r"[\d.]+ ?(?:ms|µs)\b|\*\*[\d.]+\*\*|[\d.]+ times (?:faster|slower|less|as)\b", typed)


def test_every_loss_is_in_the_table():
    for name in fastloss.__all__:
        if name.endswith("Loss") and name not in ("SegmentationLoss", "SumLoss"):
            assert f"| `{name}` |" in README.read_text(), name


def test_every_name_is_in_the_reference():
    reference = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    documented = set(re.findall(r"auto\w+:: fastloss\.(\w+)\n", reference))
    assert documented >= set(fastloss.__all__)
    assert {"distance", "metrics", "terms"} <= documented
