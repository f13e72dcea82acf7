"""The variants of the Triton kernels that are inspected, and their launches as the back end itself makes them."""

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import triton.language as tl
from fastloss.kernels.gpu import ranked as gpu_ranked
from fastloss.kernels.gpu import sums as gpu
from fastloss.kernels.gpu import values as gpu_values
from fastloss.kernels.reference import ranked as reference_ranked
from fastloss.kernels.reference import sums as reference
from fastloss.kernels.reference import values as reference_values

from bench.kernels.problems import DICE_CE, Problem, make_problem
from fastloss.terms import NAMES, NAMES_WITH_POWER, make_plan

ACTIVATIONS = ("softmax", "sigmoid", "none")
BF16 = torch.bfloat16
REGION = ("p", "py", "y", "count")
UNIONS = {  # the terms that losses ask for
    "dice and cross-entropy": DICE_CE,
    "focal": ("count", "focal_pos(2.0)"),
    "focal of both sides": ("count", "focal_pos(2.0)", "focal_neg(2.0)"),
    "fractional focal": ("count", "focal_pos(1.5)", "focal_pos(0.5)"),
    "dice and focal": (*REGION, "focal_pos(2.0)"),
    "dice, cross-entropy and focal": (*REGION, "ce_pos", "focal_pos(2.0)"),
    "exponential logarithmic": (*REGION, "log_power_pos(0.3)"),
    "combo": (*REGION, "ce_pos", "ce_neg"),
    "squared error": ("py", "p2", "p2y", "y", "count"),
    "smoothed cross-entropy": ("ce_pos", "nll_pos", "y", "count"),
    "unified focal": (*REGION, "ce_neg", "focal_neg(1.5)", "miss_pos(1.5)"),
    "a user's": ("y*p^0.7", "p*l", "r*p*m", "y^2*p*q"),
    "a user's powers": ("l^2", "y*q^0.5", "p^1.5*r*m^0.5"),
    "soft labels": ("p", "y", "d", "y*d^2"),
    "every term": (*NAMES, *(f"{name}(1.5)" for name in NAMES_WITH_POWER)),
}
RANKED = (  # of the pass that writes what is ranked: what, activation, channels, dtype, further options
    ("losses", "softmax", 4, BF16, {}),
    ("errors", "softmax", 4, BF16, {}),
    ("losses", "softmax", 40, BF16, {}),
    ("losses", "softmax", 3, torch.float32, {"ignore": (0, 255), "mask": "weight"}),
    ("losses", "softmax", 4, torch.float64, {}),
    ("losses", "softmax", 4, BF16, {"dense": True}),
    ("losses", "sigmoid", 3, BF16, {"ignore": (0,)}),
    ("own", "none", 3, torch.float32, {}),
    ("errors", "softmax", 4, torch.float32, {"mask": "bool"}),
    ("errors", "softmax", 40, BF16, {}),
    ("errors", "sigmoid", 1, BF16, {}),
    ("hinges", "none", 1, BF16, {}),
)
ESSENTIAL_RANKED = 2
VOXELS = (  # of the pass that writes each voxel's loss: what, activation, channels, dtype, union, further options
    ("totals", "softmax", 4, BF16, "smoothed cross-entropy", {"ignore": (255,)}),
    ("values", "softmax", 4, torch.float32, "focal", {}),
    ("totals", "softmax", 40, BF16, "a user's powers", {"mask": "weight", "map_channels": 1}),
    ("values", "sigmoid", 3, BF16, "focal of both sides", {"mask": "channel"}),
    ("totals", "none", 20, torch.float32, "focal of both sides", {"dense": True}),
    ("totals", "softmax", 40, BF16, "combo", {}),
    ("values", "softmax", 40, BF16, "focal", {}),
    ("totals", "softmax", 3, torch.float64, "combo", {}),
)
ESSENTIAL_VOXELS = 5
SHAPE = (2, 128, 128, 128)  # batch and space of the volume that figures are for


def shape_of(text: str) -> tuple[int, ...]:
    """Batch and space of a worker's argument."""
    return tuple(map(int, text.split(",")))


