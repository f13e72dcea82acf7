"""The losses that the benchmarks know, and the same losses elsewhere."""
