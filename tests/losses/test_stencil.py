"""The losses on stencils: against their plain versions, identities, inputs of every form, operators."""

import statistics

import oracle
import plain
import pytest
import torch
from rows import loss_class

import fastloss

SPACES = [(40,), (13, 11), (6, 7, 9), (1, 1, 5), (2, 1, 1)]
CASES = [
    ("hausdorff_erosion", {}),
    ("hausdorff_erosion", {"alpha": 0.0, "erosions": 3, "include_background": True}),
    ("hausdorff_erosion", {"alpha": 1.5, "batch": True, "class_weight": [0.5, 1.0, 2.0]}),
    ("structural_similarity", {}),
    ("structural_similarity", {"window": 5, "sigma": 0.8, "threshold": 0.3, "class_weight": [0.5, 1.0, 2.0]}),
    ("hausdorff_conv", {"radii": [1, 3, 5]}),
    ("hausdorff_conv", {"radii": [2], "alpha": 0.5, "batch": True, "include_background": True}),
    ("hausdorff_conv", {"radii": [3, 1, 2], "hard": True}),
    ("soft_cldice", {}),
    ("soft_cldice", {"iterations": 0, "smooth": 0.1, "batch": True, "include_background": True}),
    ("soft_dice_cldice", {"iterations": 2, "cldice_weight": 0.3, "class_weight": [0.5, 1.0, 2.0]}),
]
CONSTANTS = ("structural_similarity", "hausdorff_conv")  # have factors that are not differentiated
NAMES = list(dict.fromkeys(name for name, _ in CASES))
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
every_loss = pytest.mark.parametrize("name", NAMES)


def regions(shape, classes, corner=2):
    """Labels in large regions: a half of each volume, and a corner of it."""
    labels = torch.zeros(shape, dtype=torch.uint8)
    half = labels.shape[1] // 2
    labels[:, half:] = 1
    labels[(slice(None), *[slice(corner) for _ in shape[1:]])] = min(2, classes - 1)
    return labels


def problem(activation, channels, space, batch=2):
    """Logits that are often wrong over large regions, so that errors survive many erosions."""
    labels = regions((batch, *space), max(2, channels))
    wrong = (labels.long() + 1) % max(2, channels)
    logits = torch.randn(batch, channels, *space, dtype=torch.float64)
    first = 1 if channels == 1 else 0
    for c in range(channels):
        logits[:, c] += 5.0 * (wrong == c + first)
    if activation is None:
        logits = logits.sigmoid() if channels == 1 else logits.softmax(1)
    return logits, labels


def plain_loss(name, labels, activation, channels, weight=None, y=None, **options):
    y = oracle.one_hot(labels, channels) if y is None else y
    weight = oracle.counted(labels) if weight is None else weight
    return lambda z: plain.value(name, z, y, weight, activation, **options)


def agree(loss, expected, logits, target, tolerance=1e-10, **arguments):
    value, gradient = oracle.value_and_gradient(loss, logits, target, **arguments)
    reference, slope = oracle.gradient(expected, logits.double())
    assert value.item() == pytest.approx(reference.item(), rel=tolerance, abs=1e-13)
    oracle.assert_close(gradient, slope, tolerance)
    return value, gradient


@pytest.mark.by_turns(5)
@every_case
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(("activation", "channels"), [("softmax", 3), ("sigmoid", 3), (None, 3), (None, 1)])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_equals_the_plain_version(backend, name, options, space, activation, channels):
    if channels == 1 and "class_weight" in options:
        options = options | {"class_weight": [2.0]}
    logits, labels = problem(activation, channels, space)
    with fastloss.backend(backend):
        loss = loss_class(name)(activation=activation, **options)
        agree(loss, plain_loss(name, labels, activation, channels, **options), logits, labels)


