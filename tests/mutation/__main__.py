"""Mutation tests: each mutant of the sources must fail the tests of its file. See `make mutate` in the Makefile."""

from __future__ import annotations

import hashlib
import json
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from subprocess import CalledProcessError

import click
from by_hand import MUTATIONS
from mutants import Mutant, mutant, mutants
from selection import TESTS
from survivors import EXPLAINED
from trial import KILLED, ROOT, SURVIVED, TIMED_OUT, Tree

_LIMIT = 60.0  # seconds, besides twice what the tests take without a mutation,
_COMPILING = 300.0  # and what it may take to compile the kernels
_OF_KERNELS = ("kernels/cpu/", "fastloss/terms.py")  # Numba's code is made of these


@click.command()
@click.option("--files", default="", help="Only files whose path has one of these words in it.")
@click.option("--budget", default=10, help="How many mutants are drawn of each file of fastloss/.")
@click.option("--seed", default=0, help="Of the draw: a larger budget adds to that of a smaller one.")
@click.option("--minutes", default=0.0, help="No trial begins after so many; a further run goes on. 0: no limit.")
@click.option(
    "--folder", default=ROOT / "build/mutate", type=Path, help="Of the copy and of results.jsonl, a line a trial."
)
def main(files: str, budget: int, seed: int, minutes: float, folder: Path) -> None:
    """Mutants of fastloss/, drawn, and those of by_hand.py: fails if one survives without a reason in survivors.py."""
    folder.mkdir(parents=True, exist_ok=True)
    known = _known(folder / "results.jsonl")
    stop = time.monotonic() + 60 * minutes if minutes else float("inf")
    outcomes: dict[str, list[Mutant]] = {}
    limits: dict[tuple[str, ...], float] = {}
    left = 0
    with (folder / "results.jsonl").open("a") as log:
        tree = Tree(folder.resolve())
        by_name = _by_name(files.split())
        for tests, chosen in _chosen(tree.root, files.split(), budget, seed):
            unmutated = by_name if set(tests) <= set(by_name) else tests
            sources = _digest(*tests, *(file.read_text() for file in _files(tree.root, tests)))
            for one in chosen:
                mutated = _digest(one.file, one.text)
                outcome, by = known.get(mutated, ("", ""))
                if outcome in ("", SURVIVED) and by != sources:  # what is killed is so by more tests as well
                    if time.monotonic() > stop:
                        left += 1
                        continue
                    if unmutated not in limits:
                        limits[unmutated] = _limit(tree, unmutated)
                    start = time.monotonic()
                    outcome = _try(tree, one, tests, limits[unmutated])
                    print(f"{outcome:9} {time.monotonic() - start:5.1f} s  {_line(one)}", flush=True)
                    entry = {"mutated": mutated, "tests": sources, "outcome": outcome, "key": one.key}
                    print(json.dumps(entry), file=log, flush=True)
                outcomes.setdefault(outcome, []).append(one)
    unexplained = _report(outcomes)
    if left:
        print(f"{left} left for a further run")
    sys.exit(bool(unexplained or left))


def _chosen(root: Path, words: list[str], budget: int, seed: int) -> Iterator[tuple[tuple[str, ...], list[Mutant]]]:
    """Mutants with the tests that should kill them; of the copy, so that the working tree may change meanwhile."""
    for file, tests in TESTS.items():
        if not words or any(word in file for word in words):
            yield tests, list(islice(mutants(file, (root / file).read_text(), seed), budget))
    for mutation in MUTATIONS:
        if not words or any(word in mutation.file for word in words):
            text = (root / mutation.file).read_text()
            yield mutation.tests, [mutant(mutation.file, text, text.replace(mutation.old, mutation.new))]


def _by_name(words: list[str]) -> tuple[str, ...]:
    """The tests that by_hand.py names one by one: without a mutation they run once, all together."""
    chosen = [m.tests for m in MUTATIONS if "-k" not in m.tests and any(word in m.file for word in words or [""])]
    return tuple(dict.fromkeys(test for tests in chosen for test in tests))


def _limit(tree: Tree, tests: tuple[str, ...]) -> float:
    """Seconds for a trial; fails if the tests do without a mutation."""
    start = time.monotonic()
    if tree.run(tests, 1200) != SURVIVED:
        sys.exit(f"the tests fail without a mutation: {' '.join(tests)}\n{tree.log.read_text()[-3000:]}")
    return _LIMIT + 2 * (time.monotonic() - start)


def _try(tree: Tree, one: Mutant, tests: tuple[str, ...], limit: float) -> str:
    with tree.mutated(one.file, one.text):
        if one.file.startswith("csrc/"):
            try:
                with tree.compiled():
                    return tree.run(tests, limit)
            except CalledProcessError:  # as by a static_assert
                return KILLED
        compiles = one.file.startswith(_OF_KERNELS)
        return tree.run(tests, limit + _COMPILING * compiles, own_cache=compiles)


def _files(root: Path, tests: tuple[str, ...]) -> list[Path]:
    """Those that pytest's arguments name, and of the folders among them."""
    paths = [root / test.split("::")[0] for test in tests if test.startswith("tests/")]
    return [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _known(results: Path) -> dict[str, tuple[str, str]]:
    """By the digest of a mutant: what became of it, and the digest of the tests."""
    entries = map(json.loads, results.read_text().splitlines() if results.exists() else [])
    return {entry["mutated"]: (entry["outcome"], entry["tests"]) for entry in entries}


def _line(one: Mutant) -> str:
    return f"{one.file}:{one.line} {' '.join(one.old.split())}  ->  {' '.join(one.new.split())}"


def _report(outcomes: dict[str, list[Mutant]]) -> int:
    """Prints a table and what lives, and says how much of it has no reason."""
    alive = outcomes.get(SURVIVED, [])
    dead = [*outcomes.get(KILLED, []), *outcomes.get(TIMED_OUT, [])]
    equal = [one for one in alive if one.key in EXPLAINED]
    unexplained = [one for one in alive if one.key not in EXPLAINED]
    columns = [Counter(one.file for one in ones) for ones in ((*dead, *alive), dead, equal, unexplained)]
    print(f"\n{'':45} tried killed equal  open")
    for file in columns[0]:
        print(f"{file:45}" + "".join(f"{column[file]:6}" for column in columns))
    print(f"{'':45}" + "".join(f"{column.total():6}" for column in columns))
    for one in alive:
        print(f"\nsurvived: {one.file}:{one.line} in {one.where}")
        print(textwrap.indent(one.old, "  - ") + "\n" + textwrap.indent(one.new, "  + "))
        print(f"  {EXPLAINED.get(one.key, 'no reason is known')}")
    effective = len(dead) + len(unexplained)
    print(f"\n{len(dead)} of {effective} that have an effect killed ({100 * len(dead) / max(effective, 1):.1f} %)")
    return len(unexplained)


if __name__ == "__main__":
    main()