@dataclass(frozen=True)
class Variant:
    """One kernel: a direction (``"forward"``, ``"backward"``; ``"losses"``, ``"errors"``, ``"hinges"``, ``"own"`` of
    what is ranked; ``"values"``, ``"totals"`` of the terms of each voxel) and the options of :func:`make_problem`."""

    direction: str
    options: dict
    volume: str = "plain"  # or "huge", whose voxel numbers need 64 bits, or "sliced", whose rows are not aligned

    @property
    def name(self) -> str:
        options = {**self.options}
        options["terms"] = next((union for union, terms in UNIONS.items() if terms == options["terms"]), "ranked")
        shown = [str(value).removeprefix("torch.") for value in options.values() if value != "ranked"]
        return " ".join([self.direction, *shown, *([] if self.volume == "plain" else [self.volume])])

    @property
    def wide(self) -> bool:
        """Whether wide accesses are due."""
        return self.volume == "plain" and self.options.get("shape", (16,))[-1] % 16 == 0

    def full_options(self) -> dict:
        target_dtype = torch.float32 if self.options.get("dense") else torch.uint8
        return {"shape": (16, 16, 32), "target_dtype": target_dtype, **self.options}

    def problem(self, **changes) -> Problem:
        """A small problem of random values, with changed options."""
        return make_problem(**{**self.full_options(), **changes})

    def blank(self, batch: int, shape: tuple[int, ...]) -> Problem:
        """A problem of zeros in memory that is not touched before it is used, so that it may be large."""
        options = {"dense": False, "mask": None, "map_channels": 0, "ignore": (), **self.full_options()}
        channels = options["channels"]

        def zeros(dtype, *size):
            raw = np.zeros((*size, dtype.itemsize), np.uint8)
            return torch.from_numpy(raw).view(dtype).squeeze(-1)

        by_channel = [channels] if options["mask"] == "channel" else []
        names = options["terms"]
        if options["map_channels"]:
            names = (*names, *(f"map*{name}" for name in names))
        mask_dtype = {None: None, "bool": torch.bool}.get(options["mask"], torch.float32)
        return Problem(
            zeros(options["dtype"], batch, channels, *shape),
            zeros(options["target_dtype"], batch, *([channels] if options["dense"] else []), *shape),
            None if mask_dtype is None else zeros(mask_dtype, batch, *by_channel, *shape),
            zeros(torch.float32, batch, options["map_channels"], *shape) if options["map_channels"] else None,
            make_plan(tuple(names), options["activation"], tuple(options["ignore"]), options["dense"]),
            torch.zeros(batch, channels, len(names), dtype=torch.float64),
        )

    def launch(self, problem: Problem) -> tuple[Problem, gpu.Launch, torch.Tensor]:
        """The problem as this variant has it, the kernel's call, and the tensor that it fills."""
        if self.volume == "sliced":
            problem = problem._replace(logits=problem.logits[..., 1:-1], target=problem.target[..., 1:-1])
        if self.direction == "forward":
            launch, out = gpu.forward_launch(*problem[:5])
        elif self.direction == "backward":
            launch, out = gpu.backward_launch(problem.grad_sums, *problem[:5])
        else:
            softmax = self.options["activation"] == "softmax"
            one = self.direction == "totals" or (self.direction == "losses" and softmax)
            out = torch.empty_like(problem.logits[:, :1] if one else problem.logits, dtype=gpu._real(problem.logits))
            arguments = (*problem[:3], problem.plan, out)
            if self.direction in ("errors", "hinges"):
                launch, out = gpu_values.values_launch(*arguments, self.direction)
            elif self.direction in ("losses", "own"):
                launch, out = gpu_ranked.losses_launch(*arguments, softmax or self.direction == "own")
            else:
                of_terms = problem.plan.terms, problem.grad_sums, problem.weight_map
                launch, out = gpu_values.values_launch(*arguments, self.direction, *of_terms)
        if self.volume == "huge":
            launch.constants["INDEX"] = tl.int64
        return problem, launch, out


def expected(variant: Variant, problem: Problem) -> torch.Tensor:
    """What the variant's kernel should give, by the plain PyTorch back end in float64; of a forward the sums."""
    what, doubled = variant.direction, problem.doubled()
    if what in ("forward", "backward"):
        return getattr(doubled, what)(reference)
    if what in ("values", "totals"):
        values = reference_values.voxel_losses(problem.grad_sums, *doubled[:5], what == "values")
        return values if what == "values" else values.unsqueeze(1)
    if what in ("errors", "hinges"):
        return reference_ranked.voxel_errors(*doubled[:3], problem.plan, what == "hinges")[0]
    return reference_ranked.voxel_losses(*doubled[:3], problem.plan, problem.plan.activation != "sigmoid")


