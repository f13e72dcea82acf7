"""The lists of the mutation tests name what is there."""

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


def test_surviving_lines_are_there():
    gone = [key for key in EXPLAINED if key[2].splitlines()[0] not in (ROOT / key[0]).read_text()]
    assert gone == []
