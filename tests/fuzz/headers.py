"""NIfTI files with anything in their headers, by the harness's reader."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from .nifti import one_input
from .run import Kind

__all__ = ["KINDS", "check"]


def check(seed):
    with tempfile.TemporaryDirectory() as folder:
        one_input(np.random.default_rng(seed), Path(folder))


KINDS = [Kind("headers", lambda random: st.integers(0, 2**40), check, per_round=2000)]
