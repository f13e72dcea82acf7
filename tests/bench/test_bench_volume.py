"""The loss of a volume window by window: value and gradient of all its logits at once."""

import json

import pytest
import torch

pytest.importorskip("click", reason="the benchmarks need click")
pytest.importorskip("monai", reason="the benchmarks need monai")
pytest.importorskip("nibabel", reason="the benchmarks need nibabel")
pytest.importorskip("nilearn", reason="the benchmarks need nilearn")
pytest.importorskip("rich", reason="the benchmarks need rich")

from click.testing import CliRunner
from torch import nn

import fastloss
from bench.__main__ import cli
from bench.losses.registry import LOSSES
from bench.training.datasets import open_dataset, prepare
from bench.training.volume import Tiled, whole_volume_loss, why_not

USABLE = [name for name, row in LOSSES.items() if not why_not(name, row.build("softmax", 2))]


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return Tiled(prepare(open_dataset("synthetic:1,16", cache), cache), 0, (20, 18, 33), (8, 12, 16), margin=2)


def network():
    """Sees two voxels far, as the margin."""
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 3, 3, padding=1), nn.Softplus(), nn.Conv3d(3, 2, 3, padding=1)
    return nn.Sequential(*layers)


def at_once(volume, net, loss):
    """The same with all logits in memory, put together from the windows."""
    logits, labels = torch.zeros(1, 2, *volume.shape), torch.zeros(1, *volume.shape, dtype=torch.uint8)
    for place in volume.places():
        image, own = volume.read(place)
        to = (..., *(slice(at, at + n) for at, n in zip(place, own.shape[1:], strict=True)))
        logits[to] = net(image)[(..., *(slice(2, 2 + n) for n in own.shape[1:]))]
        labels[to] = own
    value = loss(logits, labels)
    value.backward()
    return value.detach()


@pytest.mark.parametrize("name", USABLE)
def test_windows_add_up_to_the_volume(volume, name):
    loss, ours, plain = LOSSES[name].build("softmax", 2), network(), network()
    with fastloss.backend("reference"):
        value = whole_volume_loss(ours, loss, volume, torch.device("cpu"))
        expected = at_once(volume, plain, loss)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)
    assert any(p.grad.abs().sum() > 0 for p in ours.parameters())


def test_windows_are_parts_of_the_repeated_subject(volume):
    entry = volume.data.entries[0]
    image, labels = volume.read((16, 12, 16))
    assert image.shape == (1, 1, 12, 16, 20) and labels.shape == (1, 4, 6, 16)
    assert (image[0, 0, 2:6, 2:8, 2:18].numpy() == entry.image()[:, 0][0:4][:, [12, 13, 14, 15, 0, 1]]).all()
    assert (image[0, 0, 6:] == entry.floor).all()  # beyond the volume


def test_losses_that_are_more_than_sums_are_refused():
    assert len(USABLE) == 18
    for name, message in (("lovasz", "ranks voxels"), ("cldice", "looks at neighbours"), ("boundary", "distances")):
        assert message in why_not(name, LOSSES[name].build("softmax", 2))


def test_command_prints_the_peak(tmp_path):
    file = tmp_path / "volume.json"
    options = ["--data", "synthetic:1,16", "--shape", "24,16,16", "--window", "8,8,8", "--margin", "4"]
    more = ["--widths", "2,2,4", "--losses", "dice,boundary", "--cache", str(tmp_path), "--json", str(file)]
    done = CliRunner().invoke(cli, ["volume", *options, *more])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(file.read_text())
    assert row["windows"] == 12 and row["gradient_norm"] > 0 and "peak GiB" in done.output
    assert "left out: loss: boundary has distances" in done.output
    refused = CliRunner().invoke(cli, ["volume", "--window", "9,8,8", "--margin", "4", "--widths", "2,2,4"])
    assert refused.exit_code == 2 and "multiples of 4" in refused.output
