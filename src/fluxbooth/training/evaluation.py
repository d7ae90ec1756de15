"""The loss on a fixed set: the same items, noise levels and noise every time, so that two numbers can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import FluxTransformer2DModel

from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Visit
from fluxbooth.flux.flow import add_noise, generator_for, predict_velocity, velocity_loss
from fluxbooth.training.encode import EncodedVisits

SIGMAS = (0.2, 0.4, 0.6, 0.8)
"""Noise levels at which every evaluation item is looked at."""
_MOST_ITEMS = 16


def evaluation_visits(items: Sequence[Item]) -> list[Visit]:
    """Choose the evaluation set of a run: concept items as they stand, at most 16 of them spread over all.

    Chosen from the items and not from what a run happens to visit, so that runs of any length can be compared.
    """
    chosen = [item for item in items if not item.is_reg]
    stride = -(-len(chosen) // _MOST_ITEMS)
    return [Visit(item, flipped=False, caption=item.caption) for item in chosen[::stride]]


@torch.no_grad()
def evaluation_loss(
    transformer: FluxTransformer2DModel,
    encoded: EncodedVisits,
    visits: list[Visit],
    guidance_scale: float,
    autocast: torch.autocast,
) -> float:
    """Mean velocity loss over `visits` at each of `SIGMAS`, under noise that depends on the item alone."""
    losses = []
    for visit in visits:
        batch = encoded.batch((visit,))
        for sigma in SIGMAS:
            noise = torch.randn(
                batch.latents.shape[1:], generator=generator_for("evaluation", visit.item.digest, str(sigma))
            )
            noise = noise[None].to(batch.latents.device)  # (1, C, H, W)
            sigmas = torch.full((1,), sigma, device=batch.latents.device)
            noisy_latents = add_noise(batch.latents, noise, sigmas)
            with autocast:
                velocity = predict_velocity(
                    transformer, noisy_latents, sigmas, batch.prompt_embeds, batch.pooled_prompt_embeds, guidance_scale
                )
            losses.append(velocity_loss(velocity, batch.latents, noise, torch.ones(1, device=noise.device)).item())
    return sum(losses) / len(losses)
