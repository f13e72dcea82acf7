"""The error of a loss: its value and gradient beside those of the same logits in float64."""

import math
import statistics
import warnings
from dataclasses import dataclass, replace

import torch

import fastloss
from bench.losses.peers import Peer
from bench.losses.registry import LOSSES
from bench.machine import installed_version, machine
from bench.speed.agreement import disagreement, value_and_gradient
from bench.speed.case import DTYPES, Case
from bench.timing import Contestant

# above, float64 passes of the Numba back end are the truth: the plain reference holds many tensors of the logits' size
REFERENCE_LOGITS = 2**24
# of a gradient's arithmetic, an exp, a log, a quotient and a product: codes that differ in these are equal
ROUNDINGS = 4


@dataclass(frozen=True)
class Truth:
    """Value and gradient in float64, and the back end that made them."""

    value: float
    gradient: torch.Tensor
    backend: str

    def errors(self, contestant: Contestant) -> dict[str, float]:
        """Relative errors of the value, and of the gradient in L2; absolute ones where the truth is 0."""
        value, gradient = value_and_gradient(contestant)
        off, length = (float(x.norm()) for x in (gradient - self.gradient, self.gradient))
        return {"value": abs(value - self.value) / (abs(self.value) or 1.0), "gradient": off / (length or 1.0)}


def unit_roundoff(what: str, dtype: str) -> float:
    """The largest relative error of rounding once: values are at least float32, gradients have the logits' dtype."""
    kept = DTYPES[dtype]
    return torch.finfo(torch.float32 if what == "value" and kept.itemsize < 4 else kept).eps / 2


def truth_of(case: Case, logits: torch.Tensor, labels: torch.Tensor) -> Truth:
    """The loss on the logits, which are rounded already, in float64."""
    plain = logits.numel() <= REFERENCE_LOGITS or logits.device.type != "cpu"
    name = "reference" if plain else "numba"
    with fastloss.backend(name):
        return Truth(*value_and_gradient(_ours(case, _wide(logits), labels)), name)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.detach().double().requires_grad_()


def _ours(case: Case, logits: torch.Tensor, labels: torch.Tensor) -> Contestant:
    return Contestant(LOSSES[case.loss].build(case.activation, case.shape[1]).to(logits.device), logits, labels)


def _theirs(case: Case, peer: Peer, logits: torch.Tensor, labels: torch.Tensor) -> Contestant:
    return Contestant(peer.loss(case.activation, case.shape[1]), logits, peer.target(labels, case.shape[1]))


def comparable(case: Case) -> tuple[list[Peer], list[str]]:
    """The installed peers that in float64 compute the same loss, and notes on the others."""
    peers, notes = [], []
    logits, labels = case.inputs()
    truth = truth_of(case, logits, labels)
    for peer in LOSSES[case.loss].peers:
        if not peer.knows(case.activation, case.shape[1]):
            continue
        if not installed_version(peer.package):
            notes.append(f"{peer.title} is not installed")
            continue
        try:
            found = truth.errors(_theirs(case, peer, _wide(logits), labels))
            complaint = disagreement(found["value"], found["gradient"], torch.float64, LOSSES[case.loss].rough)
        except (RuntimeError, ValueError, TypeError) as error:  # what a peer says of a dtype or shape
            complaint = str(error).splitlines()[0]
        if complaint:
            notes.append(f"{peer.title} left out, in float64: {complaint}")
        else:
            peers.append(peer)
    return peers, notes


def measure(case: Case, peers: list[Peer], notes: list[str], draws: int = 1) -> dict:
    """One row: the errors of ours and of each peer, medians over draws of logits and labels."""
    backends, drawn = zip(*(_draw(replace(case, seed=case.seed + n), peers) for n in range(draws)), strict=True)
    errors = {
        name: {what: statistics.median(each[name][what] for each in drawn) for what in ("value", "gradient")}
        for name in drawn[0]
    }
    return {
        "loss": case.loss,
        "class": LOSSES[case.loss].cls,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "draws": draws,
        "activation": case.activation,
        "device": case.device,
        "truth": backends[0],
        "errors": errors,
        "worse": worse(errors, case.dtype),
        "notes": notes,
        "machine": machine(),
    }


def _draw(case: Case, peers: list[Peer]) -> tuple[str, dict[str, dict[str, float]]]:
    """The back end of the truth, and the errors of ours and of each peer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits, labels = case.inputs()
        truth = truth_of(case, logits, labels)
        contestants = {"ours": _ours(case, logits, labels)}
        contestants |= {peer.title: _theirs(case, peer, logits, labels) for peer in peers}
        return truth.backend, {name: truth.errors(contestant) for name, contestant in contestants.items()}


def best_peer(errors: dict[str, dict[str, float]], what: str) -> str | None:
    """The peer with the least error of the value or of the gradient."""
    peers = [name for name in errors if name != "ours" and math.isfinite(errors[name][what])]
    return min(peers, key=lambda name: errors[name][what], default=None)


def worse(errors: dict[str, dict[str, float]], dtype: str) -> list[str]:
    """In what fastloss is worse than the best peer, by more than the ROUNDINGS that any float code may differ in."""
    found = []
    for what in ("value", "gradient"):
        best = best_peer(errors, what)
        if best and not errors["ours"][what] <= max(errors[best][what], ROUNDINGS * unit_roundoff(what, dtype)):
            found.append(what)
    return found
