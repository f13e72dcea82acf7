"""A few seeded inputs of every kind of fuzzing, and what is made of a failure, a crash and a hang."""

import os
import time
from pathlib import Path

import pytest
from fuzz import kinds
from fuzz.run import Kind, Record, run, work
from hypothesis import strategies as st

ON_TRITON = [f"{name} on Triton" for name in ("losses", "products", "distances")]
SLOW = {"losses": 30, "products": 30, **dict.fromkeys(ON_TRITON, 12)}  # compiled, or interpreted
SIZES = [
    *((name, SLOW.get(name, 100)) for name in kinds.KINDS),
    *(pytest.param(name, 200, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.mark.parametrize(("name", "inputs"), SIZES)
def test_inputs_of_every_kind(name, inputs, tmp_path):
    _, kind = kinds.KINDS[name]
    result = work(kind, 1, Record(tmp_path), inputs=inputs)
    assert not result.failures, "\n".join(result.failures)
    assert result.inputs == inputs


def wrong(number):
    assert number < 1000, "too much"


def crash(number):
    if number > 5:
        os.abort()


def hang(number):
    while number > 5:
        time.sleep(0.1)


def numbers(random):
    return st.integers(0, 10**6)


KINDS = [Kind("wrong", numbers, wrong), Kind("crash", numbers, crash), Kind("hang", numbers, hang, limit_s=2)]


def test_a_failure_shrinks_to_a_line_that_makes_it_again(tmp_path):
    result = work(KINDS[0], 1, Record(tmp_path), seconds=60)
    assert result.wrong == 5
    line = "PYTHONPATH=tests python -c 'from test_fuzz import *; wrong(1000)'"
    assert all(failure.endswith(line) for failure in result.failures)


@pytest.mark.parametrize(("kind", "counts"), [(KINDS[1], (1, 0)), (KINDS[2], (0, 1))], ids=["crash", "hang"])
def test_what_ends_a_process_is_counted_and_told(kind, counts, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    result = run("test_fuzz", kind, 1, 1.0, tmp_path)
    assert (result.crashes, result.hangs) == counts
    assert f"from test_fuzz import *; {kind.name}(" in result.failures[0]
