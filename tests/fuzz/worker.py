"""The process of one kind: ``python -m fuzz.worker module kind seed seconds inputs folder guided``."""

import faulthandler
import sys
from pathlib import Path

from interpreter import quicken

from fuzz.run import Record, find, work, work_guided

if __name__ == "__main__":
    module, name, seed, seconds, inputs, folder, guided = sys.argv[1:]
    faulthandler.enable()
    quicken()
    record = Record(Path(folder))
    if guided == "1":
        import atheris

        with atheris.instrument_imports(include=["fastloss"], exclude=["fastloss.kernels"]):
            kind = find(module, name)
        work_guided(atheris, kind, int(seed), record, float(seconds))
    work(find(module, name), int(seed), record, seconds=float(seconds), inputs=float(inputs))
