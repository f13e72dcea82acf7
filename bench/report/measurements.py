"""What is measured for the README and the docs: a file of JSON in docs/results for each command."""

from dataclasses import dataclass

from bench.machine import ROOT

RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Measurement:
    """`python -m bench ARGUMENTS --json FILE`; what it takes on two idle cores."""

    arguments: str
    minutes: float

    @property
    def command(self) -> str:
        """As a user types it."""
        return f"python -m bench {self.arguments}"


MEASUREMENTS = {  # in the order in which they are run
    "speed": Measurement("speed --losses all", 21),
    "classes-16": Measurement("speed --losses dice_ce,cross_entropy,dice,focal --shape 1,16,64,64,64", 3),
    "classes-118": Measurement("speed --losses dice_ce,cross_entropy,dice,focal --shape 1,118,32,32,32", 3),
    "untuned": Measurement("speed --losses dice_ce,cross_entropy,focal --shape 2,4,128,128,128 --untuned", 4),
    "memory": Measurement("memory --losses dice_ce,cross_entropy,hausdorff_dt --budget 0.5", 4),
    "scaling": Measurement("scaling --losses dice_ce", 8),
    "edt": Measurement("edt", 38),
    "metrics": Measurement("metrics", 1),
    "accuracy": Measurement("accuracy --edges 24,64", 10),
    "accuracy-draws": Measurement("accuracy --losses hausdorff_erosion --edges 24,64 --draws 9", 2),
    "accuracy-large": Measurement(
        "accuracy --losses dice_ce,cross_entropy,focal,boundary --edges 256,512 --classes 2 --dtypes float32,bfloat16",
        8,
    ),
    "accuracy-lovasz": Measurement("accuracy --losses lovasz --edges 256,384 --classes 2 --dtypes float32", 4),
    "train": Measurement("main", 8),
    "kernels": Measurement("kernels", 25),
}
