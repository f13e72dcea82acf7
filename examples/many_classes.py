"""Training a small U-Net with 118 classes within a memory budget that the plain head exceeds.

    python examples/many_classes.py                 # both heads, each in a process with the same limit
    python examples/many_classes.py --size 96 --budget 1400

Each process may hold only so much address space beyond what it has when the training begins (RLIMIT_AS, on Linux): the
plain head needs the logits and their gradient, the lazy head a chunk of them. Numbers are the same where both fit.
"""

import argparse
import resource
import subprocess
import sys

import torch
from torch import nn

import fastloss

CLASSES, WIDTH = 118, 16


class UNet(nn.Module):
    """Two levels: enough to have a skip connection, and features that are far smaller than the logits."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, WIDTH, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv3d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose3d(2 * WIDTH, WIDTH, 2, stride=2)
        self.last = nn.Sequential(nn.Conv3d(2 * WIDTH, WIDTH, 3, padding=1), nn.ReLU())
        self.head = nn.Conv3d(WIDTH, CLASSES, 1)

    def forward(self, image):
        fine = self.first(image)
        return self.head(self.last(torch.cat([fine, self.up(self.down(fine))], 1)))


def address_space() -> int:
    """Bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def train(lazily: bool, size: int, steps: int, budget: int) -> None:
    torch.manual_seed(0)
    network, loss = UNet(), fastloss.DiceCELoss()
    if lazily:
        fastloss.lazy_head(network.head)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    image = torch.randn(1, 1, size, size, size)
    labels = ((image[:, 0] + 4) * 14).clamp(0, CLASSES - 1).to(torch.uint8)
    small = slice(0, 8)  # a first step that loads libraries and compiles kernels does not count
    loss(network(image[..., small, small, small]), labels[..., small, small, small]).backward()
    limit = address_space() + budget * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(network(image), labels)
        value.backward()
        optimizer.step()
        print(f"  loss {value.item():.6f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", choices=["both", "plain", "lazy"], default="both")
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis [64]")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--budget", type=int, default=320, help="MiB beyond what the process has before [320]")
    options = parser.parse_args()
    if options.head != "both":
        train(options.head == "lazy", options.size, options.steps, options.budget)
        return
    logits = CLASSES * options.size**3 * 4 / 2**20
    print(f"logits and their gradient: {2 * logits:.0f} MiB; budget: {options.budget} MiB")
    for head in ("plain", "lazy"):
        print(f"{head} head", flush=True)
        arguments = [*sys.argv[1:], "--head", head]
        done = subprocess.run([sys.executable, __file__, *arguments], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            last = done.stderr.strip().splitlines()
            print(f"  failed: {last[-1][:120] if last else done.returncode}")


if __name__ == "__main__":
    main()
