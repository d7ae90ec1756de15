"""Flow matching as FLUX.1 does it: packing, position ids, noise levels, the velocity target and its loss.

Tensors in, tensors out; no files, no configuration.

B samples, C = 16 latent channels, H W latent rows and columns (pixels / 8), L = H/2 * W/2 image tokens, S text tokens.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

LossType = Literal["l2", "huber", "smooth_l1"]


def pack_latents(latents: Tensor) -> Tensor:
    """Fold each 2 x 2 patch of latents into one token: (B, C, H, W) -> (B, L, 4C).

    Channels outermost in a token, then the patch's rows, then its columns (black-forest-labs/flux, sampling.prepare).
    """
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack_latents`: (B, L, 4C) -> (B, C, H, W), for `height` H and `width` W in latents."""
    batch, _, features = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, features // 4, height, width)


def image_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Position ids of the image tokens, (0, row, column): (L, 3) float32; `height` and `width` in latents."""
    ids = torch.zeros(height // 2, width // 2, 3, device=device)
    ids[..., 1] = torch.arange(height // 2, device=device)[:, None]
    ids[..., 2] = torch.arange(width // 2, device=device)[None, :]
    return ids.reshape(-1, 3)  # (L, 3)


def shift_sigmas(sigmas: Tensor, tokens: int) -> Tensor:
    """Move noise levels toward noise for larger images: m / (m + 1/sigma - 1) with m = exp(mu).

    mu is linear in tokens, 0.5 at 256 and 1.15 at 4096, where 0.5 becomes 0.760 (black-forest-labs/flux,
    sampling.get_lin_function and time_shift).

    Args:
        sigmas: any shape, float32 in (0, 1].
        tokens: image tokens L; 4096 is 1024 x 1024 pixels.
    """
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    return math.exp(mu) / (math.exp(mu) + (1 / sigmas - 1))


def generator_for(*identity: int | str) -> torch.Generator:
    """A CPU generator whose seed is a function of `identity` alone, for instance (seed, step, item, "noise").

    On the CPU so that every device draws the same numbers, and a resumed run those of the straight run.
    """
    digest = hashlib.sha256("/".join(map(str, identity)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def add_noise(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Noisy latents, (1 - sigma) * latents + sigma * noise: (B, C, H, W) float32, sigmas (B,)."""
    share = sigmas.reshape(-1, 1, 1, 1)
    return (1 - share) * latents + share * noise


def velocity_loss(
    velocity: Tensor,
    latents: Tensor,
    noise: Tensor,
    loss_weights: Tensor,
    masks: Tensor | None = None,
    loss_type: LossType = "l2",
    huber_c: float = 0.1,
) -> Tensor:
    """Distance of the predicted velocity from noise - latents: a float32 scalar.

    Rectified flow (arXiv 2209.03003, equation 1): along x = (1 - sigma) x0 + sigma eps the velocity is eps - x0.
    With d the difference and c = `huber_c`, "l2" is d^2, "huber" 2 c (sqrt(d^2 + c^2) - c) and "smooth_l1"
    2 (sqrt(d^2 + c^2) - c), with the same c at every noise level (kohya, library/train_util.conditional_loss with
    huber_schedule = "constant").

    Args:
        velocity, latents, noise: (B, C, H, W).
        loss_weights: (B,), 1 for pictures of a concept, `prior_loss_weight` for regularization pictures.
        masks: (B, 1, H, W), 0 to 1, how much each latent counts; the mean stays over all of them, so that a picture of
            which little counts weighs little (kohya, library/custom_train_functions.apply_masked_loss).
        huber_c: above 0, the difference from which on the loss grows in a straight line.
    """
    target = noise.float() - latents.float()
    losses = (velocity.float() - target).square()  # (B, C, H, W)
    if loss_type != "l2":
        scale = 2 * huber_c if loss_type == "huber" else 2.0
        losses = scale * ((losses + huber_c**2).sqrt() - huber_c)
    if masks is not None:
        losses = losses * masks
    return (losses.mean(dim=(1, 2, 3)) * loss_weights).mean()


def predict_velocity(
    transformer: FluxTransformer2DModel,
    noisy_latents: Tensor,
    sigmas: Tensor,
    prompt_embeds: Tensor,
    pooled_prompt_embeds: Tensor,
    guidance_scale: float,
) -> Tensor:
    """One pass of the network: (B, C, H, W) noisy latents -> (B, C, H, W) velocity.

    Everything goes in as float32; a network in another dtype is called under `torch.autocast`.

    Args:
        sigmas: (B,) float32; the network multiplies by 1000 itself.
        prompt_embeds: (B, S, D) of T5.
        pooled_prompt_embeds: (B, D) of CLIP.
        guidance_scale: the number the distilled network is told, not classifier-free guidance.
    """
    _, _, height, width = noisy_latents.shape
    device = noisy_latents.device
    tokens = transformer(
        hidden_states=pack_latents(noisy_latents).float(),  # (B, L, 4C)
        timestep=sigmas.float(),
        guidance=torch.full_like(sigmas, guidance_scale),
        encoder_hidden_states=prompt_embeds.float(),
        pooled_projections=pooled_prompt_embeds.float(),
        img_ids=image_ids(height, width, device),
        txt_ids=torch.zeros(prompt_embeds.shape[1], 3, device=device),
        return_dict=False,
    )[0]
    return unpack_latents(tokens, height, width)
