"""Labels at another resolution: those of ``F.interpolate`` and argmax, without a volume of all classes."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastloss
from bench.peak_memory import CLEAR_REFS, resident_bytes

LINEAR = ("linear", "bilinear", "trilinear")
SPACES = ((17,), (5, 19), (6, 5, 9))


def expected(logits, mode="linear", **options):
    """In float32 at least."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    if mode == "linear":
        mode = LINEAR[z.ndim - 3]
    else:
        options.pop("align_corners", None)
    return F.interpolate(z, mode=mode, **options).argmax(1)


def assert_labels(found, logits, **options):
    """Those expected, but where the two largest are equal to a rounding."""
    wanted = expected(logits, **options)
    assert found.shape == wanted.shape and found.dtype == torch.uint8
    mode = options.pop("mode", "linear")
    z = F.interpolate(logits.double(), mode=LINEAR[logits.ndim - 3] if mode == "linear" else mode, **options)
    first, second = z.topk(2, 1).values.unbind(1)
    apart = first - second > 1e-5
    assert torch.equal(found[apart].long(), wanted[apart])
    assert apart.float().mean() > 0.99


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("align_corners", [False, True])
def test_labels_of_interpolation(each_backend, axes, align_corners):
    logits = torch.randn(2, 4, *SPACES[axes - 1])
    sizes = ({"size": (23, 40, 18)[:axes]}, {"size": 4}, {"scale_factor": 2.3}, {"size": SPACES[axes - 1]})
    for size in sizes[: 1 if each_backend == "triton" else None]:
        found = fastloss.resample_argmax(logits, **size, align_corners=align_corners)
        assert_labels(found, logits, **size, align_corners=align_corners)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(each_backend, dtype):
    logits = torch.randn(1, 5, 4, 5, 6).to(dtype)
    assert_labels(fastloss.resample_argmax(logits, (9, 8, 7)), logits, size=(9, 8, 7))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest(mode):
    logits = torch.randn(2, 6, 7, 9)
    for size in ({"size": (15, 5)}, {"scale_factor": 1.7}):
        found = fastloss.resample_argmax(logits, **size, mode=mode)
        assert torch.equal(found.long(), expected(logits, mode, **size))


def test_the_first_of_equal_classes_and_of_nan(each_backend):
    logits = torch.randint(0, 2, (1, 4, 3, 5)).float()  # of which many are equal
    logits[0, 2, 1, 3] = torch.nan
    logits[0, 1, 2, 0] = torch.nan
    for size in ((3, 5), (7, 11)):
        assert torch.equal(fastloss.resample_argmax(logits, size).long(), expected(logits, size=size))


def test_tiles_and_parts():
    """Of more planes and rows than a tile has, and of rows longer than one."""
    long = torch.randn(1, 3, 3, 2, 9)
    assert_labels(fastloss.resample_argmax(long, (20, 3, 5000)), long, size=(20, 3, 5000))
    logits = torch.randn(1, 3, 9, 12, 300)
    found = fastloss.resample_argmax(logits, (40, 37, 701))
    assert_labels(found, logits, size=(40, 37, 701))
    for order in ((0, 1, 3, 2, 4), (0, 1, 4, 3, 2)):  # which are copied, some planes at a time
        strided = logits.permute(order).contiguous().permute(order)
        assert torch.equal(fastloss.resample_argmax(strided, (40, 37, 701), memory_bytes=2**16), found)


def test_more_than_256_classes():
    logits = torch.randn(1, 300, 4, 4)
    found = fastloss.resample_argmax(logits, 9)
    assert found.dtype == torch.int16 and torch.equal(found.long(), expected(logits, size=9)) and found.max() > 255
    most = torch.zeros(1, 2**15, 2)
    most[0, -1] = 1
    assert fastloss.resample_argmax(most, 3).eq(2**15 - 1).all()
    with pytest.raises(ValueError, match="logits: got 32769 channels, expected at most 32768"):
        fastloss.resample_argmax(torch.zeros(1, 2**15 + 1, 2), 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_arrays_from_disk(tmp_path, dtype):
    array = np.random.default_rng(0).normal(size=(1, 4, 20, 6, 7)).astype(dtype)
    np.save(tmp_path / "logits.npy", array)
    logits = np.load(tmp_path / "logits.npy", mmap_mode="r")
    wanted = fastloss.resample_argmax(
        torch.from_numpy(array.astype(array.dtype.newbyteorder("="))), (50, 9, 11)
    ).numpy()
    out = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint8, (1, 50, 9, 11))
    steps = []
    found = fastloss.resample_argmax(
        logits, (50, 9, 11), out=out, memory_bytes=4 * 6 * 7 * 4 * 5, progress=lambda *at: steps.append(at)
    )
    assert found is out and np.array_equal(found, wanted)
    assert len(steps) > 4 and steps[-1] == (50, 50) and all(a < b for (a, _), (b, _) in itertools.pairwise(steps))
    assert np.array_equal(np.load(tmp_path / "labels.npy"), wanted)
    assert np.array_equal(fastloss.resample_argmax(logits, (50, 9, 11)), wanted)


