"""Parts of pages that the library itself tells: written to `generated/` before a page is read."""

import inspect
import itertools
import re
from pathlib import Path

import gallery
import torch

import fastloss
from fastloss import SumLoss

ROOT = Path(__file__).resolve().parents[2]


def terms_table() -> str:
    """Which terms each loss sums, with softmax and with sigmoid."""
    rows = ["| loss | softmax | sigmoid |", "|---|---|---|"]
    for kind in gallery.losses():
        if issubclass(kind, SumLoss):
            made = (gallery.build(kind, activation=activation) for activation in ("softmax", "sigmoid"))
            softmax, sigmoid = (" ".join(f"`{term}`" for term in loss.terms) for loss in made)
            rows.append(f"| {link(kind)} | {softmax} | {'the same' if sigmoid == softmax else sigmoid} |")
    return "\n".join(rows) + "\n"


def absent_table() -> str:
    """The value of each loss where the truth lacks a class that is not predicted, or is."""
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    nothing = torch.stack([torch.full((16, 16), 10.0), torch.full((16, 16), -10.0)])[None]
    quarter = nothing.clone()
    quarter[..., :8, :8] *= -1
    rows = ["| loss | not predicted either | predicted in a quarter of the pixels |", "|---|---|---|"]
    with fastloss.backend("reference"):
        for kind in gallery.losses():
            values = [gallery.build(kind)(logits, labels).item() for logits in (nothing, quarter)]
            rows.append(f"| {link(kind)} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return "\n".join(rows) + "\n"


def gallery_page() -> str:
    """The picture of each loss, by family."""
    parts = []
    for family, kinds in itertools.groupby(gallery.losses(), gallery.family):
        parts.append(f"### {gallery.FAMILIES[family]}\n")
        for kind in kinds:
            first = " ".join(inspect.getdoc(kind).split("\n\n")[0].split())
            what = re.sub(r":(\w+):(`[^`]+`)", r"{py:\1}\2", first)
            alt = f"The gradient of {kind.__name__}, and its value against three growing errors"
            parts.append(f"{link(kind)}: {what}\n\n![{alt}](generated/gallery/{kind.__name__}.png)\n")
    return "\n".join(parts)


def link(kind: type) -> str:
    return f"{{py:class}}`fastloss.{kind.__name__}`"


def draw(folder: Path) -> None:
    """The gallery's pictures, where the sources are newer."""
    last = folder / f"{gallery.losses()[-1].__name__}.png"
    sources = [Path(gallery.__file__), *(ROOT / "fastloss").rglob("*.py"), *(ROOT / "kernels/reference").glob("*.py")]
    if not last.exists() or last.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        gallery.draw(folder)


def write(app) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for name, text in {"absent.md": absent_table(), "terms.md": terms_table(), "gallery.md": gallery_page()}.items():
        file = folder / name
        if not file.exists() or file.read_text() != text:  # an unchanged page is not read again
            file.write_text(text)
    draw(folder / "gallery")


def setup(app) -> dict:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
