"""The examples run as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


SLOW = ("nnunet_boundary",)  # minutes


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=[pytest.mark.slow] * (file.stem in SLOW), id=file.stem) for file in EXAMPLES]
)
def test_example_runs(file, tmp_path):
    for library in ("monai", "lightning", "nibabel", "torchmetrics"):
        if re.search(rf"^(from|import) {library}\b", file.read_text(), re.MULTILINE):
            pytest.importorskip(library)
    if file.stem == "nnunet_boundary":
        pytest.importorskip("nnunetv2")
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout
