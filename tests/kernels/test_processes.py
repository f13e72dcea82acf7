"""The CPU kernels in several threads and processes at once, and on a cache on the disk that fails in their midst."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork, and limits of file sizes")

# a loss of each room and the digest of its values and gradients, on volumes for one thread and for several
LOSSES = """
import hashlib, json, multiprocessing, os, resource, sys, threading
import torch
import fastloss

NAMES = ("DiceCELoss", "TopKLoss", "LovaszLoss", "SoftCLDiceLoss", "HausdorffDTLoss")

def digest(name, leaf, labels):
    leaf = leaf.detach().requires_grad_()
    value = getattr(fastloss, name)(ignore_index=255)(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    return hashlib.sha256(value.detach().numpy().tobytes() + gradient.numpy().tobytes()).hexdigest()

def inputs(size):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (1, size, size, size), dtype=torch.uint8, generator=random)
    return torch.randn((1, 3, size, size, size), generator=random), labels

def digests(names=NAMES, sizes=(9, 24)):
    return [digest(name, *inputs(size)) for name in names for size in sizes]

def few():
    from fastloss.kernels.cpu.select import select_largest
    mean, count, weights = select_largest(torch.arange(100.0).flip(0), 0.1)
    return [float(mean), int(count), weights.tolist()]
"""


def start(script, cache, **environment):
    """A fresh interpreter on LOSSES and the script."""
    given = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    given |= {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", LOSSES + script]
    return popen(command, env=given)


def popen(command, env):
    """A process that leads a group, so that its workers end with it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes)


def result(process):
    """The JSON that it prints last, and what it says besides."""
    try:
        out, said = process.communicate(timeout=280)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    return json.loads(out.splitlines()[-1]), said


ALL = "print(json.dumps(digests()))"
FEW = "print(json.dumps(few()))"  # of which the codes are compiled in a second


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that holds all codes, and the digests that the process found which compiled them."""
    cache = tmp_path_factory.mktemp("warm")
    found, said = result(start(ALL, cache))
    assert "compiling CPU kernels" in said and len(set(found)) == len(found)
    return cache, found


@pytest.fixture(scope="module")
def few(warm):
    return result(start(FEW, warm[0]))[0]


WORKER = """
KERNELS = NAMES[:-1]  # a loss with distances has large operations of torch's own, which hang in a forked child

def work(queue, leaves):
    queue.put([digest(name, *pair) for name in KERNELS for pair in leaves])

