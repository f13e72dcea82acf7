"""Ready-made parts for other programs."""
