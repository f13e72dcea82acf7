"""The machine code of every kernel variant, for three NVIDIA and one AMD target: no spills, 128-bit accesses.

``python -m pytest -m slow tests/test_gpu_compiled.py`` compiles the whole product of options.
"""

import pytest
from rows_of_kernels import rows_of

pytest.importorskip("triton")


TURNS = {"sm_80": "0/2", "sm_90": "0/1", "sm_100": "1/2", "gfx942": "0/1"}  # each kernel for three of them


@pytest.mark.parametrize("target", TURNS)
@pytest.mark.parametrize("matrix", ["main", pytest.param("all", marks=pytest.mark.slow)])
def test_no_spills_and_wide_accesses(target, matrix):
    rows = rows_of("bench.kernels.code", target, *(["--all"] if matrix == "all" else ["--turn", TURNS[target]]))
    assert len(rows) >= (200 if matrix == "all" else 20)
    assert all(row["registers"] > 0 and row["shared"] >= 0 and 0 < row["occupancy"] <= 1 for row in rows)
    wrong = {row["name"]: row for row in rows if row["faults"]}
    assert not wrong, "\n".join(f"{name}: {row}" for name, row in wrong.items())