@every_case
def test_ignored_and_masked_voxels_leave_everything(each_backend, name, options):
    logits, labels = problem("softmax", 3, (6, 7, 9))
    labels[:, 1:3, 2:4] = 255
    mask = torch.rand(labels.shape) * (torch.rand(labels.shape) < 0.9)
    weight = oracle.counted(labels, (255,), mask)
    loss = loss_class(name)(ignore_index=255, **options)
    expected = plain_loss(name, labels, "softmax", 3, weight, **options)
    tolerance = 2e-5 if each_backend == "triton" else 1e-9
    value, gradient = agree(loss, expected, logits, labels, tolerance, mask=mask)
    logits[(weight == 0).unsqueeze(1).expand_as(logits)] = torch.nan
    again, slope = oracle.value_and_gradient(loss, logits, labels, mask=mask)
    assert torch.equal(again, value) and torch.equal(slope, gradient)
    assert not slope[(weight == 0).unsqueeze(1).expand_as(slope)].any()


@every_case
@pytest.mark.parametrize("dense_dtype", [torch.float32, torch.bool])
def test_dense_targets(each_backend, name, options, dense_dtype):
    logits, labels = problem("sigmoid", 3, (6, 7, 9))
    soft = (torch.rand_like(logits) < 0.3) if dense_dtype == torch.bool else torch.rand_like(logits).to(dense_dtype)
    mask = torch.rand(labels.shape) < 0.9
    weight = oracle.counted(labels, (), mask)
    expected = plain_loss(name, labels, "sigmoid", 3, weight, soft.double(), **options)
    agree(loss_class(name)(activation="sigmoid", **options), expected, logits, soft, 1e-9, mask=mask)


@pytest.mark.by_turns(5)
@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_low_precision(backend, name, dtype):
    logits, labels = problem("softmax", 3, (12, 13, 14))
    logits = logits.to(dtype)
    options = {"radii": [2, 4]} if name == "hausdorff_conv" else {}  # large balls are slow as plain convolutions
    with fastloss.backend(backend):
        value, gradient = oracle.value_and_gradient(loss_class(name)(**options), logits, labels)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    expected, slope = oracle.gradient(plain_loss(name, labels, "softmax", 3, **options), logits.double())
    assert value.item() == pytest.approx(expected.item(), rel=2e-5)
    oracle.assert_close(gradient, slope, {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}[dtype])


@every_loss
@pytest.mark.parametrize("label_dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_layouts_and_label_dtypes(name, label_dtype):
    logits, labels = problem("softmax", 3, (6, 7, 9))
    loss = loss_class(name)()
    value, gradient = oracle.value_and_gradient(loss, logits, labels)
    wide = torch.empty(2, 3, 9, 7, 12, dtype=logits.dtype).transpose(2, 4)[:, :, ::2]
    wide.copy_(logits)
    strange = labels.to(label_dtype).transpose(1, 3).contiguous().transpose(1, 3).unsqueeze(1)
    for form in (logits.to(memory_format=torch.channels_last_3d), wide):
        again, slope = oracle.value_and_gradient(loss, form, strange)
        assert torch.equal(again, value) and torch.equal(slope, gradient)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CONSTANTS])
def test_gradcheck(name):
    logits, labels = problem("softmax", 3, (5, 6))
    labels[:, 0, :2] = 255
    loss = loss_class(name)(ignore_index=255)
    torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_(), atol=1e-7)


@every_loss
def test_nothing_to_count(each_backend, name):
    logits, labels = problem("softmax", 3, (4, 5))
    value, gradient = oracle.value_and_gradient(loss_class(name)(ignore_index=7), logits, torch.full_like(labels, 7))
    assert value == 0 and not gradient.any()
    value, gradient = oracle.value_and_gradient(loss_class(name)(), logits[:0], labels[:0])
    assert value == 0 and gradient.shape == (0, 3, 4, 5)


@every_loss
def test_not_a_number_is_not_hidden(each_backend, name):
    logits, labels = problem("softmax", 3, (6, 7, 9))
    logits[1, 1, 2, 3, 4] = torch.nan
    background = {} if name == "structural_similarity" else {"include_background": True}
    assert loss_class(name)(**background)(logits, labels).isnan()


