"""Two losses are timed against each other only where value and gradient agree."""

import torch

from bench.timing import Contestant

# largest relative difference of the value, and of the gradient in L2
TOLERANCES = {
    torch.float64: (1e-6, 3e-6),  # of peers, one-hot targets (MONAI) and taps (kornia) are float32
    torch.float32: (1e-4, 1e-3),
    torch.bfloat16: (1e-2, 3e-2),
    torch.float16: (1e-2, 3e-2),
}
HALF_SCALE = 4096.0  # float16 gradients of a mean vanish below 6e-8 unless the loss is scaled


def value_and_gradient(contestant: Contestant) -> tuple[float, torch.Tensor]:
    """The loss and its gradient by the logits in float64."""
    value = contestant.loss(contestant.logits, contestant.target)
    scale = HALF_SCALE if contestant.logits.dtype == torch.float16 else 1.0
    (gradient,) = torch.autograd.grad(value, contestant.logits, torch.full_like(value, scale))
    return float(value.detach()), gradient.double() / scale


def differences(ours: Contestant, theirs: Contestant) -> tuple[float, float]:
    """Relative differences of value and gradient."""
    (a, gradient), (b, expected) = value_and_gradient(ours), value_and_gradient(theirs)
    off = (gradient - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny)
    return abs(a - b) / max(abs(b), 1e-12), float(off)


def disagreement(value_off: float, gradient_off: float, dtype: torch.dtype, rough: float = 0.0) -> str | None:
    """What is beyond the dtype's tolerance, in words, or None; ``rough`` is what a peer's own gradient is off by."""
    found = []
    value_allowed, gradient_allowed = TOLERANCES[dtype]
    gradient_allowed = max(gradient_allowed, rough)
    for what, off, allowed in (
        ("value", value_off, value_allowed),
        ("gradient", gradient_off, gradient_allowed),
    ):
        if not off <= allowed:  # NaN is beyond, too
            found.append(f"{what} differs by {off:.1e} (allowed {allowed:.0e})")
    return " and ".join(found) or None
