"""Lightning: a module with MONAI's Dice loss and torch's cross-entropy. Knows nothing of fastloss."""

import argparse
import logging
import warnings

import lightning.pytorch as pl
import torch
from monai.losses import GeneralizedDiceLoss
from monai.networks.nets import BasicUNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--epochs", type=int, default=2)
given = parser.parse_args()


class Segmenter(pl.LightningModule):
    def __init__(self, classes=3):
        super().__init__()
        self.model = BasicUNet(2, 1, classes, features=(8, 8, 16, 16, 32, 8))
        self.dice = GeneralizedDiceLoss(to_onehot_y=True, softmax=True)
        self.entropy = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 1.0]))

    def training_step(self, batch, _):
        images, labels = batch
        logits = self.model(images)
        loss = self.dice(logits, labels[:, None]) + self.entropy(logits, labels)
        self.log("train_loss", loss)
        return loss

    def on_train_epoch_end(self):
        print(f"epoch {self.current_epoch} loss {self.trainer.callback_metrics['train_loss'].item():.5f}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pl.seed_everything(0, verbose=False)
labels = (torch.rand(8, 1, given.size // 16, given.size // 16) * 3).repeat_interleave(16, 2).repeat_interleave(16, 3)
images = labels / 3 + 0.3 * torch.randn(labels.shape)
data = DataLoader(TensorDataset(images, labels[:, 0].long()), batch_size=4, shuffle=True)
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=given.epochs,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Segmenter(), data)
