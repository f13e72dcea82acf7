"""Compiled PTX run on the CPU: right values, and no byte of the logits moved twice."""

import pytest
from rows_of_kernels import executed


@pytest.fixture(scope="module")
def rows():
    return executed("sums")


def test_compiled_code_gives_the_reference_values(rows):
    assert len(rows) >= 24
    assert {row["name"]: row["error"] for row in rows if not row["error"] <= 2e-6} == {}


def test_every_byte_moves_once(rows):
    """Traffic at most 1.05 times logits + labels (+ gradient); partial sums below 1 % of the logits."""
    small = [row for row in rows if row["small"]]
    assert {row["name"]: row["moved"] for row in rows if row["moved"] > 1.05} == {}
    # What a program asks for again are the backward's coefficients, which these small volumes hardly dilute.
    assert {row["name"]: row["reread"] for row in small if row["reread"] > 1.5} == {}
    assert {row["name"]: row["partial"] for row in rows if row["partial"] > 0.01} == {}
