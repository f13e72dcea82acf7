"""Calls of peers drawn at random, with and without acceleration: how many were fused or passed on, and which differ.

PYTHONPATH=tests python -m accelerate.record monai --draws 5000 --json FILE
"""

import argparse
import importlib
import json
import time
from collections import Counter
from pathlib import Path

from .parity import ERROR, differences


def record(peer: str, first: int, draws: int) -> dict:
    draw = importlib.import_module(f".draw_{peer}", __package__).draw
    fused, passed_on, differing = Counter(), Counter(), []
    for block in range(first, first + draws, 500):
        drawn = [draw(seed) for seed in range(block, min(block + 500, first + draws))]
        found = differences([call for _, call in drawn], peer)
        for seed, ((name, _), (text, reason)) in enumerate(zip(drawn, found, strict=True), block):
            if text:
                differing.append(f"{seed} {name}: {text}")
                print(differing[-1], flush=True)
            if reason:
                passed_on[name, reason] += 1
            else:
                fused[name] += 1
    reasons = Counter()
    for (_, reason), count in passed_on.items():
        reasons[reason] += count
    return {
        "peer": peer,
        "draws": draws,
        "fused": sum(fused.values()),
        "share": sum(fused.values()) / (draws - reasons[ERROR]),  # of the calls that the peer answers with a value
        "differing": differing,
        "passed_on": dict(reasons.most_common()),
        "by_class": {
            name: [fused[name], sum(count for (owner, _), count in passed_on.items() if owner == name)]
            for name in sorted({*fused, *(owner for owner, _ in passed_on)})
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    found = record(given.peer, given.first, given.draws)
    text = json.dumps(found, indent=1)
    print(text, f"{time.monotonic() - began:.0f} s", sep="\n")
    if given.json:
        given.json.write_text(text + "\n")
