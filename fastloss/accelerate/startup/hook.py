"""Accelerates peers as soon as a program imports them. Imports neither torch nor fastloss before; what ``fastloss`` and
``sitecustomize`` share."""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

VARIABLE = "FASTLOSS_ACCELERATE"
REPORT = "FASTLOSS_ACCELERATE_REPORT"
PEERS = {  # and the packages that they are; what serves a peer is made once its package is imported as a whole
    "torch": "torch",
    "monai": "monai",
    "nnunet": "nnunetv2",
    "smp": "segmentation_models_pytorch",
    "kornia": "kornia",
    "torchvision": "torchvision",
}


def installed_peers() -> list[str]:
    """The peers that this interpreter finds, imported or not."""
    return [peer for peer, package in PEERS.items() if package in sys.modules or importlib.util.find_spec(package)]


def peers_of_variable() -> list[str]:
    """The peers that ``FASTLOSS_ACCELERATE`` names, separated by commas; ``all`` for those that are installed.

    Raises:
        ValueError: for another name.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if "all" in names:
        return installed_peers()
    for name in names:
        if name not in PEERS:
            raise ValueError(
                f"{VARIABLE}: got {name!r}, expected all, or some of {', '.join(PEERS)} with commas between"
            )
    return names


def _accelerate(peer: str) -> None:
    import fastloss

    accelerated = fastloss.accelerate(peer)
    if os.environ.get(REPORT):
        atexit.register(_print_report, peer, accelerated)


def _print_report(peer: str, accelerated: Any) -> None:
    report = accelerated.report()
    for name in [name for name, calls in report.items() if not (calls.fused or calls.passed_on)]:
        del report[name]
    if report:
        print(f"fastloss.accelerate, {peer} in process {os.getpid()}:", report, sep="\n", file=sys.stderr)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets what the other finders find accelerate a peer once it is imported. Programs that only
    ask whether a peer is there leave it waiting."""

    def __init__(self, peers: Sequence[str]):
        self.waiting = {PEERS[peer]: peer for peer in peers}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.waiting:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A module's own loader, and then the acceleration."""

    def __init__(self, loader: Any, finder: _Finder):
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        peer = self._finder.waiting.pop(module.__name__, None)
        if peer is not None:
            _accelerate(peer)


def accelerate_at_import(peers: Sequence[str]) -> None:
    """Accelerates the peers: now those that are imported, the others when they are."""
    later = [peer for peer in peers if PEERS[peer] not in sys.modules]
    if later:
        sys.meta_path.insert(0, _Finder(later))
    for peer in peers:
        if peer not in later:
            _accelerate(peer)
