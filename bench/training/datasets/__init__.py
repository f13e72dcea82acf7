"""Data for training behind one interface: `open_dataset("nfbs:/data/NFBS")` finds it, `prepare` reads and checks it."""

from bench.training.datasets.kinds import Dataset, open_dataset
from bench.training.datasets.reading import Volume
from bench.training.datasets.store import Prepared, prepare
from fastloss.metrics.nifti import DataError

__all__ = ["DataError", "Dataset", "Prepared", "Volume", "open_dataset", "prepare"]
