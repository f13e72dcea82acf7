"""Problems for the Triton kernels: what the tests and `python -m bench kernels` run them on."""

from typing import NamedTuple

import torch

from fastloss.terms import NAMES, Plan, label_count, make_plan

DICE_CE = ("p", "py", "y", "ce_pos")


class Problem(NamedTuple):
    """The arguments of one pass, and the coefficients of its backward."""

    logits: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor | None
    weight_map: torch.Tensor | None
    plan: Plan
    grad_sums: torch.Tensor

    def forward(self, backend):
        return backend.forward(*self[:5])

    def backward(self, backend):
        return backend.backward(self.grad_sums, *self[:5])

    def doubled(self):
        return self._replace(logits=self.logits.double())


def make_problem(
    channels=4, shape=(5, 7, 17), activation="softmax", dtype=torch.float32, terms=tuple(NAMES), *, batch=2,
    dense=False, ignore=(), mask=None, map_channels=0, target_dtype=torch.int16, seed=0,
):  # fmt: skip
    """Random logits, some of them large; labels in and out of range; a map if ``map_channels`` says so."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size):
        return torch.rand(size, generator=generator)

    logits = torch.randn((batch, channels, *shape), generator=generator) * 3
    logits = torch.where(uniform(*logits.shape) < 0.02, logits * 30, logits)
    if activation == "none":
        logits = logits.softmax(1) if channels > 1 else logits.sigmoid()
    if dense:
        target = uniform(batch, channels, *shape)
        target = (target > 0.5 if target_dtype == torch.bool else target).to(target_dtype)
    else:
        high = label_count(channels) if target_dtype in (torch.bool, torch.uint8) else label_count(channels) + 2
        low = 0 if target_dtype in (torch.bool, torch.uint8) else -1
        target = torch.randint(low, high, (batch, *shape), generator=generator).to(target_dtype)
    weights = {"bool": uniform(batch, *shape) > 0.3, "weight": (3 * uniform(batch, *shape)).floor() / 2}
    if mask == "channel":
        weights["channel"] = (3 * uniform(batch, channels, *shape)).floor() / 2
    names = (*terms, *(f"map*{t}" for t in terms)) if map_channels else terms
    return Problem(
        logits.to(dtype),
        target,
        weights.get(mask),
        torch.randn((batch, map_channels, *shape), generator=generator) if map_channels else None,
        make_plan(tuple(names), activation, tuple(ignore), dense),
        torch.randn((batch, channels, len(names)), generator=generator, dtype=torch.float64),
    )
