"""Labels at another resolution: `resample_argmax`, `F.interpolate` + argmax, and class by class as exports do it."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from scipy import ndimage

import fastloss
from bench.lazy.process import peak_of
from bench.lazy.table import ways_table
from bench.machine import installed_version, machine, notes_on_others, synchronise, watch_others
from bench.peak_memory import peak_so_far, reset_peak, resident_bytes
from bench.timing import no_collection, quartiles

OURS, TORCH, SCIPY, SKIMAGE = "resample_argmax", "F.interpolate + argmax", "SciPy zoom + argmax", "skimage + argmax"
SAME = 0.9999  # of the labels: where two classes are equal to a rounding, either may be taken


@dataclass(frozen=True)
class Case:
    """Classes on a cube, to another cube."""

    classes: int
    side: int
    to: int
    device: str = "cpu"
    threads: int = 1

    @property
    def name(self) -> str:
        return f"{self.classes} classes, {self.side}^3 to {self.to}^3"


def ways_of(case: Case) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What makes labels `[1, *S]` of logits `[1, C, *S]`."""

    def by_class(one: Callable[[np.ndarray], np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(logits):
            out = np.empty((case.classes, *[case.to] * 3), np.float32)
            for c, volume in enumerate(logits[0].numpy()):
                out[c] = one(volume)
            return torch.from_numpy(out.argmax(0)[None])

        return call

    def zoom(volume):
        return ndimage.zoom(volume, case.to / case.side, order=1, mode="nearest", grid_mode=True)

    ways = {
        OURS: lambda logits: fastloss.resample_argmax(logits, case.to),
        TORCH: lambda logits: F.interpolate(logits, case.to, mode="trilinear").argmax(1),
    }
    if case.device == "cpu":
        ways[SCIPY] = by_class(zoom)
    if case.device == "cpu" and installed_version("scikit-image"):
        from skimage.transform import resize

        shape = (case.to,) * 3
        ways[SKIMAGE] = by_class(lambda volume: resize(volume, shape, order=1, mode="edge", anti_aliasing=False))
    return ways


def logits_of(case: Case) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, case.classes, *[case.side] * 3, generator=generator).to(case.device)


def measure(case: Case, repeats: int, slow: bool, memory: bool) -> dict:
    """A row for a case; the slow ways, class by class, run once if at all."""
    torch.set_num_threads(case.threads)
    row = {**asdict(case), "name": case.name, "repeats": repeats, "ways": {}, "notes": [], "machine": machine()}
    logits, device = logits_of(case), torch.device(case.device)
    ways = {way: call for way, call in ways_of(case).items() if slow or way in (OURS, TORCH)}
    expected, samples = ways[OURS](logits), {way: [] for way in ways}
    with watch_others() as watched, no_collection():
        for turn in range(repeats):
            for way, call in ways.items():
                if turn and way in (SCIPY, SKIMAGE):
                    continue
                synchronise(device)
                begin = time.perf_counter()
                labels = call(logits)
                synchronise(device)
                samples[way].append((time.perf_counter() - begin) * 1e3)
                same = float((labels == expected).float().mean())
                if same < SAME:
                    row["notes"].append(f"{way}: {same:.4%} of its labels are those of {OURS}")
    row["notes"] += notes_on_others(watched["others"])
    for way in ways:
        low, middle, high = quartiles(samples[way])
        peak = peak_of("bench.lazy.resample", {**asdict(case), "way": way}) if memory else None
        row["ways"][way] = {"ms": middle, "quartiles_ms": [low, high], "peak_bytes": peak}
    return row


def peak_here(way: str, **case) -> int:
    """The peak beyond the logits, in this process: of a second call, whose code is there."""
    given = Case(**case)
    torch.set_num_threads(given.threads)
    device, small = torch.device(given.device), Case(3, 8, 16, given.device, given.threads)
    ways_of(small)[way](logits_of(small))
    logits = logits_of(given)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes("VmRSS")
    reset_peak(device)
    ways_of(given)[way](logits)
    return (peak_so_far(device) or 0) - before


def resample_table(rows: list[dict]) -> Table:
    """Times and peaks, and how many times ours."""
    return ways_table(rows, "labels at another resolution", OURS, "times ours", "ms", 1)


if __name__ == "__main__":
    print(json.dumps(peak_here(**json.loads(sys.argv[1]))))
