"""Dice + cross-entropy and a boundary loss whose weight grows; its maps are made by the workers of the loader."""

import torch
from torch.utils.data import DataLoader

import fastloss
from fastloss.precompute import LabelMaps, MapsDataset

EPOCHS = 4


def samples(count: int) -> list[dict]:
    """Balls in noise."""
    axes = torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")
    made = []
    for seed in range(count):
        noise = torch.Generator().manual_seed(seed)
        centre = 5 + 6 * torch.rand(3, generator=noise)
        label = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) < 16
        image = label.float() + 0.5 * torch.randn(16, 16, 16, generator=noise)
        made.append({"image": image[None], "label": label.to(torch.uint8)})
    return made


def main() -> list[float]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 2, 3, padding=1)
    )
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    boundary = fastloss.BoundaryLoss(spacing=(3.0, 1.0, 1.0))
    loss = fastloss.CompoundLoss([fastloss.DiceCELoss(), boundary], weights=[1.0, 0.0])  # one pass for all of it
    loader = DataLoader(MapsDataset(samples(8), LabelMaps(boundary, channels=2)), batch_size=4, num_workers=1)
    means = []
    for epoch in range(EPOCHS):
        loss.loss_weights[1] = 0.01 * epoch
        values = []
        for batch in loader:
            value = loss(network(batch["image"]), batch["label"], maps=batch["maps"])  # computes no distance
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            values.append(value.item())
        means.append(sum(values) / len(values))
        print(f"epoch {epoch}: weight of the boundary {loss.loss_weights[1]:.2f}, loss {means[-1]:.3f}")
    return means


if __name__ == "__main__":
    main()
