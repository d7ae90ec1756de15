"""Latents become the bytes that ComfyUI writes."""

from __future__ import annotations

import numpy as np
import torch

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.parts import load_vae
from fluxbooth.flux.pixels import decode_latents
from fluxbooth.host.weights import BaseWeights


@torch.no_grad()
def test_brightness_is_rounded_down_as_comfyui_does(weights: BaseWeights, architecture: Architecture) -> None:
    """ComfyUI 0.3.64: VAE.decode clamps (x + 1) / 2 to 0 and 1, and SaveImage cuts 255 times that off."""
    vae = load_vae(weights, architecture, torch.float32, torch.device("cpu"))
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0)) * 2
    unscaled = latents / vae.config.scaling_factor + vae.config.shift_factor
    image = torch.clamp((vae.decode(unscaled).sample[0].permute(1, 2, 0) + 1.0) / 2.0, 0, 1).numpy()
    assert np.array_equal(decode_latents(vae, latents)[0].numpy(), np.clip(255.0 * image, 0, 255).astype(np.uint8))
