"""The Triton back end: CUDA and ROCm devices, and the CPU when Triton interprets."""
