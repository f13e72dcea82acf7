"""nnU-Net with an external trainer: Dice + cross-entropy and a boundary loss with maps of the augmented labels.

Makes a toy data set in the working folder, plans, preprocesses, and trains one short epoch of it: some minutes.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

import fastloss.integrations.nnunet

TRAINER = """
from fastloss_trainers import nnUNetTrainerFastlossBoundary


class nnUNetTrainerShort(nnUNetTrainerFastlossBoundary):
    def initialize(self):
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 4, 1
        super().initialize()
"""
PLAN = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry"
TRAIN = "nnunetv2.run.run_training", "run_training_entry"


def make_data(folder: Path) -> None:
    """Two nested balls in noise, and their labels."""
    generator = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in range(5):
        centre = np.array([12, 12, 10]) + generator.uniform(-2, 2, 3)
        distance = np.sqrt(((np.indices((24, 24, 20)).T - centre) ** 2).sum(-1)).T
        labels = (distance < 8).astype(np.uint8) + (distance < 4)
        image = labels * 2 + generator.normal(size=labels.shape)
        affine = np.diag([1, 1, 1.5, 1])
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), folder / f"imagesTr/toy_{case}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), affine), folder / f"labelsTr/toy_{case}.nii.gz")
    labels = {"background": 0, "rim": 1, "core": 2}
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


def make_trainers(folder: Path) -> None:
    """The folder that ``nnUNet_extTrainer`` names: fastloss's trainers, and one's own derived from them."""
    folder.mkdir()
    shutil.copy(Path(fastloss.integrations.nnunet.__path__[0]) / "fastloss_trainers.py", folder)
    (folder / "short.py").write_text(TRAINER)


def run(entry: tuple[str, str], *arguments: str) -> None:
    """``nnUNetv2_train`` and its like, of this interpreter."""
    module, function = entry
    start = f"from {module} import {function} as entry\nif __name__ == '__main__': entry()"
    subprocess.run([sys.executable, "-c", start, *arguments], check=True)


def main() -> None:
    here = Path.cwd()
    make_data(here / "raw" / "Dataset901_Toy")
    make_trainers(here / "trainers")
    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    os.environ |= {name: str(here / folder) for name, folder in folders.items()}
    os.environ |= {"nnUNet_extTrainer": str(here / "trainers"), "nnUNet_n_proc_DA": "1"}
    run(PLAN, "-d", "901", "-c", "3d_fullres", "-np", "1", "-npfp", "1")
    run(TRAIN, "901", "3d_fullres", "0", "-tr", "nnUNetTrainerShort", "-device", "cpu")


if __name__ == "__main__":
    main()
