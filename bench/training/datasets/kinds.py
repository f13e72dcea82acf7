"""Where each kind of data set has its files: `kind` or `kind:WHERE` to subjects, without reading a volume."""

import glob
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.training.datasets.icbm152 import CLASSES, Icbm152, icbm152_files
from bench.training.datasets.reading import DataError, FilePair, Volume

SUFFIXES = (".nii.gz", ".nii")


class Subject(Protocol):
    """What can be read as one volume."""

    subject: str

    def key(self) -> str: ...

    def read(self) -> Volume: ...


@dataclass
class Dataset:
    """Subjects in order. `values` are the labels of the classes in the files, None to take what the files hold."""

    name: str
    subjects: Sequence[Subject]
    classes: tuple[str, ...] | None = None
    values: tuple[int, ...] | None = None
    problems: list[str] = field(default_factory=list)  # of subjects left out


def icbm152(where: str) -> Dataset:
    if where not in ("", "tissue", "wm"):
        raise DataError(f"--data icbm152:{where}: expected icbm152, icbm152:tissue or icbm152:wm")
    try:
        icbm152_files()
    except FileNotFoundError as error:
        raise DataError(str(error)) from None
    classes = ("rest", "WM") if where == "wm" else CLASSES
    return Dataset("ICBM152", [Icbm152(where or "tissue")], classes, tuple(range(len(classes))))


def existing(kind: str, where: str) -> Path:
    """The folder after the colon."""
    path = Path(where).expanduser()
    if not where or not path.is_dir():
        raise DataError(f"--data {kind}:{where}: expected {kind}:PATH with the path of a folder")
    return path


def files_in(folder: Path, pattern: str) -> list[Path]:
    """NIfTI files of the pattern (without its suffix), sorted; not the `._x` that macOS leaves in archives."""
    found = {path for suffix in SUFFIXES for path in folder.glob(pattern + suffix)}
    return sorted(path for path in found if not path.name.startswith("."))


