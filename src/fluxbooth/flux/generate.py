"""Pictures from prompts: encoders, transformer with LoRAs, VAE, one after the other so that none share memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.architecture import architecture_of
from fluxbooth.flux.device import release_memory, use_few_threads
from fluxbooth.flux.fitting import load_to_draw
from fluxbooth.flux.lora_formats import check_lora_file
from fluxbooth.flux.parts import load_vae
from fluxbooth.flux.pixels import decode_latents
from fluxbooth.flux.sampling import Sampler, sample, starting_noise
from fluxbooth.flux.text import encode_captions
from fluxbooth.host.weights import BaseWeights


@dataclass(frozen=True)
class Shot:
    """One picture to draw."""

    prompt: str
    seed: int
    width: int
    """Pixels, a multiple of 16."""
    height: int


def generate(
    shots: Sequence[Shot],
    loras: Sequence[tuple[Path, float]],
    weights: BaseWeights,
    steps: int,
    guidance_scale: float,
    dtype: torch.dtype,
    device: torch.device,
    sampler: Sampler = "euler",
) -> list[Image.Image]:
    """Draw every shot; the same shot, LoRAs and steps give the same picture.

    Args:
        loras: files and strengths (1 is as trained); their effects add up.
        steps: network passes a picture.
        guidance_scale: what the distilled network is told; 3.5 in ComfyUI's workflow.
        sampler: with "dpmpp_2m" and its steps and guidance the bundled ComfyUI workflow draws the same shot alike.

    Raises:
        UserError: for base weights or a LoRA that do not fit, and for a picture that would be black.
    """
    for path, _ in loras:
        check_lora_file(path)  # a missing or cut file is found before the encoders are loaded, not minutes later
    architecture = architecture_of(weights.transformer)
    use_few_threads(architecture.width, device)
    prompts = sorted({shot.prompt for shot in shots})
    embeds = dict(zip(prompts, encode_captions(prompts, weights, architecture, dtype, device, loras), strict=True))

    transformer = load_to_draw(weights, architecture, dtype, device, loras)
    latents = []
    for shot in shots:
        text = embeds[shot.prompt]
        noise = starting_noise(shot.seed, shot.width, shot.height, sampler)
        prompt_embeds, pooled = text.prompt_embeds[None].to(device), text.pooled_prompt_embeds[None].to(device)
        latents.append(sample(transformer, prompt_embeds, pooled, noise, steps, guidance_scale, sampler))
        if not latents[-1].isfinite().all():
            raise UserError(
                Problem(
                    f"'{shot.prompt}' comes out as no numbers, which would be a black picture",
                    where=", ".join(str(path) for path, _ in loras) or "the base weights",
                    do="Lower the strength of the LoRA, or use an earlier one",
                )
            )
    del transformer
    release_memory()

    vae = load_vae(weights, architecture, dtype, device)
    pictures = [Image.fromarray(decode_latents(vae, latent)[0].numpy()) for latent in latents]
    del vae
    release_memory()
    return pictures
