"""Tensors of random shapes, dtypes, strides and values, and how far a result may be from float64."""

import functools
from dataclasses import dataclass

import oracle
import torch
from hypothesis import strategies as st

from fastloss.passes.tensors import INTEGERS
from fastloss.terms import label_count

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LABELS = [*(str(dtype).removeprefix("torch.") for dtype in INTEGERS), "uint64", "float32"]
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
LAYOUTS = ("contiguous", "last", "sliced", "reversed", "channel_slice", "offset", "transposed", "expanded")
# of a value, and of a gradient as a share of its largest entry: rounding of some thousand operations in float32, and of
# one in the dtype that the gradient is stored in
TOLERANCES = {
    torch.float64: (1e-10, 1e-9),
    torch.float32: (1e-5, 2e-5),
    torch.float16: (1e-5, 2e-3),
    torch.bfloat16: (1e-5, 1e-2),
}


@dataclass(frozen=True)
class Plan:
    """What decides which code runs."""

    activation: str | None
    channels: int
    dtype: torch.dtype
    dense: str
    backend: str


def channel_counts(activation, backend):
    """Numbers of channels to choose from, each as often as it is there."""
    few, many = ((2, 2, 3, 4, 5, 8, 11, 19, 40), (200,)) if activation == "softmax" else ((1, 2, 3, 7, 11), (33, 200))
    return few * (60 if backend == "triton" else 1) + many  # which take the interpreter ten seconds


@dataclass(frozen=True)
class Form:
    """All of an input but what decides which code runs."""

    batch: int
    space: tuple[int, ...]
    label_dtype: str = "uint8"
    axis: bool = False  # labels [B, 1, *S]
    present: str = "all"  # which classes occur
    ignored: str = "none"
    mask: str = "none"
    bad: bool = False  # labels that are no class
    poison: bool = False  # NaN where a voxel does not count
    layouts: tuple[str, str, str] = ("contiguous",) * 3
    scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Tensors:
    logits: torch.Tensor
    target: torch.Tensor
    y: torch.Tensor  # [B, C, *S]
    weight: torch.Tensor  # [B, *S], float64
    mask: torch.Tensor | None
    ignore: tuple[int, ...]

    @property
    def clean(self):
        """float64 logits without what does not count."""
        return torch.where(self.weight.unsqueeze(1) != 0, self.logits, 0.5).double()

    def arguments(self):
        return {} if self.mask is None else {"mask": self.mask}


def in_few_threads(check):
    """Most cases in one thread: for few voxels torch's threads cost many times what they save, more so on a machine
    that has other work."""

    @functools.wraps(check)
    def checked(case):
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if case.form.seed % 8 == 7 else 1)  # 0 is frequent
        try:
            check(case)
        finally:
            torch.set_num_threads(threads)

    return checked


def spaces(most):
    """Sizes of one to three axes with at most so many voxels: single ones, odd ones, long ones."""
    side = st.integers(1, 11)
    any_axes = st.one_of(st.tuples(side), st.tuples(side, side), st.tuples(side, side, side))
    long = st.sampled_from([(255,), (257,), (513,), (3, 129), (16385,), (129, 131)])
    return st.one_of(any_axes, any_axes, any_axes, long).map(lambda space: _cut(space, most))


def _cut(space, most):
    sizes = []
    for size in space:
        sizes.append(max(1, min(size, most)))
        most //= sizes[-1]
    return tuple(sizes)


def forms(most, dense="", scales=(0.1, 1.0, 3.0)):
    """``most`` voxels of a sample; ``dense``: the kind of a dense target, which ignores no label."""
    labels = not dense
    return st.builds(
        Form,
        batch=st.sampled_from([1, 1, 2, 2, 3, 0]),
        space=spaces(most),
        label_dtype=st.sampled_from(LABELS) if labels else st.just(""),
        axis=st.booleans() if labels else st.just(False),
        present=st.sampled_from(["all", "all", "few", "one"]),
        ignored=st.sampled_from(["none", "none", "other", "class", "several", "foreign", "all"])
        if labels
        else st.just("none"),
        mask=st.sampled_from(["none", "none", "bool", "float", "byte", "half", "zero"]),
        bad=st.sampled_from([False] * 5 + [labels]),
        poison=st.booleans(),
        layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
        scale=st.sampled_from(scales),
        seed=st.integers(0, 2**20),
    )


def restride(x, layout):
    """The same values (but for "expanded", whose samples are the first) with other strides."""
    if layout == "last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":
        return torch.stack([x, x], -1).flatten(-2)[..., ::2]
    if layout == "reversed":
        return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    if layout == "channel_slice":
        return torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]
    if layout == "offset":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    if layout == "transposed":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x[:1].expand(x.shape) if layout == "expanded" and len(x) else x


