"""The readable back end: plain PyTorch on any device, the oracle of the tests."""
