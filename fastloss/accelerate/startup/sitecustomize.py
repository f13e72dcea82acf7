"""Imported by Python when it starts, if this folder is on PYTHONPATH: accelerates the peers that FASTLOSS_ACCELERATE
names once the program imports them, in its child processes as well."""

import importlib.machinery
import importlib.util
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != _here]


def _next_sitecustomize() -> None:
    """Runs the environment's own module of this name, in whose place this one was found."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _hook() -> None:
    spec = importlib.util.spec_from_file_location("_fastloss_hook", os.path.join(_here, "hook.py"))
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = hook
    spec.loader.exec_module(hook)
    hook.accelerate_at_import(hook.peers_of_variable())


_next_sitecustomize()
_hook()
