"""The lists of the mutation tests name what is there."""

import subprocess
import sys
from pathlib import Path

import pytest
from by_hand import MUTATIONS
from selection import TESTS
from survivors import EXPLAINED

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.old}")
def test_text_to_mutate_is_there_once(mutation):
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1


def test_files_and_tests_are_there():
    selections = [*TESTS.values(), *(mutation.tests for mutation in MUTATIONS)]
    named = {argument.split("::")[0] for tests in selections for argument in tests if argument.startswith("tests/")}
    assert [name for name in [*TESTS, *named] if not (ROOT / name).exists()] == []


def test_named_tests_are_there():
    """pytest fails of a name that it does not find, which would look like a mutant killed."""
    names = dict.fromkeys(name for mutation in MUTATIONS for name in mutation.tests if "::" in name)
    names |= dict.fromkeys(name for tests in TESTS.values() for name in tests if "::" in name)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow or not slow", "-p", "no:xdist"]
    done = subprocess.run([*command, *names], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_surviving_lines_are_there():
    gone = [key for key in EXPLAINED if key[2].splitlines()[0] not in (ROOT / key[0]).read_text()]
    assert gone == []
