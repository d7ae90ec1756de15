"""How fast a training step is, beside the fastest that its arithmetic allows."""
