"""Pixels to latents and back: the VAE, with FLUX.1's shift and scale.

B pictures, H W latent rows and columns (pixels / 8).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def encode_pixels(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode (B, 3, 8H, 8W) float32 in [-1, 1] to (B, 16, H, W) float32: (mean - shift) * scale.

    The mean and not a draw: one picture has one latent, whenever and wherever it is encoded.
    """
    mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean.float()
    latents: Tensor = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode (B, 16, H, W) to (B, 8H, 8W, 3) uint8 on the CPU, rounded down as ComfyUI's SaveImage does."""
    unscaled = latents.to(vae.device) / vae.config.scaling_factor + vae.config.shift_factor
    pixels = vae.decode(unscaled.to(vae.dtype)).sample.float()  # (B, 3, 8H, 8W) in [-1, 1]
    eight_bits: Tensor = (255 * ((pixels + 1) / 2).clamp(0, 1)).to("cpu", torch.uint8)
    return eight_bits.permute(0, 2, 3, 1)
