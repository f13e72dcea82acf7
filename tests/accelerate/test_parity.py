"""Calls of the peers' losses drawn at random give the peer's value, gradient, shape, dtype, warnings and errors."""

import importlib

import pytest
from parity.compare import compare

import fastloss

PEERS = {
    "nnunet": "nnunetv2",
    "smp": "segmentation_models_pytorch",
    "kornia": "kornia",
    "torchvision": "torchvision",
}


def compared(peer, seeds):
    pytest.importorskip(PEERS[peer], exc_type=ImportError)
    return compare(peer, importlib.import_module(f"parity.{peer}").draw, seeds)


@pytest.mark.parametrize("peer", PEERS)
def test_drawn_calls_on_the_reference(peer):
    with fastloss.backend("reference"):
        tally = compared(peer, range(150))
    assert not tally.different, "\n".join(tally.different)
    assert tally.share() > 0.55


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_drawn_calls_on_the_cpu_kernels(peer):
    tally = compared(peer, range(1000, 1600))
    assert not tally.different, "\n".join(tally.different)
