"""Products of powers: plain formulas with all their digits, and random ones."""

import math

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from oracle import EPSILON

from fastloss.terms import FACTORS, Term, check_terms

POWERS = (0.3, 0.5, 1.0, 1.5, 2.0, 3.0)
SHARES = {"1": "", "y": "y", "r": "r", "y2": "y^2"}


def factors(z, activation):
    """p, q, l and m, each with all its digits, and so its slope: that of sigmoid(x), from 1 - sigmoid(x), has not."""
    if activation is None:
        q = 1 - z
        m = torch.where(z < 0.5, -torch.log1p(-z.clamp_max(0.5)), -q.clamp_min(EPSILON).log())
        return z, q, -z.clamp_min(EPSILON).log(), m
    odds = z
    if activation == "softmax":  # of each class against all others
        z = z - z.detach().amax(1, keepdim=True)
        others = torch.einsum("kc,bk...->bc...", 1 - torch.eye(z.shape[1], dtype=z.dtype), z.exp())
        odds = z - others.clamp_min(1e-300).log()
    log_p, log_q = F.logsigmoid(odds), F.logsigmoid(-odds)
    q = log_q.exp()
    m = torch.where(q > EPSILON, -log_q, -math.log(EPSILON)) if activation == "softmax" else -log_q
    return log_p.exp(), q, -log_p, m


def raised(factor, x, power):
    if factor in "pqed":
        return x**power if power >= 1 else x.clamp_min(torch.finfo(x.dtype).tiny) ** power
    return x if power == 1 else x.clamp_min(EPSILON) ** power


def plain_sums(terms, activation, z, v, more=0.0):
    """``[B, C, K]``; ``more``: added to l. ``v`` has y, weight and weight_map."""
    p, q, l, m = factors(z, activation)
    return sums_of(terms, (p, q, l + more, m), v)


def sums_of(terms, factors_of_z, v):
    p, q, l, m = factors_of_z
    y, columns = v.y.double(), []
    # the distance to the target has the slope of the side that p lies on, and at y = 1 all digits of q
    d = torch.where(y == 1, q, torch.where(y == 0, p, (p - y).abs()))
    found = {"p": p, "q": q, "l": l, "m": m, "e": (-p).exp(), "d": d}
    for term in terms:
        value = torch.ones_like(p)
        for factor in FACTORS:
            if power := getattr(term, factor):
                value = value * raised(factor, found[factor], power)
        share = {"1": torch.ones_like(y), "y": y, "r": 1 - y, "y2": y * y}[term.share]
        value = v.weight.double().unsqueeze(1) * share * torch.where(share != 0, value, 0)
        columns.append((value * v.weight_map.double() if term.mapped else value).flatten(2).sum(2))
    return torch.stack(columns, -1)


def sums_and_gradient(function, z, coefficients):
    """With z as it lies in memory."""
    leaf = z.detach().requires_grad_()
    sums = function(leaf)
    (derivative,) = torch.autograd.grad((sums * coefficients).sum(), leaf)
    return sums.detach(), derivative.double()


def before_cancelling(terms, z, v):
    """Of the voxels' gradients through softmax, ``t_k - p_k (sum of all t)``, the greatest sum of magnitudes of t."""
    leaves = [x.detach().requires_grad_() for x in factors(z, "softmax")]
    p, greatest = leaves[0], 0.0
    for k, column in enumerate((sums_of(terms, leaves, v) * v.coefficients).sum((0, 1))):
        slopes = torch.autograd.grad(column, leaves, retain_graph=True, allow_unused=True) if column.grad_fn else ()
        by_p, by_q, by_l, by_m = (
            torch.zeros_like(p) if slope is None else slope.abs() for slope in slopes or [None] * 4
        )
        steep = 0 < terms[k].q < 1  # which goes without the difference
        t = p * by_p + (0 if steep else p * by_q) + by_l + p * by_m
        greatest = max(greatest, t.sum(1).max().item())
    return greatest


def _below_normal(term, real):
    """A p or q that is less than any normal number may be that, or 0: what a product then is."""
    powers = [power for power in (term.p, term.q) if 0 < power < 1]
    return max((real.tiny**power for power in powers), default=0.0) * 2 * (-math.log(real.tiny)) ** (term.l + term.m)


def agree(ours, terms, activation, v, tolerances):
    """Sums and gradient, to tolerances of the largest magnitude, and what the rounding of l adds.

    Where p is nearly 1, l is the logarithm of nearly 1, known to some units in the last place of 1; a power below 1
    makes much of that. How much is seen when l is moved by as much in the formula. There, too, a gradient may be less
    than the rounding of what it is the difference of.
    """
    clean = torch.where(v.weight.unsqueeze(1) != 0, v.logits, 0.5).double()

    def plain(more=0.0):
        return sums_and_gradient(lambda z: plain_sums(terms, activation, z, v, more), clean, v.coefficients)

    dtype = v.logits.dtype
    real = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    expected, step = plain(), 2 * real.eps
    rounded = [plain(step), plain(-step)] if activation == "softmax" else []
    found = sums_and_gradient(ours, v.logits, v.coefficients)
    least = 2.0**-25 if dtype == torch.float16 else real.tiny  # half of the least float16
    underflow = max(_below_normal(term, real) for term in terms)
    if activation == "softmax":
        least += 4 * step * before_cancelling(terms, clean, v)
    for what, k in (("sums", 0), ("gradient", 1)):
        fits = expected[k].abs() < (torch.finfo(dtype).max if k else math.inf)  # the gradient has the logits' dtype
        assert (found[k].isfinite() | ~fits).all(), f"{what}: not finite"
        error = torch.where(fits, found[k] - expected[k], 0).abs().max().item()
        scale = torch.where(fits, expected[k], 0).abs().max().item()
        band = max((other[k] - expected[k]).abs().max().item() for other in rounded) if rounded else 0.0
        allowed = tolerances[k] * scale + 4 * band + least * k + underflow
        assert error <= allowed, f"{what}: error {error:.1e} of {scale:.1e}, expected {allowed:.1e}"
    return found


# Random products


@st.composite
def products(draw, activation):
    """A term and its name, the factors in any order."""
    powers = {factor: draw(st.sampled_from(POWERS)) for factor in draw(st.sets(st.sampled_from(FACTORS), max_size=3))}
    share = draw(st.sampled_from(list(SHARES)))
    term = Term(share, **powers, mapped=draw(st.sampled_from([False, False, True])))
    parts = [f"{factor}^{power:g}" if power != 1 else factor for factor, power in powers.items()]
    parts = draw(st.permutations([*parts, *filter(None, [SHARES[share]])]))
    return term, "map*" * term.mapped + ("*".join(parts) or "1")


def is_finite(product, activation):
    try:
        check_terms((product[1],), activation or "none")
    except ValueError:
        return False
    return True


@st.composite
def several(draw, activation, most):
    """Terms, of which one at least is not of the target alone, and their names."""
    product = products(activation).filter(lambda product: is_finite(product, activation))
    found = draw(st.lists(product, min_size=1, max_size=most, unique_by=lambda product: product[0]))
    if all(term.constant for term, _ in found):
        found[0] = (Term(p=1.0), "p")
    return tuple(zip(*found, strict=True))
