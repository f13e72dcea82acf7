"""The endurance command: what it counts, and what it refuses."""

import json

import pytest
import torch

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("rich", reason="the benchmarks need rich")
pytest.importorskip("scipy", reason="the benchmarks need scipy")

from click.testing import CliRunner

from bench.__main__ import cli
from bench.losses import registry
from bench.losses.registry import LOSSES, LossRow
from bench.speed.case import Case
from bench.speed.memory import can_measure

SMALL = ["endurance", "--steps", "300", "--shape", "1,3,6,6"]
pytestmark = pytest.mark.skipif(can_measure(Case("dice", (1, 2, 4))) is not None, reason="needs /proc/self")


class Leaking(torch.nn.Module):
    """Keeps 64 KiB of each step."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def forward(self, logits, labels):
        self.kept.append(torch.ones(2**14))
        return logits.sum()


class Drifting(torch.nn.Module):
    """Gives the last bit of its value another turn now and then."""

    calls = 0

    def forward(self, logits, labels):
        self.calls += 1
        return logits.sum() * 0 + (1.0 if self.calls % 100 else 1.0 + 2**-23)


def of(monkeypatch, module):
    class Row(LossRow):
        def build(self, activation, classes):
            return module()

    monkeypatch.setitem(registry.LOSSES, "dice", Row("DiceLoss"))


def test_losses_in_turn(tmp_path):
    file = tmp_path / "endurance.json"
    done = CliRunner().invoke(cli, [*SMALL, "--losses", "dice_ce,topk", "--json", str(file)])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(file.read_text())
    assert row["steps"] == 300 and row["losses"] == ["dice_ce", "topk"] and row["changed"] == {}
    assert row["growth_mib"] <= 1 and row["end_mib"] > 50


def test_memory_that_grows_is_refused(monkeypatch):
    of(monkeypatch, Leaking)
    done = CliRunner().invoke(cli, [*SMALL, "--losses", "dice"])
    assert done.exit_code == 1 and "memory grew by 1" in done.output


def test_other_bits_are_refused(monkeypatch):
    of(monkeypatch, Drifting)
    done = CliRunner().invoke(cli, [*SMALL, "--losses", "dice"])
    assert done.exit_code == 1 and "other bits than in the first step: {'dice': 3}" in done.output


@pytest.mark.slow
def test_two_thousand_steps_of_every_loss():
    done = CliRunner().invoke(cli, ["endurance"])
    assert done.exit_code == 0, done.output
    assert f"{len(LOSSES)} losses, 2000 steps each on 1x3x16x16x16" in done.output
