"""What makes logits chunk by chunk, never as a whole: heads, interpolation; and labels at another resolution."""
