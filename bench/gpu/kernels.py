"""Every Triton kernel at real sizes: against the float64 reference, and its time beside that of its bytes."""

import math
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from fastloss.kernels.gpu import geometry
from fastloss.kernels.reference import sums as reference

from bench.gpu.measure import microseconds, nbytes
from bench.gpu.stages import Run
from bench.kernels.problems import DICE_CE, Problem, make_problem
from bench.kernels.variants import UNIONS, Variant, expected, variants

BF16 = torch.bfloat16
ALLOWED, ALLOWED_DOUBLE = 4e-6, 1e-9  # of the largest value: float32 and float64
STEPS = {BF16: 2**-8, torch.float16: 2**-11}  # half a unit in the last place, where the gradient is rounded to it
REFERENCE_COPIES = 12  # float64 tensors of the logits' size that the reference holds at most


def copy(run: Run) -> Iterator[dict]:
    """Bytes a second of a copy, read and written, and the memory that is free: what the other stages go by."""
    source = torch.ones((1 << (12 if run.toy else 28)), device=run.device)
    out = torch.empty_like(source)
    run.copy_bytes = 2 * nbytes(source) / microseconds(run, lambda: out.copy_(source)) * 1e6
    if run.device.type == "cuda":
        run.free = int(0.8 * torch.cuda.mem_get_info(run.device)[0])
    yield {"copy_tb_s": run.copy_bytes / 1e12, "free_gib": run.free / 2**30}


def common() -> list[Variant]:
    """The kernels of the losses that most people train with."""
    return [
        Variant(direction, {"activation": "softmax", "channels": channels, "dtype": dtype, "terms": terms})
        for channels, dtype in ((4, BF16), (4, torch.float32), (16, BF16), (2, BF16), (118, BF16))
        for terms in (DICE_CE, UNIONS["focal"])
        for direction in ("forward", "backward")
    ]


def every(everything: bool) -> list[Variant]:
    """Those of ``python -m bench kernels`` that are not among the common ones."""
    done = {variant.name for variant in common()}
    return [variant for variant in variants(everything) if variant.name not in done]


def filled(variant: Variant, run: Run, shape: tuple[int, ...]) -> Problem:
    """The variant's problem on the device, its random values made there."""
    if run.device.type != "cuda":  # whose values include what is far from all others
        return variant.problem(batch=shape[0], shape=shape[1:])
    blank = variant.blank(shape[0], shape[1:])
    problem = blank._replace(**{k: x.to(run.device) for k, x in blank._asdict().items() if isinstance(x, torch.Tensor)})
    torch.manual_seed(0)
    logits = problem.logits.normal_().mul_(3)
    if problem.plan.activation == "none":
        problem = problem._replace(logits=logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid())
    if problem.plan.dense:
        problem.target.uniform_()
    else:
        problem.target.random_(0, logits.shape[1])
    if problem.mask is not None:
        problem.mask.copy_(torch.rand(problem.mask.shape, device=run.device) > 0.3)
    if problem.weight_map is not None:
        problem.weight_map.normal_()
    problem.grad_sums.normal_()
    return problem


def space_for(variant: Variant, run: Run) -> tuple[int, ...]:
    """Batch and space: 2 volumes of 128^3 where the reference has room for them, else fewer."""
    if run.toy:
        return (1, 4, 4, 16)
    elements = run.free // (8 * REFERENCE_COPIES * variant.options["channels"])
    sizes = ((2, 128, 128, 128), (1, 128, 128, 128), (1, 64, 64, 128), (1, 32, 32, 128))
    return next((size for size in sizes if math.prod(size) <= elements), (1, 16, 16, 128))


def rounding(run: Run, dtype: torch.dtype) -> float:
    """What a value loses as it is written; the interpreter cuts off what a device rounds."""
    return STEPS.get(dtype, 0.0) * (2 if run.toy else 1)


def checked(variant: Variant, run: Run) -> dict:
    """A row: the error, whether it is allowed, the time and how often that of the bytes it is."""
    problem, launch, out = variant.launch(filled(variant, run, space_for(variant, run)))
    out.fill_(math.nan)
    launch.run()
    forward = variant.direction == "forward"
    got, want = out.sum(1, dtype=torch.float64) if forward else out.double(), expected(variant, problem)
    if variant.direction in ("errors", "hinges") and problem.mask is not None:  # of no meaning where none counts
        got = torch.where(problem.mask.unsqueeze(1) != 0, got, want)
    step = rounding(run, problem.logits.dtype) if variant.direction == "backward" else 0.0
    largest = want.abs().max()
    error = float(((got - want).abs() - step * want.abs()).max() / largest)
    allowed = ALLOWED_DOUBLE if problem.logits.dtype == torch.float64 else ALLOWED
    del got, want
    moved = sum(nbytes(x) for x in problem[:4] if x is not None) + nbytes(out)
    row = {"kernel": variant.name, "shape": list(problem.logits.shape), "error": error, "ok": error <= allowed}
    took = microseconds(run, launch.run)
    bound = moved / run.copy_bytes * 1e6
    return row | {"us": took, "bytes": moved, "bandwidth_us": bound, "over": took / bound}


