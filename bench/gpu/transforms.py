"""Distance transforms of device tensors through the public functions: against all pairs, and timed beside peers."""

from collections.abc import Callable, Iterator

import torch

from bench.gpu.measure import microseconds, nbytes, peak_bytes
from bench.gpu.stages import Run
from bench.machine import installed_version
from fastloss import distance

ALLOWED = 2e-6  # relative
SPACINGS = ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.7, 1.3, 2.1))
FORMS = ("edt", "indices", "edt_squared", "signed_edt", "boundary_distance", "label_edt")


def masks(run: Run, size: int) -> dict[str, torch.Tensor]:
    """Smoothed noise, a ball to whose complement distances are long, one far voxel, everything, nothing."""
    torch.manual_seed(0)
    noise = torch.randn((1, 1, size, size, size), device=run.device)
    for _ in range(3):
        noise = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)
    axis = torch.arange(size, device=run.device, dtype=torch.float32) - size / 2
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    far = torch.ones((size,) * 3, dtype=torch.bool, device=run.device)
    far[0, 0, 0] = False
    blobs = noise[0, 0] > 0.5 * noise.std()
    return {
        "blobs": blobs, "far from a ball": square > (size / 8) ** 2, "one far voxel": far,
        "full": torch.ones_like(far), "empty": torch.zeros_like(far),
    }  # fmt: skip


def found_of(mask: torch.Tensor, spacing: tuple[float, ...], form: str) -> torch.Tensor:
    """What fastloss gives; for ``"indices"`` the distance to the site that it names, +inf where it names none."""
    if form == "label_edt":
        return distance.label_edt(labels_of(mask), spacing)
    if form != "indices":
        return getattr(distance, form)(mask, spacing)
    _, numbers = distance.edt(mask, spacing, return_indices=True)
    places = places_of(mask, spacing)
    named = (places - places[numbers.flatten().clamp_min(0)]).norm(dim=-1)
    return torch.where(numbers.flatten() < 0, torch.inf, named).reshape(mask.shape)


def labels_of(mask: torch.Tensor) -> torch.Tensor:
    """Three labels: the mask, and the background's two halves."""
    labels = 2 * mask.to(torch.int32)
    labels[: mask.shape[0] // 2] += ~mask[: mask.shape[0] // 2]
    return labels


def places_of(mask: torch.Tensor, spacing: tuple[float, ...]) -> torch.Tensor:
    """Where each voxel lies, in mm."""
    places = torch.stack(torch.meshgrid(*(torch.arange(n, device=mask.device) for n in mask.shape), indexing="ij"), -1)
    return places.reshape(-1, 3).double() * torch.tensor(spacing, dtype=torch.float64, device=mask.device)


def all_pairs(mask: torch.Tensor, spacing: tuple[float, ...], form: str) -> torch.Tensor:
    """The transform by definition, in float64."""
    places, inside = places_of(mask, spacing), mask.flatten()

    def to(sites: torch.Tensor) -> torch.Tensor:
        found = torch.full_like(places[:, 0], torch.inf)
        for chunk in places[sites].split(2048) if sites.any() else ():
            nearest = torch.cdist(places, chunk, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
            found = torch.minimum(found, nearest)
        return found

    if form == "label_edt":
        labels = labels_of(mask).flatten()
        present = labels.unique().tolist()
        wanted = torch.zeros_like(places[:, 0])
        for label in present if len(present) > 1 else ():
            wanted = torch.where(labels == label, to(labels != label), wanted)
        return wanted.reshape(mask.shape)
    background, foreground = torch.where(inside, to(~inside), 0.0), torch.where(inside, 0.0, to(inside))
    wanted = {
        "edt": background,
        "indices": background,
        "edt_squared": background.square(),
        "signed_edt": foreground - background,
        "boundary_distance": foreground + background,
    }[form]
    if form in ("signed_edt", "boundary_distance") and bool(inside.all() | ~inside.any()):  # without a boundary
        wanted = torch.zeros_like(wanted)
    return wanted.reshape(mask.shape)


def right(run: Run) -> Iterator[dict]:
    """Every transform of small masks, with each spacing, against the definition."""
    for kind, mask in masks(run, 7 if run.toy else 24).items():
        for spacing in SPACINGS[: 1 if run.toy else None]:
            for form in FORMS:
                row = {"form": form, "mask": kind, "spacing": list(spacing)}
                try:
                    found, wanted = found_of(mask, spacing, form), all_pairs(mask, spacing, form)
                    close = torch.isclose(found.double(), wanted, rtol=ALLOWED, atol=1e-6)
                    yield row | {"on": found.device.type, "ok": bool(close.all()) and found.device == mask.device}
                except Exception as problem:
                    yield row | {"failed": f"{type(problem).__name__}: {str(problem)[:200]}", "ok": False}


def peers() -> dict[str, Callable[[torch.Tensor], Callable[[], object]]]:
    """Calls of other libraries on a mask of the device, as far as they are installed."""
    found: dict[str, Callable[[torch.Tensor], Callable[[], object]]] = {}
    if installed_version("exacta"):

        def exacta(mask):
            from exacta._triton_edt import edt_sq

            return lambda: edt_sq(~mask, (1.0, 1.0, 1.0))

        found["exacta"] = exacta
    if installed_version("cucim-cu12") or installed_version("cucim"):

        def cucim(mask):
            import cupy
            from cucim.core.operations.morphology import distance_transform_edt

            array = cupy.asarray(mask)
            return lambda: distance_transform_edt(array)

        found["cuCIM"] = cucim
    return found


def beside_peers(run: Run) -> Iterator[dict]:
    """Time and memory of the transform of each mask and size, and of both sides of it."""
    for size in (8,) if run.toy else (128, 256, 512):
        for kind, mask in list(masks(run, size).items())[:3]:
            calls = {"fastloss": lambda mask=mask: distance.edt_squared(mask)}
            calls["fastloss, signed"] = lambda mask=mask: distance.signed_edt(mask)
            calls |= {who: (lambda make=make, mask=mask: make(mask)()) for who, make in peers().items()}
            for who, call in calls.items():
                yield {"mask": kind, "size": size, "who": who} | timed(run, call, mask)


def timed(run: Run, call: Callable[[], object], mask: torch.Tensor) -> dict:
    try:
        peak = peak_bytes(run, call)
        over = None if peak is None else peak / (4 * mask.numel())
        bound = (nbytes(mask) + 4 * mask.numel()) / run.copy_bytes * 1e6
        return {"us": microseconds(run, call), "bandwidth_us": bound, "peak_over_output": over}
    except Exception as problem:
        return {"failed": f"{type(problem).__name__}: {str(problem)[:200]}"}
