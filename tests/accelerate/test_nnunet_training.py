"""``nnUNetv2_train`` and ``nnUNetv2_predict`` on a toy data set: the same printed numbers with fastloss as without.

Ten minutes on two cores: run by hand.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import fastloss.integrations.nnunet as shipped

pytest.importorskip("nnunetv2")
sitk = pytest.importorskip("SimpleITK")

pytestmark = pytest.mark.slow

TRAINERS = """
import functools
import os

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fastloss_trainers import nnUNetTrainerFastloss

COMPILED = os.environ["TOY_COMPILED"] == "True"
if COMPILED:  # what the compiler makes of a network is not in question
    torch.compile = functools.partial(torch.compile, backend="aot_eager")


class _Toy:
    def initialize(self):
        np.random.seed(0)
        torch.manual_seed(0)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.num_epochs, self.num_iterations_per_epoch = int(os.environ["TOY_EPOCHS"]), 4
        self.num_val_iterations_per_epoch = 2
        super().initialize()

    def _do_i_compile(self):
        return COMPILED

    def perform_actual_validation(self, save_probabilities=False):
        pass


class ToyTrainer(_Toy, nnUNetTrainer):
    pass


class ToyTrainerFastloss(_Toy, nnUNetTrainerFastloss):
    pass
"""


def entry(module, function):
    return ["-c", f"from {module} import {function} as entry\nif __name__ == '__main__': entry()"]


PLAN = entry("nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry")
TRAIN = (
    *entry("nnunetv2.run.run_training", "run_training_entry"),
    *("901", "3d_fullres", "0", "-device", "cpu", "-tr"),
)
PREDICT = entry("nnunetv2.inference.predict_from_raw_data", "predict_entry_point")


def prepare(folder, regions, ignore):
    """The trainers, and a data set as nnU-Net wants it: five volumes of two nested balls in noise, and labels."""
    generator = np.random.default_rng(0)
    data = folder / "raw" / "Dataset901_Toy"
    for name in ("imagesTr", "labelsTr"):
        (data / name).mkdir(parents=True)
    for i in range(5):
        shape = (20, 24, 24)
        center = np.array(shape) / 2 + generator.uniform(-3, 3, 3)
        distance = np.sqrt(((np.indices(shape).T - center) ** 2).sum(-1)).T
        labels = (distance < 8).astype(np.uint8) + (distance < 4)
        image = labels * 2.0 + generator.normal(size=shape)
        if ignore:
            labels[generator.random(shape) < 0.2] = 3
        for file, array in (
            (f"imagesTr/toy_{i:03d}_0000", image.astype(np.float32)),
            (f"labelsTr/toy_{i:03d}", labels),
        ):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((1.0, 1.0, 1.5))
            sitk.WriteImage(volume, str(data / f"{file}.nii.gz"))
    classes = {"whole": [1, 2], "core": [2]} if regions else {"rim": 1, "core": 2}
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **classes, **({"ignore": 3} if ignore else {})},
        "numTraining": 5,
        "file_ending": ".nii.gz",
        **({"regions_class_order": [1, 2]} if regions else {}),
    }
    (data / "dataset.json").write_text(json.dumps(description))
    (folder / "trainers").mkdir()
    (folder / "trainers" / "toy_trainers.py").write_text(TRAINERS)
    shutil.copy(f"{shipped.__path__[0]}/fastloss_trainers.py", folder / "trainers")
    run(folder, *PLAN, "-d", "901", "-c", "3d_fullres", "-np", "1", "-npfp", "1", workers=1)


def run(folder, *command, peers="", results="results", workers=0, epochs=2, compiled=False):
    """Runs a command in the environment of nnU-Net and gives what it prints."""
    environment = os.environ | {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / results),
        "nnUNet_extTrainer": str(folder / "trainers"),
        "nnUNet_n_proc_DA": str(workers),
        "TOY_EPOCHS": str(epochs),
        "TOY_COMPILED": str(compiled),
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "",
    }
    program = [sys.executable]
    if peers:
        program += ["-m", "fastloss.accelerate", "--peers", peers, sys.executable]
    done = subprocess.run([*program, *command], env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def printed(output):
    """The losses and scores of a training, in the order in which they are printed."""
    numbers = [float(number) for number in re.findall(r"(?:train_loss|val_loss) (-?[0-9.]+|nan)", output)]
    for dice in re.findall(r"Pseudo dice \[(.*)\]", output):
        numbers += [float(number) for number in re.findall(r"[0-9]*\.[0-9]+|nan", dice)]
    return numbers


@pytest.mark.parametrize(("regions", "ignore"), [(False, False), (False, True), (True, True)], ids=str)
def test_training_and_prediction(tmp_path, regions, ignore):
    prepare(tmp_path, regions, ignore)
    plain = run(tmp_path, *TRAIN, "ToyTrainer")
    accelerated = run(tmp_path, *TRAIN, "ToyTrainer", peers="nnunet", results="accelerated")
    native = run(tmp_path, *TRAIN, "ToyTrainerFastloss")
    expected = printed(plain)
    assert len(expected) >= 8
    np.testing.assert_allclose(printed(accelerated), expected, atol=2e-4)
    np.testing.assert_allclose(printed(native), expected, atol=2e-4)

    images = str(tmp_path / "raw/Dataset901_Toy/imagesTr")
    predict = ("-d", "901", "-c", "3d_fullres", "-f", "0", "-device", "cpu", "-i", images)
    for trainer in ("ToyTrainer", "ToyTrainerFastloss"):
        output = tmp_path / trainer
        run(tmp_path, *PREDICT, *predict, "-tr", trainer, "-o", str(output), "-npp", "1", "-nps", "1")
    for file in sorted((tmp_path / "ToyTrainer").glob("*.nii.gz")):
        first, second = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(each)))
            for each in (file, tmp_path / "ToyTrainerFastloss" / file.name)
        )
        assert (first != second).mean() < 0.01


def test_compiled_networks_and_continued_training(tmp_path):
    prepare(tmp_path, regions=False, ignore=False)
    found = []
    for trainer, peers in (("ToyTrainer", ""), ("ToyTrainer", "nnunet"), ("ToyTrainerFastloss", "")):
        options = {"peers": peers, "results": f"results{peers}", "compiled": True}
        begun = run(tmp_path, *TRAIN, trainer, epochs=1, **options)
        continued = run(tmp_path, *TRAIN, trainer, "--c", epochs=2, **options)
        assert "Using torch.compile" in begun and "Epoch 0" in begun
        assert "Epoch 1" in continued and "Epoch 0" not in continued
        found.append(printed(begun) + printed(continued))
    assert len(found[0]) >= 8
    np.testing.assert_allclose(found[1], found[0], atol=2e-4)
    np.testing.assert_allclose(found[2], found[0], atol=2e-4)
