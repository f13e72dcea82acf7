"""Parts of pages that the library itself tells: written to `generated/` before a page is read."""

from pathlib import Path

import fastloss
from fastloss import CompoundLoss, SegmentationLoss, SumLoss

REQUIRED = {"WeightedCrossEntropyLoss": {"beta": [1.0, 1.0]}}  # options without a default
BASES = (SegmentationLoss, SumLoss, CompoundLoss)


def losses() -> list[type]:
    """The classes of losses, in the order of the package."""
    found = [getattr(fastloss, name) for name in fastloss.__all__]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, BASES[0]) and kind not in BASES]


def terms_table() -> str:
    """Which terms each loss sums, with softmax and with sigmoid."""
    rows = ["| loss | softmax | sigmoid |", "|---|---|---|"]
    for kind in losses():
        if not issubclass(kind, SumLoss):
            continue
        softmax, sigmoid = (
            " ".join(f"`{term}`" for term in kind(activation=activation, **REQUIRED.get(kind.__name__, {})).terms)
            for activation in ("softmax", "sigmoid")
        )
        rows.append(
            f"| {{py:class}}`fastloss.{kind.__name__}` | {softmax} | {'the same' if sigmoid == softmax else sigmoid} |"
        )
    return "\n".join(rows) + "\n"


def write(app) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for name, text in {"terms.md": terms_table()}.items():
        file = folder / name
        if not file.exists() or file.read_text() != text:  # an unchanged page is not read again
            file.write_text(text)


def setup(app) -> dict:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