class Read(np.ndarray):
    """Notes what is read of it."""

    most = 0

    def __array_finalize__(self, whole):
        if whole is not None and self.shape[-3:-2] != whole.shape[-3:-2]:
            Read.most = max(Read.most, self.nbytes)


def test_no_more_is_read_at_a_time_than_asked_for():
    logits = torch.randn(1, 4, 20, 6, 7)
    plane = 4 * 6 * 7 * 4
    for planes, size in ((3, 80), (5, 50), (7, 11)):
        found = fastloss.resample_argmax(logits.numpy().view(Read), (size, 6, 7), memory_bytes=planes * plane)
        assert_labels(torch.from_numpy(np.asarray(found)), logits, size=(size, 6, 7))
        assert 2 * plane <= Read.most <= planes * plane
        Read.most = 0


def test_out_and_lazy_logits():
    logits = torch.randn(2, 3, 4, 5)
    wanted = fastloss.resample_argmax(logits, 8)
    out = torch.full((2, 8, 16), 9, dtype=torch.int16)[..., ::2]
    assert fastloss.resample_argmax(logits, 8, out=out) is out and torch.equal(out.byte(), wanted)
    lazy = fastloss.LazyLogits(logits, None, None, torch.float32, 1000)
    assert torch.equal(fastloss.resample_argmax(lazy, 8), wanted)
    assert fastloss.resample_argmax(logits[:0], 8).shape == (0, 8, 8)


def test_same_labels_for_any_number_of_threads():
    logits, threads = torch.randn(1, 8, 30, 30, 30), torch.get_num_threads()
    try:
        found = [(torch.set_num_threads(n), fastloss.resample_argmax(logits, 61))[1] for n in (1, 2)]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_what_is_wrong_is_named():
    logits = torch.randn(1, 2, 4, 4)
    for text, options in {
        "mode: got 'cubic', expected": {"mode": "cubic"},
        "align_corners: got True with mode='nearest'": {"mode": "nearest", "align_corners": True},
        "size, scale_factor: got both": {"scale_factor": 2},
        "size: got 3 numbers": {"size": (1, 2, 3)},
        "memory_bytes: got 0": {"memory_bytes": 0},
        "out: got torch.uint8 [1, 4, 4], expected uint8 or int16 [1, 8, 8]": {"out": torch.zeros(1, 4, 4).byte()},
        "out: got torch.int64": {"out": torch.zeros(1, 8, 8).long()},
    }.items():
        with pytest.raises(ValueError) as error:
            fastloss.resample_argmax(logits, **{"size": 8} | options)
        assert text in str(error.value)
    for text, call in {
        "logits: got list": lambda: fastloss.resample_argmax([1], 8),
        "logits: got torch.int64": lambda: fastloss.resample_argmax(logits.long(), 8),
        "logits: got int32": lambda: fastloss.resample_argmax(np.zeros((1, 2, 4), np.int32), 8),
        "out: got ndarray, expected a Tensor": lambda: fastloss.resample_argmax(logits, 8, out=np.zeros(1, np.uint8)),
        "progress: got int": lambda: fastloss.resample_argmax(logits, 8, progress=3),
    }.items():
        with pytest.raises(TypeError) as error:
            call()
        assert text in str(error.value)
    with pytest.raises(ValueError, match=r"logits: got shape \[4, 4\]"):
        fastloss.resample_argmax(logits[0, 0], 8)
    read_only = np.zeros((1, 8, 8), np.uint8)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out: is read-only"):
        fastloss.resample_argmax(logits.numpy(), 8, out=read_only)


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="nothing tells the peak of the memory")
def test_memory():
    logits = torch.randn(1, 40, 32, 32, 32)
    fastloss.resample_argmax(logits, 100)
    CLEAR_REFS.write_text("5")
    before = resident_bytes("VmRSS")
    fastloss.resample_argmax(logits, 100)
    assert resident_bytes("VmHWM") - before < 40 * 100**3 * 4 / 10
