"""Every back end against the oracle: the same cases for the reference, Numba and the Triton interpreter."""

import oracle
import pytest
import torch

import fastloss
from fastloss.terms import NAMES as OF_TERMS
from fastloss.terms import is_constant

NAMES = (*OF_TERMS, *oracle.POWER_TERMS)
TERMS = (*NAMES, *(f"map*{name}" for name in NAMES))
# Rounding of a gradient that is stored in 8, 11 or 24 bits
GRADIENT_TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def check(logits, target, y, weight, *, activation="softmax", terms=TERMS, weight_map=None, tolerance=None, **options):
    """Sums and gradient of a random combination of them, against the oracle."""
    coefficients = torch.randn(logits.shape[0], logits.shape[1], len(terms), dtype=torch.float64)
    exact = logits.dtype == torch.float64

    def ours(z):
        sums = fastloss.voxel_sums(z, target, terms, activation=activation, weight_map=weight_map, **options)
        assert sums.dtype == torch.float64
        oracle.assert_close(sums.detach(), expected_sums, 1e-12 if exact else 2e-6)
        return (sums * coefficients).sum()

    def expected(z):
        return (oracle.sums(z, y, weight, terms, activation, weight_map) * coefficients).sum()

    clean = torch.where(weight.unsqueeze(1) != 0, logits, 0.5)
    expected_sums = oracle.sums(clean, y, weight, terms, activation, weight_map)
    before = logits.clone()
    gradient = oracle.gradient(ours, logits)[1]
    assert gradient.dtype == logits.dtype and gradient.shape == logits.shape
    assert torch.equal(torch.nan_to_num(logits), torch.nan_to_num(before))
    tolerance = tolerance or GRADIENT_TOLERANCE[logits.dtype]
    oracle.assert_close(gradient, oracle.gradient(expected, clean.double())[1], tolerance)
    assert not gradient[(weight == 0).unsqueeze(1).expand_as(gradient)].any()


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("space", [(37,), (9, 11), (5, 6, 7)], ids="123")
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_all_terms_with_labels(each_backend, activation, channels, space):
    if channels == 1 and activation == "softmax":
        pytest.skip("a softmax needs two channels")
    logits, labels = oracle.make(activation, channels, space)
    weight_map = torch.rand(2, 1 if channels == 2 else channels, *space)
    y = oracle.one_hot(labels, channels)
    check(logits, labels, y, oracle.counted(labels), activation=activation, weight_map=weight_map)


@pytest.mark.parametrize("dense", [False, True], ids=["labels", "dense"])
@pytest.mark.parametrize(("activation", "channels"), [("softmax", 3), ("softmax", 19), ("sigmoid", 2), (None, 3)])
def test_what_does_not_count_is_0_whatever_its_map_and_coefficients(each_backend, activation, channels, dense):
    logits, target = oracle.make(activation, channels, (37,))
    target = torch.rand(logits.shape) if dense else target
    mask = torch.rand(2, 37) > 0.5
    mask[1] = False  # of which a formula may make 0 / 0
    terms = ("p", "py", "map*y", "ce_pos", "map*ce_neg", "p*l")
    weight_map = torch.where(mask, torch.rand(2, 37), torch.nan).unsqueeze(1)
    options = {"activation": activation, "mask": mask, "weight_map": weight_map, "validate": False}
    leaf, coefficients = logits.requires_grad_(), torch.randn(2, channels, len(terms), dtype=torch.float64)
    coefficients[1] = torch.nan
    sums = fastloss.voxel_sums(leaf, target, terms, **options)
    (gradient,) = torch.autograd.grad(sums, leaf, coefficients)
    losses = [
        fastloss.voxel_losses(
            leaf, target, dict(zip(terms, coefficients.unbind(-1), strict=True)), per_class=each, **options
        )
        for each in (False, True)
    ]
    assert sums.isfinite().all() and not sums[1].any()
    for found in (gradient, losses[0].unsqueeze(1), losses[1]):
        assert found.isfinite().all() and found[0].any()
        assert not found[~mask.unsqueeze(1).expand_as(found)].any()


def test_nan_is_not_hidden(each_backend):
    """Not even where a logarithm is that of at least epsilon, or itself at least that."""
    of_truth, of_others = ("p", "ce_pos", "log_power_pos(0.3)", "e"), ("p", "ce_neg", "log_power_neg(0.7)", "q^2")
    for activation in ("softmax", "sigmoid", None):
        logits, labels = oracle.make(activation, 2, (9,))
        logits[1, :, 4], labels[:] = torch.nan, 0
        for c, names in enumerate((of_truth, of_others)):
            sums = fastloss.voxel_sums(logits, labels, names, activation=activation)[:, c]
            assert sums[0].isfinite().all() and sums[1].isnan().all()


