"""The process of one kind: ``python -m fuzz.worker module kind seed seconds inputs folder``."""

import faulthandler
import sys
from pathlib import Path

from fuzz.run import Record, find, work

if __name__ == "__main__":
    module, name, seed, seconds, inputs, folder = sys.argv[1:]
    faulthandler.enable()
    work(find(module, name), int(seed), Record(Path(folder)), seconds=float(seconds), inputs=float(inputs))
