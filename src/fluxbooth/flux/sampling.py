"""From noise to a picture: Euler steps along the velocity, or the sampler of the bundled ComfyUI workflow.

B pictures, C = 16 latent channels, H W latent rows and columns (pixels / 8), S text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from fluxbooth.flux.architecture import LATENT_CHANNELS, PIXELS_PER_LATENT, PIXELS_PER_TOKEN
from fluxbooth.flux.flow import generator_for, predict_velocity, shift_sigmas

Sampler = Literal["euler", "dpmpp_2m"]
"""How noise becomes a picture: "dpmpp_2m" draws what the bundled ComfyUI workflow draws of the same seed."""
VelocityAt = Callable[[Tensor, float], Tensor]
"""The network under one prompt: latents (B, C, H, W) and their sigma to the velocity, (B, C, H, W) float32."""

_SMALLEST_TIME = 1 / 10_000
"""ComfyUI has a table of 10,000 noise levels; the last one before 0 belongs to this time."""


def sampling_sigmas(steps: int, tokens: int) -> Tensor:
    """Noise levels from 1 to 0, evenly spaced and then shifted for `tokens` image tokens: (steps + 1,) float32.

    black-forest-labs/flux, sampling.get_schedule.
    """
    even = torch.linspace(1, 0, steps + 1)
    return torch.cat([shift_sigmas(even[:-1], tokens), even[-1:]])


def comfyui_sigmas(steps: int, tokens: int) -> Tensor:
    """Noise levels of ComfyUI's scheduler sgm_uniform behind ModelSamplingFlux: (steps + 1,) float32.

    Evenly spaced from 1 to the smallest level of ComfyUI's table, which is left out, then shifted, then 0. The table
    is shifted already, so that its smallest level is, too (ComfyUI 0.3.64, comfy/samplers.py, normal_scheduler).
    """
    smallest = float(shift_sigmas(torch.tensor(_SMALLEST_TIME), tokens))
    even = torch.linspace(1, smallest, steps + 1)
    return torch.cat([shift_sigmas(even[:-1], tokens), torch.zeros(1)])


def starting_noise(seed: int, width: int, height: int, sampler: Sampler = "euler") -> Tensor:
    """The noise a picture of `width` x `height` pixels starts from: (1, C, H, W) float32, from the seed alone.

    For "dpmpp_2m" it is what ComfyUI's RandomNoise draws.
    """
    shape = (1, LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    generator = generator_for("sample", seed) if sampler == "euler" else torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def euler(velocity_at: VelocityAt, latents: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the velocity in straight steps from sigmas[0] to sigmas[-1]: (B, C, H, W) float32."""
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        latents = latents + (next_sigma - sigma) * velocity_at(latents, sigma)
    return latents


def dpmpp_2m(velocity_at: VelocityAt, latents: Tensor, sigmas: Tensor) -> Tensor:
    """Solve from sigmas[0] to sigmas[-1] with DPM-Solver++(2M): (B, C, H, W) float32.

    arXiv 2211.01095, algorithm 2, with alpha = 1 and lambda = -log sigma, which is how ComfyUI runs it for flow models,
    too. Each step aims at the clean picture: the one that the velocity points at, moved on by half of how far it has
    moved since the step before, in proportion to the two steps' lengths in lambda.
    """
    before = latents
    length_before = math.inf  # behind an endless step the first is of first order
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        clean: Tensor = latents - sigma * velocity_at(latents, sigma)
        if next_sigma == 0:
            return clean
        length = math.log(sigma / next_sigma)
        aim = clean + length / (2 * length_before) * (clean - before)
        latents = aim + next_sigma / sigma * (latents - aim)
        before, length_before = clean, length
    return latents


@torch.no_grad()
def sample(
    transformer: FluxTransformer2DModel,
    prompt_embeds: Tensor,
    pooled_prompt_embeds: Tensor,
    noise: Tensor,
    steps: int,
    guidance_scale: float,
    sampler: Sampler = "euler",
) -> Tensor:
    """Denoise `noise` under a prompt: (B, C, H, W) float32 latents on the transformer's device.

    Args:
        prompt_embeds: (B, S, D) of T5. pooled_prompt_embeds: (B, D) of CLIP.
        noise: (B, C, H, W), H and W even.
        steps: network passes.
        guidance_scale: the number the distilled network is told; 3.5 in ComfyUI's workflow.
    """
    batch, _, height, width = noise.shape
    latents = noise.to(transformer.device)

    def velocity_at(latents: Tensor, sigma: float) -> Tensor:
        level = torch.full((batch,), sigma, device=latents.device)
        with torch.autocast(latents.device.type, transformer.dtype, enabled=transformer.dtype is not torch.float32):
            velocity = predict_velocity(
                transformer, latents, level, prompt_embeds, pooled_prompt_embeds, guidance_scale
            )
        return velocity.float()

    tokens = height * width // (PIXELS_PER_TOKEN // PIXELS_PER_LATENT) ** 2
    if sampler == "euler":
        return euler(velocity_at, latents, sampling_sigmas(steps, tokens))
    return dpmpp_2m(velocity_at, latents, comfyui_sigmas(steps, tokens))


@contextmanager
def drawing(transformer: FluxTransformer2DModel) -> Iterator[None]:
    """Let the transformer draw inside; behind it mode and random numbers are what they were.

    Gradient checkpointing needs no switch: it is for gradients, and there are none.
    """
    devices = [transformer.device] if transformer.device.type == "cuda" else []
    was_training = transformer.training
    transformer.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        transformer.train(was_training)
