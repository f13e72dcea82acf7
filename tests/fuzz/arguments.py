"""Arbitrary Python objects as arguments of every public call: nothing but a ValueError or a TypeError comes out, and it
names an argument."""

import importlib.util
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal  # noqa: F401  # arguments are Python, and evaluated here
from fractions import Fraction  # noqa: F401
from pathlib import Path  # noqa: F401
from typing import Any

import numpy as np  # noqa: F401
import torch
from hypothesis import strategies as st
from rows import needed, options_of

import fastloss
from fastloss import distance, metrics, precompute

from .run import Kind

__all__ = ["KINDS", "Case", "check"]


class Unasked:
    """What must be asked nothing but its type."""

    def _asked(self, *_):
        raise RuntimeError("this object has no truth, no hash and no order")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = _asked


LEAVES = """
None | True | False | 0 | 1 | 2 | -1 | 255 | 0.0 | -0.0 | 0.5 | 1.5 | -1e-30 | 5e-324 | 1e308 | float('nan') |
float('inf') | 1j | '' | 'softmax' | 'sigmoid' | 'mean' | 'none' | 'sum' | 'focal' | 'ratio' | 'square' | 'numba' |
'1' | '\\0' | '\\ud800' | b'ab' | object() | len | int | float | Ellipsis | NotImplemented | slice(None) | range(3) |
[] | () | {} | set() | frozenset({1}) | iter([1, 2]) | (x for x in (1, 'a')) | bytearray(3) | memoryview(b'abc') |
Unasked() | Fraction(1, 3) | Decimal('0.5') | Decimal('sNaN') | Path('x') | type('Float', (float,), {})(0.5) |
type('Text', (str,), {})('mean') | np.float32(0.5) | np.float64(2) | np.float16('nan') | np.int64(1) | np.uint8(255) |
np.bool_(True) | np.str_('mean') | np.array(0.5) | np.array(1) | np.array([]) | np.array([1.0, 2.0, 3.0]) |
np.array(['a']) | np.array([None, 1], dtype=object) | np.array([[1, 2]]) | np.datetime64('2020') |
np.ones((4, 5), bool) | np.zeros((4, 5), np.uint8) | np.zeros((1, 4, 5), '>i4') | np.ones((0, 3), bool) |
np.ma.masked_array([1, 2], [True, False]) | np.zeros(3, [('a', 'i4')]) | np.dtype('float64') | torch.tensor(0.5) |
torch.tensor(1) | torch.tensor([]) | torch.tensor([1.0, 2.0, 3.0]) | torch.tensor([1, 2, 3]) |
torch.tensor([True, False, True]) | torch.tensor([1.0, float('nan'), 1.0]) | torch.ones(3, dtype=torch.bfloat16) |
torch.tensor([1j]) | torch.nn.Parameter(torch.ones(3)) | torch.ones(1, 3, 4, 5) |
torch.ones(1, 3, 4, 5, requires_grad=True) | torch.ones(1, 3, 4, 5).int() |
torch.ones(1, 3, 4, 5, dtype=torch.float16) | torch.ones(1, 3, 4, 5, dtype=torch.float64) |
torch.ones(1, 3, 4, 5, dtype=torch.complex64) | torch.ones(1, 3, 4, 5).to_sparse() |
torch.ones(1, 3, 4, 5, device='meta') | torch.ones(1, 3, 4, 5) > 0 | torch.ones(1, 1, 4, 5) | torch.ones(1, 2, 4, 5) |
torch.ones(3, 4, 5) | torch.ones(1, 3, 0, 5) | torch.ones(0, 3, 4, 5) | torch.ones(1, 0, 4, 5) | torch.ones(1, 3) |
torch.ones(1, 3, 2, 2, 2, 2) | torch.full((1, 3, 4, 5), float('nan')) | torch.zeros(1, 4, 5, dtype=torch.int64) |
torch.zeros(1, 4, 5, dtype=torch.uint8) | torch.ones(1, 4, 5) | torch.ones(1, 1, 4, 5, dtype=torch.int8) |
torch.full((1, 4, 5), 9) | torch.full((1, 4, 5), -1) | torch.zeros(1, 4, 5, dtype=torch.uint16) |
torch.zeros(1, 4, 5, device='meta') | torch.zeros(1, 4, 5, dtype=torch.int64).to_sparse() |
torch.zeros(0, 4, 5, dtype=torch.uint8) | torch.zeros(4, 5, dtype=torch.uint8) |
torch.quantize_per_tensor(torch.ones(1, 3, 4, 5), 0.1, 0, torch.quint8) |
torch.ones(1, 3, 4, 5).to(torch.float8_e5m2) | torch.nested.nested_tensor([torch.ones(3, 4)]) |
torch.ones(1, 3, 4, 5).to_mkldnn() | torch.ones(5, 4).T | torch.float64 | torch.int8 | torch.device('cpu') |
torch.strided | fastloss.DiceLoss | fastloss.DiceLoss() | fastloss.BoundaryLoss() | fastloss.TopKLoss() |
torch.nn.Identity() | torch.nn.ModuleList([fastloss.DiceLoss()]) | 'p' | 'py' | 'y*p^0.7' | 'map*p' | 'p^1e999' |
'y*' | 'focal_pos(2)' | 'p*l*' | {'label': torch.zeros(4, 5, dtype=torch.uint8)} | lambda *a, **k: None |
lambda *a, **k: torch.tensor(1.0)
"""
LEAVES = [leaf.strip() for leaf in LEAVES.replace("\n", " ").split(" | ")]
# Whole numbers that make no call long: of what counts steps, sizes or threads, large ones are what was asked for
LARGE = ("2**31", "2**32 - 1", "2**63 - 1", "2**63", "2**70", "-2**63", "-2**63 - 1", "10**400")
COUNTS = ("erosions", "iterations", "window", "radii", "classes", "channels", "threads", "size")


