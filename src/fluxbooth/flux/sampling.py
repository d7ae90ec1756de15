"""From noise to a picture: Euler steps along the velocity.

B pictures, C = 16 latent channels, H W latent rows and columns (pixels / 8), S text tokens.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from fluxbooth.flux.architecture import LATENT_CHANNELS, PIXELS_PER_LATENT, PIXELS_PER_TOKEN
from fluxbooth.flux.flow import generator_for, predict_velocity, shift_sigmas


def sampling_sigmas(steps: int, tokens: int) -> Tensor:
    """Noise levels from 1 to 0, evenly spaced and then shifted for `tokens` image tokens: (steps + 1,) float32.

    black-forest-labs/flux, sampling.get_schedule.
    """
    even = torch.linspace(1, 0, steps + 1)
    return torch.cat([shift_sigmas(even[:-1], tokens), even[-1:]])


def starting_noise(seed: int, width: int, height: int) -> Tensor:
    """The noise a picture of `width` x `height` pixels starts from: (1, C, H, W) float32, from the seed alone."""
    shape = (1, LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    return torch.randn(shape, generator=generator_for("sample", seed))


@torch.no_grad()
def sample(
    transformer: FluxTransformer2DModel,
    prompt_embeds: Tensor,
    pooled_prompt_embeds: Tensor,
    noise: Tensor,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """Denoise `noise` under a prompt: (B, C, H, W) float32 latents on the transformer's device.

    Args:
        prompt_embeds: (B, S, D) of T5. pooled_prompt_embeds: (B, D) of CLIP.
        noise: (B, C, H, W), H and W even.
        steps: network passes.
        guidance_scale: the number the distilled network is told; 3.5 in ComfyUI's workflow.
    """
    batch, _, height, width = noise.shape
    sigmas = sampling_sigmas(steps, tokens=height * width // (PIXELS_PER_TOKEN // PIXELS_PER_LATENT) ** 2)
    latents = noise.to(transformer.device)
    for sigma, next_sigma in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        level = torch.full((batch,), sigma, device=latents.device)
        with torch.autocast(latents.device.type, transformer.dtype, enabled=transformer.dtype is not torch.float32):
            velocity = predict_velocity(
                transformer, latents, level, prompt_embeds, pooled_prompt_embeds, guidance_scale
            )
        latents = latents + (next_sigma - sigma) * velocity.float()
    return latents