if __name__ == "__main__":
    torch.multiprocessing.set_sharing_strategy("file_system")
    mine, leaves = digests(KERNELS), [inputs(size) for size in (9, 24)]
    context, found = multiprocessing.get_context(sys.argv[1]), []
    queue = context.Queue()
    workers = [context.Process(target=work, args=(queue, leaves)) for _ in range(2)]
    for worker in workers:
        worker.start()
    again = digests(KERNELS)  # while they work
    theirs = [queue.get(timeout=200) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    print(json.dumps([again == mine, all(their == mine for their in theirs), mine]))
"""


LOADER = """
from torch.utils.data import DataLoader, Dataset
from fastloss.precompute import LabelMaps, MapsDataset

BOUNDARY = fastloss.BoundaryLoss(spacing=(2.0, 1.0, 1.0))

class Volumes(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, k):
        random = torch.Generator().manual_seed(k)
        label = torch.randint(0, 3, (24, 24, 24), dtype=torch.uint8, generator=random)
        return {"image": torch.randn((1, 24, 24, 24), generator=random), "label": label}

def train(workers, method):
    torch.manual_seed(0)
    network, losses, exact = torch.nn.Conv3d(1, 3, 3, padding=1), [], True
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    data = MapsDataset(Volumes(), LabelMaps(BOUNDARY, 3))
    for sample in DataLoader(data, batch_size=2, num_workers=workers, multiprocessing_context=method):
        logits = network(sample["image"])
        loss = fastloss.DiceCELoss()(logits, sample["label"]) + BOUNDARY(logits, sample["label"], maps=sample["maps"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        exact = exact and torch.equal(sample["maps"], BOUNDARY.label_map(sample["label"], 3))
        losses.append(loss.item())
    return losses, exact

if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    mine, _ = train(0, None)
    theirs, exact = train(4, sys.argv[1])
    print(json.dumps([len(mine), mine == theirs, exact]))
"""


def of_method(script, method, cache, folder):
    """What the script prints when its workers start by the method: those that are spawned import it."""
    file = folder / "workers.py"
    file.write_text(LOSSES + script)
    given = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(file), method]
    return result(popen(command, given))


every_method = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])


@pytest.mark.slow
@every_method
def test_workers_of_every_start_method(method, warm, tmp_path):
    """After use in the parent, and while it works on."""
    (again, theirs, mine), said = of_method(WORKER, method, warm[0], tmp_path)
    assert (again, theirs, mine) == (True, True, warm[1][:-2]) and "compiling" not in said


@pytest.mark.slow
@every_method
def test_loaders_make_maps_while_the_parent_trains(method, warm, tmp_path):
    assert of_method(LOADER, method, warm[0], tmp_path)[0] == [8, True, True]


THREADS = """
barrier, found = threading.Barrier(8), [None] * 8

def work(k):
    names = NAMES[k % len(NAMES) :] + NAMES[: k % len(NAMES)] if MIXED else NAMES
    barrier.wait()
    by_name = {name: digests((name,)) for name in names}
    found[k] = [one for name in NAMES for one in by_name[name]]

threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "mixed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["other losses", "the same losses"]
)
def test_eight_threads_make_their_first_calls_at_once(mixed, warm):
    found, _ = result(start(f"MIXED = {mixed}\n" + THREADS, warm[0]))
    assert found == [warm[1]] * 8


def test_what_is_known_by_its_address_is_made_once():
    from concurrent.futures import ThreadPoolExecutor

    from fastloss.kernels.cpu.threads import made_once

    made = []

    @made_once
    def make(key):
        time.sleep(0.05)  # while the others come
        made.append(key)
        return object()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(make, [1, 2] * 8))
    assert sorted(made) == [1, 2] and len(set(map(id, found))) == 2


def test_two_processes_on_a_cold_cache(few, tmp_path):
    for found, _ in map(result, [start(FEW, tmp_path) for _ in range(2)]):
        assert found == few
    found, said = result(start(FEW, tmp_path))
    assert found == few and "compiling" not in said


# what lies there stays readable, but a file may have so many bytes at most
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"
# a file where the folder was, as root may write into folders that are read-only: Numba takes the next of its places
READ_ONLY = "os.rename(CACHE, CACHE + '.moved'); open(CACHE, 'w').close()"


@pytest.mark.parametrize(("fails", "warnings"), [(FULL, 1), (READ_ONLY, 0)], ids=["full", "read-only"])
def test_a_cache_that_fails_midway(fails, warnings, warm, few, tmp_path):
    """The loss that follows is compiled all the same, right, and a full disk is told once."""
    script = f"CACHE = os.environ['NUMBA_CACHE_DIR']\nfirst = few()\n{fails}\n"
    script += "print(json.dumps([first, digests(('DiceCELoss',), (9,))]))"
    found, said = result(start(script, tmp_path / "cache"))
    assert found == [few, warm[1][:1]] and said.count("compiled kernels cannot be kept on disk") == warnings


@pytest.mark.parametrize("damage", [0.0, pytest.param(0.5, marks=pytest.mark.slow)], ids=["empty", "half"])
def test_a_damaged_cache(damage, few, tmp_path):
    """As a machine leaves it that lost its power: the files' names, but not all that was in them."""
    result(start(FEW, tmp_path))
    files = [file for file in tmp_path.rglob("*") if file.suffix in (".nbi", ".nbc")]
    assert len(files) >= 4
    for file in files:
        file.write_bytes(file.read_bytes()[: int(damage * file.stat().st_size)])
    found, said = result(start(FEW, tmp_path))
    assert found == few and said.count("compiled kernels cannot be kept on disk") == 1


def killed_while_it_writes(cache, files):
    """Kills a process as soon as so many files are in its cache, those under way counted."""
    process = start(FEW, cache)
    while process.poll() is None and sum(path.is_file() for path in cache.rglob("*")) < files:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_kill_while_the_cache_is_written(few, tmp_path):
    killed_while_it_writes(tmp_path, 3)
    assert result(start(FEW, tmp_path))[0] == few
    assert "compiling" not in result(start(FEW, tmp_path))[1]


@pytest.mark.slow
@pytest.mark.parametrize("files", range(1, 9))
def test_a_kill_after_any_file(files, few, tmp_path):
    killed_while_it_writes(tmp_path, files)
    assert result(start(FEW, tmp_path))[0] == few


@pytest.mark.slow
def test_eight_processes_on_a_cold_cache(warm, tmp_path):
    for found, _ in map(result, [start(ALL, tmp_path) for _ in range(8)]):
        assert found == warm[1]
    assert "compiling" not in result(start(ALL, tmp_path))[1]


@pytest.mark.slow
def test_eight_threads_on_a_cold_cache(warm, tmp_path):
    assert result(start("MIXED = True\n" + THREADS, tmp_path))[0] == [warm[1]] * 8