def variants(everything: bool = False) -> list[Variant]:
    """What a change is most likely to break, or every combination of options that makes a kernel of its own."""
    found: dict[str, Variant] = {}

    def add(activation, channels, dtype, union="dice and cross-entropy", volume="plain", **options):
        options = {"activation": activation, "channels": channels, "dtype": dtype, "terms": UNIONS[union], **options}
        for direction in ("forward", "backward"):
            variant = Variant(direction, options, volume)
            found[variant.name] = variant

    add_essentials(add)
    if everything:
        add_product(add)
    written = (ranked_variants(), ESSENTIAL_RANKED), (voxel_variants(), ESSENTIAL_VOXELS)
    for variant in (v for kind, essential in written for v in kind[: None if everything else essential]):
        found[variant.name] = variant
    return list(found.values())


def ranked_variants() -> list[Variant]:
    """Those of the pass that writes what is ranked."""
    return [
        Variant(what, {"activation": activation, "channels": channels, "dtype": dtype, "terms": ("count",), **options})
        for what, activation, channels, dtype, options in RANKED
    ]


def voxel_variants() -> list[Variant]:
    """Those of the pass that writes each voxel's loss."""
    return [
        Variant(
            what, {"activation": activation, "channels": channels, "dtype": dtype, "terms": UNIONS[union], **options}
        )
        for what, activation, channels, dtype, union, options in VOXELS
    ]


def add_essentials(add) -> None:
    """The losses' unions of terms, and one of each family and layout."""
    for union in ("dice and cross-entropy", "focal", "dice and focal", "exponential logarithmic", "combo"):
        add("softmax", 4, BF16, union)
    for channels in (16, 40, 118):
        add("softmax", channels, BF16)
    add("softmax", 32, torch.float32, "dice and focal", mask="weight", map_channels=1)
    add("softmax", 1400, BF16, "dice and focal")
    add("softmax", 3, torch.float32, "dice and focal", mask="weight", map_channels=1)
    add("softmax", 3, torch.float64, "exponential logarithmic")
    for union, (activation, channels) in itertools.product(
        ("a user's", "a user's powers"), (("softmax", 4), ("softmax", 40), ("sigmoid", 3))
    ):
        add(activation, channels, BF16, union)
    add("sigmoid", 3, BF16, "focal of both sides", ignore=(0, 255))
    add("sigmoid", 3, BF16, mask="channel")
    add("none", 4, torch.float16, "dice and focal", dense=True)
    add("softmax", 4, BF16, "soft labels", dense=True)


def add_product(add) -> None:
    for activation, channels in itertools.product(ACTIVATIONS, (3, 4, 40)):
        for dense, dtype in itertools.product((False, True), (BF16, torch.float16, torch.float32)):
            add(activation, channels, dtype, dense=dense)
        add(activation, channels, torch.float64)
        add(activation, channels, BF16, ignore=(0, 255), mask="bool")
        add(activation, channels, torch.float32, mask="weight", map_channels=1)
    for channels, dtype in itertools.product((2, 5, 8, 12, 16, 20, 22, 24, 32, 64, 118, 256), (BF16, torch.float32)):
        for union in ("dice and cross-entropy", "focal"):
            add("softmax", channels, dtype, union)
    for channels in (12, 24, 118):
        add("softmax", channels, BF16, dense=True)
    for union in UNIONS:
        for activation, channels, dtype in (
            *itertools.product(("softmax",), (2, 4, 5), (BF16, torch.float32)),
            *itertools.product(("softmax",), (10, 16, 40), (BF16,)),
            ("sigmoid", 4, BF16),
        ):
            add(activation, channels, dtype, union)
        add("softmax", 4, BF16, union, dense=True)
    for volume in ("huge", "sliced"):
        add("softmax", 4, BF16, volume=volume)
    add("softmax", 4, BF16, shape=(16, 16, 33))
    add("softmax", 4, BF16, "every term", map_channels=4, target_dtype=torch.int64)
    add("sigmoid", 1, BF16, "every term")


def print_each_wide(measure: Callable[[Variant, tuple[int, ...]], dict]) -> None:
    """A command: `measure(variant, --shape)` of every variant with aligned rows as a line of JSON.

    Rows that are not aligned share sectors, which says nothing of a large volume.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--shape", type=shape_of, default=SHAPE)
    options = parser.parse_args()
    for variant in variants(options.all):
        if variant.wide:
            print(json.dumps(measure(variant, options.shape)), flush=True)
