import fastloss

from .record import record


def test_draws():
    with fastloss.backend("reference"):
        found = record("torch", 0, 400)
    assert not found["differing"]
    assert found["fused"] > 0.6 * 400
