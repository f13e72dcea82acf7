"""Run by its path when an interpreter starts: lets the peers that FASTLOSS_ACCELERATE names be accelerated once the
program imports them. Imports neither fastloss nor torch."""

import importlib.util
import os
import sys

_NAME = "_fastloss_hook"

if _NAME not in sys.modules:  # which both an installed .pth and sitecustomize.py may want
    _spec = importlib.util.spec_from_file_location(_NAME, os.path.join(os.path.dirname(__file__), "hook.py"))
    assert _spec is not None and _spec.loader is not None
    _hook = sys.modules[_NAME] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_hook)
    _hook.accelerate_at_import(_hook.peers_of_variable())
