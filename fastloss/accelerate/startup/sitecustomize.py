"""Imported by Python when it starts, if this folder is on PYTHONPATH: what ``python -m
fastloss.accelerate`` does, in a program's child processes as well."""

import importlib.machinery
import importlib.util
import os
import runpy
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != _here]


def _next_sitecustomize() -> None:
    """Runs the environment's own module of this name, in whose place this one was found."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_next_sitecustomize()
runpy.run_path(os.path.join(_here, "start.py"))
