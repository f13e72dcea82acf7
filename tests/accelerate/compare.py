"""A training that knows nothing of fastloss, alone and by ``python -m fastloss.accelerate``: whether it prints the same
numbers; then time and peak memory of its loss, forward and backward, in both.

    PYTHONPATH=tests python -m accelerate.compare monai_3d

runs one of ``scripts/``, ``--size 32`` and other options are the script's own. The first calls, which compile, are left
out of the times; on other systems than Linux nothing is measured.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

from .measured import MARK

ROOT = Path(__file__).parents[2]
SCRIPTS = {  # the peers that it has, and the loss whose time is taken
    "monai_3d": ("monai", "monai.losses:DiceCELoss"),
    "smp_2d": ("smp", "segmentation_models_pytorch.losses:DiceLoss"),
    "lightning_2d": ("monai,torch", "monai.losses:GeneralizedDiceLoss"),
}
_NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?|nan|inf")


def run(name: str, options: list[str], peers: str = "", loss: str = "") -> subprocess.CompletedProcess:
    """The script, accelerated if there are peers, with its loss measured if one is named."""
    command = [str(Path(__file__).parent / "scripts" / f"{name}.py"), *options]
    if loss:
        command = ["-m", "accelerate.measured", loss, *command]
    if peers:
        command = ["-m", "fastloss.accelerate", "--peers", peers, "--report", *command]
    paths = [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done


def differences(expected: str, found: str, tolerance: float = 2e-5) -> list[str]:
    """The lines that differ: in their words, or in a number by more than the tolerance and a unit of its last place."""
    different = []
    first, second = expected.splitlines(), found.splitlines()
    for ours, theirs in zip(second, first, strict=False):
        close = all(
            math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=1.01 * 10.0 ** -len(a.partition(".")[2]))
            or a == b
            for a, b in zip(_NUMBER.findall(ours), _NUMBER.findall(theirs), strict=False)
        )
        if not close or _NUMBER.sub("", ours) != _NUMBER.sub("", theirs):
            different.append(f"{ours!r}, expected {theirs!r}")
    if len(first) != len(second):
        different.append(f"{len(second)} lines, expected {len(first)}")
    return different


def measured(done: subprocess.CompletedProcess) -> dict:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(MARK)]
    return json.loads(line[len(MARK) :])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("script", choices=SCRIPTS)
    given, options = parser.parse_known_args()
    peers, loss = SCRIPTS[given.script]
    plain, accelerated = run(given.script, options), run(given.script, options, peers)
    print(plain.stdout, accelerated.stderr[accelerated.stderr.find("fastloss.accelerate") :], sep="\n")
    different = differences(plain.stdout, accelerated.stdout)
    print(*different or ["The same numbers with acceleration."], sep="\n")
    if sys.platform == "linux":
        for label, of in (("its own code", ""), ("fused", peers)):
            one = measured(run(given.script, options, of, loss))
            size = f"{one['bytes'] / 2**20:.1f} MiB beyond its inputs"
            print(f"{loss.partition(':')[2]}, {label}: {1e3 * one['seconds']:.1f} ms a step, at most {size}")
    sys.exit(bool(different))
