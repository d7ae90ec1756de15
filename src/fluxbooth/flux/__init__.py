"""The model: base weights, text encoders, VAE, flow matching, LoRA and sampling. Knows none of the user's files."""
