"""``python -m fastloss.accelerate [--peers monai,torch] [--report] COMMAND ...``: runs a program, accelerated."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .startup.hook import REPORT, VARIABLE, peers_of_variable


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastloss.accelerate",
        description="Runs a Python program with the losses of other libraries accelerated, child processes included.",
    )
    parser.add_argument("--peers", help=f"names with commas between, or all (otherwise {VARIABLE}'s, or else all)")
    parser.add_argument("--report", action="store_true", help="prints at each process's end what was fused")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="MODULE ARGUMENTS, or else")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="train.py ARGUMENTS, or an installed program")
    given = parser.parse_args()
    command = ["-m", *given.module] if given.module else given.command
    if not command:
        parser.error("expected a program to run")
    os.environ[VARIABLE] = given.peers or os.environ.get(VARIABLE, "") or "all"
    try:
        peers_of_variable()
    except ValueError as error:
        parser.error(str(error))
    if given.report:
        os.environ[REPORT] = "1"
    folders = [str(Path(__file__).parent / "startup"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    if command[0] == "-m" or command[0].endswith(".py") or not shutil.which(command[0]):
        command = [sys.executable, *command]
    if sys.platform == "win32":  # where exec returns to the shell at once
        return subprocess.run(command).returncode
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
