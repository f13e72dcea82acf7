"""Losses of each voxel, and masks of each channel: every back end against autograd of the plain formula."""

import oracle
import pytest
import torch

import fastloss

TERMS = ("count", "p", "py", "y2", "ce_pos", "nll_pos", "focal_neg(0.5)", "y*p^0.7", "r*p*m")
CASES = {  # activation, channels, dtype, labels or a dense target, further options
    "labels": ("softmax", 4, torch.float32, "labels", {"ignore": (1, 255)}),
    "many classes": ("softmax", 17, torch.float32, "labels", {"mask": True}),
    "six classes": ("softmax", 6, torch.float64, "labels", {"ignore": (3,)}),
    "half": ("softmax", 3, torch.bfloat16, "labels", {"mask": True}),
    "soft": ("softmax", 3, torch.float64, "soft", {"mask": True}),
    "many soft": ("softmax", 20, torch.float32, "soft", {}),
    "map": ("softmax", 3, torch.float64, "labels", {"map": True, "mask": True}),
    "map of many": ("softmax", 19, torch.float64, "labels", {"map": True}),
    "sigmoid": ("sigmoid", 3, torch.float64, "labels", {"map": True, "ignore": (2,)}),
    "multi-label": ("sigmoid", 5, torch.float16, "bool", {}),
    "masks": ("sigmoid", 3, torch.float64, "soft", {"masks": True, "map": True}),
    "masks of labels": ("sigmoid", 18, torch.float32, "labels", {"masks": True, "ignore": (4,)}),
    "probabilities": (None, 4, torch.float64, "labels", {"masks": True}),
    "one channel": ("sigmoid", 1, torch.float32, "labels", {"mask": True}),
}


class Case:
    """The tensors of a case, NaN where nothing counts."""

    def __init__(self, name, space=(5, 7, 3)):
        self.activation, channels, dtype, form, self.more = CASES[name]
        terms = [term for term in TERMS if self.activation or term != "y*p^0.7"]
        terms += [f"map*{term}" for term in terms[::2]] if "map" in self.more else []
        logits, labels = oracle.make(self.activation, channels, space, dtype=dtype, scale=1.5)
        self.target = {"labels": labels, "soft": torch.rand(2, channels, *space)}.get(
            form, torch.rand(2, channels, *space) > 0.5
        )
        self.y = oracle.one_hot(labels, channels) if form == "labels" else self.target
        shape = {"mask": (2, *space), "masks": logits.shape}
        kind = next((kind for kind in shape if kind in self.more), None)
        self.mask = torch.rand(shape[kind]) * (torch.rand(shape[kind]) > 0.3) if kind else None
        counted = oracle.by_channel(oracle.counted(labels, self.more.get("ignore", ())), logits)
        self.weight = counted if kind is None else counted * oracle.by_channel(self.mask.double(), logits)
        self.logits = torch.where(self.weight != 0, logits, torch.nan)
        self.clean = torch.where(self.weight != 0, logits, 0.5)
        self.map = torch.rand(2, 1 if channels == 3 else channels, *space) if "map" in self.more else None
        self.coefficients = {term: torch.randn(2, channels, dtype=torch.float64) for term in terms}

    def options(self):
        ignore = {"ignore_index": self.more["ignore"]} if "ignore" in self.more else {}
        return {"activation": self.activation, "mask": self.mask, "weight_map": self.map, **ignore}

    def losses(self, logits, coefficients, per_class):
        return fastloss.voxel_losses(logits, self.target, coefficients, per_class=per_class, **self.options())

    def plain(self, logits, coefficients, per_class):
        values = oracle.values(logits, self.y, self.weight, tuple(coefficients), self.activation, self.map)
        factors = torch.stack(list(coefficients.values())).reshape(*values.shape[:3], *[1] * (logits.ndim - 2))
        values = (values * factors).sum(0)
        return values if per_class else values.sum(1)


def derivatives(function, logits, coefficients, incoming):
    """Values, and the gradients by the logits and by each coefficient."""
    leaves = [logits.detach().requires_grad_(), *(x.detach().requires_grad_() for x in coefficients.values())]
    values = function(leaves[0], dict(zip(coefficients, leaves[1:], strict=True)))
    return values.detach(), *torch.autograd.grad((values * incoming(values)).sum(), leaves)


