"""Where each kind of data set has its files: `kind` or `kind:WHERE` to subjects, without reading a volume."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.training.datasets.globs import groups, two_globs, wild
from bench.training.datasets.icbm152 import CLASSES, Icbm152, icbm152_files
from bench.training.datasets.reading import FilePair, Volume
from fastloss.metrics.nifti import SUFFIXES, DataError, printable

# BIDS' entities that tell scans apart: a derivative has those of its scan, and no other
OF_SCANS = {"ses", "task", "acq", "ce", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "chunk"}


class Subject(Protocol):
    """What can be read as one volume."""

    subject: str
    group: str  # the same for all volumes of one person, which stay on one side of a split

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


def below(folder: Path) -> Iterator[Path]:
    """All files in the folder and in those that it holds or links to, each real folder once."""
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        yield from () if real in seen else (Path(where, name) for name in sorted(names))
        seen.add(real)


def stem(path: Path) -> str:
    """The name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def nfbs(where: str) -> Dataset:
    """NFBS: `A000*/sub-<id>_ses-NFB3_T1w.nii.gz` and `..._T1w_brainmask.nii.gz`."""
    root = existing("nfbs", where)
    images = {(p.parent, stem(p)): p for p in files_in(root, "*/sub-*_T1w")}
    masks = {(p.parent, stem(p).removesuffix("_brainmask")): p for p in files_in(root, "*/sub-*_T1w_brainmask")}
    subjects = [
        FilePair(f"{folder.name}/{name}", name, (images[folder, name],), masks[folder, name], "mask")
        for folder, name in sorted(images.keys() & masks.keys())
    ]
    lacking = [f"{images[key]} has no {key[1]}_brainmask.nii.gz beside it" for key in images.keys() - masks.keys()]
    lacking += [f"{masks[key]} has no {key[1]}.nii.gz beside it" for key in masks.keys() - images.keys()]
    return Dataset("NFBS", subjects, ("background", "brain"), (0, 1), sorted(lacking))


@dataclass(frozen=True)
class Described:
    """What a `dataset.json` says: its folder, and the names of the labels by their values."""

    root: Path
    file: Path
    name: str
    named: dict[int, str]
    about: dict

    @classmethod
    def read(cls, kind: str, where: str) -> "Described":
        """Of a folder, or the file itself. Labels by names, as in nnU-Net, or names by labels, as in the Decathlon."""
        path = Path(where).expanduser()
        root = existing(kind, str(path.parent if path.name == "dataset.json" else path))
        file = root / "dataset.json"
        try:
            about = json.loads(file.read_text())
            given = about["labels"]
            both = [(k, v) if "0" in given else (v, k) for k, v in given.items()]
            named = {int(str(value)): name for value, name in both}
            name = about.get("name", root.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{file}: expected `labels`, a whole number for each class (regions are not read): {error!r}"
            ) from error
        for text in (name, *named.values()):
            if not isinstance(text, str) or not text.isprintable():
                raise DataError(f"{file}: {text!r} is no name of a data set or class")
        if 0 not in named or len(named) < len(given):
            raise DataError(f"{file}: labels {given}, expected a background, 0, and a value of its own for each")
        return cls(root, file, name, named, about)

    def inside(self, text: str) -> Path:
        """A path of the file, which must not lead out of its folder."""
        path = Path(text)
        if path.is_absolute() or path.drive or ".." in path.parts:
            raise DataError(f"{self.file}: {text!r} leads out of the folder, expected a path below it")
        return self.root / path

    def dataset(self, pairs: Sequence[FilePair], problems: Sequence[str] = ()) -> Dataset:
        """Those of the pairs that have all of their files."""
        # of a name that no system takes, Path.is_file raises
        lacking = {pair: [p for p in (*pair.images, pair.label) if not os.path.isfile(p)] for pair in pairs}
        missing = [f"{path}, named by {self.file}, is missing" for paths in lacking.values() for path in paths]
        subjects = [pair for pair, paths in lacking.items() if not paths]
        values = tuple(sorted(self.named))
        return Dataset(self.name, subjects, tuple(self.named[v] for v in values), values, [*problems, *missing])


def msd(where: str) -> Dataset:
    """Medical Segmentation Decathlon: `dataset.json`, `imagesTr`, `labelsTr`."""
    own = Described.read("msd", where)
    try:
        listed = [(own.inside(e["image"]), own.inside(e["label"])) for e in own.about.get("training", [])]
    except (KeyError, TypeError) as error:
        raise DataError(f"{own.file}: expected `image` and `label` of each in `training` ({error!r})") from error
    if not listed:
        listed = [(own.root / "imagesTr" / label.name, label) for label in files_in(own.root, "labelsTr/*")]
    if files_in(own.root, "imagesTr/*_0000") and not any(image.is_file() for image, _ in listed):
        raise DataError(f"{own.root}: imagesTr has a file for each channel, as nnU-Net's; expected nnunet:{own.root}")
    return own.dataset([FilePair(stem(image), stem(image), (image,), label, "labels") for image, label in listed])


