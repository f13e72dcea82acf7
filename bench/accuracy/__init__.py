"""Errors of values and gradients against float64, beside other libraries."""
