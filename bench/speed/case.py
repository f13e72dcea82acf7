"""One loss on one volume: what is compared, shared by the timing process and the memory processes."""

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch

from bench.losses.peers import Peer
from bench.losses.registry import LOSSES
from bench.machine import installed_version
from bench.speed.blobs import blobs
from bench.timing import Contestant, fastest

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
LABEL_DTYPES = {"uint8": torch.uint8, "int64": torch.int64}


@dataclass(frozen=True)
class Case:
    """What to measure; plain values only, so that a case travels to a subprocess as JSON."""

    loss: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    label_dtype: str = "uint8"
    activation: str = "softmax"
    backend: str = "auto"
    device: str = "cpu"
    threads: int = 1
    only_ours: bool = False  # without the peers
    forms: dict[str, str] = field(default_factory=dict)  # of the labels, by a peer's title, where not its first
    seed: int = 0  # of the logits and labels

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self) | {"shape": list(self.shape)}

    def for_loss(self, loss: str) -> "Case":
        """The same measurement of another loss."""
        return replace(self, loss=loss)

    @property
    def voxels(self) -> int:
        """Of the whole batch."""
        return math.prod((self.shape[0], *self.shape[2:]))

    @property
    def logits_bytes(self) -> int:
        return self.voxels * self.shape[1] * DTYPES[self.dtype].itemsize

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def backend_context(self):
        """fastloss's forced back end, or its own choice for `auto`."""
        import fastloss

        return nullcontext() if self.backend == "auto" else fastloss.backend(self.backend)

    @property
    def backend_name(self) -> str:
        """The back end that runs: what is forced here or by FASTLOSS_BACKEND, or the device's own."""
        from fastloss.passes.backends import forced_backend

        if self.backend != "auto":
            return self.backend
        return forced_backend() or ("triton" if self.torch_device.type == "cuda" else "numba")

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaf logits that require a gradient, and labels `[B, *S]`."""
        logits, labels = blobs(self.shape, self.seed)
        logits = logits.to(self.device, DTYPES[self.dtype]).requires_grad_()
        return logits, labels.to(self.device, LABEL_DTYPES[self.label_dtype])

    def peers(self) -> list[Peer]:
        """The installed peers that know the case's activation and classes."""
        return [] if self.only_ours else [peer for peer in self.known_peers() if installed_version(peer.package)]

    def known_peers(self) -> list[Peer]:
        """The peers that know the case's activation and classes, installed or not."""
        return [peer for peer in LOSSES[self.loss].peers if peer.knows(self.activation, self.shape[1])]

    def contestants(self, logits: torch.Tensor, labels: torch.Tensor, compiled: bool) -> dict[str, Contestant]:
        """`ours`, and for each peer `<title>` and, where asked, `<title> compiled`."""
        kind = self.activation, self.shape[1]
        found = {"ours": Contestant(LOSSES[self.loss].build(*kind).to(logits.device), logits, labels)}
        for peer in self.peers():
            found[peer.title] = plain = self.contestant(peer, logits, labels)
            if compiled:
                fused = torch.compile(peer.loss(*kind, self.form_of(peer)), dynamic=False)
                found[f"{peer.title} compiled"] = replace(plain, loss=fused)
        return found

    def form_of(self, peer: Peer) -> str:
        """The form of the labels that a peer is given."""
        return self.forms.get(peer.title, next(iter(peer.forms)))

    def at_best(self, logits: torch.Tensor, labels: torch.Tensor) -> "Case":
        """The case with each peer given the form of the labels that it is fastest on; half a second for most."""
        found = {}
        for peer in self.peers():
            steps = {}
            for form in peer.forms:
                alone = replace(self, forms={peer.title: form}).contestant(peer, logits, labels)
                try:
                    alone.step(self.torch_device)
                except (RuntimeError, ValueError, TypeError):  # not in this dtype, or of this shape
                    continue
                steps[form] = partial(alone.step, self.torch_device)
            if steps:
                found[peer.title] = fastest(steps)
        return replace(self, forms=found)

    def contestant(self, peer: Peer, logits: torch.Tensor, labels: torch.Tensor) -> Contestant:
        """A peer's loss and the labels as it wants them."""
        kind, form = (self.activation, self.shape[1]), self.form_of(peer)
        return Contestant(peer.loss(*kind, form), logits, peer.forms[form][1](labels, self.shape[1]))
