"""Training the miniature from nothing on the drawn world: the VAE, then the towers, then the transformer."""