def nnunet(where: str) -> Dataset:
    """nnU-Net: `dataset.json`, `imagesTr/CASE_0000.nii.gz` and so on, one a channel, and `labelsTr/CASE.nii.gz`."""
    own = Described.read("nnunet", where)
    ignored = next((value for value, name in own.named.items() if name == "ignore"), None)
    own.named.pop(ignored, None)
    try:
        channels = len(own.about["channel_names" if "channel_names" in own.about else "modality"])
        ending = own.about.get("file_ending", SUFFIXES[0])
        if ending not in SUFFIXES:
            raise DataError(f"{own.file}: file_ending {ending!r}, expected one of {', '.join(SUFFIXES)}")
        cases = {
            case: (tuple(map(own.inside, files["images"])), own.inside(files["label"]))
            for case, files in own.about.get("dataset", {}).items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        expected = "expected `channel_names`, and `images` and `label` of each case in `dataset`"
        raise DataError(f"{own.file}: {expected} ({error!r})") from error
    for label in [] if cases else sorted(own.root.glob(f"labelsTr/[!.]*{ending}")):
        names = [f"{stem(label)}_{channel:04d}{ending}" for channel in range(channels)]
        cases[stem(label)] = tuple(own.root / "imagesTr" / name for name in names), label
    known = {path for images, _ in cases.values() for path in images}
    extra = [path for path in own.root.glob(f"imagesTr/[!.]*{ending}") if path not in known]
    problems = [f"{path}: of no case with labels and {channels} channels" for path in sorted(extra)]
    pairs = [FilePair(case, case, images, label, "labels", ignored) for case, (images, label) in cases.items()]
    return own.dataset(pairs, problems)


def entities(path: Path) -> dict[str, str]:
    """`sub-01_ses-2_T1w` as `{"sub": "01", "ses": "2"}`."""
    return dict(part.split("-", 1) for part in stem(path).split("_") if "-" in part)


def bids(where: str) -> Dataset:
    """BIDS: each T1w with the one `_dseg`, or else `_mask`, below `derivatives` that has its entities."""
    root = existing("bids", where)
    images = sorted({p for part in ("sub-*/anat", "sub-*/ses-*/anat") for p in files_in(root, f"{part}/*_T1w")})
    derived = [p for p in below(root / "derivatives") if p.name.endswith(SUFFIXES) and not p.name.startswith(".")]
    derived = [p for p in derived if entities(p).get("space", "T1w") in ("T1w", "orig")]
    segmented = [p for p in derived if stem(p).endswith("_dseg")]
    kind, candidates = ("labels", segmented) if segmented else ("mask", [p for p in derived if stem(p)[-5:] == "_mask"])
    subjects, problems = [], []
    for image in images:
        own = entities(image).items()
        found = [path for path in candidates if own <= entities(path).items()]
        found = [path for path in found if not OF_SCANS & (entities(path).keys() - dict(own))]
        brain = [path for path in found if entities(path).get("desc") == "brain"]
        found = brain if kind == "mask" and len(brain) == 1 else found
        if len(found) == 1:
            subjects.append(FilePair(stem(image), image.relative_to(root).parts[0], (image,), found[0], kind))
        else:
            names = ", ".join(map(str, found)) or "none"
            problems.append(f"{image}: expected one {'_dseg' if segmented else '_mask'} in derivatives, found {names}")
    masks = kind == "mask"
    return Dataset(root.name, subjects, ("background", "mask") if masks else None, (0, 1) if masks else None, problems)


def pairs(where: str) -> Dataset:
    """Two globs; what the wildcards stand for must be the same in an image and its labels."""
    patterns = two_globs(where)
    images, labels = (wild(pattern) for pattern in patterns)
    for pattern, found in zip(patterns, (images, labels), strict=True):
        if not found:
            raise DataError(f"--data pairs:{where}: no file matches {pattern}")
    keys = sorted(images.keys() & labels.keys())
    subjects = [
        FilePair("/".join(key) or stem(images[key]), group, (images[key],), labels[key])
        for key, group in zip(keys, groups(keys), strict=True)
    ]
    lacking = [f"{images[key]} has no labels {patterns[1]}" for key in sorted(images.keys() - labels.keys())]
    lacking += [f"{labels[key]} has no image {patterns[0]}" for key in sorted(labels.keys() - images.keys())]
    return Dataset("pairs", subjects, problems=lacking)


KINDS: dict[str, Callable[[str], Dataset]] = {
    "icbm152": icbm152,
    "nfbs": nfbs,
    "msd": msd,
    "nnunet": nnunet,
    "bids": bids,
    "pairs": pairs,
}


def open_dataset(spec: str, cache: Path, skip_bad: bool = False) -> Dataset:
    """The data set of a kind: icbm152[:wm], nfbs:PATH, msd:PATH, nnunet:PATH, bids:PATH, pairs:IMAGES,LABELS, or
    synthetic[:N[,SIZE]].

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
    found.problems = list(map(printable, found.problems))
    if found.problems and not skip_bad:
        raise DataError(listing(found.problems))
    if not found.subjects:
        raise DataError(f"--data {spec}: no subject found\n{listing(found.problems)}".rstrip())
    return found


def listing(problems: Sequence[str]) -> str:
    """The first few problems, and how to go on without these subjects."""
    rest = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    return "\n".join([*problems[:5], *rest, "--skip-bad leaves such subjects out"]) if problems else ""
