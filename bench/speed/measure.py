"""Each loss against the same loss elsewhere: agreement first, then time and peak memory."""

import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from bench.losses.peers import OPTIONAL_PACKAGES
from bench.losses.registry import LOSSES
from bench.machine import installed_version, machine, notes_on_others, watch_others
from bench.speed.agreement import differences, disagreement
from bench.speed.case import Case
from bench.speed.memory import can_measure, peaks
from bench.timing import Contestant, Copy, Samples, interleave, quartiles

COPY = "copy"
# what one loss takes on two cores with its peers compiled, with memory measured, and with neither
COMPILE_SECONDS, MEMORY_SECONDS, BARE_SECONDS = 45.0, 12.0, 4.0


@dataclass(frozen=True)
class Effort:
    """How much a measurement spends."""

    repeats: int = 30
    compiled: bool = True
    memory: bool = True
    seconds: float = math.inf  # after which no further round begins
    slow_peers: bool = True  # whether to run peers of which a step takes seconds
    tuned: bool = True  # whether the C library keeps freed memory, or decides itself


def affordable(effort: Effort, seconds: float) -> Effort:
    """The effort without what does not fit into `seconds`."""
    return replace(
        effort,
        compiled=effort.compiled and seconds > COMPILE_SECONDS,
        memory=effort.memory and seconds > MEMORY_SECONDS,
    )


def compile_failure(contestant: Contestant) -> str | None:
    """Run a compiled loss for the first time; the reason where it cannot be compiled."""
    try:
        contestant.step(contestant.logits.device)
    except Exception as error:  # inductor raises whatever its back end or the C++ compiler does
        return f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def compile_or_drop(contestants: dict[str, Contestant]) -> dict[str, str]:
    """Run every compiled peer once; one that cannot leaves `contestants`, and the reason is returned."""
    compiled = [name for name in contestants if name.endswith(" compiled")]
    failed = {name: why for name in compiled if (why := compile_failure(contestants[name]))}
    for name in failed:
        del contestants[name]
    return failed


def check(case: Case, contestants: dict[str, Contestant]) -> tuple[dict[str, tuple[float, float]], str | None]:
    """Differences of every peer, compiled ones too, and the refusal where one disagrees."""
    found, complaints = {}, []
    for name, contestant in contestants.items():
        if name == "ours":
            continue
        try:
            found[name] = differences(contestants["ours"], contestant)
            rough = LOSSES[case.loss].rough if contestant.logits.dtype != torch.float64 else 0.0
            complaint = disagreement(*found[name], contestant.logits.dtype, rough)
        except RuntimeError as error:  # such as an operator that a peer's dtype does not have
            complaint = str(error).splitlines()[0]
        if complaint:
            complaints.append(f"{name}: {complaint}")
    return found, "; ".join(complaints) or None


def spread(samples: Samples) -> dict:
    """Medians and quartiles of forward, backward and their sum, in ms."""
    out: dict = {"quartiles_ms": {}}
    for part in ("forward", "backward", "total"):
        low, middle, high = quartiles(getattr(samples, part))
        out[f"{part}_ms"] = middle
        out["quartiles_ms"][part] = [low, high]
    return out


def peer_row(name: str, package: str, samples: dict[str, Samples], ours_ms: float) -> dict:
    """A peer's times, eager and compiled, and how many times faster fastloss is than the better."""
    times = {"eager": spread(samples[name])}
    if f"{name} compiled" in samples:
        times["compiled"] = spread(samples[f"{name} compiled"])
    row = {"name": name, "package": package, "eager_ms": times["eager"]["total_ms"], "compiled_ms": None}
    for way, measured in times.items():
        row[f"{way}_ms"] = measured["total_ms"]
        row[f"{way}_forward_ms"] = measured["forward_ms"]
        row[f"{way}_backward_ms"] = measured["backward_ms"]
        row[f"{way}_quartiles_ms"] = measured["quartiles_ms"]
    row["speedup"] = min(measured["total_ms"] for measured in times.values()) / ours_ms
    return row


def empty_row(case: Case, effort: Effort) -> dict:
    """The keys that every row has, measured or refused."""
    return {
        "loss": case.loss,
        "class": LOSSES[case.loss].cls,
        "options": LOSSES[case.loss].options_for(case.activation, case.shape[1]),
        "shape": list(case.shape),
        "dtype": case.dtype,
        "label_dtype": case.label_dtype,
        "activation": case.activation,
        "backend": case.backend_name,
        "device": case.device,
        "threads": case.threads,
        "repeats": effort.repeats,
        "tuned": effort.tuned,
        "forward_ms": None,
        "backward_ms": None,
        "total_ms": None,
        "peak_over_logits": None,
        "peers": [],
        "absent": [],
        "refused": None,
        "notes": [],
        "machine": machine(),
    }


def measure(case: Case, effort: Effort, advance: Callable[[str], None] = lambda stage: None) -> dict:
    """One row of the table; `advance` is told each stage as it begins."""
    row = empty_row(case, effort)
    if LOSSES[case.loss].slow and not effort.slow_peers:
        row["notes"].append(f"its peers, seconds a step, left out: python -m bench speed --losses {case.loss}")
        case = replace(case, only_ours=True)
    absent = [peer for peer in case.known_peers() if not installed_version(peer.package)]
    row["notes"] += [f"{peer.title} is not installed" for peer in absent if peer.package not in OPTIONAL_PACKAGES]
    row["absent"] = sorted({peer.package for peer in absent if peer.package in OPTIONAL_PACKAGES})
    if not effort.compiled:
        row["notes"].append("torch.compile of the peers left out")
    else:
        torch._dynamo.reset()  # compiled peers of the last loss would count against the cache limit
    with warnings.catch_warnings(), case.backend_context():
        warnings.simplefilter("ignore")
        logits, labels = case.inputs()
        case = case.at_best(logits, labels)
        contestants = case.contestants(logits, labels, effort.compiled)
        advance("agreement, compiling the peer")
        failed = compile_or_drop(contestants)
        found, row["refused"] = check(case, contestants)
        if row["refused"]:
            return row
        advance("timing")
        with watch_others() as watched:
            all_of_them = {COPY: Copy(logits), **contestants}
            samples = interleave(all_of_them, effort.repeats, case.torch_device, effort.seconds, effort.tuned)
    row["repeats"] = len(samples["ours"].forward)

    row |= spread(samples["ours"])
    row["copy_ms"] = statistics.median(samples[COPY].forward)
    row["total_over_copy"] = row["total_ms"] / row["copy_ms"]
    row["others_busy_cores"] = watched["others"]
    row["notes"] += notes_on_others(watched["others"])
    row["notes"] += [f"{name}: {why}" for name, why in failed.items()]
    for peer in case.peers():
        entry = peer_row(peer.title, peer.package, samples, row["total_ms"])
        entry["given"] = case.form_of(peer)
        entry["value_difference"], entry["gradient_difference"] = found[peer.title]
        row["peers"].append(entry)
    advance("peak memory")
    add_peaks(row, case, effort)
    return row


def add_peaks(row: dict, case: Case, effort: Effort) -> None:
    """Peak memory of ours and every peer into `row`, or the note why not."""
    why_not = can_measure(case) if effort.memory else "peak memory left out"
    if why_not:
        row["notes"].append(why_not)
    found = {} if why_not else peaks(case, effort.compiled and all(peer["compiled_ms"] for peer in row["peers"]))
    row["peak_over_logits"] = found.get("ours")
    for peer in row["peers"]:
        peer["peak_over_logits"] = found.get(peer["name"])
        peer["compiled_peak_over_logits"] = found.get(peer["name"] + " compiled")
