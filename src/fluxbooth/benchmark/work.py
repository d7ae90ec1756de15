"""Something to measure that needs no download: random weights of a real shape, and random pictures to train on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from fluxbooth.config.specs import CaptionSpec, PictureSpec
from fluxbooth.dataset.buckets import cover
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.plan import Plan
from fluxbooth.flux.architecture import LATENT_CHANNELS, PIXELS_PER_LATENT, Architecture, bundled_architecture
from fluxbooth.flux.lora import ALL_BLOCKS
from fluxbooth.flux.parts import keep_timesteps_exact
from fluxbooth.flux.stored import StorageForm, StoredLinear, store_linears
from fluxbooth.flux.streaming import matrices_that_wait
from fluxbooth.flux.text import TextEmbeds
from fluxbooth.training.cache import EncodedCache
from fluxbooth.training.encode import EncodedVisits

Shape = Literal["flux-dev", "thin", "miniature"]
_THIN = {"num_layers": 1, "num_single_layers": 2}


def architecture_of_shape(shape: Shape, text_tokens: int | None) -> Architecture:
    """Return the architecture of that name; "thin" has FLUX.1-dev's width and three blocks.

    Args:
        text_tokens: T5's length; None for the shape's own.
    """
    architecture = bundled_architecture("miniature" if shape == "miniature" else "flux-dev")
    if shape == "thin":
        architecture = replace(architecture, transformer={**architecture.transformer, **_THIN})
    return architecture if text_tokens is None else replace(architecture, t5_tokens=text_tokens)


def random_transformer(
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    form: StorageForm = "full",
    streamed: int = 0,
) -> FluxTransformer2DModel:
    """Make a frozen transformer with small random weights, a tensor at a time, as `load_transformer` would load one."""
    with init_empty_weights():
        transformer = FluxTransformer2DModel(**architecture.transformer)
        if form != "full":
            store_linears(transformer, form, ALL_BLOCKS.have)
    waits = matrices_that_wait(architecture.transformer, streamed)
    randomness = torch.Generator(device).manual_seed(0)
    for name, parameter in list(transformer.named_parameters()):
        owner_name, _, own_name = name.rpartition(".")
        owner = transformer.get_submodule(owner_name)
        filled = torch.empty(parameter.shape, dtype=dtype, device=device)
        if parameter.dim() > 1:
            filled.normal_(std=0.02, generator=randomness)
        else:
            filled.fill_(0.0 if own_name == "bias" else 1.0)
        place = torch.device("cpu") if waits(name) else device
        if isinstance(owner, StoredLinear) and own_name == "weight":
            owner.hold(filled, place)
        else:
            setattr(owner, own_name, torch.nn.Parameter(filled.to(place), requires_grad=False))
    keep_timesteps_exact(transformer)
    return transformer.requires_grad_(False)


@dataclass(frozen=True)
class RandomPictures:
    """A plan over random pictures of one size, and their latents and texts in a cache."""

    plan: Plan
    encoded: EncodedVisits


def random_pictures(
    architecture: Architecture, side: int, batch_size: int, steps: int, folder: Path, device: torch.device
) -> RandomPictures:
    """Draw what `steps` micro-batches of square pictures see, and keep it below `folder` as a run's own would be.

    Args:
        side: pixels.
    """
    items = [_item(number, side, batch_size) for number in range(batch_size)]
    plan = Plan(items, grad_accum=1, seed=0, max_train_steps=steps)
    cache = EncodedCache(folder)
    encoded = EncodedVisits(cache, "random VAE", "random encoders", 1.0, device)
    randomness = torch.Generator().manual_seed(0)
    width, pooled_width = (architecture.transformer[key] for key in ("joint_attention_dim", "pooled_projection_dim"))
    for visit in sorted(plan.visits(steps), key=lambda visit: visit.item.digest):
        latents = side // PIXELS_PER_LATENT
        cache.put_latents(
            encoded.latents_key(visit), torch.randn(LATENT_CHANNELS, latents, latents, generator=randomness)
        )
        text = torch.randn(architecture.t5_tokens, width, generator=randomness)
        pooled = torch.randn(pooled_width, generator=randomness)
        cache.put_text(encoded.text_key(visit.caption), TextEmbeds(text, pooled))
    return RandomPictures(plan, encoded)


def _item(number: int, side: int, batch_size: int) -> Item:
    return Item(
        path=Path(f"{number}.png"),
        digest=f"{number:064x}",
        placement=cover((side, side), (side, side)),
        caption=f"picture {number}",
        caption_extension=".txt",
        caption_spec=CaptionSpec(),
        picture_spec=PictureSpec(),
        concept="random",
        repeats=1,
        is_reg=False,
        dataset=0,
        batch_size=batch_size,
    )
