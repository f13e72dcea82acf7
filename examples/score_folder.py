"""Scores a folder of segmentations against the truth, as a table and as a page with the worst cases."""

import csv
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np


def write(folder: Path, name: str, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(labels, np.diag([1.0, 1.0, 2.5, 1.0]))  # voxels of 1 x 1 x 2.5 mm
    nibabel.save(image, folder / f"{name}.nii.gz")


def make_cases(truth: Path, prediction: Path) -> None:
    """Two nested balls, and the same displaced further from case to case."""
    place = np.indices((32, 32, 16)).astype(float)
    for shift in range(4):
        for folder, moved in ((truth, 0), (prediction, shift)):
            centre = np.array([14 + moved, 16, 8]).reshape(3, 1, 1, 1)
            distance = np.sqrt((((place - centre) * np.array([1, 1, 2.5]).reshape(3, 1, 1, 1)) ** 2).sum(0))
            write(folder, f"case{shift}", ((distance < 12).astype(np.uint8) + (distance < 6)).astype(np.uint8))


def main() -> None:
    truth, prediction = Path("labels"), Path("predictions")
    make_cases(truth, prediction)
    command = [sys.executable, "-m", "fastloss.metrics", "score", "--truth", truth, "--prediction", prediction]
    subprocess.run([*command, "--spacing", "from-header", "--csv", "scores.csv", "--html", "scores.html"], check=True)
    with open("scores.csv", newline="") as file:
        for row in csv.DictReader(file):
            print(row)
    print("pictures of the worst cases: scores.html")


if __name__ == "__main__":
    main()
