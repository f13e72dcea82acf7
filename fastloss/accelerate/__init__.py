"""Acceleration of other libraries' losses: the mechanism in ``core``, a module for each peer. ``fastloss.accelerate``
itself is the function."""

from .handle import Calls, Report, accelerate

__all__ = ["Calls", "Report", "accelerate"]
