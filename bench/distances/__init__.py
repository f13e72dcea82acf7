"""Distance transforms, and the metrics that use them, beside those of other libraries."""
