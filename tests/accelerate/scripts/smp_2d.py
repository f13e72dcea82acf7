"""segmentation_models_pytorch: a multi-class training on discs in noise. Knows nothing of fastloss."""

import argparse

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.losses import DiceLoss, SoftCrossEntropyLoss

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--steps", type=int, default=6)
given = parser.parse_args()

torch.manual_seed(0)
CLASSES = 4


def batch(samples=4):
    rows, columns = torch.meshgrid(torch.arange(given.size), torch.arange(given.size), indexing="ij")
    masks = torch.zeros(samples, given.size, given.size, dtype=torch.int64)
    for mask in masks:
        for label in range(1, CLASSES):
            y, x, radius = (torch.rand(3) * given.size).tolist()
            mask[(rows - y) ** 2 + (columns - x) ** 2 < (0.1 * given.size + radius / 4) ** 2] = label
    images = masks[:, None] / CLASSES + 0.3 * torch.randn(samples, 3, given.size, given.size)
    masks[torch.rand(masks.shape) < 0.05] = 255
    return images, masks


model = smp.Unet("resnet18", 3, encoder_weights=None, decoder_channels=(64, 32, 16), classes=CLASSES)
dice = DiceLoss("multiclass", ignore_index=255)
entropy = SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255)
optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
for step in range(1, given.steps + 1):
    images, masks = batch()
    logits = model(images)
    loss = dice(logits, masks) + 0.5 * entropy(logits, masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.5f}")

model.eval()
with torch.no_grad():
    images, masks = batch()
    found = model(images).argmax(1)
tp, fp, fn, tn = smp.metrics.get_stats(found, masks, mode="multiclass", num_classes=CLASSES, ignore_index=255)
print(f"IoU {smp.metrics.iou_score(tp, fp, fn, tn, reduction='macro'):.3f}")