def voxels_and_classes():
    """Each case for voxels or for voxels and classes, by turns: the codes of both take a minute to compile."""
    for number, name in enumerate(CASES):
        for per_class in (False, True):
            marks = [] if number % 2 == per_class else [pytest.mark.slow]
            yield pytest.param(name, per_class, id=f"{name}-{'classes' if per_class else 'voxels'}", marks=marks)


@pytest.mark.parametrize(("name", "per_class"), voxels_and_classes())
def test_each_voxel_and_its_derivatives(each_backend, name, per_class):
    case = Case(name)
    drawn = torch.randn(case.logits.shape if per_class else case.logits[:, 0].shape)
    drawn[0] *= torch.rand(drawn[0].shape) > 0.2  # of some voxels nothing comes in

    def run(function, logits):
        return derivatives(
            lambda z, k: function(z, k, per_class), logits, case.coefficients, lambda values: drawn.to(values.dtype)
        )

    values, gradient, *of_coefficients = run(case.losses, case.logits)
    expected, expected_gradient, *expected_of_coefficients = run(case.plain, case.clean.double())
    dtype = case.logits.dtype
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype and gradient.shape == case.logits.shape and values.shape == expected.shape
    fine, rough = {torch.float64: (1e-12, 1e-9)}.get(dtype, (2e-6, 2e-5))
    oracle.assert_close(values, expected, fine)
    oracle.assert_close(gradient, expected_gradient, {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, rough))
    oracle.assert_close(torch.stack(of_coefficients), torch.stack(expected_of_coefficients), fine * 10)
    counted = (case.weight != 0).expand_as(gradient)
    assert not gradient[~counted].any()
    assert not values[~(counted if per_class else counted.any(1))].any()


@pytest.mark.parametrize("name", ["six classes", "map", "masks", "probabilities"])
def test_sums_with_masks_and_the_sum_over_voxels(each_backend, name):
    """The voxels' losses add up to sums; these meet the oracle, masks of each channel included."""
    case = Case(name)
    terms = tuple(case.coefficients)
    sums = fastloss.voxel_sums(case.logits, case.target, terms, **case.options())
    oracle.assert_close(sums, oracle.sums(case.clean, case.y, case.weight, terms, case.activation, case.map), 1e-12)
    table = torch.stack(list(case.coefficients.values()), -1)
    for per_class in (False, True):
        total = case.losses(case.logits, case.coefficients, per_class).sum()
        oracle.assert_close(total, (sums * table).sum(), 1e-12)


@pytest.mark.parametrize(
    ("name", "per_class"), [("map", True), ("masks", False), ("soft", True), ("six classes", False)]
)
def test_gradcheck(each_backend, name, per_class):
    case = Case(name, (2, 1))
    logits = case.clean.double().requires_grad_()
    given = [x.requires_grad_() for x in case.coefficients.values()]

    def function(z, *values):
        return case.losses(z, dict(zip(case.coefficients, values, strict=True)), per_class)

    assert torch.autograd.gradcheck(function, (logits, *given), fast_mode=True)


def test_tiles_chunks_and_threads():
    """Volumes around the Numba tile and chunk; a total over channels on their own is added up in memory."""
    for size in (1, 255, 257, 511, 16384, 33000):
        logits, labels = oracle.make("sigmoid", 3, (size,))
        logits = torch.cat([logits, logits], 2)[..., 1 : size + 1]  # rows that are not aligned
        y = oracle.one_hot(labels, 3)
        for terms in ({"ce_pos": 1.0}, {"p": 0.3, "ce_neg": [1.0, 2.0, 3.0]}):
            found = fastloss.voxel_losses(logits, labels, terms, activation="sigmoid")
            values = oracle.values(logits, y, oracle.counted(labels), tuple(terms), "sigmoid")
            factors = [torch.as_tensor(k, dtype=torch.float64).expand(3) for k in terms.values()]
            expected = torch.einsum("kbcv,kc->bv", values, torch.stack(factors))
            oracle.assert_close(found, expected, 2e-6)
    threads, before = torch.get_num_threads(), found
    torch.set_num_threads(1)
    try:
        assert torch.equal(fastloss.voxel_losses(logits, labels, terms, activation="sigmoid"), before)
    finally:
        torch.set_num_threads(threads)


