"""Trainings of other libraries' users, unchanged, by ``python -m fastloss.accelerate``."""

import re

import pytest

from .compare import SCRIPTS, differences, run

SMALL = {
    "monai_3d": ["--size", "40", "--patch", "24"],
    "smp_2d": ["--size", "32"],
    "lightning_2d": ["--size", "32"],
}
NEEDED = {"monai_3d": ("monai",), "smp_2d": ("segmentation_models_pytorch",), "lightning_2d": ("lightning", "monai")}
SLOW = ("smp_2d", "lightning_2d")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SCRIPTS])
def test_prints_the_same_numbers(name):
    for module in NEEDED[name]:
        pytest.importorskip(module)
    peers, loss = SCRIPTS[name]
    plain, accelerated = run(name, SMALL[name]), run(name, SMALL[name], peers)
    assert not differences(plain.stdout, accelerated.stdout)
    (fused, passed_on) = re.search(
        rf"{loss.partition(':')[2]}: fused (\d+), passed on (\d+)", accelerated.stderr
    ).groups()
    assert int(fused) >= 4 and int(passed_on) == 0


def test_differences_are_seen():
    assert not differences("loss 1.00000\nDice 0.5", "loss 1.00001\nDice 0.5")
    assert differences("loss 1.00000", "loss 1.00010") and differences("loss 1.0", "lose 1.0")
    assert differences("loss 1.0", "loss nan") and differences("loss 1.0\nloss 2.0", "loss 1.0")
