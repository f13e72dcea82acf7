"""Whether an installed fastloss works, run away from its checkout: losses on each back end, distances, metrics."""

import importlib
import importlib.metadata
import sys
from pathlib import Path

import torch

import fastloss
from fastloss.distance import edt
from fastloss.metrics import surface_distances

for name in ("fastloss", "fastloss._C", "fastloss.kernels"):
    file = Path(importlib.import_module(name).__file__).resolve()
    assert file.is_relative_to(Path(sys.prefix).resolve()), file
assert fastloss.__version__ == importlib.metadata.version("fastloss")

target = torch.randint(0, 4, (2, 1, 16, 17, 18), dtype=torch.uint8)
found = {}
for backend in ("numba", "reference"):
    logits = torch.linspace(-2, 2, 2 * 4 * 16 * 17 * 18).reshape(2, 4, 16, 17, 18).requires_grad_()
    with fastloss.backend(backend):
        loss = fastloss.DiceCELoss()(logits, target)
        loss.backward()
    found[backend] = loss.detach(), logits.grad
torch.testing.assert_close(found["numba"], found["reference"], rtol=1e-5, atol=1e-9)
assert found["numba"][1].abs().sum() > 0

assert edt(torch.tensor([[0, 1, 1, 1]]), spacing=0.5).tolist() == [[0.0, 0.5, 1.0, 1.5]]
one, two = torch.zeros(2, 1, 9, 9, 9, dtype=torch.bool)
one[:, 2:5, 2:5, 2:5] = True
two[:, 2:5, 2:5, 3:6] = True
surfaces = surface_distances(one[None], two[None], (1.0, 1.0, 2.0), include_background=True)
assert surfaces.hausdorff(100).tolist() == [[2.0]], surfaces.hausdorff(100)
print(f"fastloss {fastloss.__version__} works: loss {found['numba'][0]:.6f}, from {fastloss.__file__}")
