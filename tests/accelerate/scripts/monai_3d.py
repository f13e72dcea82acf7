"""MONAI: a 3D segmentation, as in its tutorials, of spheres in noise. Knows nothing of fastloss."""

import argparse

import torch
from monai.data import DataLoader, Dataset, create_test_image_3d, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    RandCropByPosNegLabeld,
    RandFlipd,
    ScaleIntensityd,
    ToTensord,
)
from monai.utils import set_determinism

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--patch", type=int, default=96)
parser.add_argument("--epochs", type=int, default=2)
given = parser.parse_args()

set_determinism(0)
CLASSES = 3
volumes = []
for _ in range(4):
    image, label = create_test_image_3d(given.size, given.size, given.size, num_seg_classes=CLASSES - 1, rad_max=9)
    volumes.append({"image": image, "label": label})  # float32 both, as LoadImaged gives them
keys = ["image", "label"]
prepared = [EnsureChannelFirstd(keys, channel_dim="no_channel"), ScaleIntensityd("image")]
patches = [
    RandCropByPosNegLabeld(keys, "label", [given.patch] * 3, num_samples=2),
    RandFlipd(keys, prob=0.5, spatial_axis=0),
    ToTensord(keys),
]
train = DataLoader(Dataset(volumes[:3], Compose(prepared + patches)), batch_size=1, shuffle=True)
held_out = DataLoader(Dataset(volumes[3:], Compose(prepared)), batch_size=1)

model = UNet(3, 1, CLASSES, channels=(4, 8, 16), strides=(2, 2), num_res_units=1, norm="batch")
criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
optimizer = torch.optim.Adam(model.parameters(), 1e-4, weight_decay=1e-5)
metric = DiceMetric(include_background=False)
predicted, true = AsDiscrete(argmax=True, to_onehot=CLASSES), AsDiscrete(to_onehot=CLASSES)

for epoch in range(1, given.epochs + 1):
    model.train()
    for step, batch in enumerate(train, 1):
        optimizer.zero_grad()
        loss = criterion(model(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch} step {step} loss {loss.item():.5f}")
    model.eval()
    with torch.no_grad():
        for batch in held_out:
            output = sliding_window_inference(batch["image"], [given.patch] * 3, 1, model)
            metric([predicted(x) for x in decollate_batch(output)], [true(x) for x in decollate_batch(batch["label"])])
    print(f"epoch {epoch} Dice {metric.aggregate().item():.3f}")
    metric.reset()
