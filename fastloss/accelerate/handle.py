"""``fastloss.accelerate`` itself: how long a peer stays accelerated, and the report of its calls."""

from __future__ import annotations

import importlib
from collections import Counter
from contextlib import ContextDecorator
from typing import Any, NamedTuple

from .core import Counts, Served, counts, lock
from .startup.hook import PEERS, installed_peers

_applied: Counter[str] = Counter()  # how many hold a peer accelerated


class Calls(NamedTuple):
    """How often a function was fused, and how often the peer's own code ran, by reason."""

    fused: int
    passed_on: dict[str, int]


class Report(dict[str, Calls]):
    """The calls of each function that is replaced; as text, a line for each."""

    def __str__(self) -> str:
        lines = []
        for name, (fused, passed_on) in self.items():
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(passed_on.items()))
            lines.append(f"{name}: fused {fused}, passed on {sum(passed_on.values())}{reasons and f' ({reasons})'}")
        return "\n".join(lines)


def _targets(peer: str) -> Served:
    served: Served = importlib.import_module(f"{__package__}.{peer}").served
    return served


def _hold(peer: str) -> None:
    with lock:
        targets = _targets(peer)
        _applied[peer] += 1
        if _applied[peer] == 1:
            for target in targets:
                target.apply()


def _release(peer: str) -> None:
    with lock:
        _applied[peer] -= 1
        if _applied[peer] == 0:
            for target in reversed(_targets(peer)):
                target.undo()


class accelerate(ContextDecorator):
    """Lets the losses of other libraries run as fused passes, without a change to the program that uses them.

    The ``forward`` of the peer's classes is wrapped: what a fused pass serves with the same value, shape, dtype and
    gradient is computed by one; all else, errors and warnings included, is left to the peer's own code. Losses that
    were made or imported before are accelerated, too. For all threads of this process; several may be nested.

    ``fastloss.accelerate("monai")`` holds until :meth:`undo`; ``with fastloss.accelerate("monai"):`` to the end of the
    block, and ``@fastloss.accelerate("monai")`` during the calls of a function.

    Args:
        *peers: ``"monai"``, ``"nnunet"``, ``"smp"``, ``"kornia"``, ``"torchvision"``, ``"torch"``; without any, all of
            these that are installed.

    Raises:
        ValueError: for another name.
        ModuleNotFoundError: for a peer that is not installed.
    """

    def __init__(self, *peers: str):
        for peer in peers:
            if peer not in PEERS:
                raise ValueError(f"peers: got {peer!r}, expected any of {', '.join(PEERS)}")
        found = installed_peers()
        for peer in peers:
            if peer not in found:
                raise ModuleNotFoundError(f"peers: {peer!r} is not installed, expected one of {', '.join(found)}")
        self.peers = tuple(dict.fromkeys(peers or found))
        for peer in self.peers:
            _targets(peer)  # so that an error leaves nothing applied
        self._seen: Counts = Counter()  # counts of the times before
        self._before: Counts = Counter()  # all counts when this one began
        self._holds = 0
        self._start()
        self._waiting = True  # applied by the constructor, not yet taken over by a with

    def _start(self) -> None:
        with lock:
            for peer in self.peers:
                _hold(peer)
            self._holds += 1
            if self._holds == 1:
                self._before = Counter(counts)

    def _stop(self) -> None:
        with lock:
            if self._holds:
                self._seen, self._before = self._counted(), Counter(counts)
                self._holds -= 1
                for peer in reversed(self.peers):
                    _release(peer)

    def _counted(self) -> Counts:
        return self._seen + (counts - self._before) if self._holds else self._seen

    def __enter__(self) -> accelerate:
        if not self._waiting:
            self._start()
        self._waiting = False
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop()

    def __call__(self, function: Any) -> Any:
        self.undo()  # until the function is called
        return super().__call__(function)

    def undo(self) -> None:
        """Gives the peers their own functions back, unless another ``accelerate`` holds them."""
        self._waiting = False
        while self._holds:
            self._stop()

    def report(self) -> Report:
        """The calls so far, by class or function (with the peer's name where several have one of that name), of all
        threads while this was in force; those within compiled graphs are not counted."""
        with lock:
            seen = self._counted()
        targets = [(peer, target) for peer in self.peers for target in _targets(peer)]
        times = Counter(target.name for _, target in targets)
        report = Report()
        for peer, target in targets:
            name = target.name if times[target.name] == 1 else f"{peer}.{target.name}"
            passed_on = {reason: count for (of, reason), count in seen.items() if of is target and reason}
            report[name] = Calls(seen[target, ""], passed_on)
        return report
