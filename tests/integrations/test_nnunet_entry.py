"""nnU-Net's own discovery finds the trainers: by its variable, and put beside its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nnunetv2")

FIND = """
import sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
for name in ("nnUNetTrainerFastloss", "nnUNetTrainerFastlossBoundary", "nnUNetTrainerFastlossTopK10"):
    print("=>", find(name).__name__)
"""
ENTRY = (sys.executable, "-m", "fastloss.integrations.nnunet")


def run(*command, **variables):
    """Exit code and all output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment | variables)
    return done.returncode, done.stdout + done.stderr


def test_found_by_the_variable():
    code, folder = run(*ENTRY)
    assert code == 0 and (Path(folder.strip()) / "fastloss_trainers.py").is_file()
    code, output = run(sys.executable, "-c", FIND, nnUNet_extTrainer=folder.strip())
    assert code == 0 and output.count("=> nnUNetTrainerFastloss") == 3, output


def test_found_beside_nnunets_own_once_installed_and_not_after(tmp_path):
    own = Path(importlib.util.find_spec("nnunetv2").submodule_search_locations[0])
    shutil.copytree(own, tmp_path / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    assert run(sys.executable, "-c", FIND, PYTHONPATH=path)[0] != 0
    code, output = run(*ENTRY, "install", PYTHONPATH=path)
    assert code == 0 and str(tmp_path) in output, output
    code, output = run(sys.executable, "-c", FIND, PYTHONPATH=path)
    assert code == 0 and output.count("=> nnUNetTrainerFastloss") == 3, output
    assert run(*ENTRY, "uninstall", PYTHONPATH=path)[0] == 0
    assert run(sys.executable, "-c", FIND, PYTHONPATH=path)[0] != 0


def test_another_word_is_named():
    code, output = run(*ENTRY, "instal")
    assert code == 1 and "got instal, expected nothing, install or uninstall" in output
