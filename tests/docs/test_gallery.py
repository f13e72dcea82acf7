"""What the gallery's page says of its pictures, by the numbers that they are drawn of."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss

sys.path.append(str(Path(__file__).parents[2] / "docs/extensions"))

gallery = pytest.importorskip("gallery", reason="needs matplotlib")
LOSSES = pytest.mark.parametrize("kind", gallery.losses(), ids=lambda kind: kind.__name__)


pytestmark = pytest.mark.usefixtures("reference")


def test_every_loss_is_shown():
    names = {name for name in fastloss.__all__ if name.endswith("Loss")}
    assert {kind.__name__ for kind in gallery.losses()} == names - {kind.__name__ for kind in gallery.BASES}


@LOSSES
def test_a_gradient_raises_what_is_missed_and_lowers_what_is_made_up(kind):
    field = gallery.push(gallery.build(kind))
    missed, made_up = gallery.inside(gallery.SMALL) > 0, gallery.inside(gallery.ELSEWHERE) > 0
    assert np.isfinite(field).all() and np.abs(field).max() == 1
    assert field[missed].max() > 0.01 and field[made_up].min() < -0.01


# but those of centrelines, which discs have not: their skeletons of 3 iterations are a few pixels, or none
@pytest.mark.parametrize("kind", [kind for kind in gallery.losses() if gallery.family(kind) != "cldice"])
def test_values_grow_with_an_error(kind):
    values = gallery.curves(gallery.build(kind), pixels=(0, 2, 8))
    for name, (right, *_, wrong) in values.items():
        falls = kind is fastloss.BoundaryLoss and name == "a lesion missed"  # as the page warns
        assert (wrong < right) if falls else (wrong > right), name
