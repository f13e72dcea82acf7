"""Passes over the voxels: what goes in is checked, a back end is chosen and run, and autograd is told."""
