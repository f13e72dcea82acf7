"""Blocks of the README and the docs between `<!-- NAME -->` and `<!-- /NAME -->`, filled in."""

import json
import re
from pathlib import Path

from bench.report.tables import BLOCKS

BLOCK = re.compile(r"<!-- ([a-z][a-z0-9-]*) -->\n(.*?)<!-- /\1 -->", re.DOTALL)


class UnknownBlock(ValueError):
    """A document has a block that no measurement fills."""


def documents(root: Path) -> list[Path]:
    """The Markdown files with blocks, below the root and in docs."""
    files = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    return [file for file in files if BLOCK.search(file.read_text())]


def read_results(folder: Path) -> dict[str, list[dict] | dict]:
    """The measurements that there are, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def filled(text: str, results: dict, file: str = "") -> tuple[str, list[str]]:
    """The text with its blocks made anew, and the names of those that lack a measurement, which stay as they are.

    Raises:
        UnknownBlock: for a name that is none of BLOCKS.
    """
    missing: list[str] = []

    def replacement(match: re.Match) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise UnknownBlock(f"{file}: block {name!r}, expected one of {', '.join(BLOCKS)}")
        make, needs = BLOCKS[name]
        if lacking := [need for need in needs if need not in results]:
            missing.append(f"{name}: no {', '.join(f'{need}.json' for need in lacking)}")
            return match[0]
        return f"<!-- {name} -->\n{make(results)}\n<!-- /{name} -->"

    return BLOCK.sub(replacement, text), missing
