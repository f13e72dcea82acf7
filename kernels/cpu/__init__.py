"""The CPU back end: machine code for each plan, compiled, kept and run in parallel by Numba."""
