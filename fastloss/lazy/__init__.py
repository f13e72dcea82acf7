"""Logits that are made chunk by chunk where a pass needs them, and never as a whole."""
