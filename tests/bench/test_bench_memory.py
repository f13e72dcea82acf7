"""The memory command: the line through two sizes, the largest cube, and a run of the command."""

import json

import pytest
from click.testing import CliRunner

from bench.__main__ import cli
from bench.speed.case import Case
from bench.speed.memory import can_measure
from bench.speed.patch import Line


def test_the_largest_cube_fits_and_the_next_one_does_not():
    line = Line.through([(1000, 5000.0), (2000, 9000.0)])
    assert line == Line(1000.0, 4.0)
    for budget in (1e4, 3.3e6, 4.000001e9):
        for batch in (1, 3):
            edge = line.largest_edge(batch, budget)
            assert line.at(batch * edge**3) <= budget < line.at(batch * (edge + 1) ** 3)
    assert line.largest_edge(1, 10.0) == 0


@pytest.mark.skipif(can_measure(Case("dice", (1, 2, 4))) is not None, reason="needs /proc/self/clear_refs")
def test_the_command_verifies_its_prediction(tmp_path):
    file = tmp_path / "memory.json"
    arguments = ["memory", "--losses", "dice_ce", "--shape", "1,2,8,8,8", "--budget", "0.06", "--json", str(file)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(file.read_text())
    assert row["peak_over_logits"]["ours"] < 1.3 < row["peak_over_logits"]["monai DiceCELoss"]
    assert row["largest_edge"]["ours"] > row["largest_edge"]["monai DiceCELoss"] > 80
    assert row["verified_bytes"] <= row["budget_bytes"] * 1.02
    assert "DiceCELoss" in done.output and f"{row['largest_edge']['ours']}^3" in done.output