def make(form, activation, channels, dtype, dense=""):
    random = torch.Generator().manual_seed(form.seed)

    def rand(*shape):
        return torch.rand(shape, generator=random, dtype=torch.float64)

    shape, voxels = (form.batch, channels, *form.space), (form.batch, *form.space)
    logits = torch.randn(shape, generator=random, dtype=torch.float64) * form.scale
    if activation is None:
        logits = logits.sigmoid() if channels == 1 else logits.softmax(1)
    logits = restride(logits.to(dtype), form.layouts[0])
    classes = label_count(channels)
    most = {"all": classes, "few": min(2, classes), "one": 1}[form.present]
    labels = (rand(*voxels) * most).long()
    labels = (labels + form.seed) % classes if form.present != "all" else labels
    mask = _mask(form, rand, voxels)
    if dense:
        target = {
            "soft": lambda: rand(*shape),
            "bool": lambda: rand(*shape) > 0.5,
            "one_hot": lambda: oracle.one_hot(labels, channels).to(torch.int16),
        }[dense]()
        target = target.to(dtype if form.seed % 2 else torch.float32) if dense == "soft" else target
        target = restride(target, form.layouts[1])
        weight = oracle.counted(labels, (), mask)
        return _poisoned(form, Tensors(logits, target, target, weight, mask, ()))
    dtype = getattr(torch, form.label_dtype)
    if dtype.is_floating_point and channels == 1:
        dtype = torch.uint8  # floats would be a dense target
    labels, ignore = _ignored(form, dtype, labels, classes, rand)
    bits = SIGNED.get(dtype, dtype)  # torch moves few unsigned integers
    target = restride(labels.unsqueeze(1).to(dtype).view(bits), form.layouts[1]).view(dtype)
    labels = target[:, 0].long()
    weight = oracle.counted(labels, ignore, mask)
    target = target if form.axis or dtype.is_floating_point else target[:, 0]
    y = oracle.one_hot(labels.masked_fill(oracle.counted(labels, ignore) == 0, -1), channels)  # ignored: of no class
    return _poisoned(form, Tensors(logits, target, y, weight, mask, ignore))


def _mask(form, rand, voxels):
    mask = {
        "none": lambda: None,
        "bool": lambda: rand(*voxels) > 0.3,
        "float": lambda: (rand(*voxels) * (rand(*voxels) > 0.3)).float(),
        "byte": lambda: (rand(*voxels) > 0.3).to(torch.uint8),
        "half": lambda: (rand(*voxels) + 0.1).half(),
        "zero": lambda: torch.zeros(voxels),
    }[form.mask]()
    return mask if mask is None else restride(mask.unsqueeze(1), form.layouts[2])[:, 0]


def _ignored(form, dtype, labels, classes, rand):
    """Labels with ignored ones and ones that are no class, and the ignored."""
    info = torch.iinfo({torch.bool: torch.uint8, torch.float32: torch.int16}.get(dtype, dtype))
    least, greatest = info.min, min(info.max, 2**63 - 1) if dtype != torch.bool else 1
    labels = labels.clamp(max=greatest)
    other = [greatest, least, min(255, greatest)][form.seed % 3]
    ignore = {
        "none": (),
        "other": (other,),
        "class": (classes - 1,),
        "several": (other, 0),
        "foreign": (min(greatest + 1, 2**63 - 1), max(least - 7, -(2**63))),
        "all": (other,),
    }[form.ignored]
    if form.ignored in ("other", "several"):
        labels = torch.where(rand(*labels.shape) < 0.3, other, labels)
    elif form.ignored == "all":
        labels = torch.full_like(labels, other)
    if form.bad and greatest > classes:
        labels = torch.where(rand(*labels.shape) < 0.1, -1 if least < 0 and form.seed % 2 else classes, labels)
    return labels, ignore


def _poisoned(form, v):
    if form.poison and form.layouts[0] != "expanded":
        uncounted = (v.weight == 0).unsqueeze(1).expand_as(v.logits)
        v.logits[uncounted] = torch.nan
    return v


def has_bad_labels(v, channels):
    """Whether a voxel that counts has a label that is no class."""
    labels = v.target.reshape(v.weight.shape).long()
    return bool((((labels < 0) | (labels >= label_count(channels))) & (v.weight != 0)).any())


def value_and_gradient(function, logits):
    """With the logits as they lie in memory."""
    leaf = logits.detach().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def agree(found, reference, clean, dtype, tolerances=None):
    """Asserts value and gradient near ``reference(clean)``, its value and gradient in float64.

    Where that is too far, so may be the true result for inputs that are some roundings away, and plain code in float32:
    what they show of the problem's condition is added.
    """
    expected, tolerances = reference(clean), tolerances or TOLERANCES[dtype]
    least = 2.0**-25 if dtype == torch.float16 else 1e-30  # half of the least float16
    # where the parts of a gradient cancel to 0: of a thousandth of the value's share of a voxel
    least += tolerances[1] * 1e-3 * expected[0].abs().max().item() / clean[:, 0].numel()

    @functools.cache
    def nearby():
        step = 8 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        signs = [torch.randint(0, 2, clean.shape, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in range(6)]
        moved = [clean * (1 + step * sign) for sign in signs]
        if dtype != torch.float64:  # and what each float32 number on the way does
            moved += [x.float() for x in (clean, *moved)]
        return [reference(x) for x in moved]

    for what, k in (("value", 0), ("gradient", 1)):
        fits = expected[k].abs() < torch.finfo(dtype).max if k else torch.ones((), dtype=torch.bool)
        assert (found[k].isfinite() | ~fits).all(), f"{what}: not finite"

        def distance(other, k=k, fits=fits):
            return torch.where(fits, (other[k].double() - expected[k].double()).abs(), 0).max().item()

        allowed = tolerances[k] * expected[k].abs().max().item() + (least if k else tolerances[0] * 1e-2)
        if distance(found) > allowed:
            allowed += 4 * max(distance([x.nan_to_num(0) for x in other]) for other in nearby())
            assert distance(found) <= allowed, f"{what}: error {distance(found):.2e}, expected at most {allowed:.2e}"
