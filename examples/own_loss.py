"""The symmetric cross-entropy (Wang et al. 2019, arXiv:1908.06112) as a formula on sums, with Dice in the same pass, on
labels of which a fifth are wrong."""

import torch

import fastloss


class SymmetricCrossEntropyLoss(fastloss.SumLoss):
    """``α · mean(-log p_y) + β · A · mean(1 - p_y)``, the reverse cross-entropy with ``log 0 = -A``."""

    terms = ("y*l", "y*p", "y")  # l is -log p

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, clip: float = 4.0, **options):
        super().__init__(**options)
        self.alpha, self.reverse = alpha, beta * clip

    def formula(self, sums):  # each [B, C], float64
        count = sums["y"].clamp_min(1)
        return (self.alpha * sums["y*l"] + self.reverse * (sums["y"] - sums["y*p"])) / count


def main() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(4, 16, 16, 16, dtype=torch.uint8)
    truth[:, 4:12, 4:12, 4:12] = 1
    truth[:, 6:10, 6:10, 6:10] = 2
    image = truth[:, None].float() + 0.3 * torch.randn(4, 1, 16, 16, 16)
    labels = torch.where(torch.rand(truth.shape) < 0.2, torch.randint_like(truth, 3), truth)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 3, padding=1)
    )
    loss = fastloss.CompoundLoss([SymmetricCrossEntropyLoss(batch=True), fastloss.DiceLoss(batch=True)])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(41):
        optimizer.zero_grad()
        logits = network(image)
        value = loss(logits, labels)  # one pass forward, one backward
        value.backward()
        optimizer.step()
        if step % 10 == 0:
            right = (logits.argmax(1) == truth).float().mean()
            print(f"step {step}: loss {value.item():.4f}, voxels that are right {right:.3f}")


if __name__ == "__main__":
    main()
