"""Bad input to the distance transforms: the error names the argument, what came and what was expected."""

import math
import sys

import numpy as np
import pytest
import torch

from fastloss.distance import boundary_distance, edt, edt_squared, label_edt, signed_edt

ONES = np.ones((4, 5), bool)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"mask: expected 1 to 3 axes, got 0", (np.array(True),)),
        (
            ValueError,
            r"mask: .* axes, got 4 \(shape \(1, 1, 2, 2\)\); .* spatial_axes",
            (torch.ones(1, 1, 2, 2).bool(),),
        ),
        (TypeError, r"mask: expected bool or an integer dtype, got float32", (ONES.astype(np.float32),)),
        (TypeError, r"mask: .* got float64", (np.full((3, 3), np.nan),)),
        (TypeError, r"mask: .* got torch.bfloat16", (torch.ones(3, 3, dtype=torch.bfloat16),)),
        (TypeError, r"mask: .* got complex64", (ONES.astype(np.complex64),)),
        (TypeError, r"mask: .* got object", (ONES.astype(object),)),
        (TypeError, r"mask: expected a NumPy array or a torch tensor, got list", ([[1, 0]],)),
        (ValueError, r"mask: .* CPU tensor, got .* on meta", (torch.ones(3, 3, device="meta").bool(),)),
        (ValueError, r"mask: got torch.sparse_coo, expected a dense tensor", (torch.ones(3, 3).bool().to_sparse(),)),
        (ValueError, r"spacing: expected one number or 2, .* got \(1, 1, 1\)", (ONES, (1, 1, 1))),
        (ValueError, r"spacing: expected one number or 2, .* got \[1\]", (ONES, [1])),
        (ValueError, r"spacing: .* got \[\[1, 2\]\]", (ONES, [[1, 2]])),
        (ValueError, r"spacing: expected positive finite sizes in mm, got \(1, 0\)", (ONES, (1, 0))),
        (ValueError, r"spacing: .* got -1", (ONES, -1)),
        (ValueError, r"spacing: .* got \(1, nan\)", (ONES, (1, math.nan))),
        (ValueError, r"spacing: .* got inf", (ONES, math.inf)),
        (TypeError, r"spacing: expected numbers in mm, got 'wide'", (ONES, "wide")),
    ],
)
def test_errors_name_the_argument_and_what_came(error, message, arguments):
    for transform in (edt, edt_squared, signed_edt, boundary_distance):
        with pytest.raises(error, match=message):
            transform(*arguments)
    with pytest.raises(error, match=message.replace("mask", "labels")):
        label_edt(*arguments)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, r"spatial_axes: expected 1 to 3, got 0", {"spatial_axes": 0}),
        (ValueError, r"spatial_axes: expected 1 to 3, got 4", {"spatial_axes": 4}),
        (ValueError, r"mask: expected at least spatial_axes = 3 axes, got shape \(4, 5\)", {"spatial_axes": 3}),
        (TypeError, r"spatial_axes: expected an int or None, got 1.5", {"spatial_axes": 1.5}),
        (TypeError, r"spatial_axes: expected an int or None, got True", {"spatial_axes": True}),
        (
            ValueError,
            r"spacing: expected one number or 1, one per spatial axis",
            {"spatial_axes": 1, "spacing": (1, 2)},
        ),
        (TypeError, r"dtype: expected float32 or float64 .* got torch.float16", {"dtype": torch.float16}),
        (TypeError, r"dtype: expected .* got <class 'int'>", {"dtype": int}),
        (TypeError, r"dtype: expected .* got 'wide'", {"dtype": "wide"}),
    ],
)
def test_errors_of_options(error, message, options):
    for transform in (edt, signed_edt, boundary_distance):
        with pytest.raises(error, match=message):
            transform(ONES, **options)


@pytest.mark.parametrize("flag", ["return_indices", "black_border"])
@pytest.mark.parametrize("value", [torch.tensor([]), 1, None, "yes"])
def test_flags_are_true_or_false(flag, value):
    for transform in (edt, edt_squared):
        with pytest.raises(TypeError, match=f"{flag}: got .*, expected True or False"):
            transform(ONES, **{flag: value})
    assert edt(ONES, **{flag: np.bool_(False)}).shape == ONES.shape


@pytest.mark.parametrize(("error", "threads"), [(ValueError, 0), (ValueError, -2), (TypeError, 1.5)])
def test_bad_number_of_threads(error, threads):
    with pytest.raises(error, match="threads: expected"):
        edt(ONES, threads=threads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_tensor_is_refused():
    with pytest.raises(ValueError, match=r"CPU tensor, got torch\.strided on cuda:0"):
        edt(torch.ones(3, 3, device="cuda").bool())


def test_missing_extension_says_how_to_get_it(monkeypatch):
    import fastloss

    monkeypatch.delattr(fastloss, "_C", raising=False)
    monkeypatch.setitem(sys.modules, "fastloss._C", None)
    with pytest.raises(ImportError, match=r"pip install \."):
        edt(ONES)
