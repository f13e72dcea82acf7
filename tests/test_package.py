import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastloss

ROOT = Path(__file__).parents[1]
HEAVY = ("triton", "numba", "llvmlite", "torch._dynamo", "torch._inductor", "monai", "scipy")
HEAVY += ("fastloss.integrations", "torchmetrics", "torchio", "ignite", "nnunetv2", "lightning_utilities", "SimpleITK")


def run_python(script, cwd=None):
    """The JSON that a fresh interpreter prints last."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_brings_in_nothing_heavy():
    added = run_python("""
        import json, sys
        import torch
        before = set(sys.modules)
        import fastloss
        print(json.dumps(sorted(set(sys.modules) - before)))
    """)
    assert "fastloss" in added
    heavy = [name for name in added if any(name == top or name.startswith(top + ".") for top in HEAVY)]
    assert not heavy


def test_import_adds_under_300_ms_to_torch():
    seconds = [
        run_python("""
            import time
            import torch
            start = time.perf_counter()
            import fastloss
            print(time.perf_counter() - start)
        """)
        for _ in range(5)
    ]
    assert statistics.median(seconds) < 0.3, seconds


def test_losses_run_where_triton_is_missing():
    loss, numba_before, numba_after = run_python("""
        import json, sys
        sys.modules["triton"] = None
        import torch
        import fastloss
        before = "numba" in sys.modules
        logits = torch.randn(1, 3, 5, 6, requires_grad=True)
        loss = fastloss.DiceCELoss()(logits, torch.zeros(1, 1, 5, 6, dtype=torch.uint8))
        loss.backward()
        assert logits.grad.abs().sum() > 0
        print(json.dumps([loss.item(), before, "numba" in sys.modules]))
    """)
    assert loss > 0
    assert (numba_before, numba_after) == (False, True)


def test_imports_from_any_folder(tmp_path):
    files = run_python(
        """
        import json
        import fastloss, fastloss.kernels, fastloss._C
        print(json.dumps([m.__file__ for m in (fastloss, fastloss.kernels, fastloss._C)]))
        """,
        cwd=tmp_path,
    )
    assert all(Path(file).exists() for file in files)


def test_version_is_that_of_the_metadata():
    assert fastloss.__version__ == importlib.metadata.version("fastloss")
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", fastloss.__version__)


def test_public_names_exist():
    assert fastloss.__all__ == sorted(set(fastloss.__all__), key=fastloss.__all__.index)
    missing = [name for name in fastloss.__all__ if not hasattr(fastloss, name)]
    assert not missing


def test_type_information_ships():
    package = Path(fastloss.__file__).parent
    assert (package / "py.typed").exists() and (package / "_C.pyi").exists()


def test_requirements_leave_triton_to_linux():
    requirements = importlib.metadata.requires("fastloss")
    always = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in always} == {
        "torch",
        "numpy",
        "numba",
        "triton",
    }
    triton = next(requirement for requirement in always if requirement.startswith("triton"))
    assert 'platform_system == "Linux"' in triton


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not in a checkout")
def test_every_folder_of_modules_is_packaged():
    manifest = (ROOT / "MANIFEST.in").read_text()
    for folder in ("kernels", "csrc"):
        assert f"graft {folder}" in manifest
    packages = re.search(r"^packages = (\[[^]]*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    folders = {path.parent.relative_to(ROOT).parts for path in ROOT.glob("fastloss/**/*.py")}
    folders |= {("fastloss", *path.parent.relative_to(ROOT).parts) for path in ROOT.glob("kernels/**/*.py")}
    assert set(json.loads(packages)) == {".".join(parts) for parts in folders}