@dataclass(frozen=True)
class Case:
    door: str
    arguments: dict[str, str] = field(default_factory=dict)  # Python for each


@dataclass(frozen=True)
class Door:
    """A public call: what its arguments are by default, as Python, and the others that it has."""

    call: Callable[..., Any]
    good: dict[str, str]
    others: tuple[str, ...] = ()


Z, Y = "torch.randn(1, 3, 4, 5)", "torch.zeros(1, 4, 5, dtype=torch.uint8)"
MASK = "np.array([[0, 1, 1], [1, 1, 1]])"
_CALL = ("mask", "weight_map", "maps", "spacing_of_call")


def _loss(cls):
    """Makes the loss, calls it, and goes backward."""

    def call(logits, target, **arguments):
        of_call = _of_call(arguments)
        loss = cls(**{name: value for name, value in arguments.items() if name not in _CALL})
        repr(loss)
        if isinstance(logits, torch.Tensor) and logits.is_floating_point() and logits.is_leaf:
            logits = logits.detach().requires_grad_()
        value = loss(logits, target, **of_call)
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.sum().backward()

    return call


def _of_call(arguments):
    return {name.removesuffix("_of_call"): arguments[name] for name in _CALL if name in arguments}


def _of_parameters(function, **good):
    return Door(function, good, tuple(name for name in inspect.signature(function).parameters if name not in good))


def _surface(percentile=None, one_sided=False, tolerance_mm=1.0, **arguments):
    found = metrics.surface_distances(**arguments)
    return found.hausdorff(percentile, one_sided=one_sided), found.surface_dice(tolerance_mm), found.average()


def _maps(sample, **arguments):
    return precompute.LabelMaps(**arguments)(sample)


def _supervision(logits, target, loss, weights=None, sampling="nearest", **arguments):
    return fastloss.DeepSupervision(loss, weights, sampling=sampling)(logits, target, **arguments)


def _own(logits, target, terms, **options):
    class Own(fastloss.SumLoss):
        def formula(self, sums):
            return sum(sums.values())

    Own.terms = terms
    return Own(**options)(logits, target)


def _compound(logits, target, losses, weights=None, **arguments):
    return fastloss.CompoundLoss(losses, weights)(logits, target, **_of_call(arguments))


def _backend(backend):
    with fastloss.backend(backend):
        pass


def _label_map(target, loss=fastloss.BoundaryLoss, **arguments):
    return loss().label_map(target, **arguments)


def _accumulator(table, process_group=None):
    scores = metrics.Accumulator(process_group=process_group)
    scores.update(table=table)
    scores.compute()