def test_a_class_that_is_impossible_is_not_there(each_backend):
    """Its -log p is infinite, where no voxel is of it."""
    logits, labels = oracle.make("softmax", 2, (4, 5))
    without = torch.cat([logits, torch.full((2, 1, 4, 5), -torch.inf)], 1)
    terms = {"ce_pos": 1.0, "focal_pos(2.0)": 0.5}
    expected = fastloss.voxel_losses(logits, labels, terms)
    torch.testing.assert_close(fastloss.voxel_losses(without, labels, terms), expected)
    torch.testing.assert_close(fastloss.voxel_losses(without, labels, terms, per_class=True).sum(1), expected)


@pytest.mark.parametrize("per_class", [False, True])
def test_nothing_of_the_logits_size_is_kept(per_class):
    logits, labels = torch.randn(1, 3, 64).requires_grad_(), torch.zeros(1, 64, dtype=torch.uint8)
    given, kept = {logits.data_ptr(), labels.data_ptr()}, []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = fastloss.voxel_losses(logits, labels, {"ce_pos": 1.0, "p": 0.1}, per_class=per_class)
    assert sum(tensor.numel() for tensor in kept if tensor.data_ptr() not in given) <= 6  # the coefficients
    assert losses.sum().backward() is None and logits.grad.any()


def test_empty_batch_and_no_voxel_that_counts(each_backend):
    logits, labels = torch.randn(0, 3, 4), torch.zeros(0, 4, dtype=torch.uint8)
    assert fastloss.voxel_losses(logits, labels, {"ce_pos": 1.0}).shape == (0, 4)
    logits, labels = torch.full((1, 3, 4), torch.nan), torch.full((1, 4), 255)
    value, gradient = oracle.gradient(
        lambda z: fastloss.voxel_losses(z, labels, {"ce_pos": 1.0}, ignore_index=255).sum(), logits
    )
    assert value == 0 and not gradient.any()


ERRORS = {
    "no terms": ((), {}, "terms: got"),
    "a tuple of terms": (("p",), {}, "terms: got"),
    "unknown term": ({"nonsense": 1}, {}, "unknown term 'nonsense'"),
    "text": ({"p": "1"}, {}, r"terms\['p'\]: got '1'"),
    "a flag": ({"p": [1.0, True, 1.0]}, {}, r"terms\['p'\]: got \[1.0, True, 1.0\]"),
    "infinite": ({"p": [1.0, torch.inf, 1.0]}, {}, r"terms\['p'\]: got inf"),
    "two of three": ({"p": [1.0, 2.0]}, {}, r"terms\['p'\]: got shape \[2\], expected a number, \[3\]"),
    "flag": ({"p": 1}, {"per_class": 1}, "per_class: got 1"),
    "map": ({"map*p": 1}, {}, "weight_map: is None"),
    "masks of a softmax": ({"p": 1}, {"mask": torch.ones(2, 3, 4)}, "of the classes of a softmax"),
    "masks of a wrong shape": (
        {"p": 1},
        {"mask": torch.ones(2, 2, 4), "activation": "sigmoid"},
        r"mask: got shape \[2, 2, 4\]",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    terms, options, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        fastloss.voxel_losses(torch.rand(2, 3, 4), torch.zeros(2, 4, dtype=torch.uint8), terms, **options)


def test_labels_that_are_no_class_are_named_where_they_count(each_backend):
    logits, labels = torch.randn(1, 3, 4), torch.tensor([[0, 1, 7, 2]])
    mask = torch.ones(1, 3, 4)
    mask[..., 2] = 0
    options = {"activation": "sigmoid", "per_class": True, "mask": mask}
    found = fastloss.voxel_losses(logits, labels, {"ce_pos": 1.0}, **options, validate=True)
    assert not found[..., 2].any()
    mask[:, 1, 2] = 1  # of one channel
    with pytest.raises(ValueError, match=r"label 7 at index \(0, 2\)"):
        fastloss.voxel_losses(logits, labels, {"ce_pos": 1.0}, **options)
    mask[:, 1, 2] = -1
    with pytest.raises(ValueError, match=r"mask: -1.0 at index \(0, 1, 2\) \(sample, class, then axes\)"):
        fastloss.voxel_losses(logits, torch.zeros(1, 4).long(), {"ce_pos": 1.0}, **options, validate=True)
