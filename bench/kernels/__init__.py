"""What can be known of the Triton kernels, most of it without a GPU."""
