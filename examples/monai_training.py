"""A 3D training in MONAI of spheres in noise, with one line more: MONAI's own losses run as fused passes."""

import torch
from monai.data import DataLoader, Dataset, create_test_image_3d, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import AsDiscrete, Compose, EnsureChannelFirstd, RandFlipd, RandSpatialCropd, ScaleIntensityd
from monai.utils import set_determinism

import fastloss

CLASSES, SIZE, PATCH, EPOCHS = 3, 32, 24, 3

accelerated = fastloss.accelerate("monai")  # the line


def loaders() -> tuple[DataLoader, DataLoader]:
    volumes = []
    for _ in range(4):
        image, label = create_test_image_3d(SIZE, SIZE, SIZE, num_seg_classes=CLASSES - 1, rad_max=8, rad_min=4)
        volumes.append({"image": image, "label": label})
    keys = ["image", "label"]
    prepared = [EnsureChannelFirstd(keys, channel_dim="no_channel"), ScaleIntensityd("image")]
    patches = [RandSpatialCropd(keys, [PATCH] * 3, random_size=False), RandFlipd(keys, prob=0.5, spatial_axis=0)]
    training = DataLoader(Dataset(volumes[:3], Compose(prepared + patches)), batch_size=3, shuffle=True)
    return training, DataLoader(Dataset(volumes[3:], Compose(prepared)), batch_size=1)


def main() -> None:
    set_determinism(0)
    training, held_out = loaders()
    model = UNet(3, 1, CLASSES, channels=(8, 16, 32), strides=(2, 2), num_res_units=1)
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    metric = DiceMetric(include_background=False)
    predicted, true = AsDiscrete(argmax=True, to_onehot=CLASSES), AsDiscrete(to_onehot=CLASSES)
    for epoch in range(EPOCHS):
        model.train()
        for batch in training:
            optimizer.zero_grad()
            loss = criterion(model(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for batch in held_out:
                output = sliding_window_inference(batch["image"], [PATCH] * 3, 1, model)
                labels = decollate_batch(batch["label"])
                metric([predicted(x) for x in decollate_batch(output)], [true(x) for x in labels])
        print(f"epoch {epoch}: loss {loss.item():.4f}, Dice {metric.aggregate().item():.3f}")
        metric.reset()
    print(accelerated.report())


if __name__ == "__main__":
    main()
