"""What a training run depends on, and the folder that keeps its results."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.training.datasets import DataError

STEPS = 20  # an epoch has at least so many where the batch size is chosen here


@dataclass(frozen=True)
class Settings:
    """The survey's schedule. Losses and seeds are no part of it: each pair of them is a run of its own."""

    data: str = "icbm152"
    dims: int = 2
    epochs: int = 12
    batch_size: int | None = None  # 32 as the survey's, or fewer where an epoch would have less than STEPS steps
    learning_rate: float = 1e-3
    smallest_rate: float = 1e-8
    patience: int = 2
    widths: tuple[int, ...] = (8, 16, 32, 64, 96)
    patch: tuple[int, ...] = (64, 64, 64)  # 3D: a random cube
    patches: int = 8  # 3D: of each subject and epoch
    every: int = 1  # 2D: every n-th slice
    skip_bad: bool = False

    def batch_of(self, samples: int) -> int:
        """The size of a batch, given the samples of an epoch."""
        if self.batch_size:
            return self.batch_size
        return max(1, min(32 if self.dims == 2 else 2, samples // STEPS))

    def digest(self) -> str:
        """Eight digits that differ where a setting does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    def folder(self, results: Path) -> Path:
        """Where results go by default: the same command finds its own again."""
        return results / f"train-{self.data.partition(':')[0]}-{self.dims}d-{self.digest()}"

    def claim(self, folder: Path) -> None:
        """Marks the folder as that of these settings; refuses that of others."""
        file, own = folder / "settings.json", json.loads(json.dumps(asdict(self)))
        if file.is_file():
            held = json.loads(file.read_text())
            changed = [f"{key} {held.get(key)} (now {own[key]})" for key in own if own[key] != held.get(key)]
            if changed:
                raise DataError(f"--out {folder}: holds runs with {', '.join(changed)}; expected another folder")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(own, indent=1) + "\n")