def test_rounding_is_no_structure(each_backend):
    """Voxels without neighbours that count differ in nothing: they are not among those over which the mean is."""
    logits, labels = problem("softmax", 3, (9, 8))
    logits, mask = logits.float(), torch.ones(2, 9, 8, dtype=torch.bool)
    mask[1] = False
    mask[1, ::2, ::2] = True
    weight = oracle.counted(labels, (), mask)
    expected = plain_loss("structural_similarity", labels, "softmax", 3, weight)(logits.double())
    found = fastloss.StructuralSimilarityLoss()(logits, labels, mask=mask)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@every_loss
def test_samples_do_not_see_one_another(name):
    logits, labels = problem("softmax", 3, (6, 7, 9))
    table = loss_class(name)(reduction="none")(logits, labels)
    assert table.shape == (2, 3 if name == "structural_similarity" else 2)
    for b in range(2):
        alone = loss_class(name)(reduction="none")(logits[b : b + 1], labels[b : b + 1])
        torch.testing.assert_close(table[b : b + 1], alone, rtol=1e-12, atol=0)
    leaf = logits.clone().requires_grad_()
    (loss_class(name)(reduction="none")(leaf, labels) * torch.tensor([[1.0], [3.0]])).sum().backward()
    first = oracle.value_and_gradient(loss_class(name)(reduction="sum"), logits[:1], labels[:1])[1]
    torch.testing.assert_close(leaf.grad[:1], first)


@every_loss
def test_bitwise_repeatable_for_any_number_of_threads(name):
    logits, labels = problem("softmax", 3, (24, 30, 32))
    logits = logits.float()
    loss, before, results = loss_class(name)(), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            results.append(oracle.value_and_gradient(loss, logits, labels))
    finally:
        torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])


@every_loss
def test_bad_labels_are_named(each_backend, name):
    logits, labels = problem("softmax", 3, (4, 5))
    labels[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"label 7 at index \(1, 2, 3\)"):
        loss_class(name)(validate=True)(logits, labels)
    assert loss_class(name)(validate=False)(logits, labels).isfinite()


@every_loss
def test_compiles_without_breaks(name):
    logits, labels = problem("softmax", 3, (5, 4))
    loss = loss_class(name)(ignore_index=255)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    value, gradient = oracle.gradient(lambda z: compiled(z, labels), logits)
    expected, slope = oracle.gradient(lambda z: loss(z, labels), logits)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


@every_loss
def test_further_derivatives_raise(name):
    logits, labels = problem("softmax", 3, (4, 5))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_class(name)()(logits, labels), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.square().sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits.detach(), torch.ones_like(logits))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            loss_class(name)()(dual, labels)
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.grad(lambda z: loss_class(name)()(z, labels))(logits.detach())


@every_loss
def test_without_a_gradient_and_in_deterministic_mode(name):
    logits, labels = problem("softmax", 3, (6, 7, 9))
    loss = loss_class(name)()
    expected, gradient = oracle.value_and_gradient(loss, logits, labels)
    assert torch.equal(loss(logits, labels), expected)
    with torch.inference_mode():
        assert torch.equal(loss(logits, labels), expected)
    torch.use_deterministic_algorithms(True)  # torch.empty is filled with NaN
    try:
        value, slope = oracle.value_and_gradient(loss, logits, labels)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(value, expected) and torch.equal(slope, gradient)


