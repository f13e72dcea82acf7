"""A classifier head and its loss: lazy, plain, with MONAI's loss, and those compiled. Agreement, time, peak memory."""

import json
import sys
import warnings
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from torch import nn

import fastloss
from bench.lazy.process import peak_of
from bench.lazy.table import ways_table
from bench.machine import installed_version, machine, notes_on_others, watch_others
from bench.peak_memory import peak_bytes
from bench.timing import Contestant, interleave, quartiles

LAZY, PLAIN, MONAI = "lazy head + fastloss", "plain head + fastloss", "plain head + MONAI"
COMPILED = ", compiled"
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest gradient


@dataclass(frozen=True)
class Case:
    """A head of F features and C classes on a cube."""

    classes: int
    features: int
    side: int
    dtype: str
    device: str = "cpu"
    threads: int = 1

    @property
    def name(self) -> str:
        return f"{self.classes} classes, F = {self.features}, {self.side}^3, {self.dtype}"

    @property
    def logits_bytes(self) -> int:
        return self.classes * self.side**3 * getattr(torch, self.dtype).itemsize


def contestant(case: Case, way: str) -> Contestant:
    """Features, weight and bias to the loss, and back to all of them."""
    torch.manual_seed(0)
    dtype, space = getattr(torch, case.dtype), (case.side,) * 3
    features = torch.randn(1, case.features, *space, device=case.device).to(dtype).requires_grad_()
    head = nn.Conv3d(case.features, case.classes, 1).to(case.device, dtype)
    labels = torch.randint(0, case.classes, (1, 1, *space), dtype=torch.uint8, device=case.device)
    kind = way.removesuffix(COMPILED)
    if kind == MONAI:
        from monai.losses import DiceCELoss

        loss, labels = DiceCELoss(softmax=True, to_onehot_y=True), labels.long()

        def step(made_of, target):
            return loss(head(made_of[0]).float(), target)
    else:
        ours = fastloss.DiceCELoss()
        if kind == LAZY:
            fastloss.lazy_head(head)

        def step(made_of, target):
            return ours(head(made_of[0]), target)

    return Contestant(torch.compile(step) if way != kind else step, [features, *head.parameters()], labels)


def ways_of(compiled: bool) -> list[str]:
    known = [LAZY, PLAIN, *([MONAI] if installed_version("monai") else [])]
    return known + ([f"{way}{COMPILED}" for way in (PLAIN, MONAI) if way in known] if compiled else [])


def results(one: Contestant) -> list[torch.Tensor]:
    value = one.loss(one.logits, one.target)
    return [x.double() for x in (value.detach(), *torch.autograd.grad(value, one.logits))]


def disagreement(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference of value and gradients, each over its largest number."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def measure(case: Case, repeats: int, compiled: bool, memory: bool) -> dict:
    """A row for a case, with medians and peaks of each way."""
    torch.set_num_threads(case.threads)
    row = {**asdict(case), "name": case.name, "repeats": repeats, "ways": {}, "notes": [], "machine": machine()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, expected = {}, None
        for way in ways_of(compiled):
            one = contestant(case, way)
            try:
                its = results(one)
            except Exception as error:  # whatever Inductor raises
                row["notes"].append(f"{way}: {type(error).__name__}")
                continue
            expected = its if expected is None else expected
            differs = disagreement(its, expected)
            if differs > TOLERANCE[case.dtype]:
                row["notes"].append(f"{way}: differs by {differs:.1e} from {LAZY}, not timed")
                continue
            found[way] = one
        with watch_others() as watched:
            samples = interleave(found, repeats, torch.device(case.device))
        row["notes"] += notes_on_others(watched["others"])
    for way in found:
        low, middle, high = quartiles(samples[way].total)
        peak = peak_of("bench.lazy.head", {**asdict(case), "way": way}) if memory else None
        row["ways"][way] = {"total_ms": middle, "quartiles_ms": [low, high], "peak_bytes": peak}
    return row


def peak_here(way: str, **case) -> int:
    """The peak beyond inputs and parameters, in this process."""
    given = Case(**case)
    torch.set_num_threads(given.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peak_bytes(contestant(given, way), torch.device(given.device))


def head_table(rows: list[dict]) -> Table:
    """Times and peaks, and how many times those of the lazy head."""
    return ways_table(rows, "head and loss, forward and backward", LAZY, "times lazy", "total_ms", 2)


if __name__ == "__main__":
    print(json.dumps(peak_here(**json.loads(sys.argv[1]))))
