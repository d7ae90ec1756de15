"""The loss on a fixed set: the same items, noise levels and noise every time, so that two numbers can be compared."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel

from fluxbooth.dataset.plan import Visit
from fluxbooth.flux.flow import add_noise, generator_for, predict_velocity, velocity_loss
from fluxbooth.training.encode import EncodedVisits

SIGMAS = (0.2, 0.4, 0.6, 0.8)
"""Noise levels at which every evaluation item is looked at."""
_MOST_ITEMS = 16


def evaluation_visits(visits: set[Visit]) -> list[Visit]:
    """Choose the evaluation set of a run: concept items, each once, at most 16 of them spread over all."""
    by_item = {visit.item.path: visit for visit in sorted(visits, key=_order, reverse=True) if not visit.item.is_reg}
    chosen = [by_item[path] for path in sorted(by_item)]
    stride = -(-len(chosen) // _MOST_ITEMS)
    return chosen[::stride]


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


def _order(visit: Visit) -> tuple[str, bool, str]:
    return str(visit.item.path), visit.flipped, visit.caption
