"""``PYTHONPATH=tests python -m parity smp 5000``: draws calls, and prints what differs and how many were fused."""

import importlib
import sys
import time

import torch

from parity.compare import compare

if __name__ == "__main__":
    peer, draws, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    torch.set_num_threads(1)
    began = time.monotonic()
    tally = compare(peer, importlib.import_module(f"parity.{peer}").draw, range(first, first + draws))
    print(*tally.different[:20], sep="\n")
    for name in sorted({name for name, _ in tally.outcomes}):
        outcomes = {kind: count for (of, kind), count in tally.outcomes.most_common() if of == name}
        print(f"{name}: {tally.share(name):.1%} fused; {', '.join(f'{kind} {n}' for kind, n in outcomes.items())}")
    print(
        f"{peer}: {draws} draws, {len(tally.different)} different, {tally.share():.1%} of those that the peer answers "
        f"fused; {time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(tally.different))
