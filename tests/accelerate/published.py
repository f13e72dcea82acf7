"""A peer's own published tests, with and without acceleration:

    PYTHONPATH=tests python -m accelerate.published monai,torch FOLDER ARGUMENTS_OF_PYTEST ...

Prints the tests whose outcomes differ, and how often each function was fused. As a plugin of pytest it accelerates the
peers that ``PUBLISHED_PEERS`` names.
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import fastloss

_held = []


def pytest_configure(config):
    _held.append(fastloss.accelerate(*os.environ["PUBLISHED_PEERS"].split(",")))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(str(_held[0].report()))


def outcomes(folder: str, options: list[str], peers: str) -> tuple[dict[str, str], str]:
    """Of each test whether it passed, failed or was skipped; and the end of what pytest printed."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "junit.xml")
        plugin = ["-p", "accelerate.published"] if peers else []
        command = [sys.executable, "-m", "pytest", "-q", *plugin, f"--junitxml={file}", *options]
        environment = {**os.environ, "PUBLISHED_PEERS": peers, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        cases = ElementTree.parse(file).getroot().iter("testcase")
        found = {f"{case.get('classname')}::{case.get('name')}": ",".join(x.tag for x in case) for case in cases}
    return {name: outcome.replace("system-out", "") or "passed" for name, outcome in found.items()}, done.stdout


if __name__ == "__main__":
    peers, folder, *options = sys.argv[1:]
    without, _ = outcomes(folder, options, "")
    accelerated, printed = outcomes(folder, options, peers)
    print(printed[printed.rindex("junit.xml") :] if "junit.xml" in printed else printed[-3000:])
    different = [name for name in sorted({*without, *accelerated}) if without.get(name) != accelerated.get(name)]
    for name in different:
        print(f"{name}: {without.get(name)} without, {accelerated.get(name)} with acceleration")
    counts = {kind: sum(value == kind for value in without.values()) for kind in sorted({*without.values()})}
    print(f"{len(without)} tests, {counts} without acceleration, {len(different)} different with it")
    sys.exit(bool(different) or not without)