def stage(chosen: Callable[[], list[Variant]]) -> Callable[[Run], Iterator[dict]]:
    """A stage that checks and times some kernels; of those with the same problem one after another."""

    def rows(run: Run) -> Iterator[dict]:
        for variant in chosen()[:: 9 if run.toy else 1]:
            yield checked(variant, run)

    return rows


CHOICES: dict[str, dict] = {  # of the registers that a thread may take, what a device should decide
    "as chosen": {"HELD_REGISTERS": geometry.HELD_REGISTERS},
    "fewer registers": {"HELD_REGISTERS": 64, "UNROLLED_REGISTERS": {8: 96, 4: 128, 2: 128}},
    "few registers": {"HELD_REGISTERS": 40, "UNROLLED_REGISTERS": {8: 64, 4: 80, 2: 80}},
    "rows only": {"UNROLLED_REGISTERS": {}},
    "rows only, fewer registers": {"HELD_REGISTERS": 64, "UNROLLED_REGISTERS": {}},
}


def choices(run: Run) -> Iterator[dict]:
    """The kernels of many classes with other tiles: whether the choice by registers is the fastest here."""
    for channels in (5,) if run.toy else (32, 118, 16, 8, 64):
        for direction in ("forward", "backward"):
            options = {"activation": "softmax", "channels": channels, "dtype": BF16, "terms": DICE_CE}
            variant = Variant(direction, options)
            problem = filled(variant, run, space_for(variant, run))
            for name, changes in list(CHOICES.items())[:: 3 if run.toy else 1]:
                with patch.multiple(geometry, **changes):
                    _, launch, out = variant.launch(problem)
                    moved = nbytes(problem.logits) + nbytes(problem.target) + nbytes(out)
                    bound = moved / run.copy_bytes * 1e6
                    took = microseconds(run, launch.run)
                    row = {"kernel": variant.name, "who": name, "shape": list(problem.logits.shape)}
                    yield row | {"us": took, "bandwidth_us": bound, "over": took / bound}


def large(run: Run) -> Iterator[dict]:
    """Tensors of more than 2^31 elements: of the logits, of one channel, and between two channels.

    The sums of slabs in float64 add up to those of the whole; gradients are compared slab by slab.
    """
    cases = (
        ("logits", 5, (1024, 1024, 448)),
        ("a channel", 2, (1300, 1300, 1280)),
        ("logits, many classes", 40, (256, 512, 416)),
    )
    for name, channels, space in cases:
        if run.toy:
            space = (2, 5, 16)
        logits_bytes = 2 * channels * math.prod(space)
        if 3 * logits_bytes > run.free:
            yield {"case": name, "skipped": f"{3 * logits_bytes >> 30} GiB needed"}
            continue
        yield {"case": name, "shape": [1, channels, *space]} | slabs(run, channels, space)


def slabs(run: Run, channels: int, space: tuple[int, ...]) -> dict:
    from fastloss.kernels.gpu import sums as gpu

    problem = make_problem(channels, (1,), dtype=BF16, terms=DICE_CE, batch=1, target_dtype=torch.uint8)
    logits = torch.empty((1, channels, *space), dtype=BF16, device=run.device).normal_().mul_(3)
    target = torch.empty((1, *space), dtype=torch.uint8, device=run.device).random_(0, channels)
    whole = problem._replace(logits=logits, target=target, grad_sums=problem.grad_sums.to(run.device))
    sums, gradient = whole.forward(gpu), whole.backward(gpu)
    thick = max(1, min(space[0], (1 << 27) // (channels * math.prod(space[1:]))))
    total, wrong = torch.zeros_like(sums), 0.0
    for start in range(0, space[0], thick):
        rows = slice(start, start + thick)
        part = whole._replace(logits=logits[:, :, rows].double(), target=target[:, rows])
        total += part.forward(reference)
        want = part.backward(reference)
        difference = (gradient[:, :, rows].double() - want).abs() - rounding(run, BF16) * want.abs()
        wrong = max(wrong, float(difference.max() / want.abs().max()))
    error = float((sums - total).abs().max() / total.abs().max())
    return {"error": error, "gradient_error": wrong, "ok": max(error, wrong) <= ALLOWED}
