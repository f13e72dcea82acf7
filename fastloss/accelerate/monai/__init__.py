"""MONAI's losses as formulas on the sums of fused passes; their options are read from the objects at each call."""

from . import compound, distances, focal, overlap
from .common import served

__all__ = ["compound", "distances", "focal", "overlap", "served"]