def stem(path: Path) -> str:
    """The name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def nfbs(where: str) -> Dataset:
    """NFBS: `A000*/sub-<id>_ses-NFB3_T1w.nii.gz` and `..._T1w_brainmask.nii.gz`."""
    root = existing("nfbs", where)
    images = {(p.parent, stem(p)): p for p in files_in(root, "*/sub-*_T1w")}
    masks = {(p.parent, stem(p).removesuffix("_brainmask")): p for p in files_in(root, "*/sub-*_T1w_brainmask")}
    subjects = [
        FilePair(f"{folder.name}/{name}", images[folder, name], masks[folder, name], "mask")
        for folder, name in sorted(images.keys() & masks.keys())
    ]
    lacking = [f"{images[key]} has no {key[1]}_brainmask.nii.gz beside it" for key in images.keys() - masks.keys()]
    lacking += [f"{masks[key]} has no {key[1]}.nii.gz beside it" for key in masks.keys() - images.keys()]
    return Dataset("NFBS", subjects, ("background", "brain"), (0, 1), sorted(lacking))


def msd(where: str) -> Dataset:
    """Medical Segmentation Decathlon: `dataset.json`, `imagesTr`, `labelsTr`."""
    path = Path(where).expanduser()
    root = existing("msd", str(path.parent if path.name == "dataset.json" else path))
    file = root / "dataset.json"
    try:
        about = json.loads(file.read_text())
        named = {int(k): v for k, v in about["labels"].items()} if "0" in about["labels"] else None
        named = named or {int(v): k for k, v in about["labels"].items()}
        listed = [(root / entry["image"], root / entry["label"]) for entry in about.get("training", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: expected `labels` and `training` of the Decathlon ({error!r})") from error
    if not listed:
        listed = [(root / "imagesTr" / label.name, label) for label in files_in(root, "labelsTr/*")]
    pairs = [FilePair(stem(image), image, label, "labels") for image, label in listed]
    lacking = [f"{p}, named by {file}, is missing" for pair in listed for p in pair if not p.is_file()]
    subjects = [pair for pair in pairs if pair.image.is_file() and pair.label.is_file()]
    values = tuple(sorted(named))
    return Dataset(str(about.get("name", root.name)), subjects, tuple(named[v] for v in values), values, lacking)


def entities(path: Path) -> dict[str, str]:
    """`sub-01_ses-2_T1w` as `{"sub": "01", "ses": "2"}`."""
    return dict(part.split("-", 1) for part in stem(path).split("_") if "-" in part)


def bids(where: str) -> Dataset:
    """BIDS: each T1w with the one `_dseg`, or else `_mask`, below `derivatives` that has its entities."""
    root = existing("bids", where)
    images = sorted({p for part in ("sub-*/anat", "sub-*/ses-*/anat") for p in files_in(root, f"{part}/*_T1w")})
    derived = [p for p in files_in(root, "derivatives/**/*") if entities(p).get("space", "T1w") in ("T1w", "orig")]
    segmented = [p for p in derived if stem(p).endswith("_dseg")]
    kind, candidates = ("labels", segmented) if segmented else ("mask", [p for p in derived if stem(p)[-5:] == "_mask"])
    subjects, problems = [], []
    for image in images:
        own = entities(image).items()
        found = [path for path in candidates if own <= entities(path).items()]
        brain = [path for path in found if entities(path).get("desc") == "brain"]
        found = brain if kind == "mask" and len(brain) == 1 else found
        if len(found) == 1:
            subjects.append(FilePair(stem(image), image, found[0], kind))
        else:
            names = ", ".join(map(str, found)) or "none"
            problems.append(f"{image}: expected one {'_dseg' if segmented else '_mask'} in derivatives, found {names}")
    masks = kind == "mask"
    return Dataset(root.name, subjects, ("background", "mask") if masks else None, (0, 1) if masks else None, problems)


def wild(pattern: str) -> dict[tuple[str, ...], Path]:
    """The files of a glob by what its wildcards stand for."""
    pattern = str(Path(pattern).expanduser())
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern)
    form = {"**/": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    expression = "".join(
        form.get(part, f"({part})" if part.startswith("[") else re.escape(part)) for part in parts if part
    )
    found = {}
    for name in sorted(glob.glob(pattern, recursive=True)):
        if match := re.fullmatch(expression, name):
            found[match.groups()] = Path(name)
    return found


def pairs(where: str) -> Dataset:
    """Two globs; what the wildcards stand for must be the same in an image and its labels."""
    patterns = where.split(",")
    if len(patterns) != 2 or not all(patterns):
        raise DataError(f"--data pairs:{where}: expected pairs:IMAGES,LABELS, two globs (in quotes)")
    images, labels = (wild(pattern) for pattern in patterns)
    for pattern, found in zip(patterns, (images, labels), strict=True):
        if not found:
            raise DataError(f"--data pairs:{where}: no file matches {pattern}")
    subjects = [
        FilePair("-".join(key) or stem(images[key]), images[key], labels[key])
        for key in sorted(images.keys() & labels.keys())
    ]
    lacking = [f"{images[key]} has no labels {patterns[1]}" for key in sorted(images.keys() - labels.keys())]
    lacking += [f"{labels[key]} has no image {patterns[0]}" for key in sorted(labels.keys() - images.keys())]
    return Dataset("pairs", subjects, problems=lacking)


KINDS: dict[str, Callable[[str], Dataset]] = {
    "icbm152": icbm152,
    "nfbs": nfbs,
    "msd": msd,
    "bids": bids,
    "pairs": pairs,
}


def open_dataset(spec: str, cache: Path, skip_bad: bool = False) -> Dataset:
    """The data set of a kind: icbm152[:wm], nfbs:PATH, msd:PATH, bids:PATH, pairs:IMAGES,LABELS, synthetic[:N[,SIZE]].

    Subjects that lack a file raise, or are left out with `skip_bad`. What has to be made is made below `cache`.
    """
    from bench.training.datasets.phantoms import synthetic

    kind, _, where = spec.partition(":")
    if kind == "synthetic":
        found = nfbs(str(synthetic(where, cache)))
        found.name = "synthetic heads"
    elif kind in KINDS:
        found = KINDS[kind](where)
    else:
        raise DataError(f"--data {spec}: unknown kind {kind!r}, expected {', '.join(KINDS)} or synthetic")
    if found.problems and not skip_bad:
        raise DataError(listing(found.problems))
    if not found.subjects:
        raise DataError(f"--data {spec}: no subject found\n{listing(found.problems)}".rstrip())
    return found


def listing(problems: Sequence[str]) -> str:
    """The first few problems, and how to go on without these subjects."""
    rest = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    return "\n".join([*problems[:5], *rest, "--skip-bad leaves such subjects out"]) if problems else ""