BAD_OPTIONS = [
    ("hausdorff_erosion", {"alpha": -1}, "alpha: got -1"),
    ("hausdorff_erosion", {"erosions": 0}, "erosions: got 0, expected an integer of at least 1"),
    ("hausdorff_erosion", {"erosions": 2.5}, "erosions: got 2.5"),
    ("hausdorff_conv", {"radii": []}, "radii: got none"),
    ("hausdorff_conv", {"radii": [3, 0]}, "radii: got 0, expected an integer of at least 1"),
    ("soft_cldice", {"iterations": -1}, "iterations: got -1, expected an integer of at least 0"),
    ("soft_cldice", {"smooth": -1}, "smooth: got -1"),
    ("soft_dice_cldice", {"cldice_weight": 2}, "cldice_weight: got 2"),
    ("structural_similarity", {"window": 4}, "window: got 4, expected an odd number"),
    ("structural_similarity", {"sigma": 0}, "sigma: got 0, expected a finite number above 0"),
    ("structural_similarity", {"ce_weight": 2}, "ce_weight: got 2"),
    ("structural_similarity", {"threshold": -1}, "threshold: got -1"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS, ids=str)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        loss_class(name)(**options)


@every_loss
def test_bad_tensors_are_named(name):
    logits, labels = problem("softmax", 3, (4, 5))
    with pytest.raises(ValueError, match="mask: got shape"):
        loss_class(name)()(logits, labels, mask=torch.ones(2, 3, 4, 5))
    with pytest.raises(ValueError, match="class_weight: got 2 weights, expected 3"):
        loss_class(name)(class_weight=[1.0, 2.0])(logits, labels)


# Each operator


def operator_arguments(backend, *options):
    logits, labels = problem("softmax", 3, (5, 6))
    return logits, labels, None, "softmax", [255], False, 1, *options, backend


@pytest.mark.parametrize("backend", ["reference", "numba", "triton"])
@pytest.mark.parametrize("derivative", [False, True])
def test_opcheck_of_the_erosion(backend, derivative):
    arguments = operator_arguments(backend, 2.0, 4, derivative)
    torch.library.opcheck(torch.ops.fastloss.hausdorff_erosion, arguments)


@pytest.mark.parametrize("backend", ["reference", "numba", "triton"])
def test_opcheck_of_the_structural_map(backend):
    arguments = operator_arguments(backend, [0.25, 0.5, 0.25], 0.1, 0.01, 1e-4)
    torch.library.opcheck(torch.ops.fastloss.structural_map, arguments)


@pytest.mark.parametrize("backend", ["reference", "numba", "triton"])
def test_opcheck_of_the_convolution(backend):
    torch.library.opcheck(torch.ops.fastloss.hausdorff_conv, operator_arguments(backend, 2.0, [2, 3], False, 1, True))


@pytest.mark.parametrize("backend", ["reference", "numba", pytest.param("triton", marks=pytest.mark.slow)])
def test_opcheck_of_cldice(backend):
    arguments = operator_arguments(backend, 2, 1)
    torch.library.opcheck(torch.ops.fastloss.cldice_sums, arguments)
    grad_sums = torch.randn(2, 3, 7, dtype=torch.float64)
    torch.library.opcheck(torch.ops.fastloss.cldice_sums_backward, (grad_sums, *arguments))


# Hausdorff by erosion


def test_a_wrong_block_is_eroded_to_nothing():
    """The larger a cube of wrong voxels, the more erosions it survives; a single voxel survives none."""
    labels = torch.zeros(1, 15, 15, 15, dtype=torch.uint8)
    sizes = []
    for side in (1, 3, 5, 7):
        p = torch.zeros(1, 1, 15, 15, 15)
        p[..., 4 : 4 + side, 4 : 4 + side, 4 : 4 + side] = 1
        loss = fastloss.HausdorffErosionLoss(activation=None, erosions=8)
        sizes.append(loss(p, labels).item())
    assert sizes[0] == 0.0 and sizes == sorted(sizes) and len(set(sizes)) == 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_not_a_number_of_either_sign_is_not_eroded(each_backend, sign):
    """Among zeros: the smallest of all bits has a sign."""
    p, labels = torch.zeros(1, 1, 3, 4, 5), torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    p[0, 0, 1, 2, 3] = torch.tensor(torch.nan).copysign(torch.tensor(sign))
    assert fastloss.HausdorffErosionLoss(activation=None)(p, labels).isnan()


def test_erosion_of_a_volume_of_one_value_is_not_normalised(each_backend):
    """Two voxels: each has the mean 2/3 of itself, its neighbour and a zero, less the threshold of a half."""
    wrong = torch.ones(1, 1, 2, dtype=torch.float64)
    loss = fastloss.HausdorffErosionLoss(activation=None, erosions=1)
    value, gradient = oracle.value_and_gradient(loss, wrong, torch.zeros(1, 2, dtype=torch.uint8))
    assert value.item() == pytest.approx(1 / 6)
    assert gradient.flatten().tolist() == pytest.approx([2 / 3, 2 / 3])


def test_smallest_value_above_the_threshold_is_differentiated_too(each_backend):
    """Three voxels: 2/3, 1 and 2/3 less a half, normalised to 0, 1 and 0 whatever the size of the error."""
    wrong = torch.tensor([[[0.95, 1.0, 0.9]]], dtype=torch.float64)
    labels = torch.zeros(1, 3, dtype=torch.uint8)
    loss = fastloss.HausdorffErosionLoss(activation=None, erosions=1)
    agree(loss, plain_loss("hausdorff_erosion", labels, None, 1, erosions=1), wrong, labels, 1e-6)


def test_equal_extremes_share_their_derivative(each_backend):
    """Two voxels have the largest mean, two the smallest, which is above the threshold; the second erosion takes what
    the first has normalised. The plain version's sums are not exact: it gives all to one of the two."""
    wrong = torch.tensor([[[0.75, 1.0, 1.0, 1.0, 1.0, 0.75]]], dtype=torch.float64)
    labels = torch.zeros(1, 6, dtype=torch.uint8)
    loss = fastloss.HausdorffErosionLoss(activation=None, erosions=2)
    value, gradient = oracle.value_and_gradient(loss, wrong, labels)
    expected, slope = oracle.gradient(plain_loss("hausdorff_erosion", labels, None, 1, erosions=2), wrong)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    oracle.assert_close(gradient, (slope + slope.flip(2)) / 2, 1e-6)


def test_the_smallest_value_is_not_taken_from_what_is_outside(each_backend):
    """The second erosion leaves the voxels at both ends: outside is 0 after the normalisation, not before."""
    wrong = torch.tensor([[[1.0, 0.98, 0.0, 0.85, 0.9, 0.05, 0.96, 0.99]]], dtype=torch.float64)
    labels = torch.zeros(1, 8, dtype=torch.uint8)
    loss = fastloss.HausdorffErosionLoss(activation=None, erosions=2)
    agree(loss, plain_loss("hausdorff_erosion", labels, None, 1, erosions=2), wrong, labels, 1e-6)


def test_of_two_values_no_derivative_is_left(each_backend):
    """Normalised they are 0 and 1, however close to one another: 1e-7 left of the derivative would become 0.03."""
    wrong, labels = torch.ones(1, 1, 5), torch.zeros(1, 5, dtype=torch.uint8)
    mask = torch.tensor([[1, 1, 31 * 2.0**-22, 1, 1]])
    loss = fastloss.HausdorffErosionLoss(activation=None, erosions=1)
    value, gradient = oracle.value_and_gradient(loss, wrong, labels, mask=mask)
    assert value.item() == pytest.approx(3 / 4, rel=0.02)  # 1 for three of five voxels, of which four count
    assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("backend", ["numba", pytest.param("triton", marks=pytest.mark.slow)])
def test_erosions_do_not_err_to_one_side(backend):
    """The seventh of a sum, rounded, is 4e-8 too large each time: ten erosions would make 2e-7 of it."""
    loss, labels = fastloss.HausdorffErosionLoss(activation=None), torch.zeros(1, 11, 11, 11, dtype=torch.uint8)
    values, gradients = [], []
    for seed in range(25):
        wrong = torch.zeros(1, 1, 11, 11, 11)
        random = torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(seed))
        wrong[..., 1:-1, 1:-1, 1:-1] = 0.75 + 0.25 * random
        with fastloss.backend("reference"):
            value, gradient = oracle.value_and_gradient(loss, wrong.double(), labels)
        with fastloss.backend(backend):
            found, slope = oracle.value_and_gradient(loss, wrong, labels)
        values.append(float(found / value - 1))
        gradients.append(float(((slope - gradient) * gradient).sum() / gradient.square().sum()))
    assert abs(statistics.median(values)) < 1e-7 and abs(statistics.median(gradients)) < 1e-7


