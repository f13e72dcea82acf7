"""Losses whose voxels see others: by their distances, or as neighbours."""
