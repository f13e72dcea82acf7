"""Exact Euclidean distance transforms of masks and labels on anisotropic grids.

Every function takes a NumPy array, or a torch tensor of the CPU or a GPU, where it then stays. Its last
``spatial_axes`` axes, 1 to 3, are a volume; the axes before them count independent volumes, which one call transforms
together. All axes are spatial by default.

Distances are measured between voxel centres; the edge of a volume is no boundary. The minimum over all sites is exact,
in integers where the spacings are multiples of one length and in float64 otherwise, and is rounded once. So a GPU gives
the CPU's bits, but that where there is no such length it adds in another order: of float32 the last place may differ.
Nothing waits for a GPU, and a call can be captured in a CUDA graph once its kernels have been compiled.
"""

from .transforms import boundary_distance, edt, edt_squared, label_edt, signed_edt

__all__ = ["boundary_distance", "edt", "edt_squared", "label_edt", "signed_edt"]
