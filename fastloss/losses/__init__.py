"""The losses: formulas on the sums of fused passes."""