# Hausdorff by convolution


def test_balls_larger_than_the_volume(each_backend):
    logits, labels = problem("softmax", 3, (6, 9))
    options = {"radii": [4, 7, 20]}
    loss = fastloss.HausdorffConvLoss(**options)
    agree(loss, plain_loss("hausdorff_conv", labels, "softmax", 3, **options), logits, labels, 1e-9)


@pytest.mark.parametrize("space", [(40,), (13, 11), (20, 33, 70), (3, 100, 4), (1, 1, 5)], ids=str)
@pytest.mark.parametrize("radii", [[3, 5, 1], [2], [4, 20]], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
def test_sums_over_balls_are_their_transforms(space, radii, dtype, tolerance):
    from fastloss.kernels.balls import Balls
    from fastloss.kernels.cpu.balls import BallSums

    p, y = torch.rand(space, dtype=dtype), (torch.rand(space) < 0.5).to(dtype)
    p[:1], y[: len(y) // 2] = 0, 0
    wanted = Balls(radii, 1.5, p.double()).surplus_weights(p.double(), y.double())
    found = BallSums(radii, 1.5, p).surplus_weights(p, y)
    assert found.dtype == dtype
    oracle.assert_close(found.double(), wanted, tolerance)


def test_sums_over_balls_do_not_depend_on_the_blocks(monkeypatch):
    from fastloss.kernels.cpu import balls as cpu_balls

    p, y = torch.rand(9, 45, 150), (torch.rand(9, 45, 150) < 0.5).float()
    sums = cpu_balls.BallSums([2, 5, 9], 2.0, p)
    expected = sums.surplus_weights(p, y)
    for rows, length in ((4, 128), (7, 33), (45, 150)):
        monkeypatch.setattr(cpu_balls, "FEWEST_ROWS", rows)
        monkeypatch.setattr(cpu_balls, "ROWS", rows)
        monkeypatch.setattr(cpu_balls, "LENGTH", length)
        assert torch.equal(sums.surplus_weights(p, y), expected)


def test_large_balls_are_transforms():
    from fastloss.kernels.cpu.balls import BallSums, balls_of

    volume, image = torch.empty(96, 96, 96), torch.empty(512, 512)
    assert isinstance(balls_of([3, 6, 9, 12, 15, 18], 2.0, volume), BallSums)
    assert isinstance(balls_of([3, 6, 9, 12, 15, 18], 2.0, image), BallSums)
    assert not isinstance(balls_of([60], 2.0, volume), BallSums)
    assert not isinstance(balls_of([40], 2.0, image), BallSums)


def test_balls_that_fit_have_their_full_weight():
    """A ball lies within a mask where the distance to the nearest voxel outside exceeds its radius: f is 1/2 there, for
    y and for p, and less elsewhere."""
    from fastloss.kernels.balls import Balls

    from fastloss.distance import edt

    y = torch.zeros(21, 19, 17)
    y[:, 3:14, 2:16] = 1
    distance = edt(torch.nn.functional.pad(y, [1] * 6).to(torch.uint8))[1:-1, 1:-1, 1:-1]
    for radius in (1, 2, 3, 4):
        weight = Balls([radius], 2.0, y).surplus_weights(y, y)
        fits = distance > radius
        assert fits.any()
        torch.testing.assert_close(weight[fits], torch.full_like(weight[fits], radius**2.0))
        assert (weight[~fits] < radius**2 - 1e-3).all()


# Soft clDice


def test_skeleton_of_a_bar_is_its_middle(each_backend):
    """A bar three voxels wide is its own opening, so that its skeleton is left by the second erosion."""
    labels = torch.zeros(1, 9, 15, dtype=torch.uint8)
    labels[:, 3:6, 2:13] = 1
    perfect = torch.stack((1.0 - labels, labels.double()), 1)
    loss = fastloss.SoftCLDiceLoss(activation=None)
    assert loss(perfect, labels).item() == pytest.approx(0, abs=1e-12)
    thin = torch.zeros_like(labels)
    thin[:, 4, 3:12] = 1
    half = torch.stack((1.0 - thin, thin.double()), 1)
    assert loss(half, labels).item() == pytest.approx(0, abs=1e-12)  # the centre line has all that counts
    assert fastloss.DiceLoss(activation=None, include_background=False)(half, labels).item() > 0.4


def test_of_equal_probabilities_each_keeps_its_derivative(each_backend):
    """No neighbour is smaller or larger. Of five voxels the third is the skeleton: it is the first erosion of itself,
    and where the second takes the value away from it, it is the first of two equal ones."""
    p, labels = torch.tensor([[[0.1, 0.7, 0.7, 0.7, 0.1]]], dtype=torch.float64), torch.zeros(1, 5, dtype=torch.uint8)
    arguments = p, labels, None, "none", [], False, 1, 1, 0, each_backend
    of_skeleton = torch.eye(7, dtype=torch.float64)[3].view(1, 1, 7)
    assert torch.ops.fastloss.cldice_sums(*arguments)[0, 0, 3].item() == pytest.approx(0.6)
    gradient = torch.ops.fastloss.cldice_sums_backward(of_skeleton, *arguments)
    assert gradient.flatten().tolist() == [-1, 0, 1, 0, 0]


def test_skeleton_of_several_slabs():
    """Slabs of eight planes see a plane of their neighbours, which another thread may have made."""
    logits, labels = problem("softmax", 2, (36, 32, 33), batch=1)
    agree(fastloss.SoftCLDiceLoss(), plain_loss("soft_cldice", labels, "softmax", 2), logits, labels)


def test_not_a_number_is_in_the_skeleton(each_backend):
    """Also where the loss has it from elsewhere as well."""
    p, labels = torch.full((1, 1, 5), 0.5, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.uint8)
    p[0, 0, 2] = torch.nan
    sums = torch.ops.fastloss.cldice_sums(p, labels, None, "none", [], False, 1, 1, 0, each_backend)
    assert sums[0, 0, 3].isnan()


def test_cldice_of_a_prediction_without_a_skeleton():
    """Of its skeleton, which is empty, all lies in the truth; half of the truth's one voxel lies in it."""
    half, labels = torch.full((1, 1, 5), 0.5, dtype=torch.float64), torch.tensor([[0, 1, 1, 1, 0]])
    loss = fastloss.SoftCLDiceLoss(activation=None, smooth=0.0)
    assert loss(half, labels).item() == pytest.approx(1 - 2 * 1 * 0.5 / (1 + 0.5))


def test_cldice_equals_monai_with_a_class_as_a_sample():
    from monai.losses import SoftclDiceLoss, SoftDiceclDiceLoss

    logits, labels = problem("softmax", 3, (6, 7, 9))
    y = oracle.one_hot(labels, 3).double().flatten(0, 1)[:, None]

    def theirs(cls):
        return lambda z: cls(iter_=3, smooth=1e-15)(z.softmax(1).flatten(0, 1)[:, None], y)

    agree(fastloss.SoftCLDiceLoss(include_background=True), theirs(SoftclDiceLoss), logits, labels, 1e-9)
    agree(fastloss.SoftDiceCLDiceLoss(include_background=True), theirs(SoftDiceclDiceLoss), logits, labels, 1e-9)


def test_erosion_equals_kornia():
    from kornia.losses import HausdorffERLoss, HausdorffERLoss3D

    for space, cls in (((13, 11), HausdorffERLoss), ((6, 7, 9), HausdorffERLoss3D)):
        logits, labels = problem("softmax", 3, space)

        def theirs(z, cls=cls, labels=labels):
            return cls()(z.softmax(1), labels.long()[:, None])

        agree(fastloss.HausdorffErosionLoss(include_background=True), theirs, logits, labels, 1e-6)
