"""`python -m bench endurance`: every loss in turn for thousands of steps, in flat memory and with the same bits."""

import gc
import hashlib
import time

import click

from bench.options import device_option, json_option, losses_option, shape_of, threads_option

MIB = 2**20
SETTLED = 100  # steps after which memory may grow by no more than ALLOWED
ALLOWED = 1.0  # MiB


def run(names: list[str], case, steps: int, advance=lambda step: None) -> dict:
    """Steps of forward and backward of all losses in turn.

    Returns:
        `settled_mib` and `end_mib`, what the process held after SETTLED steps (or half of fewer) and at the end;
        `growth_mib`; `changed`, for each loss that gave other bits than in its first step how often; `seconds`.
    """
    import torch

    from bench.losses.registry import LOSSES

    logits, labels = case.inputs()
    losses = {name: LOSSES[name].build(case.activation, case.shape[1]).to(case.torch_device) for name in names}
    first, changed, begin, settled = {}, dict.fromkeys(names, 0), time.monotonic(), 0.0
    for step in range(steps):
        for name, loss in losses.items():
            value = loss(logits, labels)
            (gradient,) = torch.autograd.grad(value, logits)
            parts = (value.detach().cpu().reshape(1), gradient.cpu().flatten())
            digest = hashlib.blake2b(
                b"".join(x.contiguous().view(torch.uint8).numpy().tobytes() for x in parts)
            ).digest()
            changed[name] += first.setdefault(name, digest) != digest
        if step + 1 == min(SETTLED, max(1, steps // 2)):
            settled = held_bytes(case.torch_device) / MIB
        advance(step)
    end = held_bytes(case.torch_device) / MIB
    return {
        "losses": names,
        "steps": steps,
        "settled_mib": settled,
        "end_mib": end,
        "growth_mib": end - settled,
        "changed": {name: times for name, times in changed.items() if times},
        "seconds": time.monotonic() - begin,
    }


def held_bytes(device) -> int:
    """What is in use: of the GPU by tensors, else of this process, less what its C library keeps for later."""
    import ctypes

    import torch

    from bench.peak_memory import resident_bytes

    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes("VmRSS")


@click.command("endurance")
@losses_option
@click.option("--steps", type=click.IntRange(2), default=2000, show_default=True, help="Of every loss.")
@click.option("--shape", callback=shape_of, default="1,3,16,16,16", show_default=True, help="B,C and spatial sizes.")
@device_option
@threads_option
@json_option
def endurance(losses, steps, shape, device, threads, json_file):
    """Thousands of steps of every loss in turn: memory must stay flat, and every bit the same."""
    from bench.machine import machine
    from bench.output import console, progress, write_json
    from bench.speed.case import Case
    from bench.speed.memory import can_measure

    case = Case("", shape, device=device, threads=threads)
    if reason := can_measure(case):
        raise click.ClickException(reason)
    with progress() as bars:
        bar = bars.add_task("endurance", total=steps, status=f"{len(losses)} losses")
        found = run(losses, case, steps, lambda step: bars.update(bar, completed=step + 1))
    console.print(
        f"{len(losses)} losses, {steps} steps each on {'x'.join(map(str, shape))}, {found['seconds']:.0f} s\n"
        f"memory: {found['settled_mib']:.1f} MiB when settled, {found['end_mib']:.1f} MiB at the end, "
        f"{found['growth_mib']:+.2f} MiB; steps with other bits than the first: {sum(found['changed'].values())}",
        markup=False,
    )
    if json_file:
        write_json(json_file, [case.as_dict() | found | {"machine": machine()}])
    if found["changed"]:
        raise click.ClickException(f"other bits than in the first step: {found['changed']}")
    if found["growth_mib"] > ALLOWED:
        raise click.ClickException(f"memory grew by {found['growth_mib']:.2f} MiB, expected at most {ALLOWED}")