def doors():
    found = {}
    for name in fastloss.__all__:
        if name.endswith("Loss") and name not in ("SegmentationLoss", "SumLoss", "CompoundLoss"):
            cls = getattr(fastloss, name)
            good = {"logits": Z, "target": Y} | {option: repr(value) for option, value in needed(cls).items()}
            others = (*_CALL, *(option for option in options_of(cls) if option not in good))
            found[name] = Door(_loss(cls), good, others)
    for name in ("edt", "edt_squared", "boundary_distance", "signed_edt"):
        found[name] = _of_parameters(getattr(distance, name), mask=MASK)
    found["label_edt"] = _of_parameters(distance.label_edt, labels=MASK)
    found["voxel_sums"] = _of_parameters(fastloss.voxel_sums, logits=Z, target=Y, terms="('p', 'y*l')")
    found["voxel_losses"] = _of_parameters(
        fastloss.voxel_losses, logits=Z, target=Y, terms="{'p': 1, 'y*l': [0.5] * 3}"
    )
    given = {"prediction": Z, "target": Y, "activation": "'softmax'"}
    found["confusion_counts"] = _of_parameters(metrics.confusion_counts, **given)
    of_surface = _of_parameters(metrics.surface_distances, **given)
    found["surface_distances"] = Door(_surface, given, (*of_surface.others, "percentile", "one_sided", "tolerance_mm"))
    labels = f"{{'label': {Y}[0]}}"
    others = ("label", "maps", "cache")
    found["LabelMaps"] = Door(_maps, {"sample": labels, "loss": "fastloss.BoundaryLoss()", "channels": "3"}, others)
    levels = {"logits": f"[{Z}, {Z}[..., ::2, ::5]]", "target": Y, "loss": "fastloss.DiceLoss()"}
    found["DeepSupervision"] = Door(_supervision, levels, ("weights", "sampling", "mask", "weight_map"))
    compound = {"logits": Z, "target": Y, "losses": "[fastloss.DiceLoss(), fastloss.CrossEntropyLoss()]"}
    found["CompoundLoss"] = Door(_compound, compound, ("weights", *_CALL))
    found["SumLoss"] = Door(
        _own, {"logits": Z, "target": Y, "terms": "('p', 'y')"}, _of_parameters(fastloss.SegmentationLoss).others
    )
    found["backend"] = Door(_backend, {"backend": "'numba'"})
    found["parse_term"] = Door(lambda terms: fastloss.terms.parse_term(terms), {"terms": "'p'"})
    found["confusion_matrix"] = _of_parameters(metrics.confusion_matrix, **given)
    found["Accumulator"] = Door(_accumulator, {"table": "torch.ones(1, 3)"}, ("process_group",))
    found["label_map"] = Door(_label_map, {"target": Y, "channels": "3"}, ("dtype", "spacing"))
    small = {"losses": "fastloss.DiceLoss()", "classes": "2", "size": "(2, 3)"}
    found["warmup"] = Door(fastloss.warmup, small, ("dtypes", "label_dtype", "device"))
    return found


DOORS = doors()


def _objects(large):
    leaf = st.one_of(
        st.sampled_from(LEAVES),
        st.sampled_from([leaf for leaf in LEAVES if "ones" in leaf or "zeros" in leaf]),
        st.integers(-3, 300).map(repr),
        st.floats(width=32).map(lambda x: f"float('{x!r}')"),
        st.text(max_size=6).map(repr),
        *([st.sampled_from(LARGE)] if large else []),
    )
    several = st.lists(st.one_of(leaf, st.sampled_from(["0.5", "1.0", "2", "1"])), max_size=4)
    return st.one_of(
        leaf,
        leaf,
        several.map(lambda parts: f"[{', '.join(parts)}]"),
        several.map(lambda parts: f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"),
        st.tuples(leaf, leaf).map(lambda pair: f"{{{pair[0]!r}: {pair[1]}}}"),
    )


ANY, SMALL = _objects(True), _objects(False)


@st.composite
def draw(draw):
    door = draw(st.sampled_from(list(DOORS)))
    names = (*DOORS[door].good, *DOORS[door].others)
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return Case(door, {name: draw(SMALL if name in COUNTS else ANY) for name in chosen})


def names_of(door):
    """What an error of a door should have one of."""
    names = ["logits", *(name.removesuffix("_of_call") for name in (*door.good, *door.others))]
    return re.compile(rf"\b({'|'.join(names)})\b")


NAMES = {name: names_of(door) for name, door in DOORS.items()}


def check(case):
    door = DOORS[case.door]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = {name: eval(code) for name, code in (door.good | case.arguments).items()}
        # the checks are those of every back end; this one compiles nothing for each power that comes
        with fastloss.backend("reference"):
            try:
                door.call(**arguments)
            except (ValueError, TypeError) as error:
                assert NAMES[case.door].search(str(error)), f"names no argument: {error!r}"


KINDS = [Kind("arguments", lambda random: draw(), check, share=2, per_round=5000, limit_s=120)]
if importlib.util.find_spec("atheris"):
    KINDS.append(Kind("arguments by coverage", lambda random: draw(), check, share=2, limit_s=120, guided=True))