@pytest.mark.by_turns(5)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_dtypes_with_ignored_and_masked_voxels(each_backend, activation, dtype):
    logits, labels = oracle.make(activation, 3, (6, 7, 8), dtype=dtype, scale=1.5)
    labels[:, 2] = 255
    mask = torch.rand(2, 6, 7, 8) * (torch.rand(2, 6, 7, 8) > 0.3)
    weight = oracle.counted(labels, (1, 255), mask)
    logits = torch.where(weight.unsqueeze(1) != 0, logits, torch.nan)
    check(
        logits,
        labels,
        oracle.one_hot(labels, 3),
        weight,
        activation=activation,
        weight_map=torch.rand(2, 1, 6, 7, 8),
        mask=mask,
        ignore_index=(1, 255),
    )


@pytest.mark.parametrize("kind", ["soft", "bool", "one-hot"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_dense_targets(each_backend, activation, kind):
    logits, labels = oracle.make(activation, 3, (6, 7))
    target = {
        "soft": torch.rand(2, 3, 6, 7),
        "bool": torch.rand(2, 3, 6, 7) > 0.5,
        "one-hot": oracle.one_hot(labels, 3).to(torch.int16),
    }[kind]
    mask = torch.rand(2, 1, 6, 7) > 0.2
    check(
        logits,
        target,
        target,
        mask[:, 0],
        activation=activation,
        weight_map=torch.rand(2, 3, 6, 7),
        mask=mask,
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_label_dtypes_and_strides(each_backend, dtype):
    logits = torch.randn(2, 2, 5, 6)
    labels = torch.randint(0, 2, (6, 2, 10), dtype=torch.uint8).to(dtype).permute(1, 2, 0)[:, ::2]
    assert not labels.is_contiguous()
    y = oracle.one_hot(labels.to(torch.uint8), 2)
    check(logits, labels, y, oracle.counted(labels), terms=("p", "py", "y", "ce_pos"))
    check(logits, labels.unsqueeze(1), y, oracle.counted(labels), terms=("p", "py", "y", "ce_pos"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_ignored_labels_at_the_ends_of_a_dtype_and_beyond(each_backend, dtype):
    """What lies beyond would wrap to the other end."""
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    logits, labels = torch.zeros(1, 2, 3), torch.tensor([[least, 1, most]], dtype=dtype)
    for ignored, counted in ((least, 2), (most, 2), (least - 1, 3), (most + 1, 3)):
        sums = fastloss.voxel_sums(logits, labels, ("count",), ignore_index=ignored, validate=False)
        assert sums.flatten().tolist() == [counted, counted]


LAYOUTS = {
    "channels_last": lambda z: z.to(memory_format=torch.channels_last_3d),
    "cropped": lambda z: torch.cat([z, z], 4)[..., 2:8],
    "sliced": lambda z: torch.cat([z, z], 4)[..., ::2],
    "permuted": lambda z: z.permute(0, 1, 4, 2, 3),
    "channel_slice": lambda z: torch.cat([z, z], 1)[:, :3],
    "expanded": lambda z: z[:1, :, :1].expand(2, -1, 4, -1, -1),
    "transposed": lambda z: z.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_equal_contiguous(each_backend, layout):
    logits = LAYOUTS[layout](torch.randn(2, 3, 4, 5, 6))
    labels = torch.randint(0, 3, (2, *logits.shape[2:]))
    terms = ("p", "py", "y", "ce_pos")
    y = oracle.one_hot(labels, 3)
    check(logits, labels, y, oracle.counted(labels), terms=terms)
    strided = fastloss.voxel_sums(logits, labels, terms)
    contiguous = fastloss.voxel_sums(logits.contiguous(), labels, terms)
    tolerance = 1e-12 if each_backend == "reference" else 0  # torch sums in the order of the memory
    torch.testing.assert_close(strided, contiguous, rtol=tolerance, atol=0)


@pytest.mark.parametrize("channels", [16, 17, 64, 200])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_many_classes(each_backend, activation, channels):
    logits, labels = oracle.make(activation, channels, (5, 9), dtype=torch.float32)
    check(
        logits,
        labels,
        oracle.one_hot(labels, channels),
        oracle.counted(labels),
        activation=activation,
        terms=("p", "py", "y", "ce_pos", "ce_neg", "p2"),
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_chunk_and_tile_borders(activation):
    """Volumes around the Numba chunk of 16384 and tile of 256 voxels."""
    for size in (1, 255, 256, 257, 16383, 16384, 16385, 33000):
        logits, labels = oracle.make(activation, 2, (size,), batch=1)
        with fastloss.backend("numba"):
            check(
                logits,
                labels,
                oracle.one_hot(labels, 2),
                oracle.counted(labels),
                activation=activation,
                terms=("p", "py", "y", "count", "ce_pos", "ce_neg"),
            )


def test_each_term_alone(each_backend):
    """No term leans on another being asked for."""
    logits, labels = oracle.make("softmax", 3, (4, 5))
    y, weight, weight_map = oracle.one_hot(labels, 3), oracle.counted(labels), torch.rand(2, 3, 4, 5)
    for name in TERMS:
        of_term = weight_map if name.startswith("map*") else None
        if is_constant(name):
            sums = fastloss.voxel_sums(logits, labels, (name,), weight_map=of_term)
            oracle.assert_close(sums, oracle.sums(logits, y, weight, (name,), "softmax", of_term), 2e-6)
        else:
            check(logits, labels, y, weight, terms=(name,), weight_map=of_term)


def test_terms_of_the_target_alone_have_a_zero_gradient(each_backend):
    logits, labels = oracle.make("softmax", 3, (4, 5))
    gradient = oracle.gradient(lambda z: fastloss.voxel_sums(z, labels, ("y", "count")).sum(), logits)[1]
    assert gradient.shape == logits.shape and not gradient.any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_confident_wrong_predictions_keep_their_gradient(each_backend, activation):
    """1 - p must not be computed by a cancelling difference where p is close to 1."""
    logits = torch.zeros(1, 3, 40)
    logits[0, 0] = torch.linspace(0, 12, 40)
    labels = torch.ones(1, 40, dtype=torch.uint8)
    check(
        logits,
        labels,
        oracle.one_hot(labels, 3),
        oracle.counted(labels),
        activation=activation,
        terms=("ce_pos", "ce_neg"),
    )


@pytest.mark.parametrize("dense", [False, True])
def test_a_class_that_is_impossible_is_not_there(each_backend, dense):
    """Its logit is -inf: its -log p is infinite, where no voxel is of it."""
    logits, labels = oracle.make("softmax", 2, (4, 5))
    without = torch.cat([logits, torch.full((2, 1, 4, 5), -torch.inf)], 1)
    terms = ("p", "py", "ce_pos", "ce_neg", "focal_pos(2.0)", "miss_pos(1.0)")

    def sums_of(z):
        return fastloss.voxel_sums(z, oracle.one_hot(labels, z.shape[1]).float() if dense else labels, terms)

    expected, sums = map(sums_of, (logits, without))
    torch.testing.assert_close(sums[:, :2], expected, rtol=2e-6, atol=1e-6)
    assert sums[:, 2].abs().max() < 1e-30  # an exponential may be as small as a normal number can
    expected, gradient = (oracle.gradient(lambda z: sums_of(z)[:, :2].sum(), z)[1] for z in (logits, without))
    torch.testing.assert_close(gradient[:, :2], expected, rtol=1e-5, atol=1e-6)
    assert gradient[:, 2].abs().max() < 1e-30


def test_sums_add_over_parts():
    logits, labels = oracle.make("softmax", 3, (8, 9))
    whole = fastloss.voxel_sums(logits, labels, tuple(OF_TERMS))
    parts = [fastloss.voxel_sums(logits[:, :, s], labels[:, s], tuple(OF_TERMS)) for s in (slice(0, 5), slice(5, 8))]
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_gradcheck_in_float64(each_backend, activation):
    logits, labels = oracle.make(activation, 3, (2, 3), batch=1, dtype=torch.float64, scale=1.0)
    weight_map = torch.rand(1, 3, 2, 3, dtype=torch.float64)

    def function(z):
        return fastloss.voxel_sums(z, labels, TERMS, activation=activation, weight_map=weight_map)

    # the interpreter is slow: there a random direction instead of every derivative
    assert torch.autograd.gradcheck(function, logits.requires_grad_(), fast_mode=each_backend == "triton")
