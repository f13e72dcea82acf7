"""Training of the survey's U-Net, once per loss and seed."""
