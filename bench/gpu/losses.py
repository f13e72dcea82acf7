"""Whole losses on the device: right, timed and weighed beside their peers; in CUDA graphs; without waiting for it."""

from collections.abc import Callable, Iterator

import torch

import fastloss
from bench.gpu.measure import host_microseconds, microseconds, nbytes, peak_bytes
from bench.gpu.stages import Run
from bench.losses.peers import Loss, Peer, index_labels
from bench.losses.registry import LOSSES, SMOOTH
from bench.machine import installed_version

BF16 = torch.bfloat16
ALLOWED = 2e-4  # of a value and, in L2, of a gradient, in float32
TIMED = {"dice_ce": "DiceCELoss", "focal": "FocalLoss", "dice": "DiceLoss", "cross_entropy": None}  # exacta's names
CASES = (((2, 4, 128, 128, 128), BF16), ((2, 4, 128, 128, 128), torch.float32), ((2, 16, 128, 128, 128), BF16),
         ((1, 118, 128, 128, 128), BF16))  # fmt: skip


def inputs(run: Run, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that favour the labels, which form regions, and uint8 labels; the same every time."""
    if run.toy:
        shape = (1, min(shape[1], 5), 4, 6, 16)
    torch.manual_seed(0)
    coarse = torch.randint(0, shape[1], (shape[0], *[max(1, n // 8) for n in shape[2:]]), device=run.device)
    labels = coarse.unsqueeze(1).float()
    labels = torch.nn.functional.interpolate(labels, shape[2:], mode="nearest").squeeze(1).to(torch.uint8)
    logits = torch.randn(shape, dtype=torch.float32, device=run.device)
    logits.scatter_add_(1, labels.long().unsqueeze(1), torch.full_like(logits[:, :1], 2.0))
    return logits.to(dtype).requires_grad_(), labels


def gradient(loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def differences(found, wanted) -> tuple[float, float]:
    """Of values, relative; of gradients, in L2 relative to the length of what is wanted."""
    value, slope = (x.double() for x in wanted)
    return (
        float((found[0].double() - value).abs() / value.abs()),
        float((found[1].double() - slope).norm() / slope.norm()),
    )


def plain_dice_ce(activation: str, classes: int) -> Loss:
    """As it is written by hand: softmax, one-hot, sums; and torch's cross-entropy."""

    def loss(logits, target):
        p = logits.float().softmax(1)
        y = torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()
        axes = tuple(range(2, logits.ndim))
        overlap, volumes = (p * y).sum(axes), p.sum(axes) + y.sum(axes)
        dice = 1 - (2 * overlap + SMOOTH) / (volumes + SMOOTH)
        return dice.mean() + torch.nn.functional.cross_entropy(logits.float(), target)

    return loss


def exacta(cls: str) -> Peer:
    """``exacta.losses.<cls>``, whose Triton kernels take half precision as it is."""

    def build(activation: str, classes: int) -> Loss:
        import exacta.losses

        return getattr(exacta.losses, cls)(activation=activation)

    return Peer(cls, "exacta", build, index_labels, ("softmax",), widen=False)


def peers_of(name: str, classes: int) -> list[Peer]:
    """Those of a loss that are installed."""
    found = [peer for peer in LOSSES[name].peers if peer.knows("softmax", classes)]
    if name == "dice_ce":
        found.append(Peer("plain Dice + CE", "torch", plain_dice_ce, index_labels, widen=False))
    if TIMED.get(name):
        found.append(exacta(TIMED[name]))
    return [peer for peer in found if installed_version(peer.package)]


def timed(run: Run, loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> dict:
    """Time of forward and backward of the device and of the process, and peak memory over the logits."""

    def step():
        return gradient(loss, logits, target)

    peak = peak_bytes(run, step)
    return {
        "us": microseconds(run, step),
        "host_us": host_microseconds(run, step),
        "peak_over_logits": None if peak is None else peak / nbytes(logits),
    }


def contestants(name: str, classes: int) -> Iterator[tuple[str, Loss, Callable]]:
    yield "fastloss", LOSSES[name].build("softmax", classes, validate=False), lambda labels, classes: labels
    for peer in peers_of(name, classes):
        yield peer.title, peer.loss("softmax", classes), peer.target


def beside_peers(run: Run, compiled: bool = False) -> Iterator[dict]:
    """Time, host time and memory of forward and backward, for each shape, loss and library; or of compiled ones."""
    cases = CASES[:1] if compiled or run.toy else CASES
    for shape, dtype in cases:
        logits, labels = inputs(run, shape, dtype)
        for name in list(TIMED)[: 2 if compiled or run.toy else None]:
            wanted = None
            for who, loss, form in contestants(name, logits.shape[1]):
                row = {"loss": name, "shape": list(logits.shape), "dtype": str(dtype)[6:], "who": who}
                if compiled:
                    torch._dynamo.reset()
                    loss, row["who"] = torch.compile(loss, dynamic=False), f"{who} compiled"
                try:
                    target = form(labels, logits.shape[1])
                    found = gradient(loss, logits, target)
                    wanted = found if wanted is None else wanted
                    row["value_error"], row["gradient_error"] = differences(found, wanted)
                    del found
                    row |= timed(run, loss, logits, target)
                except Exception as problem:  # a peer's own, or no memory for it
                    row |= {"failed": f"{type(problem).__name__}: {str(problem)[:200]}"}
                    row["ok"] = who != "fastloss"
                yield row


def beside_compiled_peers(run: Run) -> Iterator[dict]:
    """The same of ``torch.compile``, which needs a compiler and seconds for each."""
    yield from () if run.toy else beside_peers(run, compiled=True)


def every_loss(run: Run) -> Iterator[dict]:
    """Value and gradient of each loss in float32 against those of the plain PyTorch back end in float64, on the device;
    the same bits once more; and whether a call waits for the device."""
    logits, labels = inputs(run, (2, 3, 40, 48, 56), torch.float32)
    exact = logits.detach().double().requires_grad_()
    for name in list(LOSSES)[:: 9 if run.toy else 1]:
        loss = LOSSES[name].build("softmax", 3, validate=False).to(run.device)
        row = {"loss": name, "shape": list(logits.shape)}
        try:
            found = gradient(loss, logits, labels)
            row["same_bits"] = all(map(torch.equal, found, gradient(loss, logits, labels)))
            with fastloss.backend("reference"):
                row["value_error"], row["gradient_error"] = differences(found, gradient(loss, exact, labels))
            row["waits"] = waits(run, loss, logits, labels)
            row["ok"] = row["same_bits"] and max(row["value_error"], row["gradient_error"]) <= ALLOWED
        except Exception as problem:
            row |= {"failed": f"{type(problem).__name__}: {str(problem)[:300]}", "ok": False}
        yield row


def waits(run: Run, loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> bool | None:
    """Whether forward or backward waits for the device: then torch raises."""
    if run.device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient(loss, logits, labels)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


CAPTURED = {"dice_ce": 4, "focal": 4, "dice_focal": 4, "boundary": 3, "hausdorff_dt": 3, "log_cosh_dice": 4}  # classes


def graphs(run: Run) -> Iterator[dict]:
    """Forward and backward captured in a CUDA graph and played on other logits: the bits of an eager call."""
    for name, classes in CAPTURED.items() if run.device.type == "cuda" else ():
        row: dict = {"loss": name, "shape": [2, classes, 64, 64, 64]}
        try:
            yield row | captured(run, name, tuple(row["shape"]))
        except Exception as problem:
            yield row | {"failed": f"{type(problem).__name__}: {str(problem)[:300]}", "ok": False}


def captured(run: Run, name: str, shape: tuple[int, ...]) -> dict:
    logits, labels = inputs(run, shape, BF16)
    loss = LOSSES[name].build("softmax", shape[1], validate=False).to(run.device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        gradient(loss, logits, labels)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = gradient(loss, logits, labels)
    with torch.no_grad():
        logits.copy_(torch.randn_like(logits))
    graph.replay()
    played = [x.clone() for x in kept]
    same = all(map(torch.equal, played, gradient(loss, logits, labels)))
    return {"ok": same, "us": microseconds(run, graph.replay)}
