"""A folder of wheels with which `python -m bench gpu` runs where only PyTorch, Triton and no network are.

    python3 bench/gpu/kit.py fill FOLDER          here: what it needs and its peers, for Python 3.12 on Linux (x86-64)
    python3 bench/gpu/kit.py run FOLDER [OPTION]  there, from a checkout: `python -m bench gpu` with these options

Of the standard library alone. What the machine has of itself is not replaced.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = "3.12"
NEEDED = ("numpy", "click", "rich", "markdown-it-py", "mdurl", "pygments")
PEERS = ("monai", "kornia", "kornia-rs", "packaging", "exacta==0.0.1a5")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
MOST = 60 * 10**6  # bytes that travel


def fill(folder: Path) -> None:
    """Downloads the wheels and builds fastloss's own, whose extension the transforms of CPU tensors need."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip"]
    where = [option for platform in PLATFORMS for option in ("--platform", platform)]
    kind = ["--only-binary", ":all:", "--no-deps", "--implementation", "cp", "--python-version", VERSION, *where]
    pins = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "download", "--quiet", *kind, *pins, "-d", str(folder), *NEEDED, *PEERS], check=True)
    python = shutil.which(f"python{VERSION}")
    if python:
        subprocess.run([python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    else:
        print(f"no python{VERSION} here: without fastloss's C++ extension, which transforms CPU tensors")
    check_size(folder)


def check_size(folder: Path) -> None:
    """Raises SystemExit for a folder that is too large."""
    sizes = {wheel.name: wheel.stat().st_size for wheel in folder.glob("*.whl")}
    total = sum(sizes.values())
    for name, size in sorted(sizes.items()):
        print(f"{size / 1e6:8.1f} MB  {name}")
    print(f"{total / 1e6:8.1f} MB  in {folder}")
    if total > MOST:
        raise SystemExit(f"{folder}: {total / 1e6:.0f} MB, expected at most {MOST / 1e6:.0f}")


def unpack(folder: Path, site: Path) -> None:
    """Unpacks what the machine lacks, and fastloss from the checkout."""
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            packages = {name.split("/")[0] for name in archive.namelist() if name.endswith("__init__.py")}
            if "fastloss" in packages or not all(map(importlib.util.find_spec, packages)):
                archive.extractall(site)
    for source, target in ((ROOT / "fastloss", "fastloss"), (ROOT / "kernels", "fastloss/kernels")):
        shutil.copytree(source, site / target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))


def run(folder: Path, options: list[str]) -> int:
    """The exit code of the command, which must not find the checkout's own fastloss, without kernels, first."""
    with tempfile.TemporaryDirectory() as site:
        unpack(folder, Path(site))
        paths = [site, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-W", "ignore", "-m", "bench", "gpu", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        return subprocess.run(command, env=environment, cwd=ROOT).returncode


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in ("fill", "run"):
        print(__doc__)
        return 2
    if arguments[0] == "run":
        return run(Path(arguments[1]), arguments[2:])
    fill(Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
