"""Files by two globs: what is an image, what are its labels, and whose both are."""

import glob
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from fastloss.metrics.nifti import DataError

# a run of wildcards with nothing between them is one; `[*]`, `[?]` and `[[]` stand for these characters
WILD = re.compile(r"(\*\*/)|\[([*?[])\]|((?:\*|\?|\[(?![*?[]\])[^]]+\])+)")


def as_glob(pattern: str) -> str:
    """The pattern with brackets taken literally where a file or folder has such a name."""
    done = ""
    for part in re.split("(/)", str(Path(pattern).expanduser())):
        literal = done + glob.escape(part)
        done = literal if "[" in part and glob.glob(literal, recursive=True) else done + part
    return done


def expression(wildcards: str) -> str:
    """A run of wildcards as a regular expression."""

    def of_one(found: re.Match) -> str:
        none_of, characters = found.groups()
        if characters:
            return f"[{'^' if none_of else ''}" + re.sub(r"[\\[^]", r"\\\g<0>", characters) + "]"
        return {"**": ".*", "*": "[^/]*", "?": "[^/]"}[found[0]]

    return re.sub(r"\[(!?)([^]]+)\]|\*\*|\*|\?", of_one, wildcards)


def wild(pattern: str) -> dict[tuple[str, ...], Path]:
    """The files of a glob by what its wildcards stand for."""
    pattern, form, end = as_glob(pattern), "", 0
    for found in WILD.finditer(pattern):
        deep, character, wildcards = found.groups()
        form += re.escape(pattern[end : found.start()])
        form += "(.*)" if deep else re.escape(character) if character else f"({expression(wildcards)})"
        end = found.end()
    names = sorted(glob.glob(pattern, recursive=True))
    matches = [(re.fullmatch(form + re.escape(pattern[end:]), name), name) for name in names]
    return {match.groups(): Path(name) for match, name in matches if match}


def two_globs(where: str) -> tuple[str, str]:
    """Images and labels on both sides of a comma: the one that makes both match, as folders may have commas, too."""
    halves = [(where[: found.start()], where[found.end() :]) for found in re.finditer(",", where)]
    halves = [both for both in halves if all(both)]
    if len(halves) > 1:
        halves = [both for both in halves if all(map(wild, both))]
    if len(halves) != 1:
        raise DataError(f"--data pairs:{where}: expected pairs:IMAGES,LABELS, two globs (in quotes) that match files")
    return halves[0]


def groups(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Whose each is: the first wildcard, and of several folders the first, that is not the same in all."""
    parts = [[name for part in key for name in part.rstrip("/").split("/")] for key in keys]
    first = next((i for i, column in enumerate(zip_longest(*parts)) if len(set(column)) > 1), 0)
    return [own[first] if first < len(own) else "" for own in parts]
