"""Lightning: a module with a fused loss, and scores that torchmetrics gathers over the validation set."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

import fastloss
from fastloss.integrations.torchmetrics import OverlapMetric, SurfaceMetric


class Segmenter(pl.LightningModule):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, classes, 3, padding=1)
        )
        self.loss = fastloss.DiceCELoss()
        options = {"num_classes": classes, "activation": "softmax"}
        self.scores = MetricCollection(
            {
                "dice": OverlapMetric("dice", include_background=False, **options),
                "hd95": SurfaceMetric("hausdorff", percentile=95, **options),
            }
        )

    def training_step(self, batch, _):
        images, labels = batch
        return self.loss(self.network(images), labels)

    def validation_step(self, batch, _):
        images, labels = batch
        self.scores.update(self.network(images), labels)
        self.log_dict(self.scores)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def main() -> None:
    pl.seed_everything(0, verbose=False)
    labels = (torch.rand(16, 1, 4, 4) * 3).repeat_interleave(16, 2).repeat_interleave(16, 3)
    images = labels.floor() + 0.3 * torch.randn(labels.shape)
    data = TensorDataset(images, labels[:, 0].to(torch.uint8))
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, **dict.fromkeys(silent, False))
    trainer.fit(Segmenter(), DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4))
    print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
