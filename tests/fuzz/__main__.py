"""``python -m fuzz --minutes 10``: every kind for its share of the time, and a table of what came of it."""

import argparse
import json
import os
import secrets
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from fuzz.kinds import KINDS
from fuzz.run import Result, run

COLUMNS = ("inputs", "wrong", "crashes", "hangs", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="random where not given")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--json", type=Path, help="a file to add the results to, one line a kind")
    options = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    shares = {name: KINDS[name][1].share for name in options.kinds}
    print(f"seed {options.seed}: {len(shares)} kinds, {options.minutes:g} minutes", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NUMBA_CACHE_DIR", f"{folder}/numba")  # codes that nothing else will ask for
        for name, share in shares.items():
            seconds = options.minutes * 60 * share / sum(shares.values())
            found = run(*KINDS[name], options.seed, seconds, Path(folder) / "run")
            results.append(found)
            print(row(found), *found.failures, sep="\n", flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(asdict(found)) + "\n")
    sums = [sum(getattr(result, column) for result in results) for column in COLUMNS]
    print(row(Result("all", options.seed, *sums)))
    return 1 if any(sums[1:4]) else 0


def row(result: Result) -> str:
    numbers = "  ".join(f"{column} {getattr(result, column):>8,.0f}" for column in COLUMNS)
    return f"{result.kind:28}{numbers}"


if __name__ == "__main__":
    sys.exit(main())
